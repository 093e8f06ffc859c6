from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from unetpipe.geometry import Box
from unetpipe.instances import core_components
from unetpipe.labelling import Connectivity, label_core
from unetpipe.masks import decided, filled


def decided_slowly(pixel: list[int], least: Mapping[int, int]) -> int:
    reached = [k for k, t in least.items() if pixel[k] >= t]
    candidates = reached or [k for k in range(len(pixel)) if k not in least]
    return min(candidates, key=lambda k: (-pixel[k], k))


@given(data=st.data(), n=st.integers(2, 5))
def test_each_pixel_gets_the_class_of_the_rule(data: st.DataObject, n: int) -> None:
    pixels = data.draw(st.lists(st.lists(st.integers(0, 6), min_size=n, max_size=n), min_size=1, max_size=20))
    least = data.draw(st.dictionaries(st.integers(1, n - 1), st.integers(1, 6)))
    found = decided(np.array(pixels, np.uint16).T[:, None], least=least)
    assert found.dtype == np.uint8
    assert found[0].tolist() == [decided_slowly(pixel, least) for pixel in pixels]


def test_without_thresholds_it_is_the_most_probable() -> None:
    pixels = np.random.default_rng(0).integers(0, 5, (4, 9, 7), np.uint16)
    assert np.array_equal(decided(pixels, least={}), pixels.argmax(axis=0))


def _filled(mask: NDArray[np.bool_], connectivity: Connectivity, ys: list[int], xs: list[int]) -> NDArray[np.bool_]:
    """The mask with holes filled, in cores that end at these positions."""
    opposite: Connectivity = 8 if connectivity == 4 else 4
    boxes = [
        Box(start=(y0, x0), stop=(y1, x1))
        for y0, y1 in zip([0, *ys], ys, strict=False)
        for x0, x1 in zip([0, *xs], xs, strict=False)
    ]
    found = [label_core(~mask[box.slices], connectivity=opposite) for box in boxes]
    cores = [core_components(*f, core=box, image_width=mask.shape[1]) for f, box in zip(found, boxes, strict=True)]
    result = np.zeros_like(mask)
    tables = filled(cores, connectivity=opposite)
    for box, (labels, _), table in zip(boxes, found, tables, strict=True):
        result[box.slices] = table[labels]
    return result


@pytest.mark.parametrize("connectivity", [4, 8])
@given(
    seed=st.integers(0, 999),
    shape=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    density=st.sampled_from([0.4, 0.55, 0.7, 1.0]),
    data=st.data(),
)
def test_holes_are_those_of_scipy_whatever_the_cores(
    connectivity: Connectivity, seed: int, shape: tuple[int, int], density: float, data: st.DataObject
) -> None:
    mask = np.random.default_rng(seed).random(shape) < density
    ys, xs = ([*sorted(data.draw(st.sets(st.integers(1, max(n - 1, 1)), max_size=4)) - {n}), n] for n in shape)
    # scipy is told the neighbours of the background, which are the others.
    expected = ndimage.binary_fill_holes(mask, np.ones((3, 3)) if connectivity == 4 else None)
    assert np.array_equal(_filled(mask, connectivity, ys, xs), expected)


def test_a_hole_that_ends_over_a_corner_is_open_for_4_and_closed_for_8() -> None:
    mask = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], bool)
    assert _filled(mask, 8, [1, 3], [2, 3]).sum() == 5
    assert _filled(mask, 4, [1, 3], [2, 3]).sum() == 4


def test_no_cores_have_no_tables() -> None:
    assert filled([], connectivity=8) == ()

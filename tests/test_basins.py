"""Splits are those of one piece, and of a slow reference that knows no cores."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from unetpipe.basins import REACH, CoreBasins, core_basins, distance_heights, resolve_basins
from unetpipe.errors import GeometryError, StoreError
from unetpipe.geometry import Box
from unetpipe.instances import Objects, relabelled
from unetpipe.labelling import Connectivity
from unetpipe.measures import framed

Labels = NDArray[np.uint32]
Heights = NDArray[np.int32]
STEPS = {4: [(0, 1), (1, 0)], 8: [(0, 1), (1, 0), (1, 1), (1, -1)]}


def slow(labels: Labels, heights: Heights, connectivity: Connectivity, depth: int) -> Labels:
    """Reference on dictionaries: every pixel uphill, every pass from the highest on, hills as sets."""
    pixels = [(int(y), int(x)) for y, x in zip(*np.nonzero(labels), strict=True)]
    steps = [s for one in STEPS[connectivity] for s in (one, (-one[0], -one[1]))]

    def neighbours(p: tuple[int, int]) -> list[tuple[int, int]]:
        around = [(p[0] + dy, p[1] + dx) for dy, dx in steps]
        return [q for q in around if q in alive and labels[q] == labels[p]]

    alive = set(pixels)
    up = {p: max([p, *neighbours(p)], key=lambda q: (heights[q], q)) for p in pixels}
    hill: dict[tuple[int, int], tuple[int, int]] = {}
    for p in pixels:
        top = p
        while up[top] != top:
            top = up[top]
        hill[p] = top
    passes = []
    for p in pixels:
        for number, (dy, dx) in enumerate(STEPS[connectivity]):
            q = (p[0] + dy, p[1] + dx)
            if q in alive and labels[q] == labels[p]:
                passes.append((-min(heights[p], heights[q]), p, number, q))
    for height, p, _, q in sorted(passes):
        low, high = sorted((hill[p], hill[q]), key=lambda t: (heights[t], (-t[0], -t[1])))
        if low != high and heights[low] + height < depth:
            hill = {r: high if t == low else t for r, t in hill.items()}
    found, names = np.zeros(labels.shape, np.uint32), {}
    for p in pixels:
        found[p] = names.setdefault(hill[p], len(names) + 1)
    return found


def split(
    labels: Labels,
    heights: Heights,
    ys: list[int],
    xs: list[int],
    connectivity: Connectivity,
    depth: int,
    area: int = 0,
) -> tuple[Labels, Objects]:
    """Both passes over cores that end at these positions."""
    shape = labels.shape

    def basins(box: Box) -> tuple[Labels, CoreBasins]:
        around = box.grown(1).clipped(shape).slices
        windows = (framed(array[around], box, shape) for array in (labels, heights))
        return core_basins(*windows, core=box, image_width=shape[1], connectivity=connectivity, depth=depth)

    boxes = [Box(start=(y0, x0), stop=(y1, x1)) for y0, y1 in pairwise(ys) for x0, x1 in pairwise(xs)]
    # As they are kept between two runs.
    records = [CoreBasins.from_arrays(basins(box)[1].to_arrays()) for box in boxes]
    objects = resolve_basins(records, depth=depth, min_area_px=area)
    found = np.zeros(shape, np.uint32)
    for box, lookup in zip(boxes, objects.lookups, strict=True):
        own, record = basins(box)
        found[box.slices] = relabelled(own, record.components.count, lookup)
    return found, objects


@st.composite
def cuts(draw: st.DrawFn, length: int) -> list[int]:
    return [0, *sorted(draw(st.sets(st.integers(1, length - 1), max_size=5))), length] if length > 1 else [0, length]


@settings(max_examples=70, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 16), st.integers(1, 16)),
    levels=st.sampled_from([2, 4, 50]),
    objects=st.sampled_from([1, 2]),
    connectivity=st.sampled_from([4, 8]),
    depth=st.sampled_from([1, 2, 10]),
    data=st.data(),
)
def test_cores_of_any_size_split_like_one_piece(
    seed: int,
    shape: tuple[int, int],
    levels: int,
    objects: int,
    connectivity: Connectivity,
    depth: int,
    data: st.DataObject,
) -> None:
    """Few levels mean many ties, and they are what seams would show in."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, objects + 1, shape, np.uint32) | rng.integers(0, 2, shape, np.uint32)
    heights = rng.integers(0, levels, shape, np.int32)
    found, numbers = split(labels, heights, data.draw(cuts(shape[0])), data.draw(cuts(shape[1])), connectivity, depth)
    expected = slow(labels, heights, connectivity, depth)
    assert np.array_equal(found, expected)
    assert numbers.areas.tolist() == np.bincount(expected.ravel())[1:].tolist()
    assert all(set(labels[found == k + 1]) == {value} for k, value in enumerate(numbers.values.tolist()))


def discs(shape: tuple[int, int], *middles: tuple[float, float, float]) -> NDArray[np.bool_]:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.any([(y - cy) ** 2 + (x - cx) ** 2 < r * r for cy, cx, r in middles], axis=0)


def test_overlapping_discs_come_apart_at_the_neck_as_scikit_image_cuts_them() -> None:
    mask = discs((80, 150), (40, 40, 25), (40, 80, 22), (30, 115, 18))
    heights = distance_heights(mask)
    found, objects = split(mask.astype(np.uint32), heights, [0, 33, 64, 80], [0, 20, 61, 100, 150], 4, 512)
    assert objects.count == 3
    distance = ndimage.distance_transform_edt(mask)
    seeds = np.zeros(mask.shape, int)
    for number, top in enumerate(peak_local_max(distance, min_distance=10, labels=mask.astype(int)), start=1):
        seeds[tuple(top)] = number
    theirs = watershed(-distance, seeds, mask=mask)
    for number in (1, 2, 3):
        other = theirs == np.bincount(theirs[found == number]).argmax()
        assert ((found == number) & other).sum() / ((found == number) | other).sum() > 0.97


@pytest.mark.parametrize("angle", range(0, 180, 15))
def test_a_bar_is_not_split_whatever_its_angle(angle: int) -> None:
    y, x = np.mgrid[:120, :120] - 60
    turn = np.deg2rad(angle)
    mask = (abs(y * np.cos(turn) + x * np.sin(turn)) < 8.3) & (abs(x * np.cos(turn) - y * np.sin(turn)) < 45)
    found, objects = split(mask.astype(np.uint32), distance_heights(mask), [0, 70, 120], [0, 50, 120], 4, 512)
    assert objects.count == 1 and np.array_equal(found, mask)


def test_the_depth_is_what_a_neck_must_be_narrower() -> None:
    """Two squares of 15 px, whose middles are 8 px from the background, and a bridge of 7 px, 4 px in the middle."""
    mask = np.zeros((19, 45), bool)
    mask[2:17, 2:17] = mask[2:17, 28:43] = mask[6:13, 17:28] = True
    heights = distance_heights(mask)
    assert heights.max() == 8 * 256 and heights[9, 22] == 4 * 256
    counts = {
        depth: split(mask.astype(np.uint32), heights, [0, 19], [0, 45], 4, depth * 256)[1].count for depth in (4, 5)
    }
    assert counts == {4: 2, 5: 1}


def test_parts_that_are_too_small_are_dropped() -> None:
    labels, heights = np.ones((1, 6), np.uint32), np.array([[5, 0, 9, 9, 9, 9]], np.int32)
    found, objects = split(labels, heights, [0, 1], [0, 4, 6], 4, 3, area=3)
    assert found.tolist() == [[0, 1, 1, 1, 1, 1]] and objects.areas.tolist() == [5]


def test_distances_are_those_of_the_image_inside_a_window_and_are_cut() -> None:
    mask = np.random.default_rng(1).random((420, 500)) < 0.9997
    heights = distance_heights(mask)
    window = Box(start=(150, 200), stop=(170, 260)).grown(REACH).clipped(mask.shape)
    inner = Box(start=(150, 200), stop=(170, 260))
    assert np.array_equal(
        distance_heights(mask[window.slices])[inner.relative_to(window.start).slices], heights[inner.slices]
    )
    assert (distance_heights(np.ones((9, 300), bool)) == REACH * 256).all()
    far = np.ones((1, 300), bool)
    far[0, 0] = False
    assert distance_heights(far)[0, [0, 1, 127, 128, 299]].tolist() == [0, 256, 127 * 256, REACH * 256, REACH * 256]


def test_what_is_kept_of_a_core_does_not_grow_with_the_roughness_of_its_heights() -> None:
    heights = np.random.default_rng(1).integers(0, 50, (90, 90), np.int32)
    labels, box = np.zeros((92, 92), np.uint32), Box(start=(0, 0), stop=(90, 90))
    labels[5:80, 5:80] = 1
    keys = {"core": box, "image_width": 90, "connectivity": 4}
    counts = {d: core_basins(labels, np.pad(heights, 1), depth=d, **keys)[1].components.count for d in (1, 60)}
    assert counts[1] > 500 and counts[60] == 1


def test_cores_that_do_not_fit_are_refused() -> None:
    box, pad = Box(start=(0, 0), stop=(2, 2)), np.ones((4, 4), np.uint32)
    with pytest.raises(GeometryError, match="one pixel more on each side"):
        core_basins(pad[1:], pad.astype(np.int32), core=box, image_width=2, connectivity=4, depth=1)
    _, record = core_basins(pad, pad.astype(np.int32), core=box, image_width=9, connectivity=4, depth=1)
    with pytest.raises(StoreError, match="delete the segmentation"):
        resolve_basins([record], depth=1)
    assert resolve_basins([], depth=1).count == 0

import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from unetpipe.errors import ConfigError, GeometryError, StoreError
from unetpipe.geometry import Box
from unetpipe.instances import CoreComponents, Objects, core_components, relabelled, resolve
from unetpipe.labelling import Connectivity, label_core

Mask = NDArray[np.bool_]
Labels = NDArray[np.uint32]


def _whole(mask: Mask, connectivity: Connectivity, min_area_px: int = 0) -> Labels:
    """Slow reference: one pass by scipy, numbered by first pixel, small objects left out."""
    labels, count = ndimage.label(mask, np.ones((3, 3)) if connectivity == 8 else None)
    final, used = np.zeros(count + 1, np.uint32), 0
    for label in dict.fromkeys(labels[labels > 0].tolist()):
        if np.count_nonzero(labels == label) >= min_area_px:
            used += 1
            final[label] = used
    return final[labels]


def _boxes(ys: list[int], xs: list[int]) -> list[Box]:
    return [Box(start=(y0, x0), stop=(y1, x1)) for y0, y1 in pairwise(ys) for x0, x1 in pairwise(xs)]


def _square_boxes(shape: tuple[int, int], side: int) -> list[Box]:
    return _boxes(*([*range(0, length, side), length] for length in shape))


def _records(mask: Mask, boxes: list[Box], connectivity: Connectivity) -> list[CoreComponents]:
    return [
        core_components(*label_core(mask[box.slices], connectivity=connectivity), core=box, image_width=mask.shape[1])
        for box in boxes
    ]


def _streamed(mask: Mask, boxes: list[Box], connectivity: Connectivity, min_area_px: int = 0) -> tuple[Labels, Objects]:
    """Both passes over all cores."""
    objects = resolve(_records(mask, boxes, connectivity), connectivity=connectivity, min_area_px=min_area_px)
    labels = np.full(mask.shape, 2**32 - 1, np.uint32)
    for box, lookup in zip(boxes, objects.lookups, strict=True):
        labels[box.slices] = relabelled(*label_core(mask[box.slices], connectivity=connectivity), lookup)
    return labels, objects


def _spiral(side: int) -> Mask:
    """An arm of 1 px that winds inwards with gaps of 1 px."""
    mask = np.zeros((side, side), bool)
    y, x, dy, dx = 0, 0, 0, 1
    mask[0, 0] = True
    for length in [side - 1, *(n for k in range(side - 1, 0, -2) for n in (k, k))]:
        for _ in range(length):
            y, x = y + dy, x + dx
            mask[y, x] = True
        dy, dx = dx, -dy
    return mask


def _comb(height: int, width: int) -> Mask:
    """Teeth of 1 px that are joined by the last row only."""
    mask = np.zeros((height, width), bool)
    mask[:, ::2] = mask[-1] = True
    return mask


@st.composite
def _cuts(draw: st.DrawFn, length: int) -> list[int]:
    return [0, *sorted(draw(st.sets(st.integers(1, length - 1), max_size=6))), length] if length > 1 else [0, length]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    density=st.sampled_from([0.1, 0.4, 0.5, 0.6, 0.9]),
    connectivity=st.sampled_from([4, 8]),
    min_area_px=st.sampled_from([0, 1, 2, 5, 1000]),
    data=st.data(),
)
def test_cores_of_any_size_give_the_labels_of_one_pass(
    seed: int,
    shape: tuple[int, int],
    density: float,
    connectivity: Connectivity,
    min_area_px: int,
    data: st.DataObject,
) -> None:
    mask = np.random.default_rng(seed).random(shape) < density
    boxes = _boxes(data.draw(_cuts(shape[0])), data.draw(_cuts(shape[1])))
    labels, objects = _streamed(mask, boxes, connectivity, min_area_px)
    expected = _whole(mask, connectivity, min_area_px)
    assert labels.dtype == np.uint32
    assert np.array_equal(labels, expected)
    assert objects.areas.tolist() == np.bincount(expected.ravel())[1:].tolist()
    assert objects.count == expected.max()


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("density", [0.3, 0.41, 0.59, 0.7])
def test_a_core_is_labelled_like_scipy_does(density: float, connectivity: Connectivity) -> None:
    mask = np.random.default_rng(0).random((150, 170)) < density
    labels, count = label_core(mask, connectivity=connectivity)
    assert np.array_equal(labels, _whole(mask, connectivity))
    assert count == labels.max()


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("side", [1, 3, 16, 200])
@pytest.mark.parametrize("mask", [_spiral(33), _spiral(33)[::-1], _comb(30, 41), _comb(30, 41)[::-1], _comb(30, 41).T])
def test_an_object_may_span_any_number_of_cores(mask: Mask, side: int, connectivity: Connectivity) -> None:
    labels, objects = _streamed(mask, _square_boxes(mask.shape, side), connectivity)
    assert objects.count == 1
    assert np.array_equal(labels, mask)


def test_a_diagonal_joins_through_every_corner_for_8_and_none_for_4() -> None:
    for mask in (np.eye(12, dtype=bool), np.eye(12, dtype=bool)[::-1]):
        for side in (1, 3, 4, 5):
            assert _streamed(mask, _square_boxes(mask.shape, side), 8)[1].count == 1
            assert _streamed(mask, _square_boxes(mask.shape, side), 4)[1].count == 12


def test_the_area_that_counts_is_that_of_the_whole_object() -> None:
    mask = np.zeros((2, 9), bool)
    mask[0, 1:6] = mask[1, 8] = True
    labels, objects = _streamed(mask, _square_boxes(mask.shape, 2), 4, min_area_px=5)
    assert labels.tolist() == [[0, 1, 1, 1, 1, 1, 0, 0, 0], [0] * 9]
    assert objects.areas.tolist() == [5]
    assert not _streamed(mask, _square_boxes(mask.shape, 2), 4, min_area_px=6)[0].any()


def test_first_pixels_beyond_int32_keep_the_order() -> None:
    """Two dots in an image 3e9 px wide: their order comes from raster indices that only int64 can hold."""
    width, dot = 3 * 10**9, np.ones((1, 1), bool)
    record = core_components(*label_core(dot, connectivity=4), core=Box(start=(2, 5), stop=(3, 6)), image_width=width)
    assert record.first_pixels.tolist() == [2 * width + 5]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), connectivity=st.sampled_from([4, 8]), data=st.data())
def test_parts_of_several_values_are_those_of_each_value(
    seed: int, connectivity: Connectivity, data: st.DataObject
) -> None:
    values = np.random.default_rng(seed).integers(0, 4, (14, 17), np.uint8)
    boxes = _boxes(data.draw(_cuts(14)), data.draw(_cuts(17)))
    found = [label_core(values[box.slices], connectivity=connectivity) for box in boxes]
    records = [
        core_components(*pair, core=box, image_width=17, values=values[box.slices])
        for pair, box in zip(found, boxes, strict=True)
    ]
    objects = resolve(records, connectivity=connectivity)
    labels = np.zeros(values.shape, np.uint32)
    for box, pair, lookup in zip(boxes, found, objects.lookups, strict=True):
        labels[box.slices] = relabelled(*pair, lookup)
    apart = [_whole(values == value, connectivity) for value in (1, 2, 3)]
    # Renamed in raster order, the numbers of the values do not matter.
    mixed = sum(one + 1000 * k * (one > 0) for k, one in enumerate(apart))
    names = {name: number for number, name in enumerate(dict.fromkeys(mixed[mixed > 0].tolist()), start=1)}
    assert labels.tolist() == [[names.get(name, 0) for name in row] for row in mixed.tolist()]
    assert all(set(values[labels == k + 1]) == {value} for k, value in enumerate(objects.values.tolist()))


def test_an_empty_mask_and_no_cores_have_no_objects() -> None:
    mask = np.zeros((5, 5), bool)
    labels, objects = _streamed(mask, _square_boxes(mask.shape, 2), 4)
    assert not labels.any() and objects.count == 0
    assert resolve([], connectivity=8).lookups == ()


def test_records_survive_pickle_and_plain_arrays() -> None:
    mask = np.random.default_rng(4).random((20, 30)) < 0.5
    records = _records(mask, _square_boxes(mask.shape, 8), 4)
    expected = resolve(records, connectivity=4).lookups
    arrays = [CoreComponents.from_arrays(record.to_arrays()) for record in records]
    for copies in (arrays, pickle.loads(pickle.dumps(records))):
        lookups = resolve(copies, connectivity=4).lookups
        assert all(np.array_equal(one, other) for one, other in zip(lookups, expected, strict=True))
    assert all(isinstance(array, np.ndarray) for array in records[0].to_arrays().values())


def test_records_do_not_keep_the_core_alive() -> None:
    (record,) = _records(np.ones((9, 9), bool), [Box(start=(0, 0), stop=(9, 9))], 4)
    assert all(getattr(record, edge).base is None for edge in ("top", "bottom", "left", "right"))


def test_damaged_records_are_refused() -> None:
    (record,) = _records(np.ones((3, 4), bool), [Box(start=(0, 0), stop=(3, 4))], 4)
    arrays = record.to_arrays()
    with pytest.raises(StoreError, match="lack left"):
        CoreComponents.from_arrays({name: array for name, array in arrays.items() if name != "left"})
    for name in ("top", "right", "areas", "first_pixels"):
        with pytest.raises(StoreError, match="do not fit"):
            CoreComponents.from_arrays({**arrays, name: arrays[name][:0]})
    with pytest.raises(StoreError, match="do not fit"):
        CoreComponents.from_arrays({**arrays, "top": arrays["top"] + np.uint32(1)})


def test_cores_must_cover_the_image_in_raster_order() -> None:
    mask = np.ones((6, 6), bool)
    records = _records(mask, _square_boxes(mask.shape, 2), 4)
    for wrong in (records[1:], records[:-1], records[::-1], records[3:], [records[1], records[0], *records[2:]]):
        with pytest.raises(GeometryError, match="raster order"):
            resolve(wrong, connectivity=4)


def test_impossible_settings_are_refused() -> None:
    mask = np.ones((2, 2), bool)
    box = Box(start=(0, 0), stop=(2, 2))
    with pytest.raises(ConfigError, match="connectivity"):
        label_core(mask, connectivity=6)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="connectivity"):
        resolve([], connectivity=6)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="0 or more"):
        resolve([], connectivity=4, min_area_px=-1)
    labels, count = label_core(mask, connectivity=4)
    for core, width in ((box, 1), (box.grown(1), 9), (Box(start=(-1, 0), stop=(1, 2)), 9)):
        with pytest.raises(GeometryError, match="inside the image"):
            core_components(labels, count, core=core, image_width=width)
    with pytest.raises(GeometryError, match="labels up to 0"):
        core_components(labels, 0, core=box, image_width=2)
    with pytest.raises(StoreError, match="changed between the passes"):
        relabelled(labels, count, np.zeros(5, np.uint32))

"""Instances, ridges and classes against hand-worked arrays and slow pixel-by-pixel references."""

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from unetpipe.errors import AnnotationError, ConfigError
from unetpipe.labels import (
    carve,
    class_counts,
    compact,
    instances_of_classes,
    instances_of_mask,
    one_sided_ridge,
    symmetric_ridge,
)
from unetpipe.specs import IGNORE

SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
LABELS = arrays(np.uint32, SHAPES, elements=st.integers(0, 4))
ALL_AROUND = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
SCANNED = [(0, -1), (-1, -1), (-1, 0), (-1, 1)]


def neighbours(shape, y, x, offsets):
    """Pixels at the offsets from (y, x), inside the image."""
    return [(y + dy, x + dx) for dy, dx in offsets if 0 <= y + dy < shape[0] and 0 <= x + dx < shape[1]]


def flooded(classes, values):
    """Number parts of equal value by flooding from each value's first unvisited pixel, in raster order."""
    labels = np.zeros(classes.shape, dtype=np.uint32)
    for value in values:
        for seed in zip(*np.nonzero(classes == value), strict=True):
            if labels[seed]:
                continue
            labels[seed] = number = labels.max() + 1
            pending = [seed]
            while pending:
                for pixel in neighbours(classes.shape, *pending.pop(), [(0, 1), (0, -1), (1, 0), (-1, 0)]):
                    if classes[pixel] == value and not labels[pixel]:
                        labels[pixel] = number
                        pending.append(pixel)
    return labels


def ridge_by_pixels(labels, offsets, classes):
    """Labelled pixels with another instance of the same class among the neighbours at the offsets."""
    ridge = np.zeros(labels.shape, dtype=bool)
    for pixel in zip(*np.nonzero(labels), strict=True):
        ridge[pixel] = any(
            labels[other] not in (0, labels[pixel]) and classes[other] == classes[pixel]
            for other in neighbours(labels.shape, *pixel, offsets)
        )
    return ridge


@given(arrays(np.bool_, SHAPES))
def test_instances_of_mask_are_flooded_parts_in_raster_order(mask):
    labels = instances_of_mask(mask)
    assert labels.dtype == np.uint32
    np.testing.assert_array_equal(labels, flooded(mask.astype(np.uint8), [1]))


def test_instances_that_touch_over_a_corner_stay_apart():
    assert instances_of_mask(np.eye(10, dtype=bool)).max() == 10


def test_a_part_that_the_scan_joins_late_gets_the_number_of_its_first_pixel():
    mask = np.array([[1, 0, 1, 0, 1], [1, 0, 1, 0, 0], [1, 1, 1, 0, 1]], dtype=bool)
    np.testing.assert_array_equal(instances_of_mask(mask), [[1, 0, 1, 0, 2], [1, 0, 1, 0, 0], [1, 1, 1, 0, 3]])


@given(arrays(np.uint8, SHAPES, elements=st.sampled_from([0, 1, 2, 7, IGNORE])))
def test_instances_of_classes_are_flooded_parts_class_by_class(classes):
    labels = instances_of_classes(classes)
    assert labels.dtype == np.uint32
    np.testing.assert_array_equal(labels, flooded(classes, [1, 2, 7]))


@given(arrays(np.bool_, SHAPES))
def test_instances_of_one_class_are_those_of_its_mask(mask):
    np.testing.assert_array_equal(instances_of_classes(mask.astype(np.uint8)), instances_of_mask(mask))


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_an_empty_image_has_no_instances(shape):
    assert instances_of_mask(np.zeros(shape, dtype=bool)).shape == shape
    assert instances_of_classes(np.zeros(shape, dtype=np.uint8)).shape == shape
    assert compact(np.zeros(shape, dtype=np.int64)).shape == shape
    assert symmetric_ridge(np.zeros(shape, dtype=np.uint32)).shape == shape


TOUCHING = np.array(
    [
        [1, 1, 1, 2, 2, 2],
        [1, 1, 1, 2, 2, 2],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 3, 3, 0],
        [0, 0, 0, 3, 3, 0],
    ],
    dtype=np.uint32,
)


def test_symmetric_ridge_takes_one_pixel_from_each_side():
    expected = [
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(symmetric_ridge(TOUCHING), np.array(expected, dtype=bool))


def test_one_sided_ridge_asks_the_neighbours_to_the_west_and_north():
    expected = [
        [0, 0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0, 0],  # the first by its north-eastern neighbour
        [0, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(one_sided_ridge(TOUCHING), np.array(expected, dtype=bool))


def test_one_sided_ridge_of_a_contact_along_a_row_takes_the_lower_side_only():
    labels = np.repeat(np.array([[1], [1], [2], [2]], dtype=np.uint32), 5, axis=1)
    np.testing.assert_array_equal(one_sided_ridge(labels).all(axis=1), [False, False, True, False])


def test_one_sided_ridge_looks_at_labels_and_not_at_earlier_ridge():
    # Were ridge pixels taken out during the scan, the 3 would find no instance to its west.
    np.testing.assert_array_equal(one_sided_ridge(np.array([[1, 2, 3]], dtype=np.uint32)), [[False, True, True]])


@given(st.data())
def test_ridges_equal_their_definitions(data):
    labels = data.draw(LABELS)
    classes = data.draw(arrays(np.uint8, labels.shape, elements=st.integers(1, 2)))
    one_class = np.ones_like(classes)
    for ridge, offsets in ((symmetric_ridge, ALL_AROUND), (one_sided_ridge, SCANNED)):
        np.testing.assert_array_equal(ridge(labels), ridge_by_pixels(labels, offsets, one_class))
        np.testing.assert_array_equal(ridge(labels, classes=classes), ridge_by_pixels(labels, offsets, classes))


@given(LABELS)
def test_symmetric_ridge_does_not_depend_on_direction_or_numbers(labels):
    ridge = symmetric_ridge(labels)
    np.testing.assert_array_equal(symmetric_ridge(labels[::-1]), ridge[::-1])
    np.testing.assert_array_equal(symmetric_ridge(labels[:, ::-1]), ridge[:, ::-1])
    np.testing.assert_array_equal(symmetric_ridge(labels.T), ridge.T)
    np.testing.assert_array_equal(symmetric_ridge(np.array([0, 9, 5, 2**32 - 1, 7], dtype=np.uint32)[labels]), ridge)
    assert not (one_sided_ridge(labels) & ~ridge).any()


@given(LABELS, st.sampled_from(["symmetric", "one_sided"]))
def test_carving_leaves_no_contact_between_instances(labels, ridge):
    classes = carve((labels != 0).astype(np.uint8), labels, ridge=ridge)
    assert not symmetric_ridge(np.where(classes == 1, labels, 0)).any()
    parts, n_parts = ndimage.label(classes, structure=np.ones((3, 3)))
    for part in range(1, n_parts + 1):
        assert np.unique(labels[parts == part]).size == 1


def test_carving_parts_instances_of_one_class_only_and_keeps_ignored_pixels():
    labels = np.array([[1, 1, 2, 2, 3, 4, 4]], dtype=np.uint32)
    classes = np.array([[1, 1, 1, 1, 2, IGNORE, 2]], dtype=np.uint8)
    np.testing.assert_array_equal(carve(classes, labels, ridge="symmetric"), [[1, 0, 0, 1, 2, IGNORE, 2]])
    np.testing.assert_array_equal(carve(classes, labels, ridge="one_sided"), [[1, 1, 0, 1, 2, IGNORE, 2]])
    ignored = np.full_like(classes, IGNORE)
    np.testing.assert_array_equal(carve(ignored, labels, ridge="symmetric"), ignored)


def test_carving_without_a_ridge_gives_a_copy():
    classes = np.array([[1, 1]], dtype=np.uint8)
    carved = carve(classes, np.array([[1, 2]], dtype=np.uint32), ridge="none")
    carved[:] = 9
    np.testing.assert_array_equal(classes, [[1, 1]])


@given(arrays(np.uint8, SHAPES, elements=st.sampled_from([0, 1, 2, IGNORE])))
def test_class_counts_count_all_pixels_but_the_ignored(classes):
    counts = class_counts(classes, 4)
    assert counts.dtype == np.int64
    assert counts.tolist() == [np.count_nonzero(classes == k) for k in range(4)]
    np.testing.assert_array_equal(class_counts(classes[:3], 4) + class_counts(classes[3:], 4), counts)


def test_class_counts_of_an_image_taller_than_a_strip():
    classes = np.arange(600 * 7, dtype=np.int64).reshape(600, 7) % 3
    assert class_counts(classes.astype(np.uint8), 3).tolist() == [1400, 1400, 1400]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64, np.dtype(">u2")])
def test_compact_keeps_values_that_fit(dtype):
    labels = compact(np.array([[0, 100, 3]], dtype=dtype))
    assert labels.dtype == np.uint32
    np.testing.assert_array_equal(labels, [[0, 100, 3]])


def test_compact_keeps_the_largest_value_that_fits_and_split_instances():
    np.testing.assert_array_equal(compact(np.array([[2**32 - 1, 0, 2**32 - 1]])), [[2**32 - 1, 0, 2**32 - 1]])


def test_compact_renumbers_in_order_of_value_what_does_not_fit():
    labels = np.array([[2**63 + 5, 0, 17], [2**32, 17, 2**63 + 5]], dtype=np.uint64)
    np.testing.assert_array_equal(compact(labels), [[3, 0, 1], [2, 1, 3]])
    np.testing.assert_array_equal(compact(np.array([[2**40, 2**41]])), [[1, 2]])


@given(arrays(np.int64, SHAPES, elements=st.integers(0, 2**40)))
def test_compact_tells_apart_what_was_apart(labels):
    compacted = compact(labels)
    np.testing.assert_array_equal(compacted == 0, labels == 0)
    pairs = {(int(a), int(b)) for a, b in zip(labels.flat, compacted.flat, strict=True)}
    assert len(pairs) == np.unique(labels).size == np.unique(compacted).size


REFUSED = [
    (lambda: compact(np.array([[0.0, 1.0]])), AnnotationError, "float64"),
    (lambda: compact(np.array([[True]])), AnnotationError, "bool"),
    (lambda: compact(np.array([[0, -3]])), AnnotationError, "negative value -3"),
    (lambda: compact(np.zeros((2, 2, 2), dtype=np.uint8)), AnnotationError, r"shape \(2, 2, 2\)"),
    (lambda: instances_of_mask(np.zeros((2, 2), dtype=np.uint8)), AnnotationError, "bool"),
    (lambda: instances_of_classes(np.zeros((2, 2), dtype=np.int64)), AnnotationError, "uint8"),
    (lambda: symmetric_ridge(np.zeros((2, 2))), AnnotationError, "integers"),
    (lambda: one_sided_ridge(np.zeros(2, dtype=np.uint32)), AnnotationError, r"shape \(2,\)"),
    (
        lambda: carve(np.zeros((2, 2), dtype=np.uint8), np.zeros((2, 3), dtype=np.uint32), ridge="none"),
        AnnotationError,
        "one image",
    ),
    (
        lambda: carve(np.zeros((2, 2), dtype=np.uint8), np.zeros((2, 2), dtype=np.uint32), ridge="both"),
        ConfigError,
        "one_sided",
    ),
    (lambda: class_counts(np.array([[0, 3, 3]], dtype=np.uint8), 3), AnnotationError, "value 3 on 2 pixels"),
    (lambda: class_counts(np.array([[0]], dtype=np.uint8), 0), ConfigError, "1 to 255"),
    (lambda: class_counts(np.array([[0]], dtype=np.uint8), 256), ConfigError, "1 to 255"),
]


@pytest.mark.parametrize(("call", "error", "said"), REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(call, error, said):
    with pytest.raises(error, match=said) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 300


def test_real_nuclei_are_apart_after_carving(data_folder):
    paths = sorted((data_folder / "dsb2018" / "labels").glob("*.tif"))[:10]
    if not paths:
        pytest.skip("no dsb2018 labels among the real data")
    for path in paths:
        labels = compact(tifffile.imread(path))
        classes = carve((labels != 0).astype(np.uint8), labels, ridge="symmetric")
        assert not symmetric_ridge(np.where(classes == 1, labels, 0)).any()

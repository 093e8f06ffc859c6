from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.measure import label, regionprops

from unetpipe.errors import GeometryError
from unetpipe.geometry import Box
from unetpipe.measures import (
    add_block,
    add_sums,
    framed,
    in_um,
    intensity_scale,
    labels_of_block,
    no_sums,
    properties,
    whole_numbers,
)

FULL = 65535
CHANNELS = ("a", "b")


def measured(
    labels: NDArray[np.uint32], probability: Any, image: Any, *, side: int, order: int = 1, at: tuple[int, int] = (0, 0)
) -> NDArray[np.int64]:
    """Sums over square blocks of an image whose first pixel is said to lie somewhere."""
    sums, shape = no_sums(int(labels.max()), len(image)), labels.shape
    starts = [(y, x) for y in range(0, shape[0], side) for x in range(0, shape[1], side)]
    for y, x in starts[::order]:
        box = Box(start=(y, x), stop=(y + side, x + side)).clipped(shape)
        window = framed(labels[box.grown(1).clipped(shape).slices], box, shape)
        place = box.relative_to((-at[0], -at[1]))
        add_block(sums, window, probability[box.slices], image[:, *box.slices], box=place)
    return sums


@pytest.fixture(scope="module")
def scene() -> tuple[Any, Any, Any]:
    """Labels of many shapes, some of which touch, a probability and an image of two channels."""
    rng = np.random.default_rng(5)
    labels = label(rng.integers(0, 3, (60, 75)), background=0, connectivity=1).astype(np.uint32)
    big = labels.max() + np.arange(1, 5, dtype=np.uint32)
    y, x = np.mgrid[:60, :75]
    labels[(y - 20) ** 2 + (x - 20) ** 2 < 150] = big[0]
    labels[(y - 40) ** 2 / 9 + (x - 50) ** 2 < 40] = big[1]
    labels[abs(y - x + 10) < 3] = big[2]
    labels[55:58, 2:70] = big[3]
    labels = label(labels, background=0, connectivity=1).astype(np.uint32)
    image = rng.integers(0, 60000, (2, 60, 75), dtype=np.int64)
    return labels, rng.integers(0, 65536, (60, 75), dtype=np.uint16), image


def test_measures_are_those_of_scikit_image(scene: tuple[Any, Any, Any]) -> None:
    labels, probability, image = scene
    found = properties(measured(labels, probability, image, side=16), full=FULL, channels=CHANNELS)
    regions = regionprops(labels, intensity_image=np.stack([probability / FULL, *image], axis=-1))
    assert len(regions) > 100
    centroids = np.array([r.centroid for r in regions]) + 0.5
    expected = {
        "area_px": [r.area for r in regions],
        "centroid_y_px": centroids[:, 0],
        "centroid_x_px": centroids[:, 1],
        "perimeter_px": [r.perimeter_crofton for r in regions],
        "eccentricity": [r.eccentricity for r in regions],
        "mean_probability": [r.intensity_mean[0] for r in regions],
        "mean_intensity_a": [r.intensity_mean[1] for r in regions],
        "mean_intensity_b": [r.intensity_mean[2] for r in regions],
    }
    for number, name in enumerate(("top_px", "left_px", "bottom_px", "right_px")):
        expected[name] = [r.bbox[number] for r in regions]
    for name, values in expected.items():
        assert found[name] == pytest.approx(np.array(values, float), rel=1e-9, abs=1e-7), name
    assert set(found) == {*expected, "orientation_rad"}
    # An axis turned by half a turn is the same axis; where there is no long axis, there is nothing to compare.
    long = np.array([r.eccentricity for r in regions]) > 0.1
    angles = found["orientation_rad"] - np.array([r.orientation for r in regions])
    assert long.sum() > 50
    assert np.abs(np.sin(angles[long])).max() < 1e-7


@pytest.mark.parametrize("side", [1, 7, 32, 100])
def test_blocks_and_their_order_do_not_matter(scene: tuple[Any, Any, Any], side: int) -> None:
    reference = measured(*scene, side=75)
    for order in (1, -1):
        assert np.array_equal(measured(*scene, side=side, order=order), reference)


@pytest.mark.parametrize("at", [(0, 0), (2**20 - 60, 2**20 - 75)])
def test_sums_of_blocks_add_up_to_those_of_the_whole(scene: tuple[Any, Any, Any], at: tuple[int, int]) -> None:
    labels, probability, image = scene
    reference, shape = measured(*scene, side=75, at=at), labels.shape
    # As if many such pixels had been there before.
    reference[:, [3, 5, 7]] += 2**62 - 2**42
    over = reference[:, [3, 5, 7]] // 2**62
    reference[:, [3, 5, 7]] %= 2**62
    reference[:, [4, 6, 8]] += over
    sums = no_sums(len(reference), 2)
    sums[:, [3, 5, 7]] += 2**62 - 2**42
    for y in range(0, 60, 17):
        for x in range(0, 75, 17):
            box = Box(start=(y, x), stop=(y + 17, x + 17)).clipped(shape)
            objects, names = labels_of_block(framed(labels[box.grown(1).clipped(shape).slices], box, shape))
            block, place = no_sums(len(objects), 2), box.relative_to((-at[0], -at[1]))
            add_block(block, names, probability[box.slices], image[:, *box.slices], box=place)
            add_sums(sums, block, objects)
    assert np.array_equal(sums, reference)
    assert over.any() == (at != (0, 0))


def test_no_digit_is_lost_at_the_far_end_of_the_largest_image(scene: tuple[Any, Any, Any]) -> None:
    near, far = measured(*scene, side=40), measured(*scene, side=40, at=(2**20 - 60, 2**20 - 75))
    one, other = (properties(sums, full=FULL, channels=CHANNELS) for sums in (near, far))
    for name in ("area_px", "perimeter_px", "eccentricity", "orientation_rad", "mean_probability"):
        assert np.array_equal(one[name], other[name])
    assert np.array_equal(other["top_px"], one["top_px"] + 2**20 - 60)
    assert other["centroid_x_px"] - (2**20 - 75) == pytest.approx(one["centroid_x_px"], abs=1e-9)


def test_sums_run_over_into_a_second_part() -> None:
    """An object whose sum of squares is beyond 63 bits: a block at a time, said to be the same pixel again."""
    sums, far = no_sums(1, 0), 2**20 - 1
    box = Box(start=(far, far), stop=(far + 1, far + 1))
    window, ones = np.pad([[1]], 1).astype(np.uint32), np.ones((1, 1), np.uint16)
    sums[0, 3] = 2**62 - 1
    for _ in range(3):
        add_block(sums, window, ones, np.zeros((0, 1, 1), np.int64), box=box)
    assert int(sums[0, 3]) + int(sums[0, 4]) * 2**62 == 2**62 - 1 + 3 * far * far
    assert 0 <= sums[0, 3] < 2**62 and sums[0, 4] == 1


def test_objects_one_works_out_by_hand() -> None:
    labels = np.zeros((6, 8), np.uint32)
    labels[1, 1] = 1
    labels[3, 1:5] = 2
    labels[0:2, 6:8] = 3
    labels[[3, 4, 5], [5, 6, 7]] = 4
    sums = measured(labels, np.full(labels.shape, FULL, np.uint16), np.zeros((0, *labels.shape), np.int64), side=3)
    found = properties(sums, full=FULL)
    assert found["eccentricity"].tolist() == [0, 1, 0, 1]
    assert found["orientation_rad"].tolist() == [0, np.pi / 2, 0, np.pi / 4]
    assert found["mean_probability"].tolist() == [1, 1, 1, 1]
    crofton = np.pi / 8 * np.array([4 + 4 / 2**0.5, 10 + 16 / 2**0.5, 8 + 12 / 2**0.5])
    # One pixel: 4 sides, 4 corners. Four in a row: 10 sides, 16 corners. A square of 4: 8 sides, 12 corners.
    assert found["perimeter_px"][:3] == pytest.approx(crofton)


def test_floats_are_summed_without_regard_to_the_order() -> None:
    rng = np.random.default_rng(1)
    image = (rng.normal(size=(1, 40, 40)) * 1e-3).astype(np.float32)
    labels = np.ones((40, 40), np.uint32)
    scale = intensity_scale([(float(np.percentile(image, 1)), float(np.percentile(image, 99.8)))])
    whole = whole_numbers(image, scale)
    probability = np.zeros((40, 40), np.uint16)
    sums = [measured(labels, probability, whole, side=side, order=order) for side, order in ((40, 1), (3, -1))]
    assert np.array_equal(*sums)
    mean = properties(sums[0], full=FULL, scale=scale, channels=["0"])["mean_intensity_0"]
    assert mean == pytest.approx(image.astype(float).mean(), abs=2**-24 * float(np.abs(image).max()))


def test_extremes_of_floats_are_cut_and_nothing_is_divided_by_zero() -> None:
    assert whole_numbers(np.array([[[1e30, -1e30]]], np.float32), 1.0).tolist() == [[[2**38, -(2**38)]]]
    assert intensity_scale([(0.0, 0.0)]) == 2.0**24
    assert properties(no_sums(0, 1), full=FULL, channels=["0"])["eccentricity"].size == 0


def test_micrometres_follow_from_pixels(scene: tuple[Any, Any, Any]) -> None:
    found = properties(measured(*scene, side=75), full=FULL, channels=CHANNELS)
    um = in_um(found, 0.25)
    assert set(um) == {
        "area_um2", "centroid_y_um", "centroid_x_um", "top_um", "left_um", "bottom_um", "right_um", "perimeter_um"
    }  # fmt: skip
    assert um["area_um2"].tolist() == (found["area_px"] / 16).tolist()


def test_what_does_not_fit_is_refused() -> None:
    box, sums = Box(start=(0, 0), stop=(2, 2)), no_sums(1, 1)
    window, plane, image = np.ones((4, 4), np.uint32), np.zeros((2, 2), np.uint16), np.zeros((1, 2, 2), np.int64)
    for wrong in ((window[1:], plane, image), (window, plane[1:], image), (window, plane, image[:0]),
                  (window + np.uint32(1), plane, image)):  # fmt: skip
        with pytest.raises(GeometryError, match="one pixel more around"):
            add_block(sums, *wrong, box=box)

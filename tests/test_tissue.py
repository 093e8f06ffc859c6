"""Tissue masks: the threshold by brute force, areas and margins by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from unetpipe.geometry import Box
from unetpipe.tissue import mask_block, otsu_threshold, tissue_mask, tissue_measure


def separation(values: np.ndarray, threshold: float) -> float:
    """n0 n1 (m1 - m0)^2 of the values below a threshold and from it on."""
    upper = values >= threshold
    return float(upper.sum() * (~upper).sum() * (values[upper].mean() - values[~upper].mean()) ** 2)


@given(arrays.arrays(np.int64, st.integers(2, 60), elements=st.integers(0, 256)))
def test_threshold_parts_whole_numbers_best(values: np.ndarray) -> None:
    # With 0 and 256 among them, each bin holds one whole number, but the last two, which share one.
    values = np.append(values, [0, 256]).astype(np.float64)
    values[values == 255] = 254
    threshold = otsu_threshold(values)
    assert threshold is not None
    middles = np.where(values == 256, 255, values)
    best = max(separation(middles, t) for t in range(1, 256))
    assert separation(middles, threshold) == pytest.approx(best)


def test_threshold_is_that_of_others() -> None:
    filters = pytest.importorskip("skimage.filters")
    rng = np.random.default_rng(0)
    for low, high in ((0.1, 0.9), (100, 30000), (-5, 5)):
        values = np.concatenate([rng.normal(low, 0.2 * (high - low), 900), rng.normal(high, 0.1 * (high - low), 300)])
        half_a_bin = (values.max() - values.min()) / 512
        assert otsu_threshold(values) == pytest.approx(filters.threshold_otsu(values) + half_a_bin)


def test_a_narrow_range_of_large_numbers_has_a_threshold() -> None:
    values = np.array([60000, 60000.004, 60000.03], np.float32)
    threshold = otsu_threshold(values)
    assert threshold is not None and float(values[1]) < threshold <= float(values[2])


@pytest.mark.parametrize("by", ["colour", "darkness", "brightness"])
def test_flat_images_are_tissue_everywhere(by: str) -> None:
    measure = tissue_measure(np.full((3, 5, 6), 200, np.uint8), by)  # type: ignore[arg-type]
    assert tissue_mask(measure, pixel_size_um=8.0, smallest_um2=1e9, margin_um=0.0).all()


def test_measures_by_hand() -> None:
    image = np.array([[[250, 200]], [[240, 60]], [[250, 130]]], np.uint8)
    assert tissue_measure(image, "colour").tolist() == [[10.0, 140.0]]
    assert tissue_measure(image[:1], "darkness").tolist() == [[-250.0, -200.0]]
    assert tissue_measure(np.array([[[4.0, 13.0, 3.5, -3.0]]], np.float32), "brightness")[0] == pytest.approx(
        [7**0.5, 4.0, 6.5**0.5, 0.0]
    )
    deep = np.array([[[65535]], [[65535]], [[0]]], np.uint16)
    assert (tissue_measure(deep, "colour").item(), tissue_measure(deep, "darkness").item()) == (65535.0, -43690.0)


@given(st.integers(0, 2**32 - 1), st.floats(0, 60), st.floats(0, 900))
def test_margin_and_parts_by_brute_force(seed: int, margin_um: float, smallest_um2: float) -> None:
    tissue = np.random.default_rng(seed).random((9, 11)) < 0.06
    tissue[0, 0], tissue[8, 10] = True, False
    found = tissue_mask(tissue.astype(np.float32), pixel_size_um=8.0, smallest_um2=smallest_um2, margin_um=margin_um)
    at = np.argwhere(tissue)
    y, x = np.mgrid[:9, :11]
    near = (np.hypot(y - at[:, 0, None, None], x - at[:, 1, None, None]) * 8.0 <= margin_um).any(axis=0) | tissue
    left, expected = {(int(a), int(b)) for a, b in np.argwhere(near)}, np.zeros((9, 11), bool)
    while left:
        part, front = set(), [left.pop()]
        while front:
            a, b = front.pop()
            part.add((a, b))
            beside = {(a + 1, b), (a - 1, b), (a, b + 1), (a, b - 1)} & left
            left -= beside
            front += beside
        if 64 * sum(tissue[a, b] for a, b in part) >= smallest_um2:
            expected[tuple(np.array(sorted(part)).T)] = True
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("mask_level", [0, 1, 3])
@pytest.mark.parametrize("level", [0, 2])
def test_blocks_of_the_mask_at_any_level(level: int, mask_level: int) -> None:
    shape = (37, 50)
    size = [-(-n // 2**mask_level) for n in shape]
    mask = np.random.default_rng(4).random(size) < 0.5
    whole = mask.repeat(2**mask_level, axis=0).repeat(2**mask_level, axis=1)[:37, :50][:: 2**level, :: 2**level]
    box = Box(start=(2, 1), stop=(9, 12))
    assert np.array_equal(mask_block(mask, box, level=level, mask_level=mask_level), whole[box.slices])

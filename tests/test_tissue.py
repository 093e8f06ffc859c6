"""Tissue masks: the threshold by brute force, areas and margins by hand."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from unetpipe.geometry import Box
from unetpipe.tissue import mask_block, otsu_threshold, tissue_mask, tissue_measure, tissue_pixels


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


def dots(shape: tuple[int, int]) -> np.ndarray:
    """A few cells, each a pixel or two: one in two hundred pixels."""
    cells = np.zeros(shape, bool)
    cells[5::20, 3::20] = True
    cells[6::40, 3::20] = True
    return cells


def disc(shape: tuple[int, int]) -> np.ndarray:
    """One round piece of tissue: a tenth of the image."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(y - shape[0] / 2, x - shape[1] / 2) < 0.18 * min(shape)


BLANKS = {
    "glass": lambda rng, shape: rng.normal(243, 4, (3, *shape)).clip(0, 255).round().astype(np.uint8),
    "glass of even channels": lambda rng, shape: rng.normal(243, 2, (1, *shape)).round().repeat(3, 0).astype(np.uint8),
    "nearly flat": lambda rng, shape: rng.normal(243, 0.25, (3, *shape)).round().astype(np.uint8),
    "flat": lambda rng, shape: np.full((3, *shape), 243, np.uint8),
    "saturated": lambda rng, shape: rng.normal(255, 3, (3, *shape)).clip(0, 255).round().astype(np.uint8),
    "dark": lambda rng, shape: rng.poisson(3, (3, *shape)).astype(np.uint8),
    "dark with offset": lambda rng, shape: (100 + rng.poisson(40, (1, *shape))).astype(np.uint16),
    "dark and clipped": lambda rng, shape: rng.normal(-2, 2, (3, *shape)).clip(0).round().astype(np.uint8),
    "speckles": lambda rng, shape: rng.exponential(20, (1, *shape)).astype(np.float32),
    "float": lambda rng, shape: rng.normal(0, 1e-3, (3, *shape)).astype(np.float32),
}


@pytest.mark.parametrize("by", ["colour", "darkness", "brightness"])
@pytest.mark.parametrize("kind", BLANKS)
def test_noise_alone_is_no_tissue(kind: str, by: Literal["colour", "darkness", "brightness"]) -> None:
    for seed in range(4):
        image = BLANKS[kind](np.random.default_rng(seed), (120, 170))
        if by == "colour" and len(image) == 1:
            continue
        found = tissue_pixels(image, by)
        # The long tail of speckles leaves single pixels, which are no tissue by their size.
        assert found.mean() < (2e-3 if kind == "speckles" else 1e-4)
        assert not tissue_mask(found, pixel_size_um=8.0, smallest_um2=2500.0, margin_um=50.0).any()


@pytest.mark.parametrize("where", [dots, disc])
@pytest.mark.parametrize("kind", BLANKS)
def test_what_stands_out_of_the_same_noise_is_tissue(kind: str, where: Callable[..., np.ndarray]) -> None:
    """Ten deviations of noise, and ten grey levels where that is more, are found, be they many or few."""
    image = BLANKS[kind](np.random.default_rng(7), (120, 170))
    cells = where((120, 170))
    # Away from the end of the scale that the blank image lies at.
    rise = 10 * max(float(image.std()), 1.0 if image.dtype.kind == "u" else 0.0)
    by: Literal["darkness", "brightness"] = "darkness" if image.mean() > 200 else "brightness"
    with_cells = image + np.where(cells, -rise if by == "darkness" else rise, 0).astype(image.dtype)
    found = tissue_pixels(with_cells, by)
    assert found[cells].mean() > 0.9 and found[~cells].mean() < 0.1


def test_apart_by_hand() -> None:
    """Columns of 0 and d: 3 of 5 neighbours along x differ nowhere, one by d; along y none does."""
    # s^2 = (3 d^2) / (12 + 15) / 2 for 3 rows of 6 with one step: s = d / sqrt(18), so the groups lie 4.24 s apart.
    step = np.repeat(np.array([[[0, 0, 0, 1, 1, 1]]], np.float32), 3, axis=1)
    assert tissue_pixels(step, "brightness").tolist() == [[False] * 3 + [True] * 3] * 3
    # Stripes: 15 of 27 neighbours differ, so s = d sqrt(15 / 54) and the groups lie 1.90 s apart, as in noise.
    stripes = np.repeat(np.array([[[0, 1, 0, 1, 0, 1]]], np.float32), 3, axis=1)
    assert not tissue_pixels(stripes, "brightness").any()
    # Two grey levels may come of rounding; three are more.
    assert not tissue_pixels((2 * step).astype(np.uint8), "brightness").any()
    assert tissue_pixels((3 * step).astype(np.uint8), "brightness").any()


def test_measures_by_hand() -> None:
    image = np.array([[[250, 200]], [[240, 60]], [[250, 130]]], np.uint8)
    assert tissue_measure(image, "colour").tolist() == [[10.0, 140.0]]
    assert tissue_measure(image[:1], "darkness").tolist() == [[-250.0, -200.0]]
    assert tissue_measure(np.array([[[4.0, 13.0, 3.5, -3.0]]], np.float32), "brightness")[0] == pytest.approx(
        [4.0, 13.0, 3.5, -3.0]
    )
    deep = np.array([[[65535]], [[65535]], [[0]]], np.uint16)
    assert (tissue_measure(deep, "colour").item(), tissue_measure(deep, "darkness").item()) == (65535.0, -43690.0)


@given(st.integers(0, 2**32 - 1), st.floats(0, 60), st.floats(0, 900))
def test_margin_and_parts_by_brute_force(seed: int, margin_um: float, smallest_um2: float) -> None:
    tissue = np.random.default_rng(seed).random((9, 11)) < 0.06
    tissue[0, 0], tissue[8, 10] = True, False
    found = tissue_mask(tissue, pixel_size_um=8.0, smallest_um2=smallest_um2, margin_um=margin_um)
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

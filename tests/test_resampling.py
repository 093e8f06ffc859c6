"""Another pixel size: means and cubic curves by slow references, and no seams."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagefiles import area_mean
from unetpipe.errors import GeometryError
from unetpipe.geometry import Box
from unetpipe.resampling import Resampling

FACTORS = [2.0, 3.0, 4 / 3, 2.2, 0.5 / 0.2271, 7.31, 0.5, 1 / 3, 0.8, 0.2271 / 0.5]
PAIRS = [(2.2, 0.5), (0.8, 3.0), (1.0, 4 / 3)]


def noise(shape: tuple[int, int], dtype: str = "u1", channels: int = 2) -> np.ndarray:
    """Random pixels (C, Y, X)."""
    return (np.random.default_rng(7).random((channels, *shape)) * 255).astype(dtype)


def whole(pixels: np.ndarray, factor: float | tuple[float, float]) -> np.ndarray:
    """All of the result, in one piece."""
    resampling = Resampling(shape=pixels.shape[1:], factor=factor)
    box = Box(start=(0, 0), stop=resampling.result)
    (top, left), (bottom, right) = resampling.source_box(box).start, resampling.source_box(box).stop
    return resampling.image_block(pixels[:, top:bottom, left:right], box)


def mean_by_fractions(row: list[int], factor: Fraction, i: int) -> Fraction:
    """Mean of a row of pixels over [i f, (i + 1) f), as far as there are pixels."""
    start, stop = i * factor, min((i + 1) * factor, Fraction(len(row)))
    parts = [max(min(stop, Fraction(j + 1)) - max(start, Fraction(j)), Fraction(0)) * v for j, v in enumerate(row)]
    return sum(parts, Fraction(0)) / (stop - start)


@pytest.mark.parametrize("factor", [*FACTORS, *PAIRS])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_blocks_of_any_size_give_the_bits_of_the_whole(factor: float | tuple[float, float], dtype: str) -> None:
    pixels = noise((61, 83), dtype)
    expected = whole(pixels, factor)
    resampling = Resampling(shape=(61, 83), factor=factor)
    height, width = resampling.result
    rng = np.random.default_rng(1)
    for _ in range(12):
        (top, bottom), (left, right) = (sorted(rng.choice(n + 1, 2, replace=False).tolist()) for n in (height, width))
        box = Box(start=(top, left), stop=(bottom, right))
        source = resampling.source_box(box)
        assert source.clipped((61, 83)) == source
        found = resampling.image_block(pixels[:, *source.slices], box)
        assert found.dtype == pixels.dtype
        assert found.tobytes() == np.ascontiguousarray(expected[:, *box.slices]).tobytes()


@given(st.lists(st.integers(0, 255), min_size=1, max_size=20), st.fractions(1, 9, max_denominator=50))
def test_smaller_is_the_mean_over_the_area(row: list[int], factor: Fraction) -> None:
    if factor == 1:
        return
    found = whole(np.array([[row]], np.uint8), float(factor))[0, 0].tolist()
    exact = [mean_by_fractions(row, factor, i) for i in range(len(found))]
    assert found == [int(mean + Fraction(1, 2)) for mean in exact], "rounded half up"


@pytest.mark.parametrize("shape", [(8, 6), (9, 7), (1, 1)])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_half_the_size_is_the_next_level_of_a_pyramid(shape: tuple[int, int], dtype: str) -> None:
    pixels = noise(shape, dtype)
    assert np.allclose(whole(pixels, 2.0), area_mean(pixels), rtol=1e-6, atol=0)
    if dtype != "f4":
        assert np.array_equal(whole(pixels, 2.0), area_mean(pixels))


def test_smaller_keeps_the_sum() -> None:
    pixels = noise((60, 84), "f4").astype(np.float64)
    assert whole(pixels, 2.4).mean() == pytest.approx(pixels.mean(), rel=1e-12)


@pytest.mark.parametrize("factor", [0.5, 1 / 3, 0.7, 0.2271 / 0.5])
def test_larger_follows_parabolas_through_the_centres(factor: float) -> None:
    y, x = np.mgrid[:20, :30] + 0.5
    pixels = (3 + 2 * y - x + 0.25 * y * y - 0.125 * x * y + 0.5 * x * x)[None]
    found = whole(pixels, factor)[0]
    v, u = (np.mgrid[: found.shape[0], : found.shape[1]] + 0.5) * factor
    exact = 3 + 2 * v - u + 0.25 * v * v - 0.125 * u * v + 0.5 * u * u
    # The kernel reaches two pixels.
    inside = (v >= 1.5) & (v <= 18.5) & (u >= 1.5) & (u <= 28.5)
    assert inside.mean() > 0.7
    assert np.abs(found - exact)[inside].max() < 1e-9


def test_larger_is_cubic_interpolation_as_others_have_it() -> None:
    import torch

    pixels = noise((24, 31), "f4", channels=1)
    tensor = torch.from_numpy(pixels)[None].double()
    other = torch.nn.functional.interpolate(tensor, scale_factor=2, mode="bicubic", antialias=True)[0].numpy()
    assert np.abs(whole(pixels, 0.5) - other)[:, 4:-4, 4:-4].max() < 1e-4


def test_larger_stays_in_the_range_of_integers_and_keeps_what_is_flat() -> None:
    edge = np.zeros((1, 8, 8), np.uint8)
    edge[..., 4:] = 255
    found = whole(edge, 0.25)[0, 0]
    assert (found[:10] == 0).all() and (found[-10:] == 255).all()
    assert (np.diff(found.astype(int)[12:20]) >= 0).all()
    for factor in FACTORS:
        assert (whole(np.full((1, 17, 9), 201, np.uint8), factor) == 201).all()


@pytest.mark.parametrize(
    ("size", "factor", "expected"),
    [(7, 2.0, 4), (10, 3.0, 3), (11, 3.0, 4), (300, 0.3 / 0.1, 100), (5, 0.5, 10), (1, 64.0, 1), (100_000, 2.2, 45455)],
)
def test_a_result_has_the_pixels_whose_centres_lie_in_the_source(size: int, factor: float, expected: int) -> None:
    assert Resampling(shape=(size, 1), factor=factor).result[0] == expected


@pytest.mark.parametrize("factor", FACTORS)
def test_labels_are_those_under_the_centres(factor: float) -> None:
    resampling = Resampling(shape=(29, 40), factor=factor)
    labels = np.arange(29 * 40, dtype=np.uint32).reshape(29, 40)
    box = Box(start=(0, 0), stop=resampling.result)
    found = resampling.labels_block(labels[resampling.labels_box(box).slices], box)
    for part in (Box(start=(y, x), stop=(y + 1, found.shape[1])) for y in range(found.shape[0]) for x in (0, 1)):
        read = labels[resampling.labels_box(part).slices]
        np.testing.assert_array_equal(resampling.labels_block(read, part), found[part.slices])
    exact = Fraction(factor).limit_denominator(10**6)
    for i, row in enumerate(found[:, 0]):
        assert row // 40 == min(int((i + Fraction(1, 2)) * exact), 28)
    for j, column in enumerate(found[0]):
        assert column % 40 == min(int((j + Fraction(1, 2)) * exact), 39)


@pytest.mark.parametrize("factor", [64.0, 7.31, 2.2, 0.5, 1 / 16])
def test_parts_cover_once_and_are_made_of_few_pixels(factor: float) -> None:
    resampling = Resampling(shape=(5000, 3000), factor=factor)
    box = Box(start=(11, 5), stop=(min(resampling.result[0], 1035), min(resampling.result[1], 1029)))
    seen = np.zeros(box.shape, np.uint8)
    for part in resampling.parts(box):
        seen[part.relative_to(box.start).slices] += 1
        assert max(resampling.source_box(part).shape) <= 1024 + 4
        assert max(part.shape) <= 1024 * 16
    assert (seen == 1).all()


@pytest.mark.parametrize("factor", [65.0, 0.06])
def test_factors_that_are_mistakes_are_refused(factor: float) -> None:
    with pytest.raises(GeometryError, match="correct the pixel size"):
        Resampling(shape=(10, 10), factor=factor)


@pytest.mark.parametrize("factors", PAIRS)
def test_each_axis_is_resampled_by_its_own_factor(factors: tuple[float, float]) -> None:
    rows, columns = noise((41, 1), "f4", 1), noise((1, 53), "f4", 1)
    down, across = whole(rows, factors[0])[:, :, :1], whole(columns, factors[1])[:, :1]
    np.testing.assert_allclose(whole(rows * columns, factors), down * across, rtol=1e-6)
    resampling = Resampling(shape=(41, 53), factor=factors)
    assert resampling.result == (down.shape[1], across.shape[2])
    labels, box = np.arange(41 * 53).reshape(41, 53), Box(start=(0, 0), stop=resampling.result)
    picked = [
        [min(math.floor((i + 0.5) * f), n - 1) for i in range(count)]
        for f, n, count in zip(factors, (41, 53), resampling.result, strict=True)
    ]
    part = labels[resampling.labels_box(box).slices]
    assert np.array_equal(resampling.labels_block(part, box), labels[np.ix_(*picked)])
    corners = resampling.source_corners(np.array([[1, 2], [3, 4]]))
    assert corners == pytest.approx(np.round(np.array([[1, 2], [3, 4]]) * factors, 3))


@pytest.mark.parametrize("factors", [(64.0, 0.5), (1 / 16, 7.31)])
def test_parts_of_two_factors_cover_once(factors: tuple[float, float]) -> None:
    resampling = Resampling(shape=(300, 200), factor=factors)
    covered = np.zeros(resampling.result, np.uint8)
    for part in resampling.parts(Box(start=(0, 0), stop=resampling.result)):
        covered[part.slices] += 1
        assert max(resampling.source_box(part).shape) <= 1024 + 64 + 4
    assert (covered == 1).all()

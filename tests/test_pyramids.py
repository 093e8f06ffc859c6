"""Levels of a pyramid against the mean of each 2 x 2 px, one by one."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from imagefiles import area_mean, exact_level
from unetpipe.pyramids import level_shapes, means_of, nearest, quad_sums


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
@given(data=st.data())
def test_integers_are_means_rounded_half_up(dtype: type, top: int, data: st.DataObject) -> None:
    shape = data.draw(array_shapes(min_dims=2, max_dims=3, max_side=7))
    block = data.draw(arrays(dtype, shape, elements=st.integers(0, top)))
    found = area_mean(block)
    assert found.dtype == dtype
    for index in np.ndindex(found.shape):
        *leading, y, x = index
        pixels = block[(*leading, slice(2 * y, 2 * y + 2), slice(2 * x, 2 * x + 2))].astype(int).ravel()
        assert found[index] == (Fraction(int(pixels.sum()), pixels.size) + Fraction(1, 2)).__floor__()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 5, 8), (1, 1), (3, 1), (1, 4), (64, 63)])
def test_floats_are_means(dtype: type, shape: tuple[int, ...]) -> None:
    block = np.random.default_rng(0).normal(size=shape).astype(dtype)
    found = area_mean(block)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, exact_level(block, 1), rtol=1e-6, atol=1e-7)


def test_layout_does_not_matter() -> None:
    block = np.random.default_rng(1).integers(0, 256, (3, 9, 10), dtype=np.uint8)
    whole = area_mean(block)
    np.testing.assert_array_equal(area_mean(np.asfortranarray(block)), whole)
    np.testing.assert_array_equal(area_mean(block[::-1]), whole[::-1])
    block.setflags(write=False)
    np.testing.assert_array_equal(area_mean(block), whole)


def test_area_mean_by_hand() -> None:
    assert area_mean(np.array([[1, 2, 9], [3, 4, 9], [0, 1, 7]], np.uint8)).tolist() == [[3, 9], [1, 7]]
    assert area_mean(np.array([[0.0, 1.0], [2.0, 4.0]], np.float32)).tolist() == [[1.75]]
    top = np.full((2, 2, 2), 65535, np.uint16)
    assert area_mean(top).tolist() == [[[65535]], [[65535]]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(70, 41), (3, 33, 64), (1, 1), (1, 90), (64, 64)])
def test_every_level_is_the_mean_of_the_finest_rounded_once(dtype: type, shape: tuple[int, ...]) -> None:
    pixels = (np.random.default_rng(2).random(shape) * 65535).astype(np.uint16).astype(dtype)
    sums = pixels
    for level in range(1, 6):
        sums = quad_sums(sums, level=level)
        found = means_of(sums, level=level, origin=(0, 0), whole=(shape[-2], shape[-1]), dtype=pixels.dtype)
        np.testing.assert_allclose(found, exact_level(pixels, level), rtol=1e-6 if dtype is np.float32 else 0, atol=0)
        # A part of a level has the pixels of the whole.
        keys = {"level": level, "whole": (shape[-2], shape[-1]), "dtype": pixels.dtype}
        y, x = (size // 2 for size in found.shape[-2:])
        corner = means_of(sums[..., y:, x:], origin=(y, x), **keys)
        np.testing.assert_array_equal(corner, found[..., y:, x:])


def test_sums_of_the_largest_slides_fit() -> None:
    top = np.full((2, 2), 65535, np.uint64)
    for level in range(1, 17):
        sums = quad_sums((top << (2 * level - 2)).astype(np.uint16 if level == 1 else np.uint64), level=level)
        side = 1 << level
        found = means_of(sums, level=level, origin=(0, 0), whole=(side, side), dtype=np.dtype(np.uint16))
        assert sums.item() == 65535 * 4**level and found.item() == 65535


def test_nearest_invents_no_label() -> None:
    assert nearest(np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.uint32)).tolist() == [[1, 3], [7, 9]]


def test_pyramid_halves() -> None:
    assert level_shapes((513, 3)) == [(513, 3), (257, 2), (129, 1)]
    assert level_shapes((1, 1)) == [(1, 1)]

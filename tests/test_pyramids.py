"""Levels of a pyramid against the mean of each 2 x 2 px, one by one."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from unetpipe.pyramids import area_mean, level_shapes, nearest


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
    padded = np.pad(block, [(0, 0)] * (block.ndim - 2) + [(0, n % 2) for n in shape[-2:]], mode="edge")
    *leading, height, width = padded.shape
    expected = padded.reshape(*leading, height // 2, 2, width // 2, 2).mean(axis=(-3, -1), dtype=np.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


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


def test_nearest_invents_no_label() -> None:
    assert nearest(np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.uint32)).tolist() == [[1, 3], [7, 9]]


def test_pyramid_halves() -> None:
    assert level_shapes((513, 3)) == [(513, 3), (257, 2), (129, 1)]
    assert level_shapes((1, 1)) == [(1, 1)]

"""Levels of a pyramid: their shapes, and the pixels of one made of those of the next finer one."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["area_mean", "level_shapes", "nearest"]


def level_shapes(shape: tuple[int, int], *, smallest: int = 256) -> list[tuple[int, int]]:
    """Heights and widths of a pyramid that halves until a level fits into `smallest` px.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the finest level, px.
    smallest : int
        Longest side of the coarsest level, px.

    Returns
    -------
    list of (int, int)
        Finest first.

    Examples
    --------
    >>> level_shapes((1000, 600))
    [(1000, 600), (500, 300), (250, 150)]
    """
    shapes = [shape]
    while max(shapes[-1]) > smallest:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def area_mean(block: NDArray[Any]) -> NDArray[Any]:
    """Half the size of an image, by the mean of 2 x 2 px.

    Parameters
    ----------
    block : (..., Y, X) array
        Unsigned integers of up to 16 bits, or floats.

    Returns
    -------
    (..., y, x) array
        Of the same type, y and x rounded up. An odd last row or column is averaged over what is there. Integers are
        rounded half up.

    Examples
    --------
    >>> area_mean(np.array([[1, 2, 9], [3, 4, 9]], np.uint8)).tolist()
    [[3, 9]]
    """
    *leading, height, width = block.shape
    half = np.empty((*leading, -(-height // 2), -(-width // 2)), block.dtype)
    flat = np.ascontiguousarray(block).reshape(-1, height, width)
    halve = _halve_integers if block.dtype.kind == "u" else _halve_floats
    halve(flat, half.reshape(-1, *half.shape[-2:]))
    return half


def nearest(block: NDArray[Any]) -> NDArray[Any]:
    """Half the size of labels, by the first of each 2 x 2 px: labels are never averaged.

    Parameters
    ----------
    block : (..., Y, X) array
        Any type.

    Returns
    -------
    (..., y, x) array
        Of the same type, y and x rounded up.

    Examples
    --------
    >>> nearest(np.array([[1, 2, 9], [3, 4, 9]])).tolist()
    [[1, 9]]
    """
    return np.ascontiguousarray(block[..., ::2, ::2])


@njit(cache=True, nogil=True)
def _halve_integers(block: NDArray[Any], half: NDArray[Any]) -> None:
    """Fill half, (N, y, x), from block, (N, Y, X)."""
    count, height, width = block.shape
    for n in range(count):
        for y in range(half.shape[1]):
            upper, lower, out = block[n, 2 * y], block[n, min(2 * y + 1, height - 1)], half[n, y]
            for x in range(width // 2):
                out[x] = (np.uint32(upper[2 * x]) + upper[2 * x + 1] + lower[2 * x] + lower[2 * x + 1] + 2) >> 2
            if width % 2:
                out[width // 2] = (2 * np.uint32(upper[width - 1]) + 2 * np.uint32(lower[width - 1]) + 2) >> 2


@njit(cache=True, nogil=True)
def _halve_floats(block: NDArray[Any], half: NDArray[Any]) -> None:
    """Fill half, (N, y, x), from block, (N, Y, X), adding in float64 and always in the same order."""
    _, height, width = block.shape
    for n in range(half.shape[0]):
        for y in range(half.shape[1]):
            upper, lower = block[n, 2 * y], block[n, min(2 * y + 1, height - 1)]
            for x in range(half.shape[2]):
                a, b = 2 * x, min(2 * x + 1, width - 1)
                half[n, y, x] = (np.float64(upper[a]) + lower[a] + upper[b] + lower[b]) / 4

"""Levels of a pyramid: their shapes, and their pixels: means of the finest level, or the first of labels."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["area_mean", "level_shapes", "means_of", "nearest", "quad_sums"]


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
    whole = (block.shape[-2], block.shape[-1])
    return means_of(quad_sums(block, level=1), level=1, origin=(0, 0), whole=whole, dtype=block.dtype)


def quad_sums(block: NDArray[Any], *, level: int) -> NDArray[Any]:
    """Sums of 2 x 2 px: half the size, and nothing rounded.

    Parameters
    ----------
    block : (..., Y, X) array
        Pixels, or sums of the level before.
    level : int
        That of the result, 1 for sums of pixels: it decides how many bits are needed.

    Returns
    -------
    (..., y, x) array
        uint16 as long as sums of 8 bit pixels fit, then uint32, or uint64 where sums of 16 bit pixels could be larger,
        or float64; y and x rounded up. An odd last row or column has the sum of what is there.

    Examples
    --------
    >>> quad_sums(np.array([[1, 2, 9], [3, 4, 9]], np.uint8), level=1).tolist()
    [[10, 18]]
    """
    *leading, height, width = block.shape
    sums = np.empty((*leading, -(-height // 2), -(-width // 2)), _type_of_sums(block.dtype, level))
    _add_quads(np.ascontiguousarray(block).reshape(-1, height, width), sums.reshape(-1, *sums.shape[-2:]))
    return sums


def means_of(
    sums: NDArray[Any], *, level: int, origin: tuple[int, int], whole: tuple[int, int], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Pixels of a level of a pyramid: means of all pixels of the finest level that they cover, rounded once.

    Parameters
    ----------
    sums : (..., Y, X) array
        Of the pixels of the finest level that each pixel covers, as `quad_sums` gives them.
    level : int
        The level, at least 1: a pixel covers 2^level x 2^level px, fewer at the far edges.
    origin : (int, int)
        First row and column in the level.
    whole : (int, int)
        Height and width of the finest level, px.
    dtype : dtype
        Unsigned integers, rounded half up, or floats.

    Returns
    -------
    (..., Y, X) array

    Examples
    --------
    >>> means_of(np.array([[10, 18]]), level=1, origin=(0, 0), whole=(2, 3), dtype=np.dtype(np.uint8)).tolist()
    [[3, 9]]
    """
    rows, columns = (
        np.minimum(1 << level, n - (np.arange(start, start + size) << level))
        for n, start, size in zip(whole, origin, sums.shape[-2:], strict=True)
    )
    means = np.empty(sums.shape, dtype)
    divide = _rounded if dtype.kind == "u" else _divided
    divide(sums.reshape(-1, *sums.shape[-2:]), rows, columns, 2 * level, means.reshape(-1, *sums.shape[-2:]))
    return means


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


def _type_of_sums(dtype: np.dtype[Any], level: int) -> type[np.generic]:
    """Type that holds sums of a level; sums of 16 bits are of pixels of 8, of which 4^4 fit."""
    if dtype.kind != "u":
        return np.float64
    if dtype == (np.uint8 if level == 1 else np.uint16) and level <= 4:
        return np.uint16
    return np.uint32 if level <= 8 else np.uint64


@njit(cache=True, nogil=True)
def _add_quads(block: NDArray[Any], sums: NDArray[Any]) -> None:
    """Fill sums, (N, y, x), from block, (N, Y, X), always adding in the same order."""
    count, height, width = block.shape
    kind = sums.dtype.type
    for n in range(count):
        for y in range(sums.shape[1]):
            upper, out, is_odd = block[n, 2 * y], sums[n, y], 2 * y + 1 == height
            lower = block[n, 2 * y if is_odd else 2 * y + 1]
            if is_odd:
                for x in range(width // 2):
                    out[x] = kind(upper[2 * x]) + kind(upper[2 * x + 1])
            else:
                for x in range(width // 2):
                    out[x] = kind(upper[2 * x]) + kind(upper[2 * x + 1]) + kind(lower[2 * x]) + kind(lower[2 * x + 1])
            if width % 2:
                out[width // 2] = kind(upper[width - 1]) + (kind(0) if is_odd else kind(lower[width - 1]))


@njit(cache=True, nogil=True)
def _rounded(
    sums: NDArray[Any], rows: NDArray[np.int64], columns: NDArray[np.int64], bits: int, means: NDArray[Any]
) -> None:
    """Fill means, (N, Y, X), with sums over rows times columns, rounded half up; 2^bits of them but at the edges."""
    kind = sums.dtype.type
    shift, half, full = kind(bits), kind(1 << (bits - 1)), np.int64(1) << (bits // 2)
    for n in range(sums.shape[0]):
        for y in range(sums.shape[1]):
            source, out = sums[n, y], means[n, y]
            inside = sums.shape[2] if columns[-1] == full else sums.shape[2] - 1
            if rows[y] != full:
                inside = 0
            for x in range(inside):
                out[x] = (source[x] + half) >> shift
            for x in range(inside, sums.shape[2]):
                covered = np.uint64(rows[y] * columns[x])
                out[x] = (np.uint64(2) * np.uint64(source[x]) + covered) // (np.uint64(2) * covered)


@njit(cache=True, nogil=True)
def _divided(
    sums: NDArray[Any], rows: NDArray[np.int64], columns: NDArray[np.int64], bits: int, means: NDArray[Any]
) -> None:
    """Fill means, (N, Y, X), with sums over rows times columns."""
    for n in range(sums.shape[0]):
        for y in range(sums.shape[1]):
            for x in range(sums.shape[2]):
                means[n, y, x] = sums[n, y, x] / (rows[y] * columns[x])

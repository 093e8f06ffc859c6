"""Levels of a pyramid: their shapes, and their pixels: means of the finest level, or the first of labels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["level_shapes", "means_of", "nearest", "quad_sums"]

# Rows that are added up at once, so that they stay in the cache.
_STRIP = 128


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
    block = np.ascontiguousarray(block)
    height, width = block.shape[-2:]
    kind = _type_of_sums(block.dtype, level)
    sums = np.empty((*block.shape[:-2], -(-height // 2), -(-width // 2)), kind)
    for top in range(0, height, _STRIP):
        strip = block[..., top : top + _STRIP, :]
        pairs = _pair_sums(strip, kind)
        sums[..., top // 2 : (top + _STRIP) // 2, :] = _added(pairs[..., ::2, :], pairs[..., 1::2, :], kind)
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
    covered = rows[:, None] * columns
    if dtype.kind != "u":
        return np.asarray(sums / covered, dtype)
    means, kind = np.empty(sums.shape, dtype), sums.dtype.type
    for top in range(0, sums.shape[-2], _STRIP):
        rounded = sums[..., top : top + _STRIP, :] + kind(1 << (2 * level - 1))
        rounded >>= kind(2 * level)
        means[..., top : top + _STRIP, :] = rounded
    for edge in ((slice(-1, None), slice(None)), (slice(None), slice(-1, None))):
        if covered[edge].size and (covered[edge] < 1 << (2 * level)).any():
            fewer = covered[edge].astype(np.uint64)
            means[..., *edge] = (2 * sums[..., *edge].astype(np.uint64) + fewer) // (2 * fewer)
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


def _pair_sums(rows: NDArray[Any], kind: type[np.generic]) -> NDArray[Any]:
    """Sums of two neighbours along x, (..., y, x); a last one stays alone."""
    bits = 8 * rows.itemsize
    if rows.dtype.kind != "u" or rows.shape[-1] % 2 or 2 * rows.itemsize != np.dtype(kind).itemsize:
        return _added(rows[..., ::2], rows[..., 1::2], kind)
    # Two numbers read as one of twice the size take half the time, since all lie side by side.
    both: NDArray[Any] = rows.view(kind)
    sums: NDArray[Any] = both & np.array((1 << bits) - 1, kind)
    sums += both >> np.array(bits, kind)
    return sums


def _added(first: NDArray[Any], second: NDArray[Any], kind: type[np.generic]) -> NDArray[Any]:
    """Sums of (..., y, x) arrays of one type; what the first one has more along an axis stays alone."""
    sums = first.astype(kind)
    sums[..., : second.shape[-2], : second.shape[-1]] += second
    return sums

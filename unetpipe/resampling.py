"""Images and labels at another pixel size, block by block with exact seams.

Each pixel of a result is computed from its own pixels of the source in a fixed order, so that it does not depend on
the block that it is computed in.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.errors import GeometryError
from unetpipe.geometry import Box

__all__ = ["Resampling", "along_both", "factor_between"]

_LARGEST_DENOMINATOR = 10**6
_READ_SIDE = 1024


def along_both(factor: float | Sequence[float]) -> tuple[float, float]:
    """A factor along y and x, whether one is given for both or one for each.

    Examples
    --------
    >>> along_both(2.0), along_both([2.0, 0.5])
    ((2.0, 2.0), (2.0, 0.5))
    """
    y, x = (factor, factor) if isinstance(factor, int | float) else factor
    return y, x


def factor_between(shape: tuple[int, int], coarser: tuple[int, int]) -> tuple[float, float]:
    """By how much an image was made smaller along y and x.

    Parameters
    ----------
    shape, coarser : (int, int)
        Height and width in px before and after.

    Returns
    -------
    (float, float)
        The whole number of times, where `Resampling` would make that many pixels of it; else the quotient of the sides.

    Examples
    --------
    >>> factor_between((4000, 1002), (1000, 250))
    (4.0, 4.008)
    """
    y, x = (
        float(whole) if (2 * n + whole) // (2 * whole) == m else n / m
        for n, m, whole in ((n, m, round(n / m)) for n, m in zip(shape, coarser, strict=True))
    )
    return y, x


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """From the pixels of a source to larger or smaller ones that begin at the same corner.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the source in px.
    factor : float or (float, float)
        Side of a pixel of the result in px of the source, 1/16 to 64: above 1 the result is smaller. Two, along y and
        x, where the source's pixels are no squares.

    Raises
    ------
    GeometryError
        If the factor is beyond these limits.

    Notes
    -----
    Pixel i of the result covers [i f, (i + 1) f) of the source, whose pixel j covers [j, j + 1). The result has as
    many pixels as have their centre in the source, its border included, and at least one. f is taken as the nearest
    fraction with a denominator of at most 10^6, and positions are whole numbers, so that nothing drifts.

    References
    ----------
    R. Keys 1981, doi:10.1109/TASSP.1981.1163711 (the cubic kernel).

    Examples
    --------
    >>> Resampling(shape=(7, 8), factor=2.0).result
    (4, 4)
    """

    shape: tuple[int, int]
    factor: float | Sequence[float]

    def __post_init__(self) -> None:
        for factor in along_both(self.factor):
            if not 1 / 16 <= factor <= 64:
                raise GeometryError(
                    f"resampling by {factor:.4g}: expected pixels of 1/16 to 64 times the size; correct the pixel size"
                )

    @property
    def ratios(self) -> list[tuple[int, int]]:
        """The factors along y and x as numerators and denominators."""
        return [_ratio(factor) for factor in along_both(self.factor)]

    @property
    def is_none(self) -> bool:
        """Whether the result is the source."""
        return along_both(self.factor) == (1, 1)

    @property
    def result(self) -> tuple[int, int]:
        """Height and width of the result in px."""
        axes = zip(self.shape, self.ratios, strict=True)
        height, width = (max(1, (2 * n * q + p) // (2 * p)) for n, (p, q) in axes)
        return height, width

    def parts(self, box: Box) -> Iterator[Box]:
        """Boxes that cover a box of the result, each made of about 1024 x 1024 px of the source at most."""
        height, width = (max(1, _READ_SIDE * q // p) for p, q in self.ratios)
        for y in range(box.start[0], box.stop[0], height):
            for x in range(box.start[1], box.stop[1], width):
                stop = (min(y + height, box.stop[0]), min(x + width, box.stop[1]))
                yield Box(start=(y, x), stop=stop)

    def source_box(self, box: Box) -> Box:
        """The pixels of the source that a box of the result is made of."""
        (top, bottom), (left, right) = ((int(indices.min()), int(indices.max()) + 1) for indices, _ in self._taps(box))
        return Box(start=(top, left), stop=(bottom, right))

    def image_block(self, pixels: NDArray[Any], box: Box) -> NDArray[Any]:
        """Pixels of a box of the result.

        Parameters
        ----------
        pixels : (C, Y, X) array
            The source's pixels in `source_box(box)`; unsigned integers or floats.
        box : Box
            Which pixels of the result.

        Returns
        -------
        (C, y, x) array
            Of the same type; integers are rounded half up, and kept in their range.

        Notes
        -----
        Smaller results: the mean over the area of each pixel, as far as it lies in the source. Larger ones: cubic
        interpolation in y and x between the centres of pixels (a = -1/2), the source's edge repeated outside. Each
        axis for itself, where one shrinks and the other grows. O(f^2) time per pixel of a smaller result, O(1) of a
        larger one.

        Examples
        --------
        >>> box = Box(start=(0, 0), stop=(1, 1))
        >>> Resampling(shape=(3, 3), factor=1.5).image_block(np.array([[[9, 4], [4, 32]]], np.uint8), box)
        array([[[9]]], dtype=uint8)
        """
        (rows, row_weights), (columns, column_weights) = self._taps(box)
        total = _weighted_sum(pixels, rows - rows.min(), row_weights, axis=1)
        total = _weighted_sum(total, columns - columns.min(), column_weights, axis=2)
        total /= row_weights.sum(axis=1)[:, None] * column_weights.sum(axis=1)
        if pixels.dtype.kind == "u":
            total = np.floor(total + 0.5).clip(0, np.iinfo(pixels.dtype).max)
        return total.astype(pixels.dtype)

    def labels(self, read: Callable[[Box], NDArray[Any]], box: Box) -> NDArray[Any]:
        """Labels of a box of the result, of few pixels of the source at a time.

        Parameters
        ----------
        read : callable
            Gives the source's labels in a box.
        box : Box
            Which pixels of the result.
        """
        if self.is_none:
            return read(box)
        parts = list(self.parts(box))
        blocks = [self.labels_block(read(self.labels_box(part)), part) for part in parts]
        whole = np.empty(box.shape, blocks[0].dtype)
        for part, block in zip(parts, blocks, strict=True):
            whole[part.relative_to(box.start).slices] = block
        return whole

    def labels_box(self, box: Box) -> Box:
        """The pixels of the source that the labels of a box of the result are taken from, and those between them."""
        (top, bottom), (left, right) = ((int(indices[0]), int(indices[-1]) + 1) for indices in self._centres(box))
        return Box(start=(top, left), stop=(bottom, right))

    def labels_block(self, labels: NDArray[Any], box: Box) -> NDArray[Any]:
        """Labels of a box of the result: those of the source's pixels that the centres lie in.

        Parameters
        ----------
        labels : (Y, X) array
            The source's in `labels_box(box)`, any type.
        box : Box
            Which pixels of the result.

        Returns
        -------
        (y, x) array
            The same values, no others.

        Examples
        --------
        >>> box = Box(start=(0, 1), stop=(1, 4))
        >>> Resampling(shape=(1, 6), factor=1.5).labels_block(np.array([[3, 4, 5, 6]]), box)
        array([[3, 4, 6]])
        """
        rows, columns = self._centres(box)
        return np.ascontiguousarray(labels[(rows - rows[0])[:, None], columns - columns[0]])

    def source_corners(self, corners: NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Where corners of the result's pixels lie in the source.

        Parameters
        ----------
        corners : (N, 2) integers
            (y, x) in px of the result, (0, 0) being the outer corner of the first pixel.

        Returns
        -------
        (N, 2) int64 or float64
            (y, x) in px of the source: whole numbers where all are, else rounded to 0.001 px.

        Notes
        -----
        Corner i lies at i f. A last pixel that reaches beyond the source ends with it.

        Examples
        --------
        >>> Resampling(shape=(7, 8), factor=2.0).source_corners(np.array([[1, 3], [4, 4]])).tolist()
        [[2, 6], [7, 8]]
        """
        (p, q), (r, s) = self.ratios
        scaled = corners.astype(np.int64) * (p, r)
        return np.minimum(scaled if q == s == 1 else np.round(scaled / (q, s), 3), self.shape)

    def _centres(self, box: Box) -> list[NDArray[np.int64]]:
        """Along y and x: the source pixel (n) in which the centre of each pixel lies, the last one for those beyond."""
        axes = zip(box.start, box.stop, self.shape, self.ratios, strict=True)
        return [
            np.minimum((2 * np.arange(start, stop, dtype=np.int64) + 1) * p // (2 * q), size - 1)
            for start, stop, size, (p, q) in axes
        ]

    def _taps(self, box: Box) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Along y and x: which source pixels (n, taps) make up each pixel of a box, and their weights (n, taps)."""
        axes = zip(box.start, box.stop, self.shape, self.ratios, strict=True)
        return [
            (_area_taps if p > q else _cubic_taps)(np.arange(start, stop, dtype=np.int64), size, p, q)
            for start, stop, size, (p, q) in axes
        ]


@cache
def _ratio(factor: float) -> tuple[int, int]:
    """The nearest fraction."""
    return Fraction(factor).limit_denominator(_LARGEST_DENOMINATOR).as_integer_ratio()


def _area_taps(i: NDArray[np.int64], size: int, p: int, q: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Source pixels that meet [i f, (i + 1) f), and how far, in units of 1/q px: whole numbers, so sums are exact."""
    start, stop = i * p, np.minimum((i + 1) * p, size * q)
    j = (start // q)[:, None] + np.arange((p + 2 * q - 2) // q)
    overlap = np.minimum(stop[:, None], (j + 1) * q) - np.maximum(start[:, None], j * q)
    return np.minimum(j, size - 1), np.maximum(overlap, 0).astype(np.float64)


def _cubic_taps(i: NDArray[np.int64], size: int, p: int, q: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The four source pixels around (i + 1/2) f - 1/2, and their weights by Keys' kernel with a = -1/2."""
    first, rest = np.divmod((2 * i + 1) * p - q, 2 * q)
    t = rest / (2 * q)
    weights = [
        ((2 - t) * t - 1) * t / 2,
        ((3 * t - 5) * t * t + 2) / 2,
        ((4 - 3 * t) * t + 1) * t / 2,
        (t - 1) * t * t / 2,
    ]
    return np.clip(first[:, None] + np.arange(-1, 3), 0, size - 1), np.stack(weights, axis=1)


def _weighted_sum(
    pixels: NDArray[Any], indices: NDArray[np.int64], weights: NDArray[np.float64], *, axis: int
) -> NDArray[np.float64]:
    """Sum over the taps (n, taps) of an axis of (C, Y, X) pixels, always in the same order."""
    along = [1, 1, 1]
    along[axis] = -1
    total: NDArray[np.float64] = np.zeros(1)
    for k in range(indices.shape[1]):
        total = total + np.take(pixels, indices[:, k], axis=axis) * weights[:, k].reshape(along)
    return total

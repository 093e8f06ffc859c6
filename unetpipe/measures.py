"""Measures of objects, summed up block by block: whole numbers, so that the blocks and their order do not matter."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from unetpipe.errors import GeometryError
from unetpipe.geometry import Box

__all__ = [
    "add_block",
    "add_sums",
    "framed",
    "in_um",
    "intensity_scale",
    "labels_of_block",
    "no_sums",
    "properties",
    "whole_numbers",
]

# Columns of the sums. Of squares and products there is a lower part below 2^62, and how often that ran over.
AREA, SUM_Y, SUM_X, YY, YY_OVER, XX, XX_OVER, XY, XY_OVER, SIDES, CORNERS = range(11)
TOP, LEFT, BOTTOM, RIGHT, PROBABILITY, FIRST_CHANNEL = range(11, 17)
_LIMIT = 2**62
# A float is counted in steps of 2^-24 of its image's brightest, and cut at 2^14 times that.
_FINE, _LARGEST = 24, 2.0**38

T = TypeVar("T", bound=np.generic)


def no_sums(count: int, channels: int) -> NDArray[np.int64]:
    """The sums before the first block.

    Parameters
    ----------
    count : int
        Number of objects; labels are 1 to this number.
    channels : int
        Number of the image's channels.

    Returns
    -------
    (count, 16 + channels) int64
        One row per object; 128 bytes and 8 per channel.

    Examples
    --------
    >>> no_sums(5, 3).shape
    (5, 19)
    """
    sums = np.zeros((count, FIRST_CHANNEL + channels), np.int64)
    sums[:, [TOP, LEFT]] = np.iinfo(np.int64).max
    return sums


def framed(block: NDArray[T], box: Box, shape: tuple[int, int]) -> NDArray[T]:
    """Complete the pixels of a box grown by one pixel by zeros where they end with the image.

    Parameters
    ----------
    block : (y, x) array
        Labels or other values in ``box.grown(1).clipped(shape)``.
    box : Box
        Inside the image.
    shape : (int, int)
        Height and width of the image in px.

    Returns
    -------
    (Y + 2, X + 2) array
        Of the same type, of a box of Y x X px.

    Examples
    --------
    >>> framed(np.array([[5, 6]], np.uint32), Box(start=(0, 0), stop=(1, 1)), (1, 2)).tolist()
    [[0, 0, 0], [0, 5, 6], [0, 0, 0]]
    """
    ends = zip(box.start, box.stop, shape, strict=True)
    return np.pad(block, [(int(start == 0), int(stop == size)) for start, stop, size in ends])


def intensity_scale(windows: Sequence[Sequence[float]]) -> float:
    """Steps per unit in which the intensities of a float image are counted.

    Parameters
    ----------
    windows : sequence of (float, float)
        Low and high percentile of each channel.

    Returns
    -------
    float
        A power of two; the largest percentile is 2^23 to 2^24 steps.

    Examples
    --------
    >>> intensity_scale([(0.0, 0.75)]) == 2.0**24
    True
    """
    largest = max((abs(value) for window in windows for value in window), default=0.0)
    return float(np.ldexp(1.0, _FINE - int(np.frexp(largest)[1])))


def whole_numbers(block: NDArray[Any], scale: float) -> NDArray[np.int64]:
    """Intensities as whole numbers of steps.

    Parameters
    ----------
    block : (C, Y, X) array
        Unsigned integers, or floats without NaN.
    scale : float
        Steps per unit; 1 for integers.

    Returns
    -------
    (C, Y, X) int64
        Floats rounded to the nearest step, and cut at 2^38 steps.

    Examples
    --------
    >>> whole_numbers(np.array([[[0.5, 2.0]]], np.float32), 4.0).tolist()
    [[[2, 8]]]
    """
    if block.dtype.kind == "u":
        return block.astype(np.int64)
    return np.rint(np.clip(block.astype(np.float64) * scale, -_LARGEST, _LARGEST)).astype(np.int64)


def add_block(
    sums: NDArray[np.int64],
    labels: NDArray[np.uint32],
    probability: NDArray[np.uint16],
    image: NDArray[np.int64],
    *,
    box: Box,
) -> None:
    """Add the pixels of a block to the sums of their objects.

    Parameters
    ----------
    sums : (N, 16 + C) int64
        From `no_sums`, changed in place.
    labels : (Y + 2, X + 2) uint32
        Labels of the whole image in the block and one pixel around it, from `framed`.
    probability : (Y, X) uint16
        Of the objects' class, as it is stored.
    image : (C, Y, X) int64
        From `whole_numbers`.
    box : Box
        Where the block lies in the image.

    Raises
    ------
    GeometryError
        If the shapes do not fit each other, or a label is larger than N.

    Notes
    -----
    Exact for images of up to 2^20 x 2^20 px: what would not fit 63 bits is kept in two parts. O(Y X C) time.

    Examples
    --------
    >>> sums, box = no_sums(1, 0), Box(start=(7, 8), stop=(8, 9))
    >>> labels, probability, image = np.pad([[1]], 1).astype(np.uint32), np.ones((1, 1), np.uint16), np.zeros((0, 1, 1))
    >>> add_block(sums, labels, probability, image.astype(np.int64), box=box)
    >>> sums[0].tolist()
    [1, 7, 8, 49, 0, 64, 0, 56, 0, 4, 4, 7, 8, 8, 9, 1]
    """
    (height, width), channels = box.shape, sums.shape[1] - FIRST_CHANNEL
    shapes = labels.shape, probability.shape, image.shape
    if shapes != ((height + 2, width + 2), box.shape, (channels, *box.shape)) or labels.max() > len(sums):
        raise GeometryError(
            f"block of {box.shape} px: labels, probabilities and image are of shape {shapes[0]}, {shapes[1]}, "
            f"{shapes[2]}; expected one pixel more around the labels, {channels} channel(s), labels up to {len(sums)}"
        )
    _add(sums, np.ascontiguousarray(labels), probability, image, *box.start)


def labels_of_block(labels: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Number the objects of a block, so that its sums have no more rows than it has objects.

    Parameters
    ----------
    labels : (y, x) uint32
        Labels of the whole image; 0 is background.

    Returns
    -------
    (M,) int64, (y, x) uint32
        Labels of the objects that are there, ascending; the pixels, numbered 1 to M in this order.

    Examples
    --------
    >>> objects, names = labels_of_block(np.array([[0, 7], [7, 3]], np.uint32))
    >>> objects.tolist(), names.tolist()
    ([3, 7], [[0, 2], [2, 1]])
    """
    there = np.zeros(int(labels.max()) + 1, np.bool_)
    there[labels] = True
    there[0] = False
    return np.flatnonzero(there), np.cumsum(there, dtype=np.uint32)[labels]


def add_sums(sums: NDArray[np.int64], block: NDArray[np.int64], objects: NDArray[np.int64]) -> None:
    """Add the sums of a block to those of the image.

    Parameters
    ----------
    sums : (N, 16 + C) int64
        Of the image, changed in place.
    block : (M, 16 + C) int64
        Of the block.
    objects : (M,) int64
        The label, in the image, of each row of the block; no label twice.

    Notes
    -----
    The same numbers as by `add_block` for all pixels at once.

    Examples
    --------
    >>> sums, block = no_sums(3, 0), no_sums(1, 0)
    >>> block[0, [AREA, TOP, BOTTOM]] = 5, 2, 4
    >>> for _ in range(2):
    ...     add_sums(sums, block, np.array([3]))
    >>> sums[2, [AREA, TOP, BOTTOM]].tolist()
    [10, 2, 4]
    """
    rows = sums[objects - 1]
    first, last = np.minimum(rows, block)[:, [TOP, LEFT]], np.maximum(rows, block)[:, [BOTTOM, RIGHT]]
    rows += block
    for low in (YY, XX, XY):
        over = rows[:, low] >= _LIMIT
        rows[over, low] -= _LIMIT
        rows[:, low + 1] += over
    rows[:, [TOP, LEFT]], rows[:, [BOTTOM, RIGHT]] = first, last
    sums[objects - 1] = rows


def properties(
    sums: NDArray[np.int64], *, full: int, scale: float = 1.0, channels: Sequence[str] = ()
) -> dict[str, NDArray[Any]]:
    """Measures of objects from their sums.

    Parameters
    ----------
    sums : (N, 16 + C) int64
        Sums over all pixels of each object; all rows, or some.
    full : int
        Stored value of probability 1.
    scale : float
        Steps per unit of intensity.
    channels : sequence of str
        A name for each channel.

    Returns
    -------
    dict of str to (N,) int64 or float64
        ``area_px``; ``centroid_y_px``, ``centroid_x_px``; ``top_px``, ``left_px``, ``bottom_px``, ``right_px`` (the
        last two are behind the object); ``perimeter_px``; ``eccentricity``, 0 to 1; ``orientation_rad``, above -pi/2
        to pi/2; ``mean_probability``; ``mean_intensity_NAME`` of each channel.

    Notes
    -----
    Positions count from the outer corner of the first pixel, whose centre is (0.5, 0.5).

    With the variances v_y, v_x and the covariance c of the coordinates of an object's pixels,
    d = sqrt((v_y - v_x)^2 + 4 c^2) and s = v_y + v_x:

    - eccentricity = sqrt(2 d / (s + d)), that of the ellipse of equal second moments; 0 where d is 0;
    - orientation = 1/2 atan2(2 c, v_y - v_x): from the y axis to this ellipse's long axis, positive where that
      descends to the right; 0 where it has no long axis.

    Perimeter: Crofton's formula along rows, columns and both diagonals, pi/8 (a + b / sqrt(2)), with a and b the
    number of an object's pixels' neighbours over sides and over corners that do not belong to it. A straight outline
    comes out 5 % too short along these directions, up to 3 % too long between them; a round one on average right.

    Variances are computed in whole numbers of any length, and rounded once: no digit is lost far from the origin.

    References
    ----------
    Lehmann, Legland 2012: Efficient N-dimensional surface estimation using Crofton formula and run-length encoding,
    Insight Journal, doi:10.54294/wdu86d. Teague 1980, doi:10.1364/JOSA.70.000920 (moments).

    Examples
    --------
    A column of three pixels, whose y has the variance 2/3:

    >>> sums, box = no_sums(1, 0), Box(start=(0, 0), stop=(3, 1))
    >>> ones = np.ones((3, 1), np.uint16)
    >>> add_block(sums, np.pad(ones, 1).astype(np.uint32), ones, np.zeros((0, 3, 1), int), box=box)
    >>> found = properties(sums, full=1)
    >>> [found[name].item() for name in ("area_px", "centroid_y_px", "eccentricity", "orientation_rad")]
    [3, 1.5, 1.0, 0.0]
    """
    area, y, x = (sums[:, k].astype(object) for k in (AREA, SUM_Y, SUM_X))
    yy, xx, xy = (sums[:, k] + sums[:, k + 1].astype(object) * _LIMIT for k in (YY, XX, XY))
    square = area * area
    numerators = area * yy - y * y - area * xx + x * x, area * yy - y * y + area * xx - x * x, area * xy - y * x
    difference, total, covariance = (np.array(n / square, np.float64) for n in numerators)
    spread = np.sqrt(difference * difference + 4 * covariance * covariance)
    ratio = np.divide(2 * spread, total + spread, out=np.zeros_like(spread), where=spread > 0)
    count = sums[:, AREA].astype(np.float64)
    found: dict[str, NDArray[Any]] = {
        "area_px": sums[:, AREA],
        "centroid_y_px": sums[:, SUM_Y] / count + 0.5,
        "centroid_x_px": sums[:, SUM_X] / count + 0.5,
        **dict(zip(("top_px", "left_px", "bottom_px", "right_px"), sums[:, TOP : RIGHT + 1].T, strict=True)),
        "perimeter_px": np.pi / 8 * (sums[:, SIDES] + sums[:, CORNERS] / np.sqrt(2)),
        "eccentricity": np.sqrt(ratio),
        "orientation_rad": np.arctan2(2 * covariance, difference) / 2,
        "mean_probability": sums[:, PROBABILITY] / (count * full),
    }
    for name, column in zip(channels, sums[:, FIRST_CHANNEL:].T, strict=True):
        found[f"mean_intensity_{name}"] = column / (count * scale)
    return found


def in_um(found: dict[str, NDArray[Any]], pixel_size_um: float) -> dict[str, NDArray[np.float64]]:
    """Those measures that have a length or an area, in um and um^2.

    Parameters
    ----------
    found : dict of str to (N,) array
        From `properties`.
    pixel_size_um : float
        Side of a pixel in um.

    Returns
    -------
    dict of str to (N,) float64
        ``area_um2``, and the others with ``_um`` in place of ``_px``.

    Examples
    --------
    >>> in_um({"area_px": np.array([8]), "top_px": np.array([3]), "eccentricity": np.array([0.0])}, 0.5)
    {'area_um2': array([2.]), 'top_um': array([1.5])}
    """
    lengths = {
        name.removesuffix("px") + "um": values * pixel_size_um
        for name, values in found.items()
        if name.endswith("_px") and name != "area_px"
    }
    return {"area_um2": found["area_px"] * pixel_size_um**2, **lengths}


@njit(cache=True, nogil=True)
def _add(
    sums: NDArray[np.int64],
    labels: NDArray[np.uint32],
    probability: NDArray[np.uint16],
    image: NDArray[np.int64],
    top: int,
    left: int,
) -> None:
    """Add the (Y, X) pixels at (top, left) to the (N, 16 + C) sums."""
    channels, height, width = image.shape
    for j in range(height):
        for i in range(width):
            label = labels[j + 1, i + 1]
            if label == 0:
                continue
            row, y, x = sums[label - 1], top + j, left + i
            row[AREA] += 1
            row[SUM_Y] += y
            row[SUM_X] += x
            for at, product in ((YY, y * y), (XX, x * x), (XY, y * x)):
                row[at] += product
                if row[at] >= _LIMIT:
                    row[at] -= _LIMIT
                    row[at + 1] += 1
            row[TOP], row[LEFT] = min(row[TOP], y), min(row[LEFT], x)
            row[BOTTOM], row[RIGHT] = max(row[BOTTOM], y + 1), max(row[RIGHT], x + 1)
            for dy in range(3):
                for dx in range(3):
                    if labels[j + dy, i + dx] != label:
                        row[SIDES if dy == 1 or dx == 1 else CORNERS] += 1
            row[PROBABILITY] += probability[j, i]
            for c in range(channels):
                row[FIRST_CHANNEL + c] += image[c, j, i]

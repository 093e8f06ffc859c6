"""Kernels of the separation term: at each pixel, the distances to the two nearest *different* instances.

They are found exactly in one separable transform over all instances at once, instead of one distance transform per
instance: each column gives its nearest instance and the nearest other one, then each row combines the columns around a
pixel. Squared distances are of the smallest type that holds them, which decides how many a vector takes.
"""

import math
from typing import TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["BAND", "kind_of_squares", "weigh_band"]

BAND = 128
"""Rows of a unit of work."""

_SPAN = 1024  # columns of a pass: three tables of BAND x (_SPAN + rims) stay in the cache of a core
_SEGMENT = 64  # pixels per vector loop; a constant trip count leaves no scalar remainder
_STEPS = 4  # columns to each side between two looks whether a segment is done
_index = np.uint64  # numba looks at the sign of other indices, and slices take as long as a loop over a segment

Ints: TypeAlias = NDArray[np.int32]
# numba computes in 64 bits, which would widen the lanes of vectors: results are cast back to the type of the squares.
Square: TypeAlias = np.uint16 | np.int32
Squares: TypeAlias = NDArray[Square]
Floats: TypeAlias = NDArray[np.float64]
Pixels: TypeAlias = NDArray[np.float32]


def kind_of_squares(reach: int) -> type[Square]:
    """Tell the smallest type that holds all squares, with a column's offset packed below them.

    Parameters
    ----------
    reach : int
        Distance from which on the term is nothing, 1 to 1024 px.

    Returns
    -------
    type
        `numpy.uint16`, whose vectors have twice the lanes, or `numpy.int32`.

    Examples
    --------
    >>> kind_of_squares(29), kind_of_squares(100)
    (<class 'numpy.uint16'>, <class 'numpy.int32'>)
    """
    half = reach // 2 + _STEPS + 1
    return np.uint16 if (_limit(reach) + half * half) << _shift(reach) < 1 << 16 else np.int32


@njit(cache=True)
def _limit(reach: int) -> int:
    """Square of half the reach: where d1 is as long, d2 adds at least as much again and nothing is left."""
    return (reach * reach + 3) // 4


@njit(cache=True)
def _shift(reach: int) -> int:
    """Bits of a packed column offset: half the reach to each side."""
    shift = 1
    while 1 << shift <= reach:
        shift += 1
    return shift


@njit(cache=True, nogil=True)
def weigh_band(
    labels: Ints, start: int, reach: int, empty: Squares, profile: Floats, w0: float, sigma_px: float, out: Pixels
) -> None:
    """Fill `BAND` rows of the weights, in place; nogil.

    Parameters
    ----------
    labels : (Y, X) int32
        Instances, 0 is background; they are only compared.
    start : int
        First of the rows, which end at the image's border at the latest.
    reach : int
        Distance from which on the term is nothing, 1 to 1024 px.
    empty : (0,) uint16 or int32
        Of the type that squared distances shall have: `kind_of_squares`.
    profile : (reach^2 + 1,) float64
        The term where d1 is 0, by the square of d2; the last one is 0.
    w0, sigma_px : float
        Height, and width in px, of the term.
    out : (Y, X) float32
        The weights.
    """
    height, width = labels.shape
    stop = min(start + BAND, height)
    rim = _rim(reach)
    columns = min(_SPAN, width) + 2 * rim + _SEGMENT
    near, owner = np.empty((BAND, columns), np.int32), np.empty(_SPAN, np.int32)
    row_labels = np.empty((2, columns), np.int32)
    near_sq, next_sq = np.empty((BAND, columns), empty.dtype), np.empty((BAND, columns), empty.dtype)
    first_sq, second_sq = np.empty(_SPAN, empty.dtype), np.empty(_SPAN, empty.dtype)
    scratch = np.empty((2, columns), empty.dtype)
    for left in range(0, width, _SPAN):
        n = min(_SPAN, width - left)
        _scan_columns(labels, start, stop, left - rim, reach, near, near_sq, next_sq, row_labels, scratch)
        for y in range(start, stop):
            i = y - start
            _find_first(near[i], near_sq[i], reach, owner[:n], first_sq, scratch[0], scratch[1])
            _find_second(near[i], near_sq[i], next_sq[i], reach, owner[:n], second_sq, scratch[0], scratch[1])
            _write_row(owner, first_sq, second_sq, reach, profile, w0, sigma_px, out[y, left : left + n])


@njit(cache=True)
def _rim(reach: int) -> int:
    """Columns on each side of those that are weighed: within reach, in whole steps."""
    return (reach - 1 + _STEPS - 1) // _STEPS * _STEPS


@njit(cache=True, nogil=True)
def _scan_columns(
    labels: Ints,
    start: int,
    stop: int,
    left: int,
    reach: int,
    near: Ints,
    near_sq: Squares,
    next_sq: Squares,
    row_labels: Ints,
    state: Squares,
) -> None:
    """Fill three tables, (rows, columns), for rows [start, stop) and columns from `left` on.

    They hold a column's nearest instance, its squared distance, that of the nearest other one; reach^2 if none.
    """
    row, last, since, other = row_labels[0], row_labels[1], state[0], state[1]
    kind = since.dtype.type
    height, far = labels.shape[0], kind(reach)
    _forget(row, last, since, other, far)
    for y in range(max(0, start - reach + 1), stop):
        _copy(labels[y], left, row)
        _advance(row, far, last, since, other)
        if y >= start:
            _keep(last, since, other, near[y - start], near_sq[y - start], next_sq[y - start])
    _forget(row, last, since, other, far)
    for y in range(min(height, stop + reach - 1) - 1, start - 1, -1):
        _copy(labels[y], left, row)
        _advance(row, far, last, since, other)
        if y < stop:
            _merge(last, since, other, near[y - start], near_sq[y - start], next_sq[y - start])


@njit(cache=True, nogil=True)
def _copy(source: Ints, left: int, row: Ints) -> None:
    """Copy source, (X,), from `left` on into row, (columns,); what lies outside the image stays as it is."""
    for x in range(max(0, left), min(source.shape[0], left + row.shape[0])):
        row[x - left] = source[x]


@njit(cache=True, nogil=True)
def _forget(row: Ints, last: Ints, since: Squares, other: Squares, far: Square) -> None:
    """Begin a scan, all (columns,): no instance met, background outside the image."""
    for i in range(row.shape[0]):
        row[i] = 0
        last[i] = 0
        since[i] = far
        other[i] = far


@njit(cache=True, nogil=True)
def _advance(row: Ints, far: Square, last: Ints, since: Squares, other: Squares) -> None:
    """Step one row on: last instance met, rows since it, rows since the last other one, all (columns,)."""
    kind = since.dtype.type
    for i in range(row.shape[0]):
        label = row[i]
        met = label != 0
        gap = min(kind(since[i] + 1), far)
        other[i] = gap if met & (label != last[i]) else min(kind(other[i] + 1), far)
        since[i] = kind(0) if met else gap
        last[i] = label if met else last[i]


@njit(cache=True, nogil=True)
def _keep(last: Ints, since: Squares, other: Squares, near: Ints, near_sq: Squares, next_sq: Squares) -> None:
    """Store the distances from above, (columns,), not yet squared."""
    for i in range(last.shape[0]):
        near[i] = last[i]
        near_sq[i] = since[i]
        next_sq[i] = other[i]


@njit(cache=True, nogil=True)
def _merge(last: Ints, since: Squares, other: Squares, near: Ints, near_sq: Squares, next_sq: Squares) -> None:
    """Combine the distances from below with those kept from above, (columns,), and square them."""
    kind = since.dtype.type
    for i in range(last.shape[0]):
        same = near[i] == last[i]
        above, above_other, below, below_other = near_sq[i], next_sq[i], since[i], other[i]
        nearest = min(above, below)
        after_below = min(below_other, above_other if same else above)
        after_above = min(above_other, below_other if same else below)
        following = after_below if below < above else after_above
        near[i] = last[i] if below < above else near[i]
        near_sq[i] = kind(nearest * nearest)
        next_sq[i] = kind(following * following)


@njit(cache=True, nogil=True)
def _find_first(
    near: Ints, near_sq: Squares, reach: int, owner: Ints, first_sq: Squares, best: Squares, packed: Squares
) -> None:
    """Nearest instance, (n,), and its squared distance; 0 from reach / 2 on. best and packed are scratch."""
    n = owner.shape[0]
    kind = packed.dtype.type
    limit, shift, rim = _limit(reach), _shift(reach), _rim(reach)
    here = 1 << (shift - 1)
    _pack(near_sq, limit, 1 << shift, packed)
    for start in range(0, n, _SEGMENT):
        m = min(_SEGMENT, n - start)
        centre = start + rim
        for i in range(m):
            best[i] = kind(packed[centre + i] + here)
        best[m:_SEGMENT] = 0
        for dx in range(1, reach, _STEPS):
            # The minima only fall and the step only grows: a pixel that is done stays done.
            if not _any_above(best, kind((dx * dx << shift) + here)):
                break
            _lower_packed(best, packed, centre, dx, shift)
        for i in range(m):
            square = best[i] >> shift
            first_sq[start + i] = square
            column = centre + i + np.int64(best[i] & (1 << shift) - 1) - here
            owner[start + i] = near[column] if square < limit else 0


@njit(cache=True, nogil=True)
def _pack(near_sq: Squares, limit: int, unit: int, packed: Squares) -> None:
    """Make room for an offset below the squares, (columns,), which count up to `limit`."""
    kind = packed.dtype.type
    most, factor = kind(limit), kind(unit)
    for i in range(packed.shape[0]):
        packed[i] = kind(min(near_sq[i], most) * factor)


@njit(cache=True, nogil=True)
def _any_above(best: Squares, limit: Square) -> bool:
    """Whether a pixel of the segment may still fall; a sum of comparisons is a vector loop, a maximum is none."""
    above = 0
    for i in range(_SEGMENT):
        above |= best[i] > limit
    return above != 0


@njit(cache=True, nogil=True)
def _find_second(
    near: Ints,
    near_sq: Squares,
    next_sq: Squares,
    reach: int,
    owner: Ints,
    second_sq: Squares,
    best: Squares,
    line: Squares,
) -> None:
    """Squared distance to the nearest instance other than `owner`, (n,), run by run of one owner; reach^2 if none."""
    n = owner.shape[0]
    rim = _rim(reach)
    start = 0
    while start < n:
        stop = start + 1
        while stop < n and owner[stop] == owner[start]:
            stop += 1
        if owner[start] != 0:
            span = slice(start, stop + 2 * rim)
            _select(near[span], near_sq[span], next_sq[span], owner[start], line)
            for at in range(start, stop, _SEGMENT):
                _minimise(line, at - start + rim, reach, second_sq[at : min(at + _SEGMENT, stop)], best)
        else:
            second_sq[start:stop] = reach * reach
        start = stop


@njit(cache=True, nogil=True)
def _select(near: Ints, near_sq: Squares, next_sq: Squares, owner: int, line: Squares) -> None:
    """Squared distance of each column, (columns,), to the nearest instance other than `owner`."""
    for i in range(near.shape[0]):
        first, second = near_sq[i], next_sq[i]
        line[i] = second if near[i] == owner else first


@njit(cache=True, nogil=True)
def _minimise(line: Squares, centre: int, reach: int, second_sq: Squares, best: Squares) -> None:
    """Minimum over columns of line + dx^2, (m,), for the pixels from `centre` on; best is (_SEGMENT,) scratch."""
    m = second_sq.shape[0]
    for i in range(m):
        best[i] = line[centre + i]
    best[m:_SEGMENT] = 0
    for dx in range(1, reach, _STEPS):
        if not _any_above(best, best.dtype.type(dx * dx)):
            break
        _lower(best, line, centre, dx)
    for i in range(m):
        second_sq[i] = best[i]


@njit(cache=True, nogil=True)
def _lower(best: Squares, line: Squares, centre: int, dx: int) -> None:
    """Lower best, (_SEGMENT,), to the columns dx to dx + _STEPS - 1 to the left and to the right.

    Columns out of reach are among them and change nothing: no best is above reach^2.
    """
    kind = best.dtype.type
    west, east, first = _index(centre - dx), _index(centre + dx), _index(dx)
    for i in range(_index(_SEGMENT)):
        least = best[i]
        for k in range(_index(_STEPS)):
            square = kind((first + k) * (first + k))
            least = min(least, kind(min(line[west + i - k], line[east + i + k]) + square))
        best[i] = least


@njit(cache=True, nogil=True)
def _lower_packed(best: Squares, packed: Squares, centre: int, dx: int, shift: int) -> None:
    """The same with the column's offset packed into the low bits."""
    kind = best.dtype.type
    west, east, first = _index(centre - dx), _index(centre + dx), _index(dx)
    here, bits = _index(1 << (shift - 1)), _index(shift)
    for i in range(_index(_SEGMENT)):
        least = best[i]
        for k in range(_index(_STEPS)):
            step = first + k
            square = (step * step << bits) + here
            to_west, to_east = kind(square - step), kind(square + step)
            least = min(least, min(kind(packed[west + i - k] + to_west), kind(packed[east + i + k] + to_east)))
        best[i] = least


@njit(cache=True, nogil=True)
def _write_row(
    owner: Ints,
    first_sq: Squares,
    second_sq: Squares,
    reach: int,
    profile: Floats,
    w0: float,
    sigma_px: float,
    row: Pixels,
) -> None:
    """Weights, (n,), from owners and both squares; profile holds the term for d1 = 0 by squared d2."""
    for i in range(row.shape[0]):
        row[i] = profile[second_sq[i]]
    for i in range(row.shape[0]):
        if owner[i] != 0 and first_sq[i] != 0:
            s = math.sqrt(first_sq[i]) + math.sqrt(second_sq[i])
            row[i] = w0 * math.exp(-0.5 * (s / sigma_px) ** 2) if s < reach else 0.0

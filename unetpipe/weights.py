"""Loss weights per pixel: the separation border between instances, and the fading of the background.

The separation term needs, at each pixel, the distances to the two nearest *different* instances. They are found exactly
in one separable transform over all instances at once, instead of one distance transform per instance: each column
gives its nearest instance and the nearest other one, then each row combines the columns around a pixel.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
from numba import config as numba_config
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from unetpipe.errors import AnnotationError, ConfigError

__all__ = ["FADE_FLOOR", "FADE_SIGMA_PX", "border_weights", "faded_weights", "reach_px"]

FADE_FLOOR, FADE_SIGMA_PX = 0.1, 10.0
"""Weight of the far background, and the width of the fall to it, as published in 2019."""

_ERROR = 1e-6
_LARGEST_REACH = 1024  # px; squares and packed columns then fit into 31 bits
_BAND = 128  # rows of a unit of work
_SPAN = 1024  # columns of a pass: three tables of _BAND x (_SPAN + rims) stay in the cache of a core
_SEGMENT = 64  # pixels per vector loop; a constant trip count leaves no scalar remainder
_SHIFT, _HERE = 10, 512  # bits of a packed column offset; that of the pixel's own column
_int = np.int32  # numba adds two int32 to an int64, which would halve the vectors: results are cast back

Ints: TypeAlias = NDArray[np.int32]
Floats: TypeAlias = NDArray[np.float64]
Pixels: TypeAlias = NDArray[np.float32]


def border_weights(
    labels: NDArray[np.uint32], *, w0: float = 10.0, sigma_px: float = 5.0, threads: int | None = None
) -> NDArray[np.float32]:
    """Weigh each pixel by how narrow the gap between its two nearest instances is.

    Parameters
    ----------
    labels : (Y, X) uint32
        Instances, 0 is background.
    w0 : float
        Height of the term, at least 0.
    sigma_px : float
        Width of the term in px, above 0.
    threads : int, optional
        At least 1; as many as numba may use (NUMBA_NUM_THREADS) by default. The result does not depend on it.

    Returns
    -------
    (Y, X) float32
        In [0, w0]; zero everywhere if there are fewer than two instances, and wherever d1 + d2 is at least
        `reach_px(w0=w0, sigma_px=sigma_px)`: the term is below 1e-6 there.

    Raises
    ------
    AnnotationError
        If `labels` is not (Y, X) uint32.
    ConfigError
        If a parameter is out of range, or the term reaches farther than 1024 px.

    Notes
    -----
    w = w0 exp(-(d1 + d2)^2 / (2 sigma^2)), where d1 and d2 are the distances in px from a pixel to its nearest instance
    and to the nearest other one; without the class balance.

    Distances are exact, Euclidean, between pixel centres: half a pixel more than to the physical border, and 0 inside
    an instance, so that the term also covers a rim of the instances themselves. Instances are told apart by value:
    touching ones need no gap, and one in several pieces is one. A block with `reach_px` px of surroundings on each side
    gets the same bits as in the whole image.

    Time at worst O(Y X reach), whatever the number of instances; memory about 2 MB per thread beside the result.

    References
    ----------
    Ronneberger, Fischer, Brox 2015, doi:10.1007/978-3-319-24574-4_28, equation 2.

    Examples
    --------
    Two objects one pixel apart: the gap has d1 = d2 = 1, so 10 exp(-(1 + 1)^2 / 50) = 9.2312.

    >>> weights = border_weights(np.array([[1, 1, 0, 2, 2]], dtype=np.uint32))
    >>> round(float(weights[0, 2]), 4)
    9.2312
    """
    if labels.ndim != 2 or labels.dtype != np.uint32:
        raise AnnotationError(
            f"labels are of shape {labels.shape} and type {labels.dtype}: expected (Y, X) uint32; "
            "choose one plane and convert it with labels.compact"
        )
    threads = numba_config.NUMBA_NUM_THREADS if threads is None else threads  # type: ignore[attr-defined]
    if threads < 1:
        raise ConfigError(f"threads is {threads}: expected at least 1")
    reach = reach_px(w0=w0, sigma_px=sigma_px)
    if reach > _LARGEST_REACH:
        raise ConfigError(
            f"sigma_px of {sigma_px} with w0 of {w0} reaches {reach} px: expected at most {_LARGEST_REACH} px; "
            "choose a smaller sigma_px, or weigh a coarser level"
        )
    weights = np.zeros(labels.shape, dtype=np.float32)
    if reach == 0 or weights.size == 0:
        return weights
    # Labels are only compared, so their bits may pass as int32, the type of all tables. Read-only, because arrays
    # from files are: a second array type would compile the kernels twice.
    bits = np.ascontiguousarray(labels).view(np.int32)
    bits.setflags(write=False)
    profile = np.exp(np.arange(reach**2 + 1) / (-2.0 * float(sigma_px) ** 2)) * float(w0)
    profile[-1] = 0.0
    with ThreadPoolExecutor(threads) as pool:
        bands = range(0, labels.shape[0], _BAND)
        list(pool.map(lambda y: _weigh_band(bits, y, reach, profile, float(w0), float(sigma_px), weights), bands))
    return weights


def reach_px(*, w0: float, sigma_px: float, error: float = _ERROR) -> int:
    """Tell from which distance in px on the separation term is smaller than `error`: the margin that blocks need.

    Parameters
    ----------
    w0 : float
        Height of the term, at least 0.
    sigma_px : float
        Width of the term in px, above 0.
    error : float
        Absolute error that may be neglected, above 0.

    Returns
    -------
    int
        Smallest whole s, in px, with w0 exp(-s^2 / (2 sigma^2)) <= error; 0 if w0 itself is that small.

    Raises
    ------
    ConfigError
        If a parameter is out of range.

    Notes
    -----
    s = sigma sqrt(2 ln(w0 / error)), rounded up.

    Examples
    --------
    5 sqrt(2 ln(10^7)) = 28.39.

    >>> reach_px(w0=10.0, sigma_px=5.0)
    29
    """
    if not (math.isfinite(w0) and w0 >= 0):
        raise ConfigError(f"w0 is {w0}: expected a finite number of at least 0")
    for name, value in (("sigma_px", sigma_px), ("error", error)):
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} is {value}: expected a finite number above 0")
    if w0 <= error:
        return 0
    return math.ceil(sigma_px * math.sqrt(2 * (math.log(w0) - math.log(error))))


def faded_weights(objects: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Weigh the background by its distance from the objects: the balance of classes of 2019.

    Parameters
    ----------
    objects : (Y, X) bool
        Pixels that belong to an instance.

    Returns
    -------
    (Y, X) float32
        1 in objects, falling to 0.1, which stands from `reach_px(w0=0.9, sigma_px=10.0)` = 53 px on.

    Notes
    -----
    w = 0.1 + 0.9 exp(-d^2 / (2 * 10^2)) with the distance d in px to the nearest object's pixel centre. A block with
    53 px of surroundings on each side gets the same bits as in the whole image. Time and memory O(Y X).

    References
    ----------
    Falk et al. 2019, doi:10.1038/s41592-018-0261-2.

    Examples
    --------
    One pixel from an object, 0.1 + 0.9 exp(-1 / 200) = 0.99551.

    >>> faded_weights(np.array([[True, False]])).round(5).tolist()
    [[1.0, 0.9955099821090698]]
    """
    if not objects.any():
        return np.full(objects.shape, FADE_FLOOR, np.float32)
    distance = distance_transform_edt(~objects)
    fade = (1.0 - FADE_FLOOR) * np.exp(-(distance**2) / (2 * FADE_SIGMA_PX**2))
    fade[distance >= reach_px(w0=1.0 - FADE_FLOOR, sigma_px=FADE_SIGMA_PX)] = 0.0
    return np.asarray(FADE_FLOOR + fade, np.float32)


@njit(cache=True, nogil=True)
def _weigh_band(labels: Ints, start: int, reach: int, profile: Floats, w0: float, sigma_px: float, out: Pixels) -> None:
    """Fill rows [start, start + _BAND) of the weights, (Y, X), from labels, (Y, X)."""
    height, width = labels.shape
    stop = min(start + _BAND, height)
    columns = min(_SPAN, width) + 2 * (reach - 1) + _SEGMENT
    tables = np.empty((3, stop - start, columns), _int)
    state = np.empty((4, columns), _int)
    found = np.empty((3, _SPAN), _int)
    scratch = np.empty((2, columns), _int)
    for left in range(0, width, _SPAN):
        n = min(_SPAN, width - left)
        _scan_columns(labels, start, stop, left - (reach - 1), reach, tables, state)
        for y in range(start, stop):
            near, near_sq, next_sq = tables[0, y - start], tables[1, y - start], tables[2, y - start]
            _find_first(near, near_sq, reach, found[0, :n], found[1], scratch[0])
            _find_second(near, near_sq, next_sq, reach, found[0, :n], found[2], scratch[0], scratch[1])
            _write_row(found, reach, profile, w0, sigma_px, out[y, left : left + n])


@njit(cache=True, nogil=True)
def _scan_columns(labels: Ints, start: int, stop: int, left: int, reach: int, tables: Ints, state: Ints) -> None:
    """Fill tables, (3, rows, columns), for rows [start, stop) and columns from `left` on.

    They hold a column's nearest instance, its squared distance, that of the nearest other one; reach^2 if none.
    """
    row, last, since, other = state[0], state[1], state[2], state[3]
    height, far = labels.shape[0], _int(reach)
    _forget(row, last, since, other, far)
    for y in range(max(0, start - reach + 1), stop):
        _copy(labels[y], left, row)
        _advance(row, far, last, since, other)
        if y >= start:
            _keep(last, since, other, tables[0, y - start], tables[1, y - start], tables[2, y - start])
    _forget(row, last, since, other, far)
    for y in range(min(height, stop + reach - 1) - 1, start - 1, -1):
        _copy(labels[y], left, row)
        _advance(row, far, last, since, other)
        if y < stop:
            _merge(last, since, other, tables[0, y - start], tables[1, y - start], tables[2, y - start])


@njit(cache=True, nogil=True)
def _copy(source: Ints, left: int, row: Ints) -> None:
    """Copy source, (X,), from `left` on into row, (columns,); what lies outside the image stays as it is."""
    for x in range(max(0, left), min(source.shape[0], left + row.shape[0])):
        row[x - left] = source[x]


@njit(cache=True, nogil=True)
def _forget(row: Ints, last: Ints, since: Ints, other: Ints, far: np.int32) -> None:
    """Begin a scan, all (columns,): no instance met, background outside the image."""
    for i in range(row.shape[0]):
        row[i] = 0
        last[i] = 0
        since[i] = far
        other[i] = far


@njit(cache=True, nogil=True)
def _advance(row: Ints, far: np.int32, last: Ints, since: Ints, other: Ints) -> None:
    """Step one row on: last instance met, rows since it, rows since the last other one, all (columns,)."""
    for i in range(row.shape[0]):
        label = row[i]
        met = label != 0
        gap = min(_int(since[i] + 1), far)
        other[i] = gap if met & (label != last[i]) else min(_int(other[i] + 1), far)
        since[i] = _int(0) if met else gap
        last[i] = label if met else last[i]


@njit(cache=True, nogil=True)
def _keep(last: Ints, since: Ints, other: Ints, near: Ints, near_sq: Ints, next_sq: Ints) -> None:
    """Store the distances from above, (columns,), not yet squared."""
    for i in range(last.shape[0]):
        near[i] = last[i]
        near_sq[i] = since[i]
        next_sq[i] = other[i]


@njit(cache=True, nogil=True)
def _merge(last: Ints, since: Ints, other: Ints, near: Ints, near_sq: Ints, next_sq: Ints) -> None:
    """Combine the distances from below with those kept from above, (columns,), and square them."""
    for i in range(last.shape[0]):
        same = near[i] == last[i]
        above, above_other, below, below_other = near_sq[i], next_sq[i], since[i], other[i]
        nearest = min(above, below)
        after_below = min(below_other, above_other if same else above)
        after_above = min(above_other, below_other if same else below)
        following = after_below if below < above else after_above
        near[i] = last[i] if below < above else near[i]
        near_sq[i] = _int(nearest * nearest)
        next_sq[i] = _int(following * following)


@njit(cache=True, nogil=True)
def _find_first(near: Ints, near_sq: Ints, reach: int, owner: Ints, first_sq: Ints, best: Ints) -> None:
    """Nearest instance, (n,), and its squared distance; 0 from reach / 2 on, where d2 adds at least as much again."""
    n = owner.shape[0]
    limit = _int((reach * reach + 3) // 4)
    for start in range(0, n, _SEGMENT):
        m = min(_SEGMENT, n - start)
        centre = start + reach - 1
        for i in range(m):
            best[i] = _int(_int(min(near_sq[centre + i], limit) << _SHIFT) + _HERE)
        done = 0
        for dx in range(1, reach):
            # The minima only fall and the step only grows: a pixel that is done stays done.
            while done < m and best[done] <= (dx * dx << _SHIFT) + _HERE:
                done += 1
            if done == m:
                break
            _lower_packed(best, near_sq, centre, dx)
        for i in range(m):
            square = best[i] >> _SHIFT
            first_sq[start + i] = square
            column = centre + i + (best[i] & (1 << _SHIFT) - 1) - _HERE
            owner[start + i] = near[column] if square < limit else _int(0)


@njit(cache=True, nogil=True)
def _find_second(
    near: Ints, near_sq: Ints, next_sq: Ints, reach: int, owner: Ints, second_sq: Ints, best: Ints, line: Ints
) -> None:
    """Squared distance to the nearest instance other than `owner`, (n,), run by run of one owner."""
    n = owner.shape[0]
    start = 0
    while start < n:
        stop = start + 1
        while stop < n and owner[stop] == owner[start]:
            stop += 1
        if owner[start] != 0:
            span = slice(start, stop + 2 * (reach - 1))
            _select(near[span], near_sq[span], next_sq[span], owner[start], line)
            for at in range(start, stop, _SEGMENT):
                _minimise(line, at - start + reach - 1, reach, second_sq[at : min(at + _SEGMENT, stop)], best)
        start = stop


@njit(cache=True, nogil=True)
def _select(near: Ints, near_sq: Ints, next_sq: Ints, owner: np.int32, line: Ints) -> None:
    """Squared distance of each column, (columns,), to the nearest instance other than `owner`."""
    for i in range(near.shape[0]):
        line[i] = next_sq[i] if near[i] == owner else near_sq[i]


@njit(cache=True, nogil=True)
def _minimise(line: Ints, centre: int, reach: int, second_sq: Ints, best: Ints) -> None:
    """Minimum over columns of line + dx^2, (m,), for the pixels from `centre` on; best is (_SEGMENT,) scratch."""
    m = second_sq.shape[0]
    for i in range(m):
        best[i] = line[centre + i]
    done = 0
    for dx in range(1, reach):
        while done < m and best[done] <= dx * dx:
            done += 1
        if done == m:
            break
        _lower(best, line, centre, dx)
    for i in range(m):
        second_sq[i] = best[i]


@njit(cache=True, nogil=True)
def _lower(best: Ints, line: Ints, centre: int, dx: int) -> None:
    """Lower best, (_SEGMENT,), to the columns dx to the left and to the right."""
    west = line[centre - dx : centre - dx + _SEGMENT]
    east = line[centre + dx : centre + dx + _SEGMENT]
    step = _int(dx * dx)
    for i in range(_SEGMENT):
        best[i] = min(best[i], _int(min(west[i], east[i]) + step))


@njit(cache=True, nogil=True)
def _lower_packed(best: Ints, near_sq: Ints, centre: int, dx: int) -> None:
    """The same with the column's offset packed into the low bits."""
    west = near_sq[centre - dx : centre - dx + _SEGMENT]
    east = near_sq[centre + dx : centre + dx + _SEGMENT]
    step_west = _int((dx * dx << _SHIFT) + _HERE - dx)
    step_east = _int((dx * dx << _SHIFT) + _HERE + dx)
    for i in range(_SEGMENT):
        from_west = _int(_int(west[i] << _SHIFT) + step_west)
        from_east = _int(_int(east[i] << _SHIFT) + step_east)
        best[i] = min(best[i], from_west, from_east)


@njit(cache=True, nogil=True)
def _write_row(found: Ints, reach: int, profile: Floats, w0: float, sigma_px: float, row: Pixels) -> None:
    """Weights, (n,), from owners and both squares, (3, at least n); profile holds the term for d1 = 0 by squared d2."""
    owner, first_sq, second_sq = found[0], found[1], found[2]
    for i in range(row.shape[0]):
        if owner[i] != 0 and first_sq[i] == 0:
            row[i] = profile[second_sq[i]]
        elif owner[i] != 0:
            s = math.sqrt(first_sq[i]) + math.sqrt(second_sq[i])
            row[i] = w0 * math.exp(-0.5 * (s / sigma_px) ** 2) if s < reach else 0.0

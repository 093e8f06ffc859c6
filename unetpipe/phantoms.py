"""Synthetic micrographs of crowded cells with exact truth, drawn in any box of an image of any size.

Every pixel is a pure function of (seed, y, x): a box drawn alone equals the same box of the whole, bit for bit.
Sums, products, quotients and square roots in a fixed order make a pixel, and IEEE 754 rounds these alike everywhere.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from unetpipe.errors import ConfigError, GeometryError
from unetpipe.geometry import Box
from unetpipe.randomfields import add_value_noise, camera_image, hash_of, site_hash, uniform

__all__ = ["phantom_image", "phantom_labels"]

_F32 = NDArray[np.float32]
_F64 = NDArray[np.float64]
# Value noise: (wavelength, amplitude) of each octave.
_Octaves = tuple[tuple[float, float], ...]

# Lengths without a unit are multiples of the pitch, the step of the jittered grid of cell centres.
# The pitch is measured: with it the mean cell has the area of a disc of the wanted diameter.
_PITCH_PER_DIAMETER = 0.95
_JITTER, _HALF_SPINE = 0.33, 0.24
_SMALLEST_RADIUS, _RADIUS_RANGE, _ABSENT = 0.38, 0.20, -10.0
# A cell whose centre is nearer than half of this to the border with a larger one would be a sliver: it is left out.
_CROWDED = 0.36
# Half width of the dark line between touching cells: in px, but at most `_SEAM` pitches.
_SEAM_PX, _SEAM, _SEAM_DEPTH = 2.8, 0.08, 0.80
# Grid steps before the first pixel and behind the last that can hold a cell's centre.
_RING = 2

# Value noise of amplitude A and wavelength L has slopes up to 3 A / L. The displacement has two components, so its
# Jacobian has a norm below 1, and the warp is one-to-one, while the sum of A / L stays below 1 / (3 sqrt 2) = 0.2357.
_WARP: _Octaves = ((1.0, 0.110), (0.42, 0.050))
_WARP_REACH = 0.161
_CLUSTERS, _CLUSTER_SCATTER, _CLUSTER_THRESHOLD = ((2.1, 1.0),), 0.30, -0.12
_TEXTURE: _Octaves = ((0.30, 0.12), (0.11, 0.22))
_LIGHT, _HAZE = ((13.0, 0.22),), ((1.7, 0.15),)
_STREAMS = ("cells", "clusters", "warp_y", "warp_x", "texture", "light", "haze", "camera")
_BACKGROUND, _CELL = 34.0, 150.0
_PSF_SIGMA_PX, _PSF_RADIUS = 1.2, 4
# Sides in px: of blocks that share their candidate cells; of pieces, which keep a large box's drawing in the cache.
_BLOCK, _PIECE = 32, 512


class _Cells(NamedTuple):
    """Cells (gy, gx, 8) of a window of the grid, and the grid index of the first one.

    Columns: centre y, centre x, spine y, spine x (unit vector), half spine, radius, brightness, nucleus.
    """

    table: _F64
    row: int
    column: int


class _Nearest(NamedTuple):
    """Flat index of the nearest cell in a cell table, its signed distance and the second smallest, all (Y, X)."""

    owner: NDArray[np.int32]
    first: _F32
    second: _F32


@njit(cache=True, nogil=True)
def _fill_cells(table: _F64, row: int, column: int, clusters: _F32, key: np.uint64) -> None:
    """Draw the cells of a grid window into table (gy, gx, 8); present where clusters (gy, gx) are high."""
    draw = np.empty(8)
    for i in range(table.shape[0]):
        for j in range(table.shape[1]):
            bits = site_hash(key, row + i, column + j)
            for k in range(8):
                draw[k] = uniform(hash_of(bits, np.uint64(k)))
            spine_y, spine_x = draw[2] - 0.5, draw[3] - 0.5
            length = np.sqrt(spine_y * spine_y + spine_x * spine_x) + 1e-12
            is_present = clusters[i, j] + _CLUSTER_SCATTER * (2.0 * draw[6] - 1.0) > _CLUSTER_THRESHOLD
            cell = table[i, j]
            cell[0] = row + i + 0.5 + _JITTER * (2.0 * draw[0] - 1.0)
            cell[1] = column + j + 0.5 + _JITTER * (2.0 * draw[1] - 1.0)
            cell[2], cell[3] = spine_y / length, spine_x / length
            cell[4] = _HALF_SPINE * min(1.0, length / 0.5)
            cell[5] = _SMALLEST_RADIUS + _RADIUS_RANGE * draw[4] if is_present else _ABSENT
            cell[6], cell[7] = 0.62 + 0.38 * draw[5], 0.35 * draw[7]


@njit(cache=True, nogil=True)
def _make_room(table: _F64) -> None:
    """Shorten spines in table (gy, gx, 8) until no cell owns a point of another's; drop cells that would be slivers.

    The outer ring lacks neighbours and is not to be used.
    """
    half, radius = table[:, :, 4].copy(), table[:, :, 5].copy()
    for i in range(1, table.shape[0] - 1):
        for j in range(1, table.shape[1] - 1):
            cell = table[i, j]
            for k in range(9):
                other = table[i + k // 3 - 1, j + k % 3 - 1]
                dy, dx = cell[0] - other[0], cell[1] - other[1]
                free = np.sqrt(dy * dy + dx * dx) - abs(cell[5] - other[5])
                if k != 4 and other[5] != _ABSENT:
                    half[i, j] = min(half[i, j], max(0.0, 0.5 * free))
                    radius[i, j] = _ABSENT if free < _CROWDED and cell[5] < other[5] else radius[i, j]
    table[:, :, 4], table[:, :, 5] = half, radius


@njit(cache=True, nogil=True)
def _candidates(table: _F64, low: tuple[float, float], high: tuple[float, float], found: NDArray[np.int64]) -> int:
    """Write the flat indices of the cells that matter in a rectangle to found (n,), in raster order; their number."""
    count = 0
    for i in range(table.shape[0]):
        for j in range(table.shape[1]):
            cell = table[i, j]
            dy = max(0.0, max(low[0] - cell[0], cell[0] - high[0]))
            dx = max(0.0, max(low[1] - cell[1], cell[1] - high[1]))
            reach = cell[4] + cell[5] + 2.0 * _SEAM
            if cell[5] != _ABSENT and dy * dy + dx * dx <= reach * reach:
                found[count] = i * table.shape[1] + j
                count += 1
    return count


@njit(cache=True, nogil=True)
def _measure(cell: _F64, number: int, v: _F64, u: _F64, owner: NDArray[np.int32], first: _F32, second: _F32) -> None:
    """Hold one cell (8,) against the nearest two so far at positions (v, u); all other arrays (X,)."""
    cy, cx = cell[0], cell[1]
    sy, sx, half, radius = np.float32(cell[2]), np.float32(cell[3]), np.float32(cell[4]), np.float32(cell[5])
    for x in range(v.size):
        # Far from the origin only the difference fits float32.
        dy, dx = np.float32(v[x] - cy), np.float32(u[x] - cx)
        along = min(max(dy * sy + dx * sx, -half), half)
        dy -= along * sy
        dx -= along * sx
        distance = np.sqrt(dy * dy + dx * dx) - radius
        near = distance < first[x]
        second[x] = first[x] if near else min(second[x], distance)
        first[x] = distance if near else first[x]
        owner[x] = number if near else owner[x]


@njit(cache=True, nogil=True)
def _nearest(y0: int, x0: int, pitch: float, warp_y: _F32, warp_x: _F32, table: _F64) -> _Nearest:
    """Nearest cells of table (gy, gx, 8) where pixels from (y0, x0) on are displaced by warps (Y, X).

    Worked in blocks against the few cells that matter there; distances above 2 `_SEAM` may be too large.
    """
    height, width = warp_y.shape
    owner = np.zeros((height, width), np.int32)
    first, second = np.full((height, width), np.float32(9.0)), np.full((height, width), np.float32(9.0))
    cells = table.reshape(-1, 8)
    found, v, u = np.empty(cells.shape[0], np.int64), np.empty(_BLOCK), np.empty(_BLOCK)
    for top in range(0, height, _BLOCK):
        for left in range(0, width, _BLOCK):
            bottom, right = min(top + _BLOCK, height), min(left + _BLOCK, width)
            low = (y0 + top) / pitch - _WARP_REACH, (x0 + left) / pitch - _WARP_REACH
            high = (y0 + bottom) / pitch + _WARP_REACH, (x0 + right) / pitch + _WARP_REACH
            count = _candidates(table, low, high, found)
            n, part = right - left, slice(left, right)
            for y in range(top, bottom if count else top):
                for x in range(n):
                    v[x] = (y0 + y + 0.5) / pitch + warp_y[y, left + x]
                    u[x] = (x0 + left + x + 0.5) / pitch + warp_x[y, left + x]
                for k in found[:count]:
                    _measure(cells[k], k, v[:n], u[:n], owner[y, part], first[y, part], second[y, part])
    return _Nearest(owner, first, second)


@njit(cache=True, nogil=True)
def _paint_labels(out: NDArray[np.uint32], nearest: _Nearest, cells: _Cells, columns: int) -> None:
    """Instance labels into out (Y, X) from the cells nearest in a window (Y + 2, X + 2) around it."""
    owner, first = nearest.owner, nearest.first
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            own = owner[y + 1, x + 1]
            # The tip of a cell may hit one pixel and miss the next: a pixel without a fellow is background.
            lonely = True
            for v, u in ((y, x + 1), (y + 1, x), (y + 1, x + 2), (y + 2, x + 1)):
                lonely &= owner[v, u] != own or first[v, u] >= 0.0
            i, j = own // cells.table.shape[1], own % cells.table.shape[1]
            number = (cells.row + i + _RING) * columns + cells.column + j + _RING + 1
            out[y, x] = 0 if lonely or first[y + 1, x + 1] >= 0.0 else number


@njit(cache=True, nogil=True)
def _paint_cells(nearest: _Nearest, texture: _F32, haze: _F32, table: _F64, seam: float) -> _F32:
    """Sharp, evenly lit grey values (Y, X) from images (Y, X); seam is half a membrane in pitches."""
    cells = table.reshape(-1, 8)
    out = np.empty_like(texture)
    for y in range(len(out)):
        for x in range(len(out[y])):
            grey = _BACKGROUND * (1.0 + haze[y, x])
            depth = -nearest.first[y, x]
            if depth > 0.0:
                cell = cells[nearest.owner[y, x]]
                # A cell is thin at its rim and thick over its core, and light adds up through the thickness.
                rim = min(1.0, depth / (0.6 * cell[5]))
                thickness = 0.55 + 0.45 * rim * (2.0 - rim)
                nucleus = min(1.0, max(0.0, (depth / cell[5] - 0.45) * 4.0))
                thickness *= 1.0 - cell[7] * nucleus
                border = 0.5 * (nearest.second[y, x] + depth)
                thickness *= 1.0 - _SEAM_DEPTH * max(0.0, 1.0 - border / seam)
                grey += _CELL * cell[6] * thickness * (1.0 + texture[y, x])
            out[y, x] = grey
    return out


@njit(cache=True, nogil=True)
def _blurred(image: _F32, taps: _F32) -> _F32:
    """Image (Y + 2 r, X + 2 r) filtered along both axes with taps (2 r + 1,), valid part (Y, X)."""
    height, width = image.shape[0] - taps.size + 1, image.shape[1] - taps.size + 1
    rows, out = np.zeros((image.shape[0], width), np.float32), np.zeros((height, width), np.float32)
    for y in range(image.shape[0]):
        for k in range(taps.size):
            for x in range(width):
                rows[y, x] += taps[k] * image[y, x + k]
    for y in range(height):
        for k in range(taps.size):
            for x in range(width):
                out[y, x] += taps[k] * rows[y + k, x]
    return out


@lru_cache(maxsize=1)
def _psf() -> _F32:
    """Gaussian taps (2 r + 1,): multiples of 2^-16 that add up to 1, so that no platform rounds them otherwise."""
    gauss = np.exp(-(np.arange(-_PSF_RADIUS, _PSF_RADIUS + 1) ** 2) / (2 * _PSF_SIGMA_PX**2))
    taps = np.rint(65536 * gauss / gauss.sum())
    taps[_PSF_RADIUS] += 65536 - taps.sum()
    return np.asarray(taps / 65536, np.float32)


def _key(seed: int, name: str) -> np.uint64:
    """Key of the random field called `name`."""
    return np.uint64(hash_of(np.uint64(seed), np.uint64(_STREAMS.index(name))))


def _noise(box: Box, seed: int, name: str, octaves: _Octaves, pitch: float) -> _F32:
    """Sum of octaves (Y, X) over a box; wavelengths in pitches."""
    out = np.zeros(box.shape, np.float32)
    for number, (wavelength, amplitude) in enumerate(octaves):
        key = np.uint64(hash_of(_key(seed, name), np.uint64(number)))
        add_value_noise(out, *box.start, wavelength * pitch, amplitude, key)
    return out


def _cells_near(box: Box, seed: int, pitch: float) -> _Cells:
    """All cells that can own a pixel of the box, with one ring more on each side for their own neighbours."""
    start = [math.floor(a / pitch - _WARP_REACH) - 2 for a in box.start]
    stop = [math.floor(b / pitch + _WARP_REACH) + 3 for b in box.stop]
    grid = Box(start=(start[0], start[1]), stop=(stop[0], stop[1]))
    table = np.empty((*grid.shape, 8))
    _fill_cells(table, *grid.start, _noise(grid, seed, "clusters", _CLUSTERS, 1.0), _key(seed, "cells"))
    _make_room(table)
    return _Cells(table, *grid.start)


def _scene(box: Box, seed: int, pitch: float) -> tuple[_Cells, _Nearest]:
    """The cells near a box, and the nearest one of each of its pixels."""
    cells = _cells_near(box, seed, pitch)
    warp_y, warp_x = (_noise(box, seed, name, _WARP, pitch) for name in ("warp_y", "warp_x"))
    return cells, _nearest(*box.start, pitch, warp_y, warp_x, cells.table)


def _iter_pieces(box: Box) -> Iterator[Box]:
    """Boxes of at most `_PIECE` px a side that cover a box once."""
    for y in range(box.start[0], box.stop[0], _PIECE):
        for x in range(box.start[1], box.stop[1], _PIECE):
            yield Box(start=(y, x), stop=(min(y + _PIECE, box.stop[0]), min(x + _PIECE, box.stop[1])))


def _check(box: Box, shape: tuple[int, int], seed: int, diameter_px: float) -> tuple[float, int]:
    """Check the arguments of a drawing; pitch in px and number of grid columns of an image of this shape."""
    if not 8 <= diameter_px <= 4096:
        raise ConfigError(f"phantom cells of {diameter_px} px diameter: expected 8 to 4096 px; change diameter_px")
    if not 0 <= seed < 2**64:
        raise ConfigError(f"phantom seed {seed}: expected 0 to 2^64 - 1; change seed")
    if min(box.shape) < 1 or box.clipped(shape) != box or max(shape) >= 2**31:
        raise GeometryError(
            f"phantom of {shape} px: expected sides below 2^31 px and a box of pixels inside, came {box}; clip the box"
        )
    pitch = _PITCH_PER_DIAMETER * diameter_px
    rows, columns = (math.ceil(n / pitch) + 2 * _RING for n in shape)
    if rows * columns >= 2**32:
        raise ConfigError(f"phantom of {shape} px: expected below 2^32 cells, came {rows * columns}; raise diameter_px")
    return pitch, columns


def phantom_labels(box: Box, *, shape: tuple[int, int], seed: int, diameter_px: float = 40.0) -> NDArray[np.uint32]:
    """Exact instances of a box of a synthetic micrograph.

    Parameters
    ----------
    box : Box
        What to draw; inside the image, at least one pixel.
    shape : (int, int)
        Height and width of the whole image in px. It numbers the cells and moves none of them.
    seed : int
        Which image, 0 to 2^64 - 1.
    diameter_px : float
        Mean diameter of a cell, that of the disc of equal area; 8 to 4096 px.

    Returns
    -------
    (Y, X) uint32
        Instances of the box, 0 is background. A cell's number is 1 + its place in the grid of centres in raster
        order, the same in every box; numbers are missing where cells are absent or lie outside.

    Raises
    ------
    ConfigError
        If the diameter or the seed is out of range, or the cells are too many for uint32.
    GeometryError
        If the box is empty or leaves the image, or a side has 2^31 px or more.

    Notes
    -----
    Each step of a jittered grid of pitch s holds at most one cell i: a segment S_i and a radius r_i. Pixel p belongs
    to the cell with the smallest f_i(q) = |q - S_i| - r_i, if that is below 0, at the position q = p + w(p).

    | symbol | meaning                  | value                                              |
    |--------|--------------------------|----------------------------------------------------|
    | s      | pitch                    | 0.95 diameters                                     |
    | r_i    | radius                   | 0.38 s to 0.58 s                                   |
    | S_i    | segment                  | half length up to 0.24 s, any direction            |
    | w      | warp, smooth value noise | up to 0.16 s per axis, norm of the Jacobian below 1 |

    Cells are connected: on the straight way from q to the nearest point of S_i, f_i falls at rate 1 and no f_j falls
    faster, so the way stays with i; segments are shortened until no cell owns a point of another's; and p + w(p) is
    one-to-one. On the pixel grid a thin tip may still come apart: its single pixels are set to background, and a
    longer tip (none in 40,000 cells of 12 px) or a cell cut by the image's edge may be left in two pieces.
    Time and memory are proportional to the box, whatever the shape.

    References
    ----------
    Additively weighted Voronoi diagrams: Aurenhammer 1991, doi:10.1145/116873.116880.

    Examples
    --------
    >>> whole = phantom_labels(Box(start=(0, 0), stop=(200, 300)), shape=(200, 300), seed=1)
    >>> part = phantom_labels(Box(start=(50, 60), stop=(90, 160)), shape=(200, 300), seed=1)
    >>> bool((part == whole[50:90, 60:160]).all())
    True
    """
    pitch, columns = _check(box, shape, seed, diameter_px)
    out = np.empty(box.shape, np.uint32)
    for piece in _iter_pieces(box):
        cells, nearest = _scene(piece.grown(1), seed, pitch)
        _paint_labels(out[piece.relative_to(box.start).slices], nearest, cells, columns)
    return out


def phantom_image(box: Box, *, shape: tuple[int, int], seed: int, diameter_px: float = 40.0) -> NDArray[np.uint8]:
    """Grey values of a box of a synthetic micrograph, of which `phantom_labels` is the truth.

    Parameters
    ----------
    box, shape, seed, diameter_px
        As for `phantom_labels`; the shape changes no grey value.

    Returns
    -------
    (Y, X) uint8
        Grey values; fewer than 1 in 100 are 0 or 255.

    Raises
    ------
    ConfigError, GeometryError
        As for `phantom_labels`.

    Notes
    -----
    The image a (h * c) as `camera_image` records it, with photon noise, read noise and rounding.

    | symbol | meaning                                                                         |
    |--------|---------------------------------------------------------------------------------|
    | c      | sharp image: cells thick in the middle, textured, darker along shared membranes |
    | h      | point spread function, Gaussian with sigma 1.2 px                               |
    | a      | uneven light, smooth over some 12 cells, 0.78 to 1.22                           |

    Examples
    --------
    >>> phantom_image(Box(start=(10, 20), stop=(30, 60)), shape=(200, 300), seed=1).shape
    (20, 40)
    """
    pitch, _ = _check(box, shape, seed, diameter_px)
    out = np.empty(box.shape, np.uint8)
    for piece in _iter_pieces(box):
        wide = piece.grown(_PSF_RADIUS)
        cells, nearest = _scene(wide, seed, pitch)
        texture, haze = _noise(wide, seed, "texture", _TEXTURE, pitch), _noise(wide, seed, "haze", _HAZE, pitch)
        sharp = _paint_cells(nearest, texture, haze, cells.table, min(_SEAM, _SEAM_PX / pitch))
        grey = _blurred(sharp, _psf()) * (1 + _noise(piece, seed, "light", _LIGHT, pitch))
        out[piece.relative_to(box.start).slices] = camera_image(grey, piece.start, _key(seed, "camera"))
    return out

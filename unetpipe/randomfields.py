"""Random fields that are pure functions of a key and a place: numbers, smooth noise and camera noise.

Nothing here has a state, so any box of a field can be drawn alone, in any order, by any number of workers. Only
additions, products and quotients in a fixed order touch a drawn value, which IEEE 754 rounds alike everywhere.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import ndtri, pdtr

__all__ = ["add_value_noise", "camera_image", "hash_of", "site_hash", "uniform"]

_F32 = NDArray[np.float32]
_F64 = NDArray[np.float64]

_PHOTONS_PER_GREY, _MAX_PHOTONS, _READ_SIGMA = 2.0, 511, 2.0


class _Noise(NamedTuple):
    """Poisson limits (means, counts) of 2^31, first count of each 256th part (means, 256), read noise (4096,)."""

    limits: NDArray[np.uint32]
    guide: NDArray[np.uint16]
    normal: _F32


@njit(cache=True, nogil=True)
def hash_of(key: np.uint64, counter: np.uint64) -> np.uint64:
    """Number `counter` of the stream of random numbers `key`.

    Parameters
    ----------
    key : uint64
        Names the stream; may itself be a hash.
    counter : uint64
        Position in the stream.

    Returns
    -------
    uint64
        64 random bits: output `counter` + 1 of SplitMix64 with the state `key`.

    References
    ----------
    Steele, Lea, Flood 2014, doi:10.1145/2660193.2660195.

    Examples
    --------
    >>> hex(hash_of(np.uint64(0), np.uint64(0)))
    '0xe220a8397b1dcdaf'
    """
    z = key + (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)
def site_hash(key: np.uint64, y: int, x: int) -> np.uint64:
    """Random bits of an integer site.

    Parameters
    ----------
    key : uint64
        Names the field.
    y, x : int
        The site, from -2^31 to 2^31 - 1 along each axis.

    Returns
    -------
    uint64
        64 random bits.

    Examples
    --------
    >>> int(site_hash(np.uint64(7), 0, 3)) == int(hash_of(np.uint64(7), np.uint64(3)))
    True
    """
    low = np.uint64(0xFFFFFFFF)
    return hash_of(key, ((np.uint64(y) & low) << np.uint64(32)) | (np.uint64(x) & low))


@njit(cache=True, nogil=True)
def uniform(bits: np.uint64) -> float:
    """Random bits as a number in [0, 1).

    Parameters
    ----------
    bits : uint64
        The upper 53 count.

    Returns
    -------
    float
        A multiple of 2^-53.

    Examples
    --------
    >>> uniform(np.uint64(3 << 62))
    0.75
    """
    return np.float64(bits >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@njit(cache=True, nogil=True)
def _fill_knots(knots: _F64, key: np.uint64, row: int, first: int) -> None:
    """Uniform lattice values in [-1, 1) of one lattice row into knots (K,), from column `first` on."""
    for k in range(knots.size):
        knots[k] = 2.0 * uniform(site_hash(key, row, first + k)) - 1.0


@njit(cache=True, nogil=True)
def add_value_noise(out: _F32, y0: int, x0: int, wavelength: float, amplitude: float, key: np.uint64) -> None:
    """Add one octave of smooth noise to a box of an image.

    Parameters
    ----------
    out : (Y, X) float32
        Changed in place.
    y0, x0 : int
        Place of its first pixel.
    wavelength : float
        Step of the lattice of random values in px, above 0.
    amplitude : float
        The noise lies in [-amplitude, amplitude].
    key : uint64
        Names the field.

    Notes
    -----
    Between the four lattice values around a pixel's centre, blended with 3 t^2 - 2 t^3 along each axis. Slopes are up
    to 3 amplitude / wavelength per px.

    References
    ----------
    Value noise: Perlin 1985, doi:10.1145/325165.325247 (there with gradients).

    Examples
    --------
    >>> whole, part = np.zeros((4, 9), np.float32), np.zeros((2, 3), np.float32)
    >>> add_value_noise(whole, -1, 0, 2.5, 1.0, np.uint64(7))
    >>> add_value_noise(part, 0, 4, 2.5, 1.0, np.uint64(7))
    >>> bool((part == whole[1:3, 4:7]).all())
    True
    """
    height, width = out.shape
    first = int(np.floor((x0 + 0.5) / wavelength))
    count = int(np.floor((x0 + width - 0.5) / wavelength)) - first + 2
    upper, lower, knots = np.empty(count), np.empty(count), np.empty(count, np.float32)
    index, blend = np.empty(width, np.int64), np.empty(width, np.float32)
    for x in range(width):
        position = (x0 + x + 0.5) / wavelength
        t = position - np.floor(position)
        index[x] = int(np.floor(position)) - first
        blend[x] = t * t * (3.0 - 2.0 * t)
    last = int(np.floor((y0 + 0.5) / wavelength)) - 1
    for y in range(height):
        position = (y0 + y + 0.5) / wavelength
        row = int(np.floor(position))
        if row != last:
            last = row
            _fill_knots(upper, key, row, first)
            _fill_knots(lower, key, row + 1, first)
        t = position - row
        t = t * t * (3.0 - 2.0 * t)
        for k in range(count):
            knots[k] = amplitude * (upper[k] + t * (lower[k] - upper[k]))
        for x in range(width):
            left = knots[index[x]]
            out[y, x] += left + blend[x] * (knots[index[x] + 1] - left)


@njit(cache=True, nogil=True)
def _detect(out: NDArray[np.uint8], y0: int, x0: int, grey: _F32, noise: _Noise, key: np.uint64) -> None:
    """Photons, read noise and rounding of grey (Y, X) into out (Y, X), whose first pixel is (y0, x0)."""
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            bits = site_hash(key, y0 + y, x0 + x)
            mean = min(int(grey[y, x] * _PHOTONS_PER_GREY + 0.5), _MAX_PHOTONS)
            draw = np.uint32(bits >> np.uint64(33))
            photons = int(noise.guide[mean, draw >> np.uint32(23)])
            while draw >= noise.limits[mean, photons]:
                photons += 1
            value = photons / _PHOTONS_PER_GREY + noise.normal[bits & np.uint64(4095)]
            out[y, x] = int(min(max(value + 0.5, 0.0), 255.0))


@lru_cache(maxsize=1)
def _noise_tables() -> _Noise:
    """Tables of the detector, about 1.7 MB."""
    counts, means = np.arange(_MAX_PHOTONS + 200), np.arange(_MAX_PHOTONS + 1.0)
    limits = np.rint(pdtr(counts[None, :], means[:, None]) * 2.0**31).astype(np.uint32)
    # The last count takes what rounding has left, so that every search ends.
    limits[:, -1] = 2**31
    parts = np.arange(256, dtype=np.uint32) << 23
    guide = np.stack([np.searchsorted(row, parts, side="right") for row in limits]).astype(np.uint16)
    normal = _READ_SIGMA * ndtri((np.arange(4096) + 0.5) / 4096)
    return _Noise(limits, guide, normal.astype(np.float32))


def camera_image(grey: _F32, start: tuple[int, int], key: np.uint64) -> NDArray[np.uint8]:
    """What a camera records of a box of an image: photon noise, read noise, rounding.

    Parameters
    ----------
    grey : (Y, X) float32
        Mean grey values, at least 0; means above 255.5 are recorded as 255.5.
    start : (int, int)
        Place of its first pixel, (y, x).
    key : uint64
        Names the exposure.

    Returns
    -------
    (Y, X) uint8
        round(N / 2 + n), cut to 0 to 255, with N ~ Poisson(2 grey) and n ~ Normal(0, 2).

    Notes
    -----
    2 photons make one grey value. The Poisson mean is rounded to whole photons; its quantiles are exact to 2^-31,
    those of n to 2^-12.

    Examples
    --------
    >>> flat = camera_image(np.full((200, 200), 100, np.float32), (0, 0), np.uint64(7))
    >>> abs(float(flat.mean()) - 100) < 0.2, abs(float(flat.var()) - (100 / 2 + 2**2 + 1 / 12)) < 1.5
    (True, True)
    """
    out = np.empty(grey.shape, np.uint8)
    _detect(out, *start, grey, _noise_tables(), key)
    return out

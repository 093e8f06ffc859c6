"""Numbers that tell a sound sample from a faulty one: clipping, parts of objects, shifts, copies."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from unetpipe.labels import symmetric_ridge

__all__ = ["Alignment", "alignment", "count_parts", "label_edges", "picture_digest", "saturated_share"]

# Largest values of 10, 12 and 14 bit cameras, beside those of the types themselves.
TOPS = {"uint8": (255,), "uint16": (1023, 4095, 16383, 65535)}
# A part of this many times the area of the largest is no crumb.
WHOLE_PART = 0.1
# Image edges are taken at this scale: annotations are seldom drawn to the pixel.
EDGE_SIGMA_PX = 1.5
# So far from it, a correlation has nothing to do with that of the best shift.
APART_PX = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """Where an annotation fits its image best.

    Parameters
    ----------
    shift : tuple of int
        (y, x) in px by which the annotation would have to move.
    best : float
        Correlation of the edges of both there, -1 to 1.
    here : float
        The same where the annotation lies.
    elsewhere : float
        Highest correlation more than 6 px away from `shift`: what chance and repetition give.
    """

    shift: tuple[int, int]
    best: float
    here: float
    elsewhere: float


def saturated_share(image: NDArray[Any], within: NDArray[np.bool_] | None = None) -> float:
    """Share of pixels at the largest value that the camera could give.

    Parameters
    ----------
    image : (C, Y, X) array
        Intensities.
    within : (Y, X) bool, optional
        Pixels that count; all if not given or if it has none.

    Returns
    -------
    float
        0 to 1: pixels of which a channel holds 255 (uint8), or 1023, 4095, 16383 or 65535 (uint16) where that is the
        image's largest value. 0 for floats, which have no largest value.

    Examples
    --------
    >>> saturated_share(np.array([[[255, 7], [255, 8]]], dtype=np.uint8))
    0.5
    """
    top = int(image.max()) if image.size and image.dtype.name in TOPS else -1
    if top not in TOPS.get(image.dtype.name, ()):
        return 0.0
    full = (image == top).any(axis=0)
    chosen = full[within] if within is not None and within.any() else full
    return float(chosen.mean())


def count_parts(instances: NDArray[np.uint32]) -> int:
    """Number of connected parts that the instances fall into, crumbs left out.

    Parameters
    ----------
    instances : (Y, X) uint32
        0 is background.

    Returns
    -------
    int
        4-connected parts, touching instances apart, of at least a tenth of the area of the largest. A mask that is read
        as instances has one instance of many parts.

    Examples
    --------
    >>> count_parts(np.array([[1, 0, 1, 0, 2]], dtype=np.uint32))
    3
    """
    parts, count = ndimage.label((instances > 0) & ~symmetric_ridge(instances))
    if not count:
        return int(instances.any())
    areas = np.bincount(parts.ravel())[1:]
    return int((areas >= WHOLE_PART * areas.max()).sum())


def picture_digest(image: NDArray[Any]) -> str:
    """Digest of an image that all its quarter turns and mirror images have too.

    Parameters
    ----------
    image : (C, Y, X) array
        Intensities.

    Returns
    -------
    str
        The smallest of the 8 SHA-256 digests, 64 hexadecimal digits.

    Examples
    --------
    >>> one = np.array([[[1, 2], [3, 4]]], dtype=np.uint8)
    >>> picture_digest(one) == picture_digest(np.rot90(one, axes=(1, 2)))
    True
    """
    forms = [np.rot90(one, turns, axes=(1, 2)) for one in (image, image[:, :, ::-1]) for turns in range(4)]
    return min(hashlib.sha256(repr(form.shape).encode() + form.tobytes()).hexdigest() for form in forms)


def label_edges(instances: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Pixels on both sides of every border between instances, or of an instance and the background.

    Parameters
    ----------
    instances : (Y, X) uint32
        0 is background.

    Returns
    -------
    (Y, X) bool
        True where one of the 4 neighbours has another value; the frame of the image is no border.

    Examples
    --------
    >>> label_edges(np.array([[0, 0, 5, 5, 5]], dtype=np.uint32)).tolist()
    [[False, True, True, False, False]]
    """
    edges = np.zeros(instances.shape, dtype=bool)
    for axis in (0, 1):
        first, second = np.moveaxis(instances, axis, 0)[:-1], np.moveaxis(instances, axis, 0)[1:]
        along, differs = np.moveaxis(edges, axis, 0), first != second
        along[:-1] |= differs
        along[1:] |= differs
    return edges


def alignment(image: NDArray[Any], instances: NDArray[np.uint32], *, reach: int = 16) -> Alignment | None:
    """Find the small shift at which an annotation's borders meet the image's edges best.

    Parameters
    ----------
    image : (C, Y, X) array
        Intensities.
    instances : (Y, X) uint32
        0 is background.
    reach : int
        Largest shift along y and x in px; smaller where the image has fewer than 4 times as many px.

    Returns
    -------
    Alignment or None
        None where there is nothing to compare: no border, no contrast, an image below 12 px.

    Notes
    -----
    With e the borders, 0 or 1, in the image less a margin of `reach`, and g the length of the gradient of the image
    (Gaussian, sigma 1.5 px, summed over channels) under them when they are moved by s,

    r(s) = sum (e - mean e)(g - mean g) / (n std e std g),

    Pearson's correlation, computed for all s at once by Fourier transform. Of equal ones the smallest shift counts.

    References
    ----------
    J. P. Lewis, Fast normalized cross-correlation, Vision Interface 1995.

    Examples
    --------
    >>> labels = np.zeros((40, 40), dtype=np.uint32)
    >>> labels[15:25, 15:25] = 1
    >>> alignment(np.roll(labels, (3, -2), axis=(0, 1))[None].astype(np.uint8), labels, reach=5).shift
    (3, -2)
    """
    reach = min(reach, min(instances.shape) // 4)
    if reach < 3:
        return None
    gradient = sum(ndimage.gaussian_gradient_magnitude(c.astype(np.float64), EDGE_SIGMA_PX) for c in image)
    edges = label_edges(instances)[reach:-reach, reach:-reach].astype(np.float64)
    # Centred, so that the sums of squares keep their digits.
    gradient = np.asarray(gradient) - np.mean(gradient)
    spread = np.sqrt(window_variance(gradient, edges.shape))
    # A gradient of rounding errors only is none.
    flat = spread <= 1e-9 * max(1.0, float(np.abs(image).max()))
    if edges.std() == 0 or flat.any():
        return None
    products = correlation(gradient, edges - edges.mean())
    scores = products / (edges.size * edges.std() * spread)
    shifts = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    # What lies within rounding of the best is as good.
    best = np.where(scores >= scores.max() - 1e-9, (shifts**2).sum(axis=0), np.inf).argmin()
    y, x = np.unravel_index(best, scores.shape)
    shift = (int(y) - reach, int(x) - reach)
    apart = (np.abs(shifts[0] - shift[0]) > APART_PX) | (np.abs(shifts[1] - shift[1]) > APART_PX)
    return Alignment(
        shift=shift,
        best=float(scores[y, x]),
        here=float(scores[reach, reach]),
        elsewhere=float(scores.max(where=apart, initial=-1.0)),
    )


def correlation(values: NDArray[np.float64], window: NDArray[np.float64]) -> NDArray[np.float64]:
    """(Y, X), (h, w) -> (Y - h + 1, X - w + 1): sum of products at each place where the window lies inside."""
    shape = [fft.next_fast_len(n, real=True) for n in values.shape]
    spectrum = fft.rfft2(values, shape) * fft.rfft2(window, shape).conj()
    height, width = (n - m + 1 for n, m in zip(values.shape, window.shape, strict=True))
    products: NDArray[np.float64] = fft.irfft2(spectrum, shape)[:height, :width]
    return products


def window_variance(values: NDArray[np.float64], window: tuple[int, ...]) -> NDArray[np.float64]:
    """(Y, X) -> (Y - h + 1, X - w + 1): variance inside each window of h x w px."""

    def sums(of: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.pad(of.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        height, width = window
        inside: NDArray[np.float64] = (
            total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
        )
        return inside

    n = window[0] * window[1]
    variance: NDArray[np.float64] = np.maximum(sums(values**2) / n - (sums(values) / n) ** 2, 0.0)
    return variance

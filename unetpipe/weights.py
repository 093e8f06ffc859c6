"""Loss weights per pixel: the separation border between instances, and the fading of the background."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import config as numba_config
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from unetpipe.errors import AnnotationError, ConfigError
from unetpipe.separation import BAND, kind_of_squares, weigh_band

__all__ = ["FADE_FLOOR", "FADE_SIGMA_PX", "SIGMA_2019_PX", "W0_2019", "border_weights", "faded_weights", "reach_px"]

W0_2019, SIGMA_2019_PX = 50.0, 6.0
"""Height and width of the separation term, as published in 2019."""

FADE_FLOOR, FADE_SIGMA_PX = 0.1, 10.0
"""Weight of the far background, and the width of the fall to it, as published in 2019."""

_ERROR = 1e-6
_LARGEST_REACH = 1024  # px; squares and packed columns then fit into 31 bits


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
    # Labels are only compared, so their bits may pass as int32. Read-only, because arrays from files are: a second
    # array type would compile the kernels twice.
    bits = np.ascontiguousarray(labels).view(np.int32)
    bits.setflags(write=False)
    profile = np.exp(np.arange(reach**2 + 1) / (-2.0 * float(sigma_px) ** 2)) * float(w0)
    profile[-1] = 0.0
    kind = np.empty(0, kind_of_squares(reach))
    with ThreadPoolExecutor(threads) as pool:
        bands = range(0, labels.shape[0], BAND)
        list(pool.map(lambda y: weigh_band(bits, y, reach, kind, profile, float(w0), float(sigma_px), weights), bands))
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

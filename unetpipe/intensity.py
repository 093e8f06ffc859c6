"""Grey values to network input: one straight line per channel."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["intensity_range", "normalise", "percentiles"]


def intensity_range(
    rule: Literal["range", "percentile"], dtype: np.dtype[Any], percentiles: list[tuple[float, float]]
) -> list[tuple[float, float]]:
    """The grey values of each channel that become 0 and 1.

    Parameters
    ----------
    rule : {"range", "percentile"}
        The data type's full range (0 to 1 for floats), or the image's own percentiles.
    dtype : numpy dtype
        uint8, uint16 or float32.
    percentiles : list of (float, float)
        Low and high percentile of each channel of the image.

    Returns
    -------
    list of (float, float)
        One pair per channel.

    Examples
    --------
    >>> intensity_range("range", np.dtype("uint8"), [(3.0, 180.0)])
    [(0.0, 255.0)]
    """
    if rule == "percentile":
        return percentiles
    top = float(np.iinfo(dtype).max) if dtype.kind == "u" else 1.0
    return [(0.0, top)] * len(percentiles)


def percentiles(values: NDArray[Any], shares: Sequence[float]) -> list[float]:
    """Values below which shares of all values lie; for small unsigned integers by counting, which spares the sorting.

    Parameters
    ----------
    values : array
        Any shape, not empty; finite.
    shares : sequence of float
        In percent, 0 to 100.

    Returns
    -------
    list of float
        As `numpy.percentile` gives them: linear between the two values next to the place share / 100 (n - 1).

    Examples
    --------
    >>> percentiles(np.array([9, 1, 5, 2], np.uint8), [50.0, 100.0])
    [3.5, 9.0]
    """
    if values.dtype not in (np.uint8, np.uint16):
        return [float(found) for found in np.percentile(values, shares)]
    counted = np.cumsum(np.bincount(values.ravel()))
    found = []
    for share in shares:
        place = share / 100 * (values.size - 1)
        below, above = (int(np.searchsorted(counted, int(i), side="right")) for i in (place, np.ceil(place)))
        found.append(below + (above - below) * (place % 1))
    return found


def normalise(image: NDArray[Any], limits: list[tuple[float, float]]) -> NDArray[np.float32]:
    """Map each channel's low to 0 and its high to 1.

    Parameters
    ----------
    image : (C, Y, X) array
        Grey values.
    limits : list of (float, float)
        Low and high of each channel; a channel without contrast is only shifted.

    Returns
    -------
    (C, Y, X) float32 array
        Not clipped: values outside the limits lie outside [0, 1].
    """
    low = np.array([lo for lo, _ in limits], dtype=np.float32)[:, None, None]
    span = np.array([hi - lo if hi > lo else 1.0 for lo, hi in limits], dtype=np.float32)[:, None, None]
    result: NDArray[np.float32] = (image.astype(np.float32) - low) / span
    return result

"""Where a slide holds tissue: by one threshold at a coarse level, in micrometres."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unetpipe.geometry import Box

__all__ = ["mask_block", "otsu_threshold", "tissue_mask", "tissue_measure", "tissue_pixels"]

_BINS = 256
# How far apart tissue and glass lie, in deviations of noise or grey levels. Otsu's groups of mere noise lie 1.6
# (normal), 1.7 (uniform) or 2.0 (exponential) deviations apart; if rounded, 1 level. In a faint slide it was 2.8.
_APART = 2.3
# What is farther from the middle than so many deviations is not noise: one normal number of 10^9 is.
_OUTSIDE = 6.0


def tissue_measure(image: NDArray[Any], by: Literal["colour", "darkness", "brightness"]) -> NDArray[np.float32]:
    """What tissue has more of than the empty part of a slide.

    Parameters
    ----------
    image : (C, Y, X) array
        Grey values; red, green and blue for "colour".
    by : {"colour", "darkness", "brightness"}
        Which measure.

    Returns
    -------
    (Y, X) float32 array
        colour: the largest channel minus the smallest. darkness: minus the mean of the channels. brightness: the mean.

    Notes
    -----
    The difference of the channels is the saturation times the largest channel: unlike the saturation itself, it does
    not take the noise of black margins for colour.

    Examples
    --------
    >>> tissue_measure(np.array([[[90]], [[30]], [[60]]], np.uint8), "colour").item()
    60.0
    """
    if by == "colour":
        difference: NDArray[np.float32] = np.subtract(image.max(axis=0), image.min(axis=0), dtype=np.float32)
        return difference
    mean: NDArray[np.float32] = image.mean(axis=0, dtype=np.float32)
    return mean if by == "brightness" else np.negative(mean)


def tissue_pixels(image: NDArray[Any], by: Literal["colour", "darkness", "brightness"]) -> NDArray[np.bool_]:
    """Which pixels hold tissue; none where nothing stands out of the noise.

    Parameters
    ----------
    image : (C, Y, X) array
        Grey values; red, green and blue for "colour". Whole numbers are taken as rounded.
    by : {"colour", "darkness", "brightness"}
        Which `tissue_measure` tissue has more of.

    Returns
    -------
    (Y, X) bool array
        False everywhere in an image of noise alone, or of one value.

    Notes
    -----
    The measure v is parted by `otsu_threshold`, brightness after a square root of its height above the least value: it
    keeps few very bright cells from making the others look like background. But noise can be parted, too. Tissue
    reaches over many pixels, while noise differs between neighbours as much as it differs at all. So the two groups, of
    means m1 and m0, are noise if

        m1 - m0 <= 2.3 e,    e = max(s, q),    s^2 = mean((v - v')^2) / 2,

    with v' the pixel below or to the right of v, s the deviation of the noise (too large, if anything: borders of
    tissue count, too) and q the step of the grey values: 1 where they are whole numbers, 0 for floats. Then, only what
    is larger than the median of v by more than 6 e is tissue: a few small cells. What is uneven on a large scale, such
    as light that falls off to the sides of empty glass, is not told from tissue. O(Y X) time and memory.

    Examples
    --------
    >>> image = np.array([[[9, 9, 9, 60, 70, 60], [9, 8, 9, 70, 60, 60]]], np.uint8)
    >>> tissue_pixels(image, "brightness")[0].astype(int)
    array([0, 0, 0, 1, 1, 1])
    >>> tissue_pixels(image[..., :3], "brightness").any()
    np.False_
    """
    measure = tissue_measure(image, by)
    values = np.sqrt(measure - measure.min()) if by == "brightness" else measure
    threshold = otsu_threshold(values)
    if threshold is None:
        return np.zeros(measure.shape, dtype=bool)
    tissue: NDArray[np.bool_] = values >= threshold
    squares = [np.square(np.diff(measure, axis=axis), dtype=np.float64) for axis in (0, 1)]
    noise = float(np.sqrt(sum(s.sum() for s in squares) / sum(s.size for s in squares) / 2))
    unit = max(noise, float(image.dtype.kind in "ui"))
    apart = float(measure[tissue].mean(dtype=np.float64) - measure[~tissue].mean(dtype=np.float64))
    if apart <= _APART * unit:
        tissue = measure > np.median(measure) + _OUTSIDE * unit
    return tissue


def otsu_threshold(values: NDArray[Any]) -> float | None:
    """The threshold that parts values into two groups that differ most.

    Parameters
    ----------
    values : array
        Finite numbers, any shape.

    Returns
    -------
    float or None
        The upper group begins here; None where all values are equal.

    Notes
    -----
    n0 n1 (m1 - m0)^2 is made as large as possible over the edges of 256 equal bins between the extremes, with n the
    numbers of values below and above and m their means, taken at the middles of the bins. The lowest of equal ones.

    References
    ----------
    Otsu 1979, doi:10.1109/TSMC.1979.4310076.

    Examples
    --------
    >>> otsu_threshold(np.array([0.0, 1.0, 9.0, 10.0, 256.0]))
    11.0
    """
    low, high = float(values.min()), float(values.max())
    if low == high:
        return None
    # In float32, the bins of a narrow range would have no width.
    counts, edges = np.histogram(values.astype(np.float64), bins=_BINS, range=(low, high))
    sums = np.cumsum(counts * (edges[:-1] + edges[1:]) / 2)
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    between = below * above * ((sums[-1] - sums[:-1]) / above - sums[:-1] / below) ** 2
    return float(edges[int(between.argmax()) + 1])


def tissue_mask(
    tissue: NDArray[np.bool_], *, pixel_size_um: float, smallest_um2: float, margin_um: float
) -> NDArray[np.bool_]:
    """Which pixels hold tissue, or lie near it.

    Parameters
    ----------
    tissue : (Y, X) bool array
        Which pixels hold tissue, as `tissue_pixels` tells it.
    pixel_size_um : float
        Side of a pixel in um.
    smallest_um2 : float
        Parts of the mask, 4-connected, that hold less tissue are dropped, in um^2 without the margin.
    margin_um : float
        Pixels whose middle is no farther from that of a tissue pixel belong to the mask, in um. Margins join cells that
        lie near each other to one part.

    Returns
    -------
    (Y, X) bool array
        False everywhere where there is no tissue.

    Notes
    -----
    O(Y X) time and memory.

    Examples
    --------
    >>> row = np.array([[0, 0, 1, 0, 1, 0, 0, 0, 1, 0]], bool)
    >>> tissue_mask(row, pixel_size_um=10.0, smallest_um2=200.0, margin_um=10.0)[0].astype(int)
    array([0, 1, 1, 1, 1, 1, 0, 0, 0, 0])
    """
    # Most runs want no tissue, and this import takes longer than many a stage.
    from scipy import ndimage

    if not tissue.any():
        # The distance to nothing is not defined.
        return np.zeros(tissue.shape, dtype=bool)
    parts, count = ndimage.label(ndimage.distance_transform_edt(~tissue, sampling=pixel_size_um) <= margin_um)
    is_kept = np.bincount(parts[tissue], minlength=count + 1) * pixel_size_um**2 >= smallest_um2
    is_kept[0] = False
    mask: NDArray[np.bool_] = is_kept[parts]
    return mask


def mask_block(mask: NDArray[Any], box: Box, *, level: int, mask_level: int) -> NDArray[Any]:
    """The mask over a box of another level of the pyramid.

    Parameters
    ----------
    mask : (Y, X) array
        The whole mask.
    box : Box
        In px of `level`.
    level, mask_level : int
        Pyramid levels of the box and of the mask.

    Returns
    -------
    (y, x) array
        Its values at the first pixel of level 0 under each pixel of the box.

    Examples
    --------
    >>> mask_block(np.array([[4, 5]]), Box(start=(0, 1), stop=(1, 4)), level=0, mask_level=1)
    array([[4, 5, 5]])
    """
    rows, columns = (np.arange(a, b) << level >> mask_level for a, b in zip(box.start, box.stop, strict=True))
    block: NDArray[Any] = mask[rows[:, None], columns]
    return block

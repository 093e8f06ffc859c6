"""Arrays to pictures: images on a screen's range, outlines of objects, heat maps; and the layout of charts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unetpipe.geometry import Box
from unetpipe.intensity import normalise

__all__ = [
    "Chart",
    "area_layer",
    "chart",
    "crowded_box",
    "enlarged",
    "grey_to_rgb",
    "heat",
    "outline_layer",
    "outlines",
    "ticks",
]

Colour = tuple[int, int, int]

# What each channel is drawn in, by the number of channels; magenta and green are told apart by nearly everyone.
_CHANNEL_COLOURS = {
    1: ((1, 1, 1),),
    2: ((1, 0, 1), (0, 1, 0)),
    3: ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
}
_MANY_COLOURS = (*_CHANNEL_COLOURS[3], (1, 1, 1), (1, 0, 1), (0, 1, 1), (1, 1, 0))
_SEAM_ALPHA = 120
_HELIX_START, _HELIX_TURNS, _HELIX_HUE = 2.6, 0.6, 1.2


def grey_to_rgb(image: NDArray[Any], limits: list[tuple[float, float]]) -> NDArray[np.uint8]:
    """An image as a screen shows it.

    Parameters
    ----------
    image : (C, Y, X) array
        Grey values.
    limits : list of (float, float)
        The grey values of each channel that become black and full colour; values outside are cut.

    Returns
    -------
    (Y, X, 3) uint8
        One channel is grey, two are magenta and green, three are red, green and blue; more share seven colours.

    Notes
    -----
    The channels' light adds up. Three channels are stretched by their common range, so that the white of a stained
    slide stays white.

    Examples
    --------
    >>> grey_to_rgb(np.array([[[0, 50, 100]]]), [(0.0, 100.0)])[0, :, 0].tolist()
    [0, 128, 255]
    """
    if len(image) == 3:
        limits = [(min(low for low, _ in limits), max(high for _, high in limits))] * 3
    colours = _CHANNEL_COLOURS.get(len(image), _MANY_COLOURS)
    light = np.clip(normalise(image, limits), 0, 1)
    shown = np.zeros((*image.shape[1:], 3), np.float32)
    for index, channel in enumerate(light):
        shown += channel[..., None] * np.array(colours[index % len(colours)], np.float32)
    return _bytes(np.minimum(shown, 1))


def outlines(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """The outermost pixels of every object.

    Parameters
    ----------
    labels : (Y, X) array
        Instance labels, 0 is background.

    Returns
    -------
    (Y, X) bool
        Pixels of an object with a 4-neighbour that is not of it; the image's edge is no such neighbour.

    Examples
    --------
    >>> outlines(np.array([[0, 7, 7, 7, 7, 8, 0]])).astype(int).tolist()
    [[0, 1, 0, 0, 1, 1, 0]]
    """
    edge = np.zeros(labels.shape, np.bool_)
    down, across = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge &= labels != 0
    return edge


def outline_layer(labels: NDArray[Any], colour: Colour, *, factor: int = 1) -> NDArray[np.uint8]:
    """Outlines to lay over a picture.

    Parameters
    ----------
    labels : (Y, X) array
        Instance labels, 0 is background.
    colour : (int, int, int)
        Red, green and blue, 0 to 255.
    factor : int
        How often each pixel is drawn along y and x. From 2 on a dark seam of 1 px surrounds the lines, which makes
        them stand out from bright pictures.

    Returns
    -------
    (factor Y, factor X, 4) uint8
        Red, green, blue and opacity; clear where there is no line.

    Examples
    --------
    >>> outline_layer(np.array([[0, 0, 5, 0]]), (9, 8, 7))[0].tolist()
    [[0, 0, 0, 0], [0, 0, 0, 0], [9, 8, 7, 255], [0, 0, 0, 0]]
    """
    lines = enlarged(outlines(labels), factor)
    layer = np.zeros((*lines.shape, 4), np.uint8)
    if factor > 1:
        layer[ndimage.binary_dilation(lines), 3] = _SEAM_ALPHA
    layer[lines] = (*colour, 255)
    return layer


def area_layer(labels: NDArray[Any], colour: Colour, *, alpha: int = 115) -> NDArray[np.uint8]:
    """Areas to lay over a picture in which objects are too small for outlines.

    Parameters
    ----------
    labels : (Y, X) array
        Instance labels, 0 is background.
    colour : (int, int, int)
        Red, green and blue, 0 to 255.
    alpha : int
        Opacity of the areas, 0 to 255.

    Returns
    -------
    (Y, X, 4) uint8
        Red, green, blue and opacity; clear in the background.

    Examples
    --------
    >>> area_layer(np.array([[0, 5]]), (9, 8, 7))[0].tolist()
    [[0, 0, 0, 0], [9, 8, 7, 115]]
    """
    layer = np.zeros((*labels.shape, 4), np.uint8)
    layer[labels != 0] = (*colour, alpha)
    return layer


def heat(values: NDArray[Any], top: float) -> NDArray[np.uint8]:
    """Values as colours from black over violet and rose to white, even in brightness.

    Parameters
    ----------
    values : (Y, X) array
        Any numbers; those outside 0 to `top` are cut.
    top : float
        The value of the brightest colour, above 0.

    Returns
    -------
    (Y, X, 3) uint8

    Notes
    -----
    A cubehelix: the perceived brightness rises evenly with the value, so the map also reads in grey and by
    colour-blind eyes. For v in [0, 1], angle t = 2 pi (s / 3 + r v), amplitude a = h v (1 - v) / 2:

        red   = v + a (-0.14861 cos t + 1.78277 sin t)
        green = v + a (-0.29227 cos t - 0.90649 sin t)
        blue  = v + a   1.97294 cos t

    | symbol | meaning                      | value |
    |--------|------------------------------|-------|
    | s      | hue at the dark end          | 2.6   |
    | r      | turns of the hue             | 0.6   |
    | h      | saturation                   | 1.2   |

    References
    ----------
    Green 2011, Bull. Astr. Soc. India 39, 289, arXiv:1108.5083.

    Examples
    --------
    >>> heat(np.array([[-1.0, 0.0, 10.0, 99.0]]), 10.0)[0].tolist()
    [[0, 0, 0], [0, 0, 0], [255, 255, 255], [255, 255, 255]]
    """
    v = np.clip(np.asarray(values, np.float64) / top, 0, 1)
    angle = 2 * np.pi * (_HELIX_START / 3 + _HELIX_TURNS * v)
    amplitude = _HELIX_HUE * v * (1 - v) / 2
    cos, sin = amplitude * np.cos(angle), amplitude * np.sin(angle)
    rgb = np.stack([v - 0.14861 * cos + 1.78277 * sin, v - 0.29227 * cos - 0.90649 * sin, v + 1.97294 * cos], axis=-1)
    return _bytes(np.clip(rgb, 0, 1))


def enlarged(picture: NDArray[Any], factor: int) -> NDArray[Any]:
    """A picture (Y, X) or (Y, X, C) with every pixel repeated `factor` times along y and x.

    Examples
    --------
    >>> enlarged(np.array([[1, 2]]), 2).tolist()
    [[1, 1, 2, 2], [1, 1, 2, 2]]
    """
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def crowded_box(labels: NDArray[Any], side: int) -> Box:
    """Where most whole objects begin: a place worth a closer look.

    Parameters
    ----------
    labels : (Y, X) array
        Instance labels, 0 is background.
    side : int
        Side of the box in px, at least 1; cut to the image.

    Returns
    -------
    Box
        Inside the image, at a multiple of half its side or at the far edge.

    Notes
    -----
    An object begins at its first pixel in raster order; those that touch the image's edge are not whole. Tie: the box
    nearest the middle, and of these the first in raster order. Sorts the pixels once.

    Examples
    --------
    >>> row = [0, 4, 4, 4, 4, 0, 2, 0, 3, 0]
    >>> crowded_box(np.pad(np.array([row]), ((1, 1), (0, 0))), 4)
    Box(start=(0, 6), stop=(3, 10))
    """
    ids, first = np.unique(labels, return_index=True)
    cut = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1], [0]])
    begins = np.zeros(labels.size, np.int64)
    begins[first[~np.isin(ids, cut)]] = 1
    sums = np.pad(begins.reshape(labels.shape).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sides = [min(side, n) for n in labels.shape]
    starts = [np.append(np.arange(0, n - s, max(s // 2, 1)), n - s) for n, s in zip(labels.shape, sides, strict=True)]
    (y0, x0), (y1, x1) = starts, [a + s for a, s in zip(starts, sides, strict=True)]
    counts = sums[np.ix_(y1, x1)] - sums[np.ix_(y0, x1)] - sums[np.ix_(y1, x0)] + sums[np.ix_(y0, x0)]
    # Twice the offset from the middle, so that it stays an integer.
    away = [(2 * a + s - n) ** 2 for a, s, n in zip(starts, sides, labels.shape, strict=True)]
    distance = away[0][:, None] + away[1][None, :]
    best = np.lexsort((distance.ravel(), -counts.ravel()))[0]
    y, x = (int(a[i]) for a, i in zip(starts, np.unravel_index(best, counts.shape), strict=True))
    return Box(start=(y, x), stop=(y + sides[0], x + sides[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Where a chart's lines and ticks are, in shares of its sides from the lower left corner.

    Parameters
    ----------
    lines : dict of str to list of (float, float)
        x and y of each line's points, by name.
    x_ticks, y_ticks : list of (float, str)
        Place and label.
    last : float
        The x value at the right edge.
    is_log : bool
        Whether y is logarithmic.
    """

    lines: dict[str, list[tuple[float, float]]]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    last: float
    is_log: bool


def chart(lines: Mapping[str, Sequence[tuple[float, float]]], *, y_range: tuple[float, float] | None = None) -> Chart:
    """Lay out a chart of one or more lines over a common x axis that begins at 0.

    Parameters
    ----------
    lines : mapping of str to sequence of (float, float)
        x (above 0) and y of each line's points, by name.
    y_range : (float, float), optional
        Values at the lower and the upper edge. Where not given, y begins at 0; it is logarithmic where the values
        are positive and the largest is more than ten times the smallest.

    Returns
    -------
    Chart

    Examples
    --------
    >>> chart({"loss": [(1, 4.0), (2, 1.0)]}, y_range=(0.0, 4.0)).lines
    {'loss': [(0.5, 1.0), (1.0, 0.25)]}
    """
    values = [y for line in lines.values() for _, y in line]
    last = float(max(x for line in lines.values() for x, _ in line))
    is_log = y_range is None and min(values) > 0 and max(values) > 10 * min(values)
    low, high = y_range or (0.0, max(values) * 1.05 or 1.0)
    if is_log:
        low, high = min(values) / 1.15, max(values) * 1.15

    def share(y: float) -> float:
        return math.log(y / low) / math.log(high / low) if is_log else (y - low) / (high - low)

    return Chart(
        lines={name: [(x / last, share(y)) for x, y in line] for name, line in lines.items()},
        x_ticks=[(x / last, f"{x:.9g}") for x in ticks(0.0, last)],
        y_ticks=[(share(y), f"{y:g}") for y in ticks(low, high, is_log=is_log)],
        last=last,
        is_log=is_log,
    )


def ticks(low: float, high: float, *, is_log: bool = False) -> list[float]:
    """Round values from `low` to `high` for the ticks of an axis.

    Parameters
    ----------
    low, high : float
        Ends of the axis, low < high; above 0 where it is logarithmic.
    is_log : bool
        Whether the axis is logarithmic.

    Returns
    -------
    list of float
        Up to six multiples of 1, 2 or 5 times a power of ten; on a logarithmic axis these themselves, or the powers
        alone where the axis spans a thousand and more.

    Examples
    --------
    >>> ticks(0.0, 0.9), ticks(0.3, 30.0, is_log=True)
    ([0.0, 0.2, 0.4, 0.6, 0.8], [0.5, 1.0, 2.0, 5.0, 10.0, 20.0])
    """
    if is_log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1, 2, 5) if high < 1000 * low else (1,)
        # Read from text, so that each is the float nearest its decimal value.
        return [value for p in powers for s in steps if low <= (value := float(f"{s}e{p}")) <= high]
    rough = (high - low) / 5
    power = math.floor(math.log10(rough))
    step = next(s for s in (1, 2, 5, 10) if s * 10.0**power >= rough * (1 - 1e-9))
    first, last = (f(end / (step * 10.0**power)) for f, end in ((math.ceil, low), (math.floor, high * (1 + 1e-9))))
    return [float(f"{k * step}e{power}") for k in range(first, last + 1)]


def _bytes(rgb: NDArray[Any]) -> NDArray[np.uint8]:
    """(..., 3) in 0 to 1 -> 0 to 255, rounded half up."""
    return (rgb * 255 + 0.5).astype(np.uint8)

"""Windows that reach outside an image, where it is mirrored without repeating its edge."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.geometry import Box, mirror

__all__ = ["read_window", "source_box", "window_of"]


def source_box(window: Box, shape: tuple[int, int]) -> Box:
    """The smallest box inside the image that holds all pixels of a window, also those that are mirrored into it.

    Parameters
    ----------
    window : Box
        Of any size and place.
    shape : (int, int)
        Height and width of the image in px.

    Examples
    --------
    >>> source_box(Box(start=(-9, 3), stop=(4, 8)), (20, 20))
    Box(start=(0, 3), stop=(10, 8))
    """
    if window.clipped(shape) == window:
        return window
    spans = []
    for first, last, size in zip(window.start, window.stop, shape, strict=True):
        # Mirrored, position -1 is 1 and position size is size - 2.
        start = min(first, 2 * size - 1 - last) if last > size else first
        stop = max(last, 1 - first) if first < 0 else last
        spans.append((max(start, 0), min(stop, size)))
    (top, bottom), (left, right) = spans
    return Box(start=(top, left), stop=(bottom, right))


def read_window(
    fill: Callable[[Box, NDArray[Any]], object], window: Box, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Read a window that may reach outside the image.

    Parameters
    ----------
    fill : callable
        Puts the pixels of a box inside the image into an array of (..., y, x).
    window : Box
        What is wanted, of any size and place.
    shape : (..., Y, X)
        Of the image.
    dtype : numpy dtype
        Of the image.

    Returns
    -------
    (..., y, x) array
        The reflection is iterated where the image is smaller than the margin.

    Notes
    -----
    Pixels are read to where they stay, and only the margins are copied once more.
    """
    height, width = shape[-2:]
    inside = source_box(window, (height, width))
    # What is mirrored may lie outside the window where it is small or the image is.
    top, left = map(min, window.start, inside.start)
    bottom, right = map(max, window.stop, inside.stop)
    canvas = np.empty((*shape[:-2], bottom - top, right - left), dtype)
    rows, columns = inside.relative_to((top, left)).slices
    fill(inside, canvas[..., rows, columns])
    _fill_margins(canvas[..., rows, :], left, width)
    _fill_margins(canvas.swapaxes(-1, -2), top, height)
    return canvas[(..., *window.relative_to((top, left)).slices)]


def _fill_margins(lines: NDArray[Any], first: int, size: int) -> None:
    """Mirror lines whose pixels are counted from `first` into what they have outside of [0, size)."""
    last = first + lines.shape[-1]
    for margin in (range(first, min(0, last)), range(max(size, first), last)):
        if margin:
            source = [mirror(position, size) - first for position in margin]
            lines[..., margin.start - first : margin.stop - first] = lines[..., source]


def window_of(image: NDArray[Any], window: Box) -> NDArray[Any]:
    """A window of an image in memory, as `read_window` gives it.

    Parameters
    ----------
    image : (..., Y, X) array
        The image.
    window : Box
        What is wanted, of any size and place.

    Examples
    --------
    >>> window_of(np.array([[1, 2, 3]]), Box(start=(0, -2), stop=(1, 5))).tolist()
    [[3, 2, 1, 2, 3, 2, 1]]
    """

    def fill(box: Box, out: NDArray[Any]) -> None:
        out[...] = image[(..., *box.slices)]

    return read_window(fill, window, image.shape, image.dtype)

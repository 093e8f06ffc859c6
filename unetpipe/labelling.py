"""Connected components of one core: neighbouring pixels of equal value."""

from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from unetpipe.errors import ConfigError

__all__ = ["Connectivity", "check_connectivity", "label_core"]

Connectivity = Literal[4, 8]


def label_core(values: NDArray[Any], *, connectivity: Connectivity) -> tuple[NDArray[np.uint32], int]:
    """Label the connected components of one core: neighbours of equal value.

    Parameters
    ----------
    values : (Y, X) bool or unsigned integers
        Pixels of a class; or of several, or of instances, each with its own value; 0 is background.
    connectivity : 4 or 8
        Neighbours of a pixel: along the sides only, or across the corners too.

    Returns
    -------
    (Y, X) uint32, int
        Labels of this core, 1 to the count in raster order of their first pixels, 0 is background. The count.

    Raises
    ------
    ConfigError
        If the connectivity is neither 4 nor 8.

    Examples
    --------
    >>> label_core(np.eye(2, dtype=bool), connectivity=4)[1], label_core(np.eye(2, dtype=bool), connectivity=8)[1]
    (2, 1)
    >>> label_core(np.array([[1, 1, 2, 2]], np.uint8), connectivity=4)[0].tolist()
    [[1, 1, 2, 2]]
    """
    check_connectivity(connectivity)
    view = np.ascontiguousarray(values).view(np.uint8 if values.dtype == np.bool_ else values.dtype)
    view.flags.writeable = False  # the kernel is compiled for what is not to be changed
    labels, count = _labelled(view, connectivity == 8)
    return labels, int(count)


def check_connectivity(connectivity: int) -> None:
    """Refuse all but 4 and 8.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    if connectivity not in (4, 8):
        raise ConfigError(f"connectivity of {connectivity}: expected 4 (sides) or 8 (sides and corners)")


@njit(cache=True, nogil=True)
def _root(parents: NDArray[np.uint32], label: np.uint32) -> np.uint32:
    """The smallest label joined with `label`; halves the way there."""
    while parents[label] != label:
        parents[label] = parents[parents[label]]
        label = parents[label]
    return label


@njit(cache=True, nogil=True)
def _joint(parents: NDArray[np.uint32], one: np.uint32, other: np.uint32) -> np.uint32:
    """Join two labels, 0 standing for none; returns the smallest label they are joined with, or 0."""
    if one == 0 or other == 0 or one == other:
        return max(one, other)
    first, second = _root(parents, one), _root(parents, other)
    smallest = min(first, second)
    parents[max(first, second)] = smallest
    return smallest


@njit(cache=True, nogil=True)
def _labelled(values: NDArray[Any], diagonal: bool) -> tuple[NDArray[np.uint32], int]:
    """(Y, X) values -> (Y, X) labels in raster order, and their number."""
    height, width = values.shape
    labels, none = np.empty((height, width), np.uint32), np.uint32(0)
    parents = np.empty(height * ((width + 1) // 2) + 1, np.uint32)
    parents[0] = used = 0
    for y in range(height):
        row, out = values[y], labels[y]
        # The first row has none above: its own takes that place, and is never looked at.
        above, joined = values[y - 1 if y else 0], labels[y - 1 if y else 0]
        for x in range(width):
            value = row[x]
            if value == 0:
                out[x] = none
                continue
            left, up = x > 0 and row[x - 1] == value, y > 0 and above[x] == value
            corner = y > 0 and x > 0 and above[x - 1] == value
            label = out[x - 1] if left else none
            if not diagonal:
                # Both are one already where the corner between them is of this value, too.
                if up and not (left and corner):
                    label = _joint(parents, label, joined[x])
            elif up:
                # It touches all others before this pixel; without it, only the one to its right is apart.
                label = joined[x]
            else:
                right = y > 0 and x + 1 < width and above[x + 1] == value
                if corner and not left:
                    label = joined[x - 1]
                if right:
                    label = _joint(parents, label, joined[x + 1])
            if label == 0:
                used += 1
                parents[used] = used
                label = np.uint32(used)
            out[x] = label
    count = 0
    for label in range(1, used + 1):
        # Parents are smaller than their children, so they have their final number already.
        root = parents[label] == label
        count += root
        parents[label] = count if root else parents[parents[label]]
    flat = labels.ravel()
    for at in range(flat.size):
        flat[at] = parents[flat[at]]
    return labels, count

"""Basins joined to hills, from the highest pass between them to the lowest."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["highest_passes", "joined_hills", "ordered_passes"]


def ordered_passes(passes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Passes from the highest to the lowest.

    Parameters
    ----------
    passes : (P, 4) int64
        Two basins, height and number of each.

    Returns
    -------
    (P, 4) int64
        Equally high ones in the order of their numbers.
    """
    return passes[np.lexsort([passes[:, 3], -passes[:, 2]])]


def highest_passes(passes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of the passes between the same two basins, the highest, and of these the first.

    Parameters
    ----------
    passes : (P, 4) int64
        Two basins in any order, height and number of each.

    Returns
    -------
    (Q, 4) int64
        The same, the lower basin first.

    Examples
    --------
    >>> highest_passes(np.array([[1, 2, 5, 8], [2, 1, 7, 9], [1, 2, 7, 6]])).tolist()
    [[1, 2, 7, 6]]
    """
    passes = np.concatenate([np.sort(passes[:, :2], axis=1), passes[:, 2:]], axis=1)
    rows = passes[np.lexsort([passes[:, 3], -passes[:, 2], passes[:, 1], passes[:, 0]])]
    first = np.ones(len(rows), np.bool_)
    first[1:] = (rows[1:, :2] != rows[:-1, :2]).any(axis=1)
    return rows[first]


@njit(cache=True, nogil=True)
def joined_hills(
    passes: NDArray[np.int64],
    heights: NDArray[np.int64],
    tops: NDArray[np.int64],
    opened: NDArray[np.bool_],
    depth: int,
) -> NDArray[np.int64]:
    """Join two hills where the lower one rises less than a depth above the pass between them.

    Parameters
    ----------
    passes : (P, 4) int64
        From `ordered_passes`; basins 0 to B - 1.
    heights, tops : (B,) int64
        Height of each basin's top and its place, a raster index.
    opened : (B,) bool
        Basins that lead on to what is not known here; changed in place.
    depth : int
        In steps of height.

    Returns
    -------
    (B,) int64
        For each basin the highest one of its hill.

    Notes
    -----
    Of equally high basins, the one whose top comes first counts as the higher one. An open basin is at least as high
    as it seems. Where that leaves open which of two is the lower one, or whether the lower one has met a still higher
    pass outside, nothing is joined, and both are open from then on: who knew more would join what is joined here.

    Examples
    --------
    Basins of height 9, 5 and 7 in a row, the passes between them at 4 and 3:

    >>> rows, heights, tops = np.array([[0, 1, 4, 0], [1, 2, 3, 1]]), np.array([9, 5, 7]), np.array([0, 1, 2])
    >>> [joined_hills(rows, heights, tops, np.zeros(3, np.bool_), depth).tolist() for depth in (1, 2, 5)]
    [[0, 1, 2], [0, 0, 2], [0, 0, 0]]
    """
    hills = np.arange(len(heights))
    for row in range(len(passes)):
        one, other = passes[row, 0], passes[row, 1]
        while hills[one] != one:
            hills[one] = hills[hills[one]]
            one = hills[one]
        while hills[other] != other:
            hills[other] = hills[hills[other]]
            other = hills[other]
        if one == other:
            continue
        if heights[one] < heights[other] or (heights[one] == heights[other] and tops[one] > tops[other]):
            one, other = other, one
        if opened[other] or (opened[one] and heights[one] == heights[other]):
            opened[one] = opened[other] = True
        elif heights[other] - passes[row, 2] < depth:
            hills[other] = one
    for one in range(len(hills)):
        while hills[one] != hills[hills[one]]:
            hills[one] = hills[hills[one]]
    return hills

"""Metrics per pixel and per class, from a confusion table."""

import numpy as np
from numpy.typing import NDArray

from unetpipe.metrics.scores import Score, ratio

__all__ = ["dice", "iou", "pixel_error"]


def pixel_error(table: NDArray[np.int64]) -> Score:
    """Share of pixels whose class is wrong.

    Parameters
    ----------
    table : (K, K) int64
        Pixels by true class (row) and predicted class (column), summed over all that is scored.

    Returns
    -------
    Score
        In [0, 1]; n is the number of pixels; not defined for none.

    Notes
    -----
    1 - trace / sum, which at a threshold of one half is the pixel error of the ISBI 2012 challenge.

    References
    ----------
    Arganda-Carreras et al. 2015, doi:10.3389/fnana.2015.00142.

    Examples
    --------
    >>> pixel_error(np.array([[6, 1], [1, 2]])).value
    0.2
    """
    n = int(table.sum())
    return ratio(n - int(table.trace()), n, n=n)


def iou(table: NDArray[np.int64]) -> tuple[Score, ...]:
    """Intersection over union (Jaccard index) of each class.

    Parameters
    ----------
    table : (K, K) int64
        Pixels by true class (row) and predicted class (column), summed over all that is scored.

    Returns
    -------
    K Scores
        In [0, 1]; n is the union in pixels. 0 for a class that is predicted but nowhere true; not defined for one that
        is neither.

    Notes
    -----
    TP / (TP + FP + FN).

    Examples
    --------
    >>> [score.value for score in iou(np.array([[6, 1, 0], [1, 2, 0], [0, 0, 0]]))]
    [0.75, 0.5, nan]
    """
    return tuple(ratio(hit, union, n=union) for hit, union in _hits_and_unions(table))


def dice(table: NDArray[np.int64]) -> tuple[Score, ...]:
    """Dice coefficient (F1 of the pixels) of each class.

    Parameters
    ----------
    table : (K, K) int64
        Pixels by true class (row) and predicted class (column), summed over all that is scored.

    Returns
    -------
    K Scores
        In [0, 1]; n is the union in pixels. 0 for a class that is predicted but nowhere true; not defined for one that
        is neither.

    Notes
    -----
    2 TP / (2 TP + FP + FN).

    Examples
    --------
    >>> [round(score.value, 4) for score in dice(np.array([[6, 1], [1, 2]]))]
    [0.8571, 0.6667]
    """
    return tuple(ratio(2 * hit, hit + union, n=union) for hit, union in _hits_and_unions(table))


def _hits_and_unions(table: NDArray[np.int64]) -> list[tuple[int, int]]:
    """(K, K) -> TP and TP + FP + FN of each class."""
    hits = table.diagonal()
    unions = table.sum(axis=0) + table.sum(axis=1) - hits
    return list(zip(hits.tolist(), unions.tolist(), strict=True))

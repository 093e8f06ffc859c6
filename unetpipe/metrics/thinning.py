"""Segmentations scored by topology: borders are thinned before the count, at a series of thresholds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from unetpipe.errors import AnnotationError, ConfigError
from unetpipe.labelling import label_core
from unetpipe.metrics.scores import Score
from unetpipe.metrics.tables import Contingency, contingency, merged

__all__ = ["THRESHOLDS", "BestScore", "best", "thin_tables", "thinned"]

THRESHOLDS = tuple(step / 10 for step in range(11))


def thinned(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Label the components of a mask after growing them until only a thin line is left between them.

    Parameters
    ----------
    mask : (Y, X) bool
        Foreground: inside of objects, not their borders.

    Returns
    -------
    (Y, X) uint32
        One 4-connected region per 4-connected component of the mask, numbered in raster order. No two regions touch
        along a side: the lines between them are 0 and 1 px thick, a little more where many meet. All 0 for an empty
        mask; a single component fills the image.

    Notes
    -----
    A watershed over the rest of the image at equal height, with the components as seeds: all grow by one pixel at a
    time, first come, first served in raster order, and a pixel that two of them reach becomes line. So a border of even
    thickness gives one row more to one side, and stumps of border that part nothing vanish. O(pixels) time, 20 bytes
    per pixel of memory for the whole image, more where components are many.

    References
    ----------
    Arganda-Carreras et al. 2015, doi:10.3389/fnana.2015.00142.

    Examples
    --------
    >>> thinned(np.array([[1, 0, 0, 0, 0, 0, 1]], bool)).tolist()
    [[1, 1, 1, 0, 2, 2, 2]]
    """
    return _grown(label_core(mask, connectivity=4)[0])


def thin_tables(
    truth_labels: NDArray[np.uint32],
    foreground_probability: NDArray[np.floating],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    valid: NDArray[np.bool_] | None = None,
    core_px: int = 1024,
) -> tuple[Contingency, ...]:
    """Tables of the true objects against the thinned prediction, one per threshold.

    Parameters
    ----------
    truth_labels : (Y, X) uint32
        Instance labels, 0 is background (the borders between objects).
    foreground_probability : (Y, X) floating
        Probability of the inside of objects, 0 to 1; a pixel is foreground strictly above the threshold.
    thresholds : sequence of float
        0, 0.1 ... 1 where not given.
    valid : (Y, X) bool, optional
        Pixels to count; all where not given. Borders are thinned with the others in sight.
    core_px : int
        Side of the cores whose pixels are counted one by one, and summed; it changes no table. Borders are thinned in
        the whole image, for how far a region grows depends on all others, however far away.

    Returns
    -------
    tuple of Contingency
        One per threshold, in order.

    Raises
    ------
    AnnotationError
        If shapes differ.

    Notes
    -----
    Two ways to the V^Rand after thinning of a data set, `sweeps` holding the tables of each image (or slice):

    - images averaged, as the ISBI 2012 challenge does with its slices:
      `best([macro_mean(v_rand(t).f for t in tables) for tables in zip(*sweeps)], thresholds)`;
    - images pooled into one: `best([v_rand(pooled(tables)).f for tables in zip(*sweeps)], thresholds)`.

    References
    ----------
    Arganda-Carreras et al. 2015, doi:10.3389/fnana.2015.00142.

    Examples
    --------
    >>> truth = np.array([[1, 1, 0, 2, 2]], np.uint32)
    >>> tables = thin_tables(truth, np.array([[0.9, 0.4, 0.4, 0.4, 0.9]]), thresholds=(0.3, 0.5))
    >>> [table.prediction_id.tolist() for table in tables]
    [[1, 1, 1], [0, 1, 2]]
    """
    if truth_labels.shape != foreground_probability.shape:
        raise AnnotationError(
            f"truth of {truth_labels.shape} px and probability of {foreground_probability.shape} px: expected equal "
            "shapes; read both at the same level and from the same box"
        )
    cores = _cores(truth_labels.shape, core_px)

    def table(regions: NDArray[np.uint32]) -> Contingency:
        masks = [None if valid is None else valid[core] for core in cores]
        return merged(
            contingency(truth_labels[core], regions[core], valid=mask) for core, mask in zip(cores, masks, strict=True)
        )

    return tuple(table(thinned(foreground_probability > threshold)) for threshold in thresholds)


def _cores(shape: tuple[int, ...], side: int) -> list[tuple[slice, slice]]:
    """Squares of a side that cover a (Y, X) image."""
    ys, xs = ([slice(start, start + side) for start in range(0, size, side)] for size in shape)
    return [(y, x) for y in ys for x in xs]


@dataclass(frozen=True, slots=True, kw_only=True)
class BestScore:
    """The best of a series of scores.

    Parameters
    ----------
    threshold : float
        Where it was reached.
    score : Score
        Its value.
    """

    threshold: float
    score: Score


def best(scores: Sequence[Score], thresholds: Sequence[float] = THRESHOLDS) -> BestScore:
    """The highest of the scores at a series of thresholds.

    Parameters
    ----------
    scores, thresholds : sequence
        Of equal length, at least 1. Scores that are not defined lose against any other; ties go to the first.

    Returns
    -------
    BestScore

    Raises
    ------
    ConfigError
        If the lengths differ or are 0.

    Examples
    --------
    >>> from unetpipe.metrics.scores import ratio
    >>> best([ratio(1, 4, n=4), ratio(3, 4, n=4)], (0.3, 0.5)).threshold
    0.5
    """
    if len(scores) != len(thresholds) or not scores:
        raise ConfigError(f"{len(scores)} scores at {len(thresholds)} thresholds: expected one each, at least one")
    index = max(range(len(scores)), key=lambda at: scores[at].value if scores[at].defined else -np.inf)
    return BestScore(threshold=thresholds[index], score=scores[index])


@njit(cache=True, nogil=True)
def _grown(seeds: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """(Y, X) seeds -> (Y, X) regions around them, 0 on the lines between."""
    labels, seen = seeds.copy(), seeds != 0
    queue, end = np.empty(seeds.size, np.int64), 0
    for y in range(seeds.shape[0]):
        for x in range(seeds.shape[1]):
            if seeds[y, x]:
                end = _queued(seen, queue, end, y, x)
    for start in range(seeds.size):
        if start == end:
            break
        y, x = divmod(queue[start], seeds.shape[1])
        labels[y, x] = _only_label(labels, y, x)
        if labels[y, x]:
            end = _queued(seen, queue, end, y, x)
    return labels


@njit(cache=True, nogil=True)
def _queued(seen: NDArray[np.bool_], queue: NDArray[np.int64], end: int, y: int, x: int) -> int:
    """Put the neighbours of (y, x) that nobody has seen into the queue; its new end."""
    height, width = seen.shape
    for v, u in ((y - 1, x), (y, x - 1), (y, x + 1), (y + 1, x)):
        if 0 <= v < height and 0 <= u < width and not seen[v, u]:
            seen[v, u] = True
            queue[end] = v * width + u
            end += 1
    return end


@njit(cache=True, nogil=True)
def _only_label(labels: NDArray[np.uint32], y: int, x: int) -> np.uint32:
    """The label that all labelled neighbours of (y, x) have; 0 if they differ."""
    height, width = labels.shape
    only = np.uint32(0)
    for v, u in ((y - 1, x), (y, x - 1), (y, x + 1), (y + 1, x)):
        if 0 <= v < height and 0 <= u < width and labels[v, u]:
            if only and only != labels[v, u]:
                return np.uint32(0)
            only = labels[v, u]
    return only

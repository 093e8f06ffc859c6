"""Thresholds of classes, chosen on images whose truth is known."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.metrics.scores import Score, ratio
from unetpipe.specs import IGNORE

__all__ = ["best_threshold", "probability_counts"]

_HUNDREDTHS = range(1, 100)


def probability_counts(probabilities: NDArray[Any], classes: NDArray[np.uint8], *, full: int) -> NDArray[np.int64]:
    """Count the pixels of each stored probability, in each class and outside it.

    Parameters
    ----------
    probabilities : (K, Y, X) unsigned integers
        Of the classes, as they are stored, 0 to `full`.
    classes : (Y, X) uint8
        The truth; 255 is ignored.
    full : int
        Stored value of probability 1.

    Returns
    -------
    (K, 2, full + 1) int64
        Of each class: pixels outside it and pixels of it, by the probability of the class. Counts of several images
        are added up.

    Examples
    --------
    >>> pixels = np.array([[[3, 1, 0]], [[0, 2, 3]]], np.uint16)
    >>> probability_counts(pixels, np.array([[0, 1, 255]], np.uint8), full=3)[1].tolist()
    [[1, 0, 0, 0], [0, 0, 1, 0]]
    """
    valid = classes != IGNORE
    truth = classes[valid]
    counts = np.empty((len(probabilities), 2, full + 1), np.int64)
    for index, stored in enumerate(probabilities):
        own = stored[valid].astype(np.int64) + (full + 1) * (truth == index)
        counts[index] = np.bincount(own, minlength=2 * (full + 1)).reshape(2, -1)
    return counts


def best_threshold(counts: NDArray[np.int64]) -> tuple[float | None, Score]:
    """The threshold at which the pixels that reach it fit a class best.

    Parameters
    ----------
    counts : (2, full + 1) int64
        Of one class, from `probability_counts`.

    Returns
    -------
    float or None, Score
        One of 0.01, 0.02 ... 0.99, and Dice's coefficient there, which rests on the class's pixels; None where the
        truth has no pixel of the class.

    Notes
    -----
    A pixel reaches threshold t from round(t full) on, as in `decided`. Dice = 2 TP / (P + T) with T pixels of the
    class, P that reach t, and TP that are both. Of equally good thresholds, the nearest to 0.5, and of these the lower.

    References
    ----------
    Dice 1945, doi:10.2307/1932409.

    Examples
    --------
    Pixels of the class at 0.4 and 0.6, others at 0.1 and 0.3: 0.4 and all thresholds down to 0.31 divide them.

    >>> counts = np.zeros((2, 101), int)
    >>> counts[0, [10, 30]] = counts[1, [40, 60]] = 1
    >>> best_threshold(counts)
    (0.4, Score(value=1.0, n=2, defined=True))
    """
    full, wanted = counts.shape[1] - 1, int(counts[1].sum())
    if wanted == 0:
        return None, ratio(0, 0, n=0)
    reaching = counts[:, ::-1].cumsum(axis=1)[:, ::-1]

    def dice(threshold: float) -> Score:
        others, hits = (int(n) for n in reaching[:, max(1, round(threshold * full))])
        return ratio(2 * hits, hits + others + wanted, n=wanted)

    thresholds = [hundredth / 100 for hundredth in _HUNDREDTHS]
    # Counted in hundredths: in fractions, 0.4 and 0.6 would not be equally near to 0.5.
    best = max(thresholds, key=lambda t: (dice(t).value, -abs(round(100 * t) - 50), -t))
    return best, dice(best)

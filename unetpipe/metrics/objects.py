"""Object by object: which true objects were found, from contingency tables only."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from unetpipe.errors import ConfigError
from unetpipe.metrics.scores import Score, ratio
from unetpipe.metrics.tables import Contingency, sums_by_id

__all__ = ["MatchCounts", "SegSum", "f1", "match_counts", "seg", "seg_sum"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchCounts:
    """Objects found, invented and missed; the counts of several images are added.

    Parameters
    ----------
    true_positives, false_positives, false_negatives : int
        Objects.

    Examples
    --------
    >>> one = MatchCounts(true_positives=3, false_positives=1, false_negatives=0)
    >>> one + one
    MatchCounts(true_positives=6, false_positives=2, false_negatives=0)
    """

    true_positives: int
    false_positives: int
    false_negatives: int

    def __post_init__(self) -> None:
        if min(self.true_positives, self.false_positives, self.false_negatives) < 0:
            raise ConfigError(f"negative number of objects in {self}: expected counts; build it with match_counts()")

    def __add__(self, other: "MatchCounts") -> "MatchCounts":
        return MatchCounts(
            true_positives=self.true_positives + other.true_positives,
            false_positives=self.false_positives + other.false_positives,
            false_negatives=self.false_negatives + other.false_negatives,
        )


def match_counts(table: Contingency, *, iou: float = 0.5) -> MatchCounts:
    """Count the objects found at an intersection over union above a threshold.

    Parameters
    ----------
    table : Contingency
        Of one whole image: objects that lie in several cores must have met in one table before.
    iou : float
        Threshold, 0.5 <= iou < 1; a pair matches strictly above it.

    Returns
    -------
    MatchCounts

    Raises
    ------
    ConfigError
        If the threshold is outside 0.5 to 1, where a match would not be unique.

    Notes
    -----
    Tie: a pair at exactly the threshold does *not* match. Only so is the match unique without an assignment problem
    (an object cut in half has two halves of IoU 1/2). Implementations that count >= differ on many small objects. The
    comparison is between integers, so a tie is a tie: the threshold is taken as the fraction with the smallest
    denominator up to 10^6. O(pairs) time and memory.

    Examples
    --------
    Object 1 is found (2 of 3 px), object 2 is halved (1 of 2 px: a tie), so 3 predictions make 1 match.

    >>> from unetpipe.metrics.tables import contingency
    >>> truth = np.array([[1, 1, 1, 2, 2]], np.uint32)
    >>> match_counts(contingency(truth, np.array([[1, 1, 0, 2, 3]], np.uint32)))
    MatchCounts(true_positives=1, false_positives=2, false_negatives=1)
    """
    if not 0.5 <= iou < 1:
        raise ConfigError(f"IoU threshold of {iou}: expected 0.5 <= iou < 1; below 0.5 a match is not unique")
    pairs = _pairs(table)
    least = Fraction(iou).limit_denominator(10**6)
    found = int(np.count_nonzero(pairs.shared * least.denominator > pairs.union * least.numerator))
    return MatchCounts(
        true_positives=found, false_positives=pairs.n_predicted - found, false_negatives=pairs.n_true - found
    )


def f1(counts: MatchCounts) -> Score:
    """F1 of the objects.

    Parameters
    ----------
    counts : MatchCounts
        Of one image, or the sum over several.

    Returns
    -------
    Score
        In [0, 1]; n is TP + FP + FN; not defined where there is no object at all.

    Notes
    -----
    2 TP / (2 TP + FP + FN).

    Examples
    --------
    >>> f1(MatchCounts(true_positives=2, false_positives=1, false_negatives=1)).value
    0.6666666666666666
    """
    n = counts.true_positives + counts.false_positives + counts.false_negatives
    return ratio(2 * counts.true_positives, counts.true_positives + n, n=n)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegSum:
    """What SEG is the quotient of; the sums of several images are added.

    Parameters
    ----------
    jaccard : float
        Sum of the Jaccard indices of the true objects, 0 for those not found.
    n : int
        True objects.

    Examples
    --------
    >>> SegSum(jaccard=0.5, n=1) + SegSum(jaccard=1.0, n=3)
    SegSum(jaccard=1.5, n=4)
    """

    jaccard: float
    n: int

    def __post_init__(self) -> None:
        if not 0 <= self.jaccard <= self.n:
            raise ConfigError(f"Jaccard sum of {self.jaccard} over {self.n} objects: expected 0 to n; use seg_sum()")

    def __add__(self, other: "SegSum") -> "SegSum":
        return SegSum(jaccard=self.jaccard + other.jaccard, n=self.n + other.n)


def seg_sum(table: Contingency) -> SegSum:
    """Sum of the Jaccard indices of the true objects with the predictions that hold more than half of them.

    Parameters
    ----------
    table : Contingency
        Of one whole image.

    Returns
    -------
    SegSum

    Notes
    -----
    A true object R is found by the prediction S with |R n S| > |R| / 2, strictly, so there is at most one; it then adds
    |R n S| / |R u S|, otherwise 0. One prediction may find several objects; superfluous predictions cost nothing.

    References
    ----------
    Maska et al. 2014, doi:10.1093/bioinformatics/btu080.

    Examples
    --------
    Of 3 px, 2 are found, so 2/3; of 2 px, 1 is: not more than half.

    >>> from unetpipe.metrics.tables import contingency
    >>> truth = np.array([[1, 1, 1, 2, 2]], np.uint32)
    >>> seg_sum(contingency(truth, np.array([[1, 1, 0, 2, 3]], np.uint32)))
    SegSum(jaccard=0.6666666666666666, n=2)
    """
    pairs = _pairs(table)
    found = 2 * pairs.shared > pairs.true
    return SegSum(jaccard=math.fsum((pairs.shared[found] / pairs.union[found]).tolist()), n=pairs.n_true)


def seg(sums: SegSum) -> Score:
    """Segmentation accuracy SEG of the Cell Tracking Challenge.

    Parameters
    ----------
    sums : SegSum
        Of one image, or the sum over several.

    Returns
    -------
    Score
        In [0, 1]; n is the number of true objects; not defined for none.

    References
    ----------
    Maska et al. 2014, doi:10.1093/bioinformatics/btu080.

    Examples
    --------
    >>> seg(SegSum(jaccard=1.5, n=2)).value
    0.75
    """
    return ratio(sums.jaccard, sums.n, n=sums.n)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pairs:
    """Pairs of a true and a predicted object: (N,) int64 pixels shared, in the true one, in either; objects in all."""

    shared: NDArray[np.int64]
    true: NDArray[np.int64]
    union: NDArray[np.int64]
    n_true: int
    n_predicted: int


def _pairs(table: Contingency) -> _Pairs:
    """The pairs of a table without background; areas are whole, background included."""
    true_ids, true_areas = sums_by_id(table.truth_id, table.count)
    predicted_ids, predicted_areas = sums_by_id(table.prediction_id, table.count)
    both = (table.truth_id != 0) & (table.prediction_id != 0)
    shared = table.count[both]
    true = true_areas[np.searchsorted(true_ids, table.truth_id[both])]
    predicted = predicted_areas[np.searchsorted(predicted_ids, table.prediction_id[both])]
    return _Pairs(
        shared=shared,
        true=true,
        union=true + predicted - shared,
        n_true=int(np.count_nonzero(true_ids)),
        n_predicted=int(np.count_nonzero(predicted_ids)),
    )

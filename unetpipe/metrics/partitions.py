"""Agreement of two partitions of the foreground: V^Rand and V^Info with their split and merge parts."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unetpipe.errors import ConfigError
from unetpipe.metrics.scores import Score, ratio
from unetpipe.metrics.tables import Contingency, sums_by_id

__all__ = ["PartitionScores", "v_info", "v_rand"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionScores:
    """How well a predicted partition agrees with the true one.

    Parameters
    ----------
    split : Score
        1 where no true object is cut into several.
    merge : Score
        1 where no predicted object joins several true ones.
    f : Score
        Their weighted harmonic mean.
    """

    split: Score
    merge: Score
    f: Score


def v_rand(table: Contingency, *, alpha: float = 0.5) -> PartitionScores:
    """Foreground-restricted Rand score V^Rand.

    Parameters
    ----------
    table : Contingency
        Of one image, or of several by `pooled`.
    alpha : float
        Weight of the merge part in F, 0 to 1.

    Returns
    -------
    PartitionScores
        Values in [0, 1], n is the number of true foreground pixels; not defined where there are none.

    Raises
    ------
    ConfigError
        If alpha is outside 0 to 1.

    Notes
    -----
    Only pixels with a true label other than 0 count. Those predicted as background are objects of one pixel each
    (treated as one segment, they would seem to merge everything, and an empty prediction could score perfectly).
    With n_ij pixels shared by true object i and predicted object j, and n_i0 predicted as background,

        A = sum_ij n_ij^2 + sum_i n_i0          both objects the same, for ordered pairs of pixels
        S = sum_j (sum_i n_ij)^2 + sum_i n_i0   predicted objects the same
        T = sum_i (sum_j n_ij + n_i0)^2         true objects the same

    split = A / T, merge = A / S, F = A / (alpha S + (1 - alpha) T). A, S and T are exact integers. The adapted Rand
    error is 1 - F at alpha = 0.5. A pixel is paired with itself too, which some implementations leave out.

    References
    ----------
    Arganda-Carreras et al. 2015, doi:10.3389/fnana.2015.00142.

    Examples
    --------
    Two of 100 equal objects merged: A = 100, S = 98 + 2^2 = 102, T = 100.

    >>> from unetpipe.metrics.tables import contingency
    >>> truth = np.arange(1, 101, dtype=np.uint32).reshape(1, 100)
    >>> scores = v_rand(contingency(truth, np.minimum(truth, 99)))
    >>> scores.split.value, round(scores.merge.value, 4), round(1 - scores.f.value, 6)
    (1.0, 0.9804, 0.009901)
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha of {alpha} in V^Rand: expected 0 (split only counts) to 1 (merge only counts)")
    parts = _foreground(table)
    agreed = _sum_of_squares(parts.joint) + parts.singles
    predicted = _sum_of_squares(parts.predicted) + parts.singles
    true = _sum_of_squares(parts.true)
    return PartitionScores(
        split=ratio(agreed, true, n=parts.n),
        merge=ratio(agreed, predicted, n=parts.n),
        f=ratio(agreed, alpha * predicted + (1 - alpha) * true, n=parts.n),
    )


def v_info(table: Contingency) -> PartitionScores:
    """Foreground-restricted information score V^Info.

    Parameters
    ----------
    table : Contingency
        Of one image, or of several by `pooled`.

    Returns
    -------
    PartitionScores
        Values in [0, 1], n is the number of true foreground pixels. A part whose entropy is zero is not defined: merge
        where there is at most one true object, split where there is at most one predicted, F where both hold.

    Notes
    -----
    Pixels are chosen as in `v_rand`, and those predicted as background are objects of one pixel here too. With the
    entropies H(S) of the predicted and H(T) of the true partition and their mutual information I,
    split = I / H(S), merge = I / H(T), F = 2 I / (H(S) + H(T)).

    Entropies are taken n-fold, n log n - sum c log c over the pixels c of each object, so that objects of one pixel
    add nothing; sums are rounded once, so that ids and their order do not matter and a perfect match is exactly 1.

    References
    ----------
    Arganda-Carreras et al. 2015, doi:10.3389/fnana.2015.00142.

    Examples
    --------
    Two true objects, one cut in half: H(T) = log 2, H(S) = 1.5 log 2, I = H(T).

    >>> from unetpipe.metrics.tables import contingency
    >>> truth = np.array([[1, 1, 2, 2]], np.uint32)
    >>> scores = v_info(contingency(truth, np.array([[1, 1, 2, 3]], np.uint32)))
    >>> round(scores.split.value, 4), scores.merge.value, round(scores.f.value, 4)
    (0.6667, 1.0, 0.8)
    """
    parts = _foreground(table)
    whole = _logs(np.array([parts.n]))
    joint, predicted, true = (_logs(sizes) for sizes in (parts.joint, parts.predicted, parts.true))
    predicted_entropy = _rounded_sum(whole, predicted) if parts.predicted.size + parts.singles > 1 else 0.0
    true_entropy = _rounded_sum(whole, true) if parts.true.size > 1 else 0.0
    shared = 0.0
    if predicted_entropy and true_entropy:
        shared = min(max(_rounded_sum(whole + joint, predicted + true), 0.0), predicted_entropy, true_entropy)
    return PartitionScores(
        split=ratio(shared, predicted_entropy, n=parts.n),
        merge=ratio(shared, true_entropy, n=parts.n),
        f=ratio(2 * shared, predicted_entropy + true_entropy, n=parts.n),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Foreground:
    """Pixels per pair, per predicted and per true object inside the true foreground; n in all, singles predicted 0."""

    joint: NDArray[np.int64]
    predicted: NDArray[np.int64]
    true: NDArray[np.int64]
    singles: int
    n: int


def _foreground(table: Contingency) -> _Foreground:
    """The part of a table inside the true foreground."""
    inside = table.truth_id != 0
    found = inside & (table.prediction_id != 0)
    return _Foreground(
        joint=table.count[found],
        predicted=sums_by_id(table.prediction_id[found], table.count[found])[1],
        true=sums_by_id(table.truth_id[inside], table.count[inside])[1],
        singles=int(table.count[inside].sum() - table.count[found].sum()),
        n=int(table.count[inside].sum()),
    )


def _sum_of_squares(counts: NDArray[np.int64]) -> int:
    """(N,) -> exact sum; int64 would overflow from 3e9 pixels on."""
    return sum(count * count for count in counts.tolist())


def _logs(counts: NDArray[np.int64]) -> list[float]:
    """(N,) -> c log c of each count; 0 log 0 is 0."""
    return [count * math.log(count) if count else 0.0 for count in counts.tolist()]


def _rounded_sum(plus: list[float], minus: list[float]) -> float:
    """Sum of `plus` less sum of `minus`, rounded once."""
    return math.fsum(plus + [-value for value in minus])

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from unetpipe.errors import ConfigError
from unetpipe.metrics.objects import MatchCounts, SegSum, f1, match_counts, seg, seg_sum
from unetpipe.metrics.tables import contingency, merged, pooled

Labels = NDArray[np.uint32]


def _row(*labels: int) -> Labels:
    return np.array([labels], np.uint32)


def _counts(true_positives: int, false_positives: int, false_negatives: int) -> MatchCounts:
    return MatchCounts(true_positives=true_positives, false_positives=false_positives, false_negatives=false_negatives)


def _overlaps(truth: Labels, prediction: Labels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Dense IoU, and share of the true object, of each pair of objects, from boolean masks."""
    iou = np.zeros((np.unique(truth[truth > 0]).size, np.unique(prediction[prediction > 0]).size))
    share = np.zeros_like(iou)
    for i, t in enumerate(np.unique(truth[truth > 0])):
        for j, p in enumerate(np.unique(prediction[prediction > 0])):
            shared = np.count_nonzero((truth == t) & (prediction == p))
            iou[i, j] = shared / np.count_nonzero((truth == t) | (prediction == p))
            share[i, j] = shared / np.count_nonzero(truth == t)
    return iou, share


def test_a_pair_at_exactly_one_half_does_not_match() -> None:
    assert match_counts(contingency(_row(1, 1, 0), _row(1, 0, 0))) == _counts(0, 1, 1)
    assert match_counts(contingency(_row(1, 1, 1), _row(1, 1, 0))) == _counts(1, 0, 0)
    # Seven of ten at 0.7, which no binary fraction is.
    seven = contingency(_row(*[1] * 10), _row(*[1] * 7, *[0] * 3))
    assert match_counts(seven, iou=0.7) == _counts(0, 1, 1)
    assert match_counts(seven, iou=0.69) == _counts(1, 0, 0)


def test_areas_count_outside_the_other_object_too() -> None:
    # The prediction covers the object but is three times as large: IoU 1/3, and SEG counts the same.
    table = contingency(_row(0, 1, 1, 0, 0, 0), _row(5, 5, 5, 5, 5, 5))
    assert match_counts(table) == _counts(0, 1, 1)
    assert seg_sum(table) == SegSum(jaccard=1 / 3, n=1)


def test_one_prediction_may_find_two_objects_in_seg_but_not_in_f1() -> None:
    table = contingency(_row(1, 1, 2), _row(3, 3, 3))
    assert seg_sum(table).jaccard == pytest.approx(2 / 3 + 1 / 3, abs=1e-15)
    assert match_counts(table) == _counts(1, 0, 1)


def test_seg_needs_strictly_more_than_half() -> None:
    assert seg(seg_sum(contingency(_row(1, 1), _row(1, 0)))).value == 0
    assert seg(seg_sum(contingency(_row(1, 1, 1), _row(1, 1, 0)))).value == 2 / 3


def test_no_objects_at_all() -> None:
    nothing, something = _row(0, 0), _row(1, 0)
    for table in (contingency(nothing, nothing), merged([])):
        assert not f1(match_counts(table)).defined and not seg(seg_sum(table)).defined
    invented = contingency(nothing, something)
    assert f1(match_counts(invented)).value == 0 and not seg(seg_sum(invented)).defined
    missed = contingency(something, nothing)
    assert f1(match_counts(missed)).value == 0 and seg(seg_sum(missed)).value == 0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), iou=st.sampled_from([0.5, 0.6, 0.75]), shift=st.integers(0, 2))
def test_equal_to_an_optimal_assignment(seed: int, iou: float, shift: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(0, 5, (4, 4)), np.ones((3, 4), int)).astype(np.uint32)
    prediction = np.roll(np.where(rng.random(truth.shape) < 0.1, 0, truth), shift, axis=1).astype(np.uint32)
    overlap, share = _overlaps(truth, prediction)
    matches = overlap > iou
    found = int(matches[linear_sum_assignment(matches, maximize=True)].sum())
    table = contingency(truth, prediction)
    assert match_counts(table, iou=iou) == _counts(found, overlap.shape[1] - found, overlap.shape[0] - found)
    assert seg_sum(table).jaccard == pytest.approx(overlap[share > 0.5].sum(), abs=1e-12)
    assert seg_sum(table).n == overlap.shape[0]


def test_counts_of_images_add_up_like_their_pooled_table() -> None:
    tables = [
        contingency(
            *(np.kron(np.random.default_rng(seed).integers(0, 4, (2, 5, 5)), np.ones((1, 2, 2))).astype(np.uint32))
        )
        for seed in range(3)
    ]
    both = pooled(tables)
    a, b, c = (match_counts(table) for table in tables)
    assert a + b + c == match_counts(both)
    x, y, z = (seg_sum(table) for table in tables)
    assert (x + y + z).n == seg_sum(both).n
    assert (x + y + z).jaccard == pytest.approx(seg_sum(both).jaccard, rel=1e-14)


def test_values_are_checked() -> None:
    with pytest.raises(ConfigError, match="negative"):
        _counts(-1, 0, 0)
    for jaccard in (-0.1, 2.0, math.nan):
        with pytest.raises(ConfigError, match="Jaccard"):
            SegSum(jaccard=jaccard, n=1)
    for threshold in (0.49, 1.0, math.nan):
        with pytest.raises(ConfigError, match="not unique"):
            match_counts(merged([]), iou=threshold)

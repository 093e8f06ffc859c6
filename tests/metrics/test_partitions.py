import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.metrics import adapted_rand_error

from unetpipe.errors import ConfigError
from unetpipe.metrics.partitions import PartitionScores, v_info, v_rand
from unetpipe.metrics.tables import contingency, merged, pooled

Labels = NDArray[np.uint32]


def _cells(side: int = 20, count: int = 10) -> Labels:
    """count x count square cells with a border of 1 px around each."""
    labels = np.zeros((count * (side + 1) + 1,) * 2, np.uint32)
    for cell in range(count * count):
        y, x = (1 + (side + 1) * place for place in divmod(cell, count))
        labels[y : y + side, x : x + side] = cell + 1
    return labels


def _values(scores: PartitionScores) -> tuple[float, float, float]:
    return scores.split.value, scores.merge.value, scores.f.value


def _joint_probabilities(truth: Labels, prediction: Labels) -> NDArray[np.float64]:
    """Dense p_ij inside the true foreground, each pixel predicted 0 getting a column of its own."""
    t, s = truth[truth != 0].astype(np.int64), prediction[truth != 0].astype(np.int64)
    s[s == 0] = -np.arange(1, np.count_nonzero(s == 0) + 1)
    rows, columns = np.unique(t, return_inverse=True)[1], np.unique(s, return_inverse=True)[1]
    table = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(table, (rows, columns), 1 / t.size)
    return table


def _slow_v_rand(truth: Labels, prediction: Labels) -> tuple[float, float, float]:
    p = _joint_probabilities(truth, prediction)
    joint, true, predicted = (p**2).sum(), (p.sum(1) ** 2).sum(), (p.sum(0) ** 2).sum()
    return joint / true, joint / predicted, joint / (0.5 * true + 0.5 * predicted)


def _slow_v_info(truth: Labels, prediction: Labels) -> tuple[float, float, float]:
    p = _joint_probabilities(truth, prediction)
    entropy = [-(q[q > 0] * np.log(q[q > 0])).sum() for q in (p, p.sum(0), p.sum(1))]
    shared = entropy[1] + entropy[2] - entropy[0]
    return shared / entropy[1], shared / entropy[2], 2 * shared / (entropy[1] + entropy[2])


def test_one_merge_among_a_hundred_cells() -> None:
    truth = _cells()
    prediction = np.where(truth == 2, np.uint32(1), truth)
    split, merge, f = _values(v_rand(contingency(truth, prediction)))
    # Areas a: A = 100 a^2, S = 98 a^2 + (2 a)^2 = 102 a^2, T = 100 a^2.
    assert (split, merge) == (1, 100 / 102)
    assert 1 - f == pytest.approx(1 / 101, abs=1e-15)
    assert round(1 - f, 6) == 0.009901


def test_one_split_mirrors_one_merge() -> None:
    truth = _cells()
    merged_cells = np.where(truth == 2, np.uint32(1), truth)
    forward, backward = (
        v_rand(contingency(one, other)) for one, other in ((truth, merged_cells), (merged_cells, truth))
    )
    assert forward.split == backward.merge and forward.merge == backward.split and forward.f == backward.f


def test_borders_too_thick_by_six_pixels() -> None:
    truth, thick = _cells(), np.zeros_like(_cells())
    for y in range(3, 17):
        thick[1 + y :: 21] = truth[1 + y :: 21]
    for x in [0, *(1 + x for x in (0, 1, 2, 17, 18, 19))]:
        thick[:, x::21] = 0
    split, merge, f = _values(v_rand(contingency(truth, thick)))
    # Cells of 400 px, 196 found: A = S = 100 (196^2 + 204), T = 100 * 400^2.
    assert split == 38620 / 160000
    assert merge == 1
    assert f == pytest.approx(2 * 38620 / (38620 + 160000), abs=1e-15)
    assert (round(split, 3), round(f, 3), round(1 - f, 3)) == (0.241, 0.389, 0.611)


def test_an_empty_prediction_is_poor_not_perfect() -> None:
    truth, nothing = np.ones((8, 8), np.uint32), np.zeros((8, 8), np.uint32)
    # 64 objects of one pixel: A = S = 64, T = 64^2, F = 2 / 65.
    scores = v_rand(contingency(truth, nothing))
    assert _values(scores) == (1 / 64, 1, 2 / 65)
    assert round(1 - scores.f.value, 3) == 0.969


def test_an_empty_truth_is_not_defined() -> None:
    nothing, something = np.zeros((4, 4), np.uint32), np.ones((4, 4), np.uint32)
    for metric in (v_rand, v_info):
        scores = metric(contingency(nothing, something))
        assert not (scores.split.defined or scores.merge.defined or scores.f.defined)
        assert scores.f.n == 0
    assert not v_rand(merged([])).f.defined and not v_info(merged([])).f.defined


def test_information_by_hand() -> None:
    truth = np.array([[1, 1, 1, 1, 2, 2, 2, 2]], np.uint32)
    halves = np.array([[1, 1, 2, 2, 3, 3, 4, 4]], np.uint32)
    one = np.ones_like(truth)
    assert _values(v_info(contingency(truth, halves))) == pytest.approx((1 / 2, 1, 2 / 3), abs=1e-15)
    assert _values(v_info(contingency(halves, truth))) == pytest.approx((1, 1 / 2, 2 / 3), abs=1e-15)
    # Four objects of one pixel: H(S) = 0.5 log 2 + 0.5 log 8 = 2 log 2.
    dotted = np.array([[1, 1, 1, 1, 0, 0, 0, 0]], np.uint32)
    assert _values(v_info(contingency(truth, dotted))) == pytest.approx((1 / 2, 1, 2 / 3), abs=1e-15)
    merge = v_info(contingency(truth, one))
    assert (merge.split.defined, merge.merge.value, merge.f.value) == (False, 0, 0)
    split = v_info(contingency(one, truth))
    assert (split.split.value, split.merge.defined, split.f.value) == (0, False, 0)
    assert not v_info(contingency(one, one)).f.defined


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), true=st.integers(2, 6), predicted=st.integers(1, 9))
def test_equal_to_the_definition_with_pixels_predicted_0_as_objects(seed: int, true: int, predicted: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, true + 1, (7, 9)).astype(np.uint32)
    prediction = rng.integers(0, predicted + 1, (7, 9)).astype(np.uint32)
    truth[0, :3], prediction[0, :3] = (1, 2, 2), (1, 2, 0)
    table = contingency(truth, prediction)
    assert _values(v_rand(table)) == pytest.approx(_slow_v_rand(truth, prediction), rel=1e-12)
    assert _values(v_info(table)) == pytest.approx(_slow_v_info(truth, prediction), rel=1e-9, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), highest=st.integers(2, 30))
def test_perfect_is_exactly_one_and_names_do_not_matter(seed: int, highest: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, highest + 1, (11, 13)).astype(np.uint32)
    truth[0, :2] = 1, 2
    names = rng.permutation(np.arange(1, 1000, dtype=np.uint32))[:highest]
    renamed = np.concatenate([[np.uint32(0)], names])[truth]
    noisy = rng.integers(0, highest + 1, (11, 13)).astype(np.uint32)
    for metric in (v_rand, v_info):
        assert _values(metric(contingency(truth, renamed))) == (1, 1, 1)
        assert metric(contingency(renamed, noisy)) == metric(contingency(truth, noisy))


def test_equal_to_scikit_image_up_to_pairs_of_a_pixel_with_itself() -> None:
    rng = np.random.default_rng(7)
    truth = rng.integers(0, 6, (40, 40)).astype(np.uint32)
    prediction = rng.integers(1, 9, (40, 40)).astype(np.uint32)
    table = contingency(truth, prediction)
    n = v_rand(table).f.n
    p = _joint_probabilities(truth, prediction) * n
    joint, true, predicted = (p**2).sum(), (p.sum(1) ** 2).sum(), (p.sum(0) ** 2).sum()
    assert v_rand(table).f.value == pytest.approx(joint / (0.5 * true + 0.5 * predicted), rel=1e-12)
    error = 1 - (joint - n) / (0.5 * (true - n) + 0.5 * (predicted - n))
    assert adapted_rand_error(truth, prediction)[0] == pytest.approx(error, rel=1e-12)


def test_alpha_moves_f_from_split_to_merge() -> None:
    rng = np.random.default_rng(1)
    table = contingency(*(rng.integers(0, 5, (2, 20, 20)).astype(np.uint32)))
    assert v_rand(table, alpha=0).f == v_rand(table).split
    assert v_rand(table, alpha=1).f == v_rand(table).merge
    for alpha in (-0.1, 1.1, math.nan):
        with pytest.raises(ConfigError, match="alpha"):
            v_rand(table, alpha=alpha)


def test_sums_of_squares_do_not_overflow() -> None:
    table = contingency(np.ones((1, 1), np.uint32), np.ones((1, 1), np.uint32))
    table.count[0] = 10**11
    assert v_rand(table).f.value == 1


def test_pooling_two_images_equals_one_image_with_both() -> None:
    rng = np.random.default_rng(2)
    one, other = (rng.integers(0, 5, (2, 20, 20)).astype(np.uint32) for _ in range(2))
    side_by_side = contingency(
        np.hstack([one[0], np.where(other[0], other[0] + 10, 0).astype(np.uint32)]),
        np.hstack([one[1], np.where(other[1], other[1] + 10, 0).astype(np.uint32)]),
    )
    both = pooled([contingency(*one), contingency(*other)])
    assert v_rand(both) == v_rand(side_by_side) and v_info(both) == v_info(side_by_side)

import numpy as np
import pytest

from unetpipe.metrics.pixels import dice, iou, pixel_error


def test_pixel_metrics_by_hand() -> None:
    # Class 0: TP 5, FP 1 + 0, FN 2 + 1; class 1: TP 3, FP 2 + 0, FN 1; class 2 (truth 1 px, never predicted): 0.
    table = np.array([[5, 2, 1], [1, 3, 0], [0, 0, 0]])
    assert pixel_error(table).value == 4 / 12
    assert pixel_error(table).n == 12
    assert [score.value for score in iou(table)] == [5 / 9, 3 / 6, 0.0]
    assert [score.value for score in dice(table)] == [10 / 14, 6 / 9, 0.0]
    assert [score.n for score in iou(table)] == [9, 6, 1]


def test_what_is_nowhere_is_not_defined() -> None:
    table = np.zeros((2, 2), np.int64)
    assert not pixel_error(table).defined
    table[0, 0] = 7
    assert [score.defined for score in iou(table)] == [score.defined for score in dice(table)] == [True, False]


def test_a_class_that_is_predicted_but_nowhere_true_scores_zero() -> None:
    table = np.array([[6, 1], [0, 0]])
    assert iou(table)[1].defined and iou(table)[1].value == 0
    assert dice(table)[1].defined and dice(table)[1].value == 0


def test_dice_is_a_function_of_iou() -> None:
    table = np.random.default_rng(0).integers(0, 1000, (5, 5))
    for j, d in zip(iou(table), dice(table), strict=True):
        assert d.value == pytest.approx(2 * j.value / (1 + j.value), rel=1e-14)

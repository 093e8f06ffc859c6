"""Learning rate, best row and end, against numbers worked by hand."""

import math

import pytest

from unetpipe.schedules import PLATEAU, best_row, is_exhausted, learning_rate, row_score
from unetpipe.specs import TrainSpec


def rates(history: list[dict[str, float]] | None = None, **keys: object) -> list[float]:
    """Learning rates of the first, a middle and the last of 8 steps of base rate 2."""
    spec = TrainSpec(steps=8, learning_rate=2.0, **keys)
    return [learning_rate(spec, step, history or []) for step in (0, 4, 7)]


def test_schedules_by_hand() -> None:
    assert rates(schedule="constant") == [2, 2, 2]
    assert rates(schedule="polynomial") == pytest.approx([2, 2 * 0.5**0.9, 2 * 0.125**0.9])
    assert rates(schedule="cosine") == pytest.approx([2, 1, 1 + math.cos(math.pi * 7 / 8)])


def test_warm_up_is_a_line_that_ends_at_the_schedule() -> None:
    spec = TrainSpec(steps=100, learning_rate=2.0, warmup_steps=5, schedule="constant")
    assert [learning_rate(spec, step) for step in range(7)] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2, 2, 2])


def test_a_plateau_halves_behind_five_validations_that_were_no_better() -> None:
    spec = TrainSpec(learning_rate=2.0, schedule="plateau", best_by="iou")
    history: list[dict[str, float]] = []
    found = []
    for score in [0.1, 0.5, *[0.5] * PLATEAU, *[0.2] * PLATEAU, 0.6, *[0.6] * PLATEAU]:
        history.append({"iou": score})
        found.append(learning_rate(spec, 0, history))
    assert found == [2.0] * 6 + [1.0] * 5 + [0.5] * 6 + [0.25]


def test_a_plateau_without_validation_images_is_constant() -> None:
    assert rates([{"loss": 1.0}] * 20, schedule="plateau") == [2, 2, 2]


@pytest.mark.parametrize(
    ("name", "values", "best"),
    [
        ("iou", [0.1, 0.7, 0.7, 0.3], 1),
        ("dice", [0.9, 0.7], 0),
        ("pixel_error", [0.3, 0.1, 0.2], 1),
        ("validation_loss", [math.nan, 5.0, math.inf], 1),
    ],
)
def test_best_is_the_first_of_the_best(name: str, values: list[float], best: int) -> None:
    assert best_row([{name: value} for value in values], name) == best


def test_without_validation_images_the_last_is_kept() -> None:
    assert best_row([{"loss": 1.0}, {"loss": 2.0}], "iou") == 1


def test_not_a_number_is_worse_than_any_number() -> None:
    assert row_score({"iou": math.nan}, "iou") < row_score({"iou": 0.0}, "iou")


def test_patience_counts_validations_behind_the_best() -> None:
    spec = TrainSpec(patience=2)
    scores = [0.1, 0.3, 0.2, 0.4, 0.4, 0.3]
    ends = [is_exhausted(spec, [{"iou": s} for s in scores[:n]]) for n in range(len(scores) + 1)]
    assert ends == [False] * 6 + [True]
    assert not is_exhausted(TrainSpec(), [{"iou": 0.0}] * 50)
    assert not is_exhausted(spec, [{"loss": 0.0}] * 50)

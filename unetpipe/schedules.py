"""What follows from the settings, the number of the step and the history of validations alone."""

import math
from collections.abc import Mapping, Sequence

from unetpipe.specs import TrainSpec

__all__ = ["best_row", "is_exhausted", "learning_rate", "row_score", "stale_validations"]

# Validations without a better one before a plateau halves the learning rate.
PLATEAU = 5
LOWER_IS_BETTER = ("pixel_error", "validation_loss")

Row = Mapping[str, float]


def learning_rate(spec: TrainSpec, step: int, history: Sequence[Row] = ()) -> float:
    """Learning rate of a step.

    Parameters
    ----------
    spec : TrainSpec
        Learning rate, schedule, warm-up and number of steps.
    step : int
        Number of the step, counted from 0.
    history : sequence of rows
        Validations before this step; used by the plateau only.

    Returns
    -------
    float

    Notes
    -----
    The base rate times the schedule's factor: 1; (1 - s/S)^0.9; (1 + cos(pi s/S)) / 2; or 1/2 to the power of the
    number of times that 5 validations in a row were no better than the best before them. Over W warm-up steps also
    times (s + 1)/W.

    References
    ----------
    Loshchilov, Hutter 2017, arXiv:1608.03983, for the cosine.

    Examples
    --------
    >>> learning_rate(TrainSpec(schedule="cosine", learning_rate=0.2, steps=100), 50)
    0.1
    >>> learning_rate(TrainSpec(schedule="constant", learning_rate=0.2, warmup_steps=4), 0)
    0.05
    """
    warm = min(1.0, (step + 1) / spec.warmup_steps) if spec.warmup_steps else 1.0
    if spec.schedule == "polynomial":
        return warm * spec.learning_rate * float((1 - step / spec.steps) ** 0.9)
    if spec.schedule == "cosine":
        return warm * spec.learning_rate * (0.5 + 0.5 * math.cos(math.pi * step / spec.steps))
    if spec.schedule == "plateau":
        return warm * spec.learning_rate * 0.5 ** halvings(spec, history)
    return warm * spec.learning_rate


def halvings(spec: TrainSpec, history: Sequence[Row]) -> int:
    """How often a plateau has been reached: each takes its own 5 validations without a better one."""
    times, stale, best = 0, 0, -math.inf
    for row in history:
        if spec.best_by not in row:
            continue
        score = row_score(row, spec.best_by)
        stale = 0 if score > best else stale + 1
        best = max(best, score)
        if stale == PLATEAU:
            times, stale = times + 1, 0
    return times


def row_score(row: Row, best_by: str) -> float:
    """A validation's score, such that more is better; -inf where it is not a number.

    Examples
    --------
    >>> row_score({"pixel_error": 0.25}, "pixel_error")
    -0.25
    """
    value = row[best_by]
    if math.isnan(value):
        return -math.inf
    return -value if best_by in LOWER_IS_BETTER else value


def best_row(history: Sequence[Row], best_by: str) -> int:
    """Which validation has the best parameters.

    Parameters
    ----------
    history : sequence of rows
        At least one.
    best_by : str
        The score that decides; lower is better for pixel_error and validation_loss.

    Returns
    -------
    int
        Number of the first of the best rows; of the last row where there were no validation images.

    Examples
    --------
    >>> best_row([{"iou": 0.5}, {"iou": 0.75}, {"iou": 0.75}], "iou")
    1
    """
    if best_by not in history[-1]:
        return len(history) - 1
    return max(range(len(history)), key=lambda i: (row_score(history[i], best_by), -i))


def stale_validations(spec: TrainSpec, history: Sequence[Row]) -> int:
    """Number of validations behind the best one.

    Examples
    --------
    >>> stale_validations(TrainSpec(), [{"iou": 0.5}, {"iou": 0.75}, {"iou": 0.75}])
    1
    """
    return len(history) - 1 - best_row(history, spec.best_by) if history else 0


def is_exhausted(spec: TrainSpec, history: Sequence[Row]) -> bool:
    """Whether the training ends before its last step, for want of a better validation.

    Examples
    --------
    >>> is_exhausted(TrainSpec(patience=1), [{"iou": 0.5}, {"iou": 0.5}])
    True
    """
    return bool(spec.patience) and stale_validations(spec, history) >= spec.patience

"""Thresholds are those that a search through all pixels finds."""

import numpy as np
import pytest

from unetpipe.masks import decided
from unetpipe.metrics.pixels import dice
from unetpipe.metrics.tables import confusion
from unetpipe.tuning import best_threshold, probability_counts


@pytest.mark.parametrize("full", [255, 65535])
def test_the_threshold_is_the_best_of_all_as_segment_applies_it(full: int) -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 2, (40, 50), np.uint8)
    foreground = np.clip(rng.normal(0.3 + 0.2 * truth, 0.15), 0, 1)
    truth[:5] = 255
    stored = np.rint(np.stack([1 - foreground, foreground]) * full).astype(np.uint16)
    counts = sum(probability_counts(stored[:, rows], truth[rows], full=full) for rows in (slice(9), slice(9, 40)))
    threshold, score = best_threshold(np.asarray(counts)[1])
    found = {}
    for hundredth in range(1, 100):
        classes = decided(stored, least={1: max(1, round(hundredth / 100 * full))})
        found[hundredth / 100] = dice(confusion(truth, classes, 2))[1].value
    assert score.value == max(found.values()) == found[threshold] > found[0.5]
    assert score.n == (truth == 1).sum()


def test_of_equal_thresholds_the_nearest_to_a_half_and_then_the_lower() -> None:
    counts = np.zeros((2, 101), int)
    counts[1, 100] = 1
    assert best_threshold(counts)[0] == 0.5
    counts[0, 50] = 1
    assert best_threshold(counts)[0] == 0.51
    counts[0, 50], counts[1, 49] = 0, 1
    assert best_threshold(counts)[0] == 0.49
    # As good without the 0.6 as with the 0.4: 2 * 2 / (2 + 4) = 2 * 4 / (8 + 4).
    counts[:] = 0
    counts[1, [59, 49]], counts[0, 49] = [2, 2], 4
    assert best_threshold(counts) == (0.5, best_threshold(counts)[1])
    assert best_threshold(counts)[1].value == pytest.approx(2 / 3)


def test_a_class_that_nobody_drew_gets_none() -> None:
    threshold, score = best_threshold(np.ones((2, 11), int) * [[1], [0]])
    assert threshold is None and not score.defined

"""Means, deviations and ranks worked by hand."""

import pytest

from unetpipe.comparison import mean_and_deviation, ranked


def scores(**values: float | None) -> dict[str, dict[str, object]]:
    return {name: {"value": value, "n": 5, "defined": value is not None} for name, value in values.items()}


def test_mean_and_standard_deviation() -> None:
    # Deviations -2, 0, 2: (4 + 0 + 4) / 2 = 4.
    assert mean_and_deviation([3.0, 5.0, 7.0]) == (5.0, 2.0)
    assert mean_and_deviation([0.25]) == (0.25, None)


POOLED = {
    "a-s1": scores(seg=0.5, pixel_error=0.25),
    "a-s2": scores(seg=0.75, pixel_error=0.75),
    "b": scores(seg=0.7, pixel_error=0.4),
    "c": scores(seg=None, pixel_error=0.1),
}
GROUPS = {"c": ["c"], "a": ["a-s1", "a-s2", "a-s3"], "b": ["b"], "d": ["d"]}


def test_the_best_comes_first_and_the_undefined_last() -> None:
    ranks = ranked(GROUPS, POOLED, by="seg")
    assert [(rank.entry, rank.networks) for rank in ranks] == [("b", ("b",)), ("a", ("a-s1", "a-s2")), ("c", ("c",))]
    assert ranks[1].scores["seg"] == (0.625, pytest.approx(0.17677669529663687))
    assert "seg" not in ranks[2].scores


def test_errors_are_ranked_the_other_way_round() -> None:
    assert [rank.entry for rank in ranked(GROUPS, POOLED, by="pixel_error")] == ["c", "b", "a"]

"""Means, deviations and ranks worked by hand."""

import pytest

from unetpipe.comparison import MeanRank, mean_and_deviation, mean_ranks, ranked


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


def test_ranks_on_several_data_sets_are_averaged() -> None:
    """On the first b, a, c; on the second a and b are equal and c is best; d stands in one of them only."""
    other = {"a": scores(seg=0.5), "b": scores(seg=0.5), "c": scores(seg=0.75)}
    first, second = ranked(GROUPS, POOLED, by="seg"), ranked({name: [name] for name in other}, other, by="seg")
    found = mean_ranks([first, second], by="seg")
    assert found == [
        MeanRank(entry="b", ranks=(1.0, 2.5), mean=1.75),
        MeanRank(entry="c", ranks=(3.0, 1.0), mean=2.0),
        MeanRank(entry="a", ranks=(2.0, 2.5), mean=2.25),
    ]


def test_entries_without_a_score_share_the_last_ranks() -> None:
    pooled = {"a": scores(seg=None), "b": scores(seg=0.5), "c": scores(seg=None)}
    found = mean_ranks([ranked({name: [name] for name in pooled}, pooled, by="seg")], by="seg")
    assert [(one.entry, one.mean) for one in found] == [("b", 1.0), ("a", 2.5), ("c", 2.5)]

"""Scores over many samples and many networks: pooled, averaged over seeds and folds, and ranked."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from unetpipe.metrics.objects import MatchCounts, SegSum, f1, seg
from unetpipe.metrics.pixels import dice, iou, pixel_error
from unetpipe.metrics.scores import Score, macro_mean
from unetpipe.metrics.thinning import best

__all__ = ["MeanRank", "Rank", "mean_and_deviation", "mean_ranks", "metric_rows", "pooled_scores", "ranked"]

# Lower is better.
ERRORS = ("pixel_error",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """What the networks of one entry reached together.

    Parameters
    ----------
    entry : str
        Name in the configuration.
    networks : tuple of str
        Its networks that were scored: seeds and folds.
    scores : dict of str to (float, float or None)
        Mean over the networks and standard deviation, None for a single one; undefined scores are left out.
    """

    entry: str
    networks: tuple[str, ...]
    scores: dict[str, tuple[float, float | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanRank:
    """Where an entry stands in several rankings.

    Parameters
    ----------
    entry : str
        Name in the configuration.
    ranks : tuple of float
        Its rank in each, 1 the best; equal ones share the mean of theirs.
    mean : float
        Of these.
    """

    entry: str
    ranks: tuple[float, ...]
    mean: float


def metric_rows(classes: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Every metric of the report.

    Parameters
    ----------
    classes : sequence of str
        Names of the classes.

    Returns
    -------
    list of (str, str, str, str)
        Key, name, meaning and what n counts.
    """
    rows = [("pixel_error", "Pixel error", "share of pixels in the wrong class; 0 is best", "px")]
    for key, name, meaning in (
        ("iou", "IoU", "shared pixels over pixels in either"),
        ("dice", "Dice", "shared pixels over the mean of both"),
    ):
        rows += [(f"{key}_class_{i}", f"{name} {label}", meaning, "px") for i, label in enumerate(classes)]
    return [
        *rows,
        ("f1", "F1@0.5", "objects found with IoU above 0.5, missed and invented ones counting", "object"),
        ("seg", "SEG", "mean IoU of the true objects, 0 for those not found", "true object"),
        ("v_rand_thin", "V-Rand, thin", "pairs of pixels in the same object, after thinning", "sample"),
        ("v_info_thin", "V-Info, thin", "information shared by the partitions, after thinning", "sample"),
    ]


def pooled_scores(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Scores of one network over all its samples.

    Parameters
    ----------
    evaluations : sequence of mapping
        Facts of `evaluate`, one per sample.

    Returns
    -------
    dict of str to dict
        Value, n and whether it is defined, of each metric: integer tables are summed before any ratio is made, thinned
        scores averaged at each threshold before the best threshold is taken.
    """
    table = np.array([facts["confusion"] for facts in evaluations], dtype=np.int64).sum(axis=0)
    scores = {"pixel_error": pixel_error(table)}
    for key, per_class in (("iou", iou(table)), ("dice", dice(table))):
        scores |= {f"{key}_class_{index}": score for index, score in enumerate(per_class)}
    scores["f1"] = f1(reduce(add, (MatchCounts(**facts["matches"]) for facts in evaluations)))
    scores["seg"] = seg(reduce(add, (SegSum(**facts["seg"]) for facts in evaluations)))
    pooled = {key: score_facts(score) for key, score in scores.items()}
    thin = [facts["thin"] for facts in evaluations if "thin" in facts]
    for key in ("v_rand", "v_info") if thin else ():
        sweeps = [[score_of(at["f"]) for at in one[key]] for one in thin]
        found = best([macro_mean(scores) for scores in zip(*sweeps, strict=True)], thin[0]["thresholds"])
        pooled[f"{key}_thin"] = score_facts(found.score) | {"threshold": found.threshold}
    return pooled


def score_of(facts: Mapping[str, Any]) -> Score:
    """A score from its JSON data."""
    return Score(value=facts["value"] if facts["defined"] else math.nan, n=facts["n"], defined=facts["defined"])


def score_facts(score: Score) -> dict[str, Any]:
    """A score as JSON data; an undefined value is null."""
    return {"value": score.value if score.defined else None, "n": score.n, "defined": score.defined}


def mean_and_deviation(values: Iterable[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation of one or more numbers; None for the latter of a single one.

    Parameters
    ----------
    values : iterable of float
        At least one.

    Returns
    -------
    (float, float or None)

    Notes
    -----
    s^2 = sum (x - mean)^2 / (n - 1).

    Examples
    --------
    >>> mean_and_deviation([1.0, 2.0, 3.0]), mean_and_deviation([4.0])
    ((2.0, 1.0), (4.0, None))
    """
    numbers = list(values)
    mean = math.fsum(numbers) / len(numbers)
    if len(numbers) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / (len(numbers) - 1))


def ranked(
    groups: Mapping[str, Sequence[str]], pooled: Mapping[str, Mapping[str, Mapping[str, Any]]], *, by: str
) -> list[Rank]:
    """Entries of the configuration, the best first.

    Parameters
    ----------
    groups : mapping of str to sequence of str
        Networks of each entry.
    pooled : mapping of str to mapping
        `pooled_scores` of each network.
    by : str
        Metric whose mean decides; entries where it is defined nowhere come last.

    Returns
    -------
    list of Rank
        Of the entries with a scored network; equal ones in the order of `groups`.

    Examples
    --------
    >>> def seg(value): return {"seg": {"value": value, "n": 9, "defined": True}}
    >>> [(r.entry, r.scores["seg"]) for r in ranked(
    ...     {"a": ["a-s1", "a-s2"], "b": ["b"]}, {"a-s1": seg(0.25), "a-s2": seg(0.75), "b": seg(0.625)}, by="seg")]
    [('b', (0.625, None)), ('a', (0.5, 0.3535533905932738))]
    """
    ranks = []
    for entry, names in groups.items():
        scored = tuple(name for name in names if name in pooled)
        values: dict[str, list[float]] = {}
        for name in scored:
            for metric, score in pooled[name].items():
                if score["defined"]:
                    values.setdefault(metric, []).append(score["value"])
        if scored:
            scores = {metric: mean_and_deviation(numbers) for metric, numbers in values.items()}
            ranks.append(Rank(entry=entry, networks=scored, scores=scores))
    sign = 1 if by in ERRORS else -1
    return sorted(ranks, key=lambda rank: sign * rank.scores[by][0] if by in rank.scores else math.inf)


def mean_ranks(rankings: Sequence[Sequence[Rank]], *, by: str) -> list[MeanRank]:
    """Entries that stand in all of several rankings, the best mean rank first.

    Parameters
    ----------
    rankings : sequence of sequence of Rank
        From `ranked`, one per data set.
    by : str
        Metric that they are ranked by.

    Returns
    -------
    list of MeanRank
        Equal ones in the order of the first ranking.

    Notes
    -----
    Entries without a defined score share the last ranks.

    Examples
    --------
    >>> def rank(entry, value): return Rank(entry=entry, networks=(entry,), scores={"seg": (value, None)})
    >>> first, second = [rank("a", 0.9), rank("b", 0.8)], [rank("a", 0.3), rank("b", 0.3)]
    >>> [(one.entry, one.ranks, one.mean) for one in mean_ranks([first, second], by="seg")]
    [('a', (1.0, 1.5), 1.25), ('b', (2.0, 1.5), 1.75)]
    """
    places = []
    for ranking in rankings:
        means = {rank.entry: rank.scores.get(by, (None, None))[0] for rank in ranking}
        order = list(means.values())
        # The first and the last place of what is equal, counted from 1.
        places.append({e: (2 * order.index(m) + 1 + order.count(m)) / 2 for e, m in means.items()})
    common = [entry for entry in places[0] if all(entry in one for one in places)] if places else []
    ranks = {entry: tuple(one[entry] for one in places) for entry in common}
    found = [MeanRank(entry=entry, ranks=own, mean=math.fsum(own) / len(own)) for entry, own in ranks.items()]
    return sorted(found, key=lambda one: one.mean)

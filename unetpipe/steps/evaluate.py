"""evaluate: one segmentation held against its truth, as integer tables and the scores that follow from them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unetpipe.errors import ConfigError
from unetpipe.geometry import Box
from unetpipe.heap import machine_bytes
from unetpipe.ledgers import open_ledger
from unetpipe.manifests import Manifest, read_manifest, write_file
from unetpipe.metrics.objects import f1, match_counts, seg, seg_sum
from unetpipe.metrics.partitions import PartitionScores, v_info, v_rand
from unetpipe.metrics.pixels import dice, iou, pixel_error
from unetpipe.metrics.scores import Score
from unetpipe.metrics.tables import Contingency, confusion, contingency, merged
from unetpipe.metrics.thinning import THRESHOLDS, best, thin_tables
from unetpipe.slides import digest_of, open_plane
from unetpipe.specs import IGNORE, THIN_BYTES, EvaluateSpec

__all__ = ["evaluate"]

CORE = 1024


def evaluate(
    segmentation: Path, probabilities: Path, labels: Path, *, output: Path, spec: EvaluateSpec, code: str
) -> None:
    """Score one sample's segmentation.

    Reads
    -----
    segmentation, probabilities, labels : manifests of `segment`, `predict` and `annotate`
        Of the same sample.

    Writes
    ------
    output : manifest
        With the tables and scores; beside it a folder with ``scores.csv``.
    """
    stages = ("segment", "predict", "annotate")
    sources = [read_manifest(p, stage=s) for p, s in zip((segmentation, probabilities, labels), stages, strict=True)]
    with open_ledger(output, stage="evaluate", spec=spec, code=code, inputs=sources) as ledger:
        if ledger.complete:
            return
        predicted, _, truth = sources
        check_room(truth, spec)
        pixels, objects = count_cores(predicted, truth, spec)
        matches, sums = match_counts(objects), seg_sum(objects)
        scores = pixel_scores(pixels) | {"seg": seg(sums), "f1": f1(matches)}
        facts: dict[str, Any] = {
            "confusion": pixels.tolist(),
            "matches": dataclasses.asdict(matches),
            "seg": dataclasses.asdict(sums),
        }
        if spec.thin:
            facts["thin"], thin_scores = thin_scores_of(sources[1], truth, spec)
            scores |= thin_scores
        facts["scores"] = {name: plain(score) for name, score in scores.items()}
        table = pd.DataFrame([{"metric": name, **score} for name, score in facts["scores"].items()])
        write_file(ledger.store / "scores.csv", table.to_csv(index=False).encode())
        ledger.append("tables", digest_of(pixels))
        ledger.publish(facts)


def check_room(truth: Manifest, spec: EvaluateSpec) -> None:
    """Refuse images that this machine cannot hold as a whole, if they have to be."""
    height, width = open_plane(truth.store / "classes" / "0").shape
    needed, there = THIN_BYTES * height * width, machine_bytes()
    if spec.thin and needed > there:
        raise ConfigError(
            f"{truth.path}: {height} x {width} px as a whole, which evaluate.thin needs, take {needed / 1e9:.1f} GB of "
            f"memory, expected at most {there / 1e9:.1f} GB, which this machine has; set evaluate.thin: false"
        )


def count_cores(predicted: Manifest, truth: Manifest, spec: EvaluateSpec) -> tuple[np.ndarray[Any, Any], Contingency]:
    """Confusion table and table of objects, summed over cores."""
    planes = [open_plane(m.store / name / "0") for m in (truth, predicted) for name in ("classes", "instances")]
    height, width = planes[0].shape
    pixels = np.zeros((spec.n_classes,) * 2, dtype=np.int64)
    objects: list[Contingency] = []
    for y in range(0, height, CORE):
        for x in range(0, width, CORE):
            box = Box(start=(y, x), stop=(y + CORE, x + CORE)).clipped((height, width))
            true_classes, true_instances, classes, instances = (plane.read(box) for plane in planes)
            pixels += confusion(true_classes, classes, spec.n_classes)
            objects.append(contingency(true_instances, instances, valid=true_classes != IGNORE))
    return pixels, merged(objects)


def pixel_scores(table: np.ndarray[Any, Any]) -> dict[str, Score]:
    """Pixel error, and IoU and Dice of each class."""
    scores = {"pixel_error": pixel_error(table)}
    for name, per_class in (("iou", iou(table)), ("dice", dice(table))):
        scores |= {f"{name}_class_{index}": score for index, score in enumerate(per_class)}
    return scores


def thin_scores_of(
    probabilities: Manifest, truth: Manifest, spec: EvaluateSpec
) -> tuple[dict[str, Any], dict[str, Score]]:
    """V-Rand and V-Info after thinning: at every threshold, and the best; thinned as a whole, counted core by core."""
    foreground = open_plane(probabilities.store / "0").read_whole()[spec.foreground] / probabilities.facts["scale"]
    instances = open_plane(truth.store / "instances" / "0").read_whole()
    valid = open_plane(truth.store / "classes" / "0").read_whole() != IGNORE
    tables = thin_tables(instances, foreground, valid=valid, core_px=CORE)
    facts: dict[str, Any] = {"thresholds": list(THRESHOLDS)}
    scores: dict[str, Score] = {}
    for name, metric in (("v_rand", v_rand), ("v_info", v_info)):
        sweep: list[PartitionScores] = [metric(table) for table in tables]
        facts[name] = [{part: plain(getattr(s, part)) for part in ("split", "merge", "f")} for s in sweep]
        scores[f"{name}_thin"] = best([s.f for s in sweep]).score
    return facts, scores


def plain(score: Score) -> Mapping[str, Any]:
    """A score as JSON data; an undefined value is null."""
    return {"value": score.value if score.defined else None, "n": score.n, "defined": score.defined}

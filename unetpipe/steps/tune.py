"""tune: thresholds of a model's classes, chosen on the validation images."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetpipe.errors import StoreError
from unetpipe.ledgers import open_ledger
from unetpipe.manifests import Manifest, read_manifest, write_file
from unetpipe.signals import stop_if_asked
from unetpipe.slides import open_plane, shard_boxes
from unetpipe.specs import TuneSpec
from unetpipe.tuning import best_threshold, probability_counts

__all__ = ["tune"]

log = logging.getLogger(__name__)


def tune(inputs: Sequence[Path], *, output: Path, spec: TuneSpec, code: str) -> None:
    """Choose a threshold for each class but the first: that with the best Dice over all pixels of all images.

    Reads
    -----
    inputs : manifests of `predict` and `annotate`
        Of the validation samples, in any order; all probabilities by the same model.

    Writes
    ------
    output : manifest
        With the thresholds, and the Dice of each; a class that the truth does not have gets none. Beside it a folder
        with ``thresholds.json``, which says the same.
    """
    manifests = [read_manifest(path) for path in inputs]
    predicted = {m.sample: m for m in manifests if m.stage == "predict"}
    truths = {m.sample: m for m in manifests if m.stage == "annotate"}
    if not predicted or predicted.keys() != truths.keys():
        raise StoreError(
            f"{output}: expected probabilities and labels of the same validation samples, came {sorted(predicted)} "
            f"and {sorted(truths)}; give both of each"
        )
    with open_ledger(output, stage="tune", spec=spec, code=code, inputs=manifests) as ledger:
        if ledger.complete:
            return
        scales = {m.facts["scale"] for m in predicted.values()}
        if len(scales) > 1:
            raise StoreError(f"{output}: probabilities are stored in steps of {scales}; run predict again")
        full = int(scales.pop())
        counts = sum(counts_of(m, truths[name], full) for name, m in sorted(predicted.items()))
        found = {spec.classes[k]: best_threshold(own) for k, own in enumerate(np.asarray(counts)) if k}
        for name, (threshold, _) in found.items():
            if threshold is None:
                log.warning("tune: no validation image has class %s; it gets no threshold", name)
        facts = {
            "thresholds": {name: threshold for name, (threshold, _) in found.items() if threshold is not None},
            "dice": {name: score.value for name, (_, score) in found.items() if score.defined},
            "samples": sorted(predicted),
        }
        write_file(ledger.store / "thresholds.json", json.dumps(facts, indent=1, sort_keys=True).encode() + b"\n")
        ledger.publish(facts)


def counts_of(predicted: Manifest, truth: Manifest, full: int) -> NDArray[np.int64]:
    """Pixels of each probability in an image, core by core."""
    probabilities, classes = open_plane(predicted.store / "0"), open_plane(truth.store / "classes" / "0")
    counts = np.zeros((probabilities.channels, 2, full + 1), np.int64)
    for _, box in shard_boxes("", classes.shape):
        stop_if_asked()
        counts += probability_counts(probabilities.read(box), classes.read(box), full=full)
    return counts

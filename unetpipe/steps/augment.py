"""augment: the training patches of one sample, deformed image, classes and weights by one field."""

import json
import logging
import shutil
import time
from pathlib import Path

from unetpipe.draws import Sample, open_samples
from unetpipe.errors import StoreError
from unetpipe.ledgers import Ledger, open_ledger
from unetpipe.manifests import read_manifest
from unetpipe.patches import create_patches, patch_bytes
from unetpipe.specs import AugmentSpec, canonical_json

__all__ = ["augment"]

log = logging.getLogger(__name__)


def augment(image: Path, labels: Path, weights: Path, *, output: Path, spec: AugmentSpec, code: str) -> None:
    """Draw and deform the training patches of one sample.

    Reads
    -----
    image, labels, weights : manifests of `ingest`, `annotate` and `weigh`
        Of the same sample.

    Writes
    ------
    output : manifest
        Beside it a store with the arrays ``image`` (N, C, n, n), ``classes`` (N, m, m) and ``weights`` (N, F, m, m);
        an empty one where ``copies`` is 0 and trainings draw for themselves.

    Raises
    ------
    StoreError
        If the disk has no room for the patches; none is written then.
    """
    stages = ("ingest", "annotate", "weigh")
    sources = [read_manifest(p, stage=s) for p, s in zip((image, labels, weights), stages, strict=True)]
    with open_ledger(output, stage="augment", spec=spec, code=code, inputs=sources) as ledger:
        if ledger.complete:
            return
        sample = open_samples([(sources[0], sources[1], sources[2])], spec)[0]
        if spec.copies:
            write_patches(sample, ledger, spec, forms=len(sources[2].facts["forms"]))
        facts = {
            "count": spec.copies,
            "redraws": redraws(ledger),
            # What trainings draw by enters what they depend on.
            "drawn_by": None if spec.copies else json.loads(canonical_json(spec)),
            "channels": sample.channels,
            "intensity": spec.intensity,
            "pixel_size_um": sources[0].facts["pixel_size_um"],
            "nominal_um": sources[0].facts["nominal_um"],
            "class_counts": sources[1].facts["class_counts"],
            "forms": sources[2].facts["forms"],
            "input_px": spec.input_px,
            "output_px": spec.output_px,
        }
        ledger.publish(facts)


def write_patches(sample: Sample, ledger: Ledger, spec: AugmentSpec, *, forms: int) -> None:
    """Draw and store the patches that are not there yet, and say how fast, how large, and how many were there."""
    sizes = {"channels": sample.channels, "input_px": spec.input_px, "output_px": spec.output_px, "forms": forms}
    size, there, begun = patch_bytes(**sizes), stored(ledger), time.monotonic()
    check_room(ledger, spec.copies - there, size)
    store = create_patches(ledger.store, count=spec.copies, **sizes)
    for unit, numbers in store.iter_blocks():
        if unit not in ledger:
            drawn = [sample.draw(number, spec) for number in numbers]
            digest = store.write_block(numbers, [patch for patch, _ in drawn])
            ledger.append(unit, digest, count=len(numbers), redraws=sum(redraws for _, redraws in drawn))
    new = spec.copies - there
    rate = new / max(time.monotonic() - begun, 1e-9)
    log.info("%d patches drawn, %.3g per second; %d were there; %d folded fields", new, rate, there, redraws(ledger))
    found = sum(path.stat().st_size for path in ledger.store.rglob("*") if path.is_file())
    log.info("%.4g MB on disk, %.0f %% of the plain pixels", found / 1e6, 100 * found / (spec.copies * size))


def stored(ledger: Ledger) -> int:
    """Number of patches on disk."""
    return sum(unit["count"] for unit in ledger.units.values())


def redraws(ledger: Ledger) -> int:
    """Number of displacement fields that folded and were drawn again."""
    return sum(unit["redraws"] for unit in ledger.units.values())


def check_room(ledger: Ledger, count: int, size: int) -> None:
    """Refuse to begin with more patches of a size in bytes than the disk can hold."""
    needed, free = count * size, shutil.disk_usage(ledger.store).free
    if needed > free:
        raise StoreError(
            f"{ledger.manifest}: {count} patches need {needed / 1e9:.3g} GB, the disk has {free / 1e9:.3g} GB free; "
            "lower augment.copies (0 stores none) or augment.input_px, or make room"
        )

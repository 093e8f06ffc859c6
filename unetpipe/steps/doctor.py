"""doctor: a table of every sample and every fault, before a minute is spent on training."""

import csv
import dataclasses
import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.errors import SourceError
from unetpipe.examination import alignment, count_parts, picture_digest, saturated_share
from unetpipe.faults import Fault, Findings, faults_of, table_rows
from unetpipe.geometry import Box
from unetpipe.manifests import Manifest, open_ledger, read_manifest, write_file
from unetpipe.slides import Plane, open_plane
from unetpipe.specs import DoctorSpec

__all__ = ["doctor"]

log = logging.getLogger(__name__)

# The finest level of at most this many pixels is looked at, so that time and memory stay bounded.
EXAMINED_PX = 2**22
SHOWN = 20
# Endings of annotations that are no maps of values.
SHAPES = (".json", ".geojson", ".gz", ".zip", ".roi")


def doctor(
    inputs: Sequence[Path],
    *,
    output: Path,
    spec: DoctorSpec,
    code: str,
    refused: Mapping[str, str] | None = None,
) -> None:
    """Look at every sample, write the table, and stop where training would be in vain.

    Reads
    -----
    inputs : manifests of `ingest` and `annotate`
        In any order.
    refused : mapping of str to str, optional
        Samples that could not be read, and why.

    Writes
    ------
    output : manifest
        Beside it a folder with ``table.tsv``, one row per sample. Where there are errors, the table alone.

    Raises
    ------
    SourceError
        If there are errors, unless `DoctorSpec.stop` is off; a sample that could not be read always is one.

    Notes
    -----
    What was seen of a sample stands in the ledger under the digest of its pixels, and is taken from there as long as
    these are the same: a changed sample costs its own time only.
    """
    manifests = [read_manifest(path) for path in inputs]
    images = {m.sample: m for m in manifests if m.stage == "ingest"}
    labels = {m.sample: m for m in manifests if m.stage == "annotate"}
    seen = earlier_units(output)
    splits = {name: split for split, names in json.loads(spec.splits).items() for name in names}
    with open_ledger(output, stage="doctor", spec=spec, code=code, inputs=manifests) as ledger:
        if ledger.complete and not refused:
            return
        found = []
        for name in sorted({*images, *(refused or {})}):
            split = splits.get(name, "predict")
            if refused and name in refused:
                found.append(Findings(name=name, split=split, refused=refused[name]))
                continue
            digest = digest_of_inputs(images[name], labels.get(name), code)
            if name not in ledger:
                facts = seen.get(digest) or examined(images[name], labels.get(name))
                ledger.append(name, digest, seen=facts)
            found.append(findings_of(name, split, images[name], labels.get(name), ledger.units[name]["seen"]))
        faults = faults_of(found, spec.classes)
        write_file(ledger.store / "table.tsv", table_text(table_rows(found, faults, spec.classes)).encode())
        errors = [fault for fault in faults if fault.severity == "error"]
        sound = not refused and not (errors and spec.stop)
        if sound:
            ledger.publish({"faults": [dataclasses.asdict(fault) for fault in faults]})
    say(faults, ledger.store / "table.tsv")
    if not sound:
        more = f"; {len(errors) - 1} more" if len(errors) > 1 else ""
        remedy = "" if refused else "; doctor.stop: false goes on all the same"
        raise SourceError(f"{errors[0]}{more}: see {ledger.store / 'table.tsv'}{remedy}")


def digest_of_inputs(image: Manifest, labels: Manifest | None, code: str) -> str:
    """Digest of everything that the examination of a sample depends on."""
    return hashlib.sha256(f"{code} {image.content} {labels.content if labels else ''}".encode()).hexdigest()


def earlier_units(output: Path) -> dict[str, dict[str, Any]]:
    """What the last run has seen, by digest of what it looked at; read before a new key empties the ledger."""
    ledger = output.with_suffix(".ledger")
    found = {}
    for line in ledger.read_bytes().splitlines() if ledger.is_file() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "seen" in record:
            found[record["digest"]] = record["seen"]
    return found


def examined(image: Manifest, labels: Manifest | None) -> dict[str, Any]:
    """What is seen of the pixels of one sample, as plain values."""
    level = next((i for i in range(image.facts["levels"]) if area(image, i) <= EXAMINED_PX), image.facts["levels"] - 1)
    pixels = open_plane(image.store / str(level)).read_whole()
    seen: dict[str, Any] = {
        "lowest": float(pixels.min()),
        "highest": float(pixels.max()),
        "digest": picture_digest(pixels),
    }
    if labels is None:
        return seen | {"saturated": saturated_share(pixels)}
    instances, classes = (
        open_plane(labels.store / name / str(level)).read_whole() for name in ("instances", "classes")
    )
    fit = alignment(pixels, instances)
    if fit is not None:
        seen["shift"] = [a << level for a in fit.shift]
        seen |= {"fit_there": fit.best, "fit_here": fit.here, "fit_elsewhere": fit.elsewhere}
    return seen | {
        "saturated": saturated_share(pixels, (classes > 0) & (classes < 255)),
        "touching": count_touching(open_plane(labels.store / "instances" / "0")),
        "ids": int(np.count_nonzero(np.unique(instances))),
        "parts": count_parts(instances),
    }


def area(image: Manifest, level: int) -> int:
    """Number of pixels of a level."""
    height, width = open_plane(image.store / str(level)).shape
    return height * width


def count_touching(instances: Plane) -> int:
    """Number of instances with a pixel in the first or last row or column."""
    height, width = instances.shape
    strips = [((0, 0), (1, width)), ((height - 1, 0), (height, width)), ((0, 0), (height, 1))]
    strips.append(((0, width - 1), (height, width)))
    values: list[NDArray[Any]] = [instances.read(Box(start=start, stop=stop)).ravel() for start, stop in strips]
    return int(np.count_nonzero(np.unique(np.concatenate(values))))


def findings_of(name: str, split: str, image: Manifest, labels: Manifest | None, seen: dict[str, Any]) -> Findings:
    """What is known of one sample: what its stages have written down, and what was seen now."""
    facts = image.facts
    known: dict[str, Any] = {
        "shape": tuple(facts["shape"]),
        "channels": facts["channels"],
        "dtype": facts["dtype"],
        "pixel_size_um": facts["pixel_size_um"],
    }
    if labels is not None:
        counts = labels.facts["class_counts"]
        known |= {
            "kind": kind_of(labels),
            "class_counts": tuple(counts),
            "ignored": 1 - sum(counts) / (facts["shape"][0] * facts["shape"][1]),
            "n_instances": labels.facts["n_instances"],
        }
    known |= {"name": name, "split": split, **seen, "shift": tuple(seen.get("shift", (0, 0)))}
    return Findings(**known)


def kind_of(labels: Manifest) -> str:
    """How an annotation was read: its kind where its values count, else as shapes or colours."""
    sources = [name for name in labels.inputs if name.startswith("source/")]
    if labels.spec.get("overlay") or any(name.lower().endswith(SHAPES) for name in sources):
        return "shapes"
    return "colours" if labels.spec.get("colours") else str(labels.spec["kind"])


def table_text(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows as text, with tabs between the cells."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def say(faults: Sequence[Fault], table: Path) -> None:
    """Tell the first faults; errors to the log only, for the last line on stderr is theirs."""
    for fault in faults[:SHOWN]:
        log.log(logging.INFO if fault.severity == "error" else logging.WARNING, "%s: %s", fault.severity, fault)
    if len(faults) > SHOWN:
        log.warning("and %d more: see %s", len(faults) - SHOWN, table)

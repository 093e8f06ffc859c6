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

from unetpipe.errors import SourceError, StoreError
from unetpipe.examination import alignment, count_parts, picture_digest, saturated_share
from unetpipe.faults import Fault, Findings, faults_of, table_rows
from unetpipe.geometry import Box
from unetpipe.ledgers import open_ledger
from unetpipe.manifests import Manifest, read_manifest, write_file
from unetpipe.slides import Plane, open_plane
from unetpipe.specs import DoctorSpec

__all__ = ["doctor"]

log = logging.getLogger(__name__)

# The finest level of at most this many pixels is looked at, so that time and memory stay bounded.
EXAMINED_PX = 2**22


def doctor(
    inputs: Sequence[Path],
    *,
    output: Path,
    spec: DoctorSpec,
    code: str,
    refused: Mapping[str, str] | None = None,
) -> None:
    """Look at samples, write the table, and stop where training would be in vain.

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
    What was seen of a sample stands in the ledger under the digest of its pixels, and is taken from there, or from the
    ledger of another group in the same folder, as long as these are the same: only what is new or has changed costs
    time.
    """
    manifests = [read_manifest(path) for path in inputs]
    images = {m.sample: m for m in manifests if m.stage == "ingest"}
    labels = {m.sample: m for m in manifests if m.stage == "annotate"}
    seen, told_before = earlier_units(output.parent), earlier_faults(output)
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
        faults = faults_within(found, json.loads(spec.datasets), spec)
        table, text = ledger.store / "table.tsv", table_text(table_rows(found, faults, spec.classes)).encode()
        write_file(table, text)
        errors = [fault for fault in faults if fault.severity == "error"]
        sound = not refused and not (errors and spec.stop)
        if sound:
            told = [dataclasses.asdict(fault) for fault in faults]
            ledger.publish({"faults": told, "table": hashlib.sha256(text).hexdigest()})
    for fault in faults:
        log.info("%s: %s", fault.severity, fault)
    if not sound:
        remedy = "" if refused else "; doctor.stop: false goes on all the same"
        raise SourceError(f"{in_short(errors)}: see {table}{remedy}")
    new = [fault for fault in faults if dataclasses.asdict(fault) not in told_before]
    if new:
        log.warning("warning: %s: see %s", in_short(new), table)


def faults_within(found: Sequence[Findings], datasets: Mapping[str, str], spec: DoctorSpec) -> list[Fault]:
    """What is wrong, errors first: samples are held against those of their own data set."""
    faults = []
    for dataset in dict.fromkeys(datasets.get(one.name, "") for one in found):
        part = [one for one in found if datasets.get(one.name, "") == dataset]
        for fault in faults_of(part, spec.classes, spec.channels):
            told = f"data set {dataset}: {fault.text}" if dataset and not fault.samples else fault.text
            faults.append(dataclasses.replace(fault, text=told))
    return sorted(faults, key=lambda fault: fault.severity != "error")


def digest_of_inputs(image: Manifest, labels: Manifest | None, code: str) -> str:
    """Digest of everything that the examination of a sample depends on."""
    return hashlib.sha256(f"{code} {image.content} {labels.content if labels else ''}".encode()).hexdigest()


def in_short(faults: Sequence[Fault]) -> str:
    """The first fault, and how many more there are."""
    return str(faults[0]) + (f"; {len(faults) - 1} more" if len(faults) > 1 else "")


def earlier_units(folder: Path) -> dict[str, dict[str, Any]]:
    """What was seen before, by digest of what was looked at; read before a new key empties a ledger."""
    found = {}
    for ledger in folder.glob("*.ledger"):
        for line in ledger.read_bytes().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                # Cut off by a kill, or just being written.
                continue
            if isinstance(record, dict) and "seen" in record:
                found[record["digest"]] = record["seen"]
    return found


def earlier_faults(output: Path) -> list[dict[str, Any]]:
    """What other groups' manifests in the same folder say of their samples: told once, it is not told again."""
    found = []
    for path in output.parent.glob("*.json"):
        try:
            faults = read_manifest(path, stage="doctor").facts["faults"] if path != output else []
        except StoreError:
            continue
        found += [fault | {"samples": tuple(fault["samples"])} for fault in faults]
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
            "kind": labels.facts["kind"],
            "class_counts": tuple(counts),
            "ignored": 1 - sum(counts) / (facts["shape"][0] * facts["shape"][1]),
            "n_instances": labels.facts["n_instances"],
        }
    known |= {"name": name, "split": split, **seen, "shift": tuple(seen.get("shift", (0, 0)))}
    return Findings(**known)


def table_text(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows as text, with tabs between the cells."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

"""Where results come from: the chain of digests from the report back to the sources, and whether it holds."""

import hashlib
import io
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from unetpipe.errors import StoreError
from unetpipe.ledgers import Ledger, key_of, locked, read_records
from unetpipe.manifests import FOLDERS, Manifest, read_manifest
from unetpipe.sources.files import sha256_of_source
from unetpipe.specs import canonical_json

__all__ = [
    "chain_faults",
    "dag_digest",
    "find_manifests",
    "forget_units",
    "identity_of",
    "ledger_faults",
    "read_all",
    "read_units",
]

# Stages with a result for each model and sample.
PAIRED = ("predict", "segment", "evaluate")
# What the source of a stage is called in the record of a run.
COLUMNS = {"ingest": "image", "annotate": "annotation", "train": "weights", "predict": "region"}


def find_manifests(results: Path) -> list[Path]:
    """Manifests of all stages below a folder of results, in the order of the stages, then of their names."""
    found: list[Path] = []
    for stage, (folder, _) in FOLDERS.items():
        if stage == "report":
            found += [path for path in [results / "report.json"] if path.is_file()]
        else:
            found += sorted(results.glob(f"{folder}/*/*.json" if stage in PAIRED else f"{folder}/*.json"))
    return found


def identity_of(manifest: Manifest) -> dict[str, Any]:
    """Everything that a result depends on, as `key_of` takes it."""
    return {"stage": manifest.stage, "spec": manifest.spec, "code": manifest.code, "inputs": manifest.inputs}


def dag_digest(manifests: Mapping[str, Manifest]) -> str:
    """Digest of a whole run: of what each result was made from, by what, and of what came.

    Parameters
    ----------
    manifests : mapping of str to Manifest
        By name, as `Manifest.name` gives it.

    Returns
    -------
    str
        SHA-256 in hexadecimal; it does not depend on the order.

    Examples
    --------
    >>> dag_digest({})[:16]
    'e3b0c44298fc1c14'
    """
    digest = hashlib.sha256()
    for name in sorted(manifests):
        digest.update(f"{name} {key_of(identity_of(manifests[name]))} {manifests[name].content}\n".encode())
    return digest.hexdigest()


def read_units(manifest: Manifest) -> tuple[str, dict[str, dict[str, Any]]]:
    """The key in a result's ledger, and what it records of each unit.

    Raises
    ------
    StoreError
        If there is no ledger, or it was not closed.
    """
    path = manifest.path.with_name(f"{manifest.sample}.ledger")
    try:
        # A copy, for reading removes what a kill cut off.
        records = read_records(io.BytesIO(path.read_bytes()))
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from None
    if not records or "closing" not in records[-1]:
        raise StoreError(f"{path}: not the ledger of a finished result")
    return records[0].get("key", ""), {r["unit"]: r for r in records if "unit" in r}


def forget_units(manifest: Manifest, units: Collection[str]) -> None:
    """Take back a finished result and some of its units, so that its stage goes on and makes just these again.

    Parameters
    ----------
    manifest : Manifest
        Of a stage of `MENDED`; its file is removed.
    units : collection of str
        Shards that its ledger knows.
    """
    path = manifest.path.with_name(f"{manifest.sample}.ledger")
    with path.open("r+b") as file, locked(file, manifest.path):
        ledger = Ledger(file, manifest.path, identity_of(manifest))
        ledger.units = {r.pop("unit"): r for r in read_records(file) if "unit" in r}
        ledger.forget(units)


def ledger_faults(manifest: Manifest, key: str, units: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What does not fit between a manifest and its ledger, in words."""
    if key != key_of(identity_of(manifest)):
        yield "settings, code or inputs in the manifest are not those of the ledger"
    content = hashlib.sha256()
    for unit in sorted(units):
        content.update(f"{unit} {units[unit]['digest']}\n".encode())
    content.update(canonical_json(manifest.facts).encode())
    if content.hexdigest() != manifest.content:
        yield "the content digest does not follow from the ledger and the facts"


def chain_faults(
    manifest: Manifest, manifests: Mapping[str, Manifest], sources: Mapping[str, Mapping[str, str]], root: Path
) -> Iterator[str]:
    """What does not fit between a result and what it was made of, in words.

    Parameters
    ----------
    manifest : Manifest
        The result.
    manifests : mapping of str to Manifest
        All results by name.
    sources : mapping
        Paths of each sample's ``image``, ``annotation`` and ``region``, and of each imported network's ``weights``,
        relative to `root`; without them, sources are not checked.
    root : Path
        The project's folder.
    """
    column = COLUMNS.get(manifest.stage, "")
    for name, digest in manifest.inputs.items():
        if name.startswith("source/"):
            path = sources.get(manifest.sample, {}).get(column)
            if path:
                yield from source_faults(root / path, digest)
        elif name not in manifests:
            yield f"made of {name}, which is not there"
        elif digest.startswith("{"):
            # Annotations depend on the frame of their image only.
            facts, inputs = manifests[name].facts, manifests[name].inputs
            file = next((i.removeprefix("source/") for i in inputs if i.startswith("source/")), "")
            if any((facts | {"file": file}).get(key) != value for key, value in json.loads(digest).items()):
                yield f"made of another frame than {name} has now"
        elif digest != manifests[name].content:
            yield f"made of another {name} than is there now"


def source_faults(path: Path, digest: str) -> Iterator[str]:
    """Whether a source is what it was."""
    try:
        found = sha256_of_source(path)
    except OSError as error:
        yield f"its source {path} cannot be read ({error.strerror})"
        return
    if found != digest:
        yield f"its source {path} has changed"


def read_all(results: Path) -> tuple[dict[str, Manifest], dict[Path, str]]:
    """All results by name, and what is wrong with those that cannot be used, by manifest."""
    found: dict[str, Manifest] = {}
    faults: dict[Path, str] = {}
    for path in find_manifests(results):
        try:
            manifest = read_manifest(path)
            found[manifest.name] = manifest
        except StoreError as error:
            faults[path] = str(error)
    return found, faults

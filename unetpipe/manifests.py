"""Manifests, keys and ledgers: how a stage knows what it has done, and its readers that it is whole.

A stage's result is a small manifest `NAME.json`, written last, beside a store of the same stem (`NAME.zarr`, or a
folder `NAME`) and a ledger `NAME.ledger`. The ledger holds the key of the work and one line per finished unit. A
process that finds its own key goes on where the last one stopped; one that finds another key starts afresh.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from unetpipe import __version__
from unetpipe.errors import AnnotationError, SourceError, StoreError
from unetpipe.signals import stop_if_asked
from unetpipe.sources.files import files_below, sha256_of_file, sha256_of_source
from unetpipe.specs import canonical_json

__all__ = [
    "FOLDERS",
    "Ledger",
    "Manifest",
    "open_ledger",
    "read_manifest",
    "store_path",
    "write_file",
]

SCHEMA = 2

# The folder under results/ that each stage owns, and the suffix of its stores.
FOLDERS = {
    "ingest": ("images", ".zarr"),
    "annotate": ("labels", ".zarr"),
    "doctor": ("doctor", ""),
    "weigh": ("weights", ".zarr"),
    "augment": ("patches", ".zarr"),
    "train": ("models", ""),
    "predict": ("probabilities", ".zarr"),
    "tune": ("thresholds", ""),
    "segment": ("segmentations", ".zarr"),
    "evaluate": ("metrics", ""),
    "report": ("report", ""),
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a finished stage says of its result. Equal inputs give equal bytes.

    Parameters
    ----------
    path : Path
        The manifest's file; not part of its content.
    stage : str
        Verb of the stage that wrote it.
    spec : dict
        The stage's validated settings.
    code : str
        Fingerprint of the stage's code.
    inputs : dict of str to str
        Content digest of each input, by ``folder/name``.
    content : str
        SHA-256 over the decoded content and the facts: what makes readers run again.
    facts : dict
        What later stages need to know: shape, pixel size, counts.
    objects : dict of str to int
        Every file of the store with its size in bytes.
    digests : dict of str to str
        SHA-256 of those files of the store that hold no chunks: tables, cards, pictures, metadata of arrays.
    """

    path: Path
    stage: str
    spec: dict[str, Any]
    code: str
    inputs: dict[str, str]
    content: str
    facts: dict[str, Any]
    objects: dict[str, int]
    digests: dict[str, str]

    @property
    def name(self) -> str:
        """Folder and name of the result, such as ``images/cell01``."""
        return result_name(self.path, self.stage)

    @property
    def sample(self) -> str:
        """Last part of the name: the sample, or the model."""
        return self.path.name.removesuffix(".json")

    @property
    def store(self) -> Path:
        """The store that this manifest vouches for."""
        return store_path(self.path, self.stage)


def result_name(path: Path, stage: str) -> str:
    """``folder/name`` of a manifest; with the model in between where there is one per model and sample."""
    depth = 3 if stage in ("predict", "segment", "evaluate") else 2
    return "/".join(path.parts[-depth:]).removesuffix(".json")


def store_path(manifest: Path, stage: str) -> Path:
    """Where the store of a manifest lies: beside it, under the same stem."""
    return manifest.with_name(manifest.name.removesuffix(".json") + FOLDERS[stage][1])


def read_manifest(path: Path, *, stage: str | None = None, whole: bool = True) -> Manifest:
    """Read a manifest and make sure that its store is all there.

    Parameters
    ----------
    path : Path
        A file written by a stage.
    stage : str, optional
        The verb that must have written it.
    whole : bool
        Whether the store must be all there.

    Raises
    ------
    StoreError
        If the manifest is missing, unreadable or of another stage, or if a file of its store is missing or has
        another size.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data.pop("schema")
        data.pop("version")
        manifest = Manifest(path=path, **data)
    except FileNotFoundError:
        raise StoreError(f"{path}: no such manifest; run the stage that writes it first") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path}: not a manifest of unetpipe ({type(error).__name__}); delete it and run again"
        ) from None
    if version != SCHEMA:
        raise StoreError(f"{path}: expected a manifest of schema {SCHEMA}, came {version}; delete it and run again")
    if stage is not None and manifest.stage != stage:
        raise StoreError(f"{path}: expected a manifest of stage {stage}, came one of stage {manifest.stage}")
    fault = first_fault(manifest.store, manifest.objects) if whole else None
    if fault:
        raise StoreError(f"{fault}; delete {path} and run again")
    return manifest


def first_fault(store: Path, objects: Mapping[str, int]) -> str | None:
    """The first file of a store that is missing or has another size, in words; None if all is well."""
    for name, size in objects.items():
        try:
            found = (store / name).stat().st_size
        except FileNotFoundError:
            return f"{store / name}: missing from a finished store"
        if found != size:
            return f"{store / name}: expected {size} bytes, found {found}: the store is damaged"
    return None


def is_chunk(name: str) -> bool:
    """Whether a file of a store holds chunks of an array; their content has digests of its own, in the ledger."""
    return "/c/" in f"/{name}"


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes, *, check: Callable[[Path], None] | None = None) -> None:
    """Write a file whole or not at all: temporary name, fsync, rename.

    Parameters
    ----------
    path : Path
        Its name.
    content : bytes
        All of it.
    check : callable, optional
        Reads the temporary file before it gets its name; where it raises, no file is left, and an older one stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


class Ledger:
    """The record of one stage's work on one result; made by `open_ledger`.

    Attributes
    ----------
    store : Path
        Where the result is written; exists.
    complete : bool
        Whether the work was finished before and the manifest has been written again.
    units : dict of str to dict
        Finished units with what was recorded about them.
    """

    def __init__(self, file: IO[bytes], manifest: Path, identity: dict[str, Any]) -> None:
        self.file = file
        self.manifest = manifest
        self.identity = identity
        self.store = store_path(manifest, identity["stage"])
        self.complete = False
        self.units: dict[str, dict[str, Any]] = {}

    def __contains__(self, unit: str) -> bool:
        return unit in self.units

    def append(self, unit: str, digest: str, **facts: Any) -> None:
        """Record that `unit` is durable on disk, with the digest of its decoded content.

        Raises
        ------
        Interrupted
            If a stop was asked for; the unit is recorded before.
        """
        self.write_line({"unit": unit, "digest": digest, **facts})
        self.units[unit] = {"digest": digest, **facts}
        stop_if_asked()

    def write_line(self, record: dict[str, Any]) -> None:
        """Append one durable line."""
        self.file.write(canonical_json(record).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def restart(self) -> None:
        """Forget all work: the ledger first, so that a kill in between leaves nothing that looks finished."""
        self.file.seek(0)
        self.file.truncate()
        os.fsync(self.file.fileno())
        self.units = {}
        self.manifest.unlink(missing_ok=True)
        if self.store.is_dir():
            shutil.rmtree(self.store)
        self.write_line({"key": key_of(self.identity)})

    def publish(self, facts: dict[str, Any]) -> None:
        """Close the work: list the store, fix the content digest, and write the manifest last."""
        for debris in [p for p in self.store.rglob("*") if p.is_file() and p.name.endswith(".partial")]:
            debris.unlink()
        files = files_below(self.store)
        objects = {name: file.stat().st_size for name, file in files.items()}
        digests = {name: sha256_of_file(file) for name, file in files.items() if not is_chunk(name)}
        closing = {"facts": facts, "objects": objects, "digests": digests}
        self.write_line({"closing": closing})
        self.write_manifest(closing)

    def write_manifest(self, closing: dict[str, Any]) -> None:
        """Write the manifest that follows from the ledger."""
        content = hashlib.sha256()
        for unit in sorted(self.units):
            content.update(f"{unit} {self.units[unit]['digest']}\n".encode())
        content.update(canonical_json(closing["facts"]).encode())
        data = {
            "schema": SCHEMA,
            "version": __version__,
            **self.identity,
            "content": content.hexdigest(),
            **closing,
        }
        write_file(self.manifest, json.dumps(data, indent=1, sort_keys=True).encode() + b"\n")
        self.complete = True


def key_of(identity: Mapping[str, Any]) -> str:
    """Digest of everything that a result depends on: stage, spec, code, content of the inputs."""
    return hashlib.sha256(canonical_json({"schema": SCHEMA, **identity}).encode()).hexdigest()


@contextmanager
def named(output: Path) -> Iterator[None]:
    """Give errors of a full or broken disk that name no file that of the result."""
    try:
        yield
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(output)
        raise


@contextmanager
def open_ledger(
    output: Path, *, stage: str, spec: Any, code: str, inputs: Sequence[Manifest] = (), sources: Sequence[Path] = ()
) -> Iterator[Ledger]:
    """Lock a stage's result and look at what is there.

    Parameters
    ----------
    output : Path
        The manifest to be written.
    stage : str
        Verb of the stage.
    spec : dataclass
        The stage's settings.
    code : str
        Fingerprint of the stage's code.
    inputs : sequence of Manifest
        Results that this one is made of; their content digests enter the key.
    sources : sequence of Path
        Files and folders from outside; the digest of their bytes enters the key.

    Yields
    ------
    Ledger
        `complete` if the same work was finished before: its store has been checked and its manifest written again.
        Otherwise its `units` are the finished part of the same work; other work has been removed.

    Raises
    ------
    StoreError
        If the result's folder cannot be written.

    Notes
    -----
    The lock lasts as long as the process; a second process on the same result waits, with a message.
    """
    digests = {m.name: m.content for m in inputs} | {f"source/{p.name}": sha256_of_source(p) for p in sources}
    identity = {"stage": stage, "spec": json.loads(canonical_json(spec)), "code": code, "inputs": digests}
    output.parent.mkdir(parents=True, exist_ok=True)
    with named(output), output.with_name(output.name.removesuffix(".json") + ".ledger").open("a+b") as file:
        lock(file, output)
        ledger = Ledger(file, output, identity)
        records = read_records(file)
        if not records or records[0].get("key") != key_of(identity):
            ledger.restart()
            records = []
        ledger.units = {r.pop("unit"): r for r in records if "unit" in r}
        closing = records[-1].get("closing") if records else None
        if closing is not None:
            fault = first_fault(ledger.store, closing["objects"])
            if fault:
                log.warning("%s; computing it again", fault)
                ledger.restart()
            else:
                ledger.write_manifest(closing)
                log.info("already done with exactly these inputs: %s", output)
        elif ledger.units:
            log.info("going on behind %d finished units: %s", len(ledger.units), output)
        ledger.store.mkdir(exist_ok=True)
        try:
            yield ledger
        except (AnnotationError, SourceError):
            # What was made of a refused file is nothing to go on with.
            ledger.restart()
            raise


def lock(file: IO[bytes], output: Path) -> None:
    """Wait until no other process works on this result."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.warning("%s: another process works on this result; waiting for it to end", output)
        fcntl.flock(file, fcntl.LOCK_EX)


def read_records(file: IO[bytes]) -> list[dict[str, Any]]:
    """All whole lines of a ledger; a last line that a kill cut off is removed."""
    file.seek(0)
    records, length = [], 0
    for line in file:
        try:
            record = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            record = None
        if not isinstance(record, dict):
            break
        records.append(record)
        length += len(line)
    file.truncate(length)
    return records

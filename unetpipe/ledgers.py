"""Keys and ledgers: how a stage knows what it has done, and goes on where it was stopped.

A ledger `NAME.ledger` holds the key of the work and one line per finished unit. A process that finds its own key goes
on where the last one stopped; one that finds another key starts afresh.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from unetpipe import __version__
from unetpipe.errors import AnnotationError, SourceError
from unetpipe.manifests import SCHEMA, Manifest, damage, is_chunk, store_path, write_file
from unetpipe.signals import stop_if_asked
from unetpipe.sources.files import files_below, sha256_of_file, sha256_of_source
from unetpipe.specs import canonical_json

__all__ = ["MENDED", "Ledger", "key_of", "lock", "open_ledger", "read_records"]

MENDED = ("predict", "segment")
"""Stages that go on with any part of their shards."""

log = logging.getLogger(__name__)


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

    def lost_units(self) -> set[str]:
        """The finished units whose shards are not there; of stages of `MENDED`."""
        if self.identity["stage"] not in MENDED or not self.units:
            return set()
        there = {unit_of(name) for name in files_below(self.store) if is_chunk(name)} if self.store.is_dir() else set()
        return {unit for unit in self.units if "/" in unit} - there

    def take_back(self, damaged: Mapping[str, str]) -> None:
        """Forget the units of files that are damaged, each with words for it; all, where that is not enough."""
        first, more = next(iter(damaged.values())), len(damaged) - 1
        others = f" and {more} more" if more else ""
        if self.identity["stage"] in MENDED and all(map(is_chunk, damaged)):
            log.warning("%s%s; computing these shards again", first, others)
            self.forget({unit_of(name) for name in damaged})
        else:
            log.warning("%s%s; computing it again", first, others)
            self.restart()

    def forget(self, units: Collection[str]) -> None:
        """Take some units back, and the manifest that vouches for them: these alone will be made again."""
        self.manifest.unlink(missing_ok=True)
        self.units = {unit: facts for unit, facts in self.units.items() if unit not in units}
        self.file.seek(0)
        self.file.truncate()
        records = [{"key": key_of(self.identity)}, *({"unit": unit, **facts} for unit, facts in self.units.items())]
        self.file.writelines(canonical_json(record).encode() + b"\n" for record in records)
        self.file.flush()
        os.fsync(self.file.fileno())

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


def unit_of(name: str) -> str:
    """The unit of a file that holds a chunk.

    Examples
    --------
    >>> unit_of("0/c/0/3/1"), unit_of("classes/2/c/0/5")
    ('0/3/1', 'classes/2/0/5')
    """
    array, _, place = name.partition("/c/")
    return "/".join([array, *place.split("/")[-2:]])


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
            damaged = damage(ledger.store, closing["objects"])
            if damaged:
                ledger.take_back(damaged)
            else:
                ledger.write_manifest(closing)
                log.info("already done with exactly these inputs: %s", output)
        elif ledger.units:
            if lost := ledger.lost_units():
                log.warning("%s: %d shards are missing; computing these shards again", ledger.store, len(lost))
                ledger.forget(lost)
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

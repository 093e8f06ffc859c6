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
from unetpipe.errors import AnnotationError, SourceError, StoreError
from unetpipe.leases import holder
from unetpipe.manifests import SCHEMA, Manifest, damage, is_chunk, store_path, write_file
from unetpipe.signals import stop_if_asked
from unetpipe.sources.files import files_below, sha256_of_file, sha256_of_source
from unetpipe.specs import canonical_json

__all__ = ["MENDED", "Ledger", "key_of", "locked", "open_ledger", "read_records"]

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
        Finished units with what was recorded about them: ``digest``, ``bytes`` of those that are shards, and facts.
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
        record = {"digest": digest, "bytes": self.shard_bytes(unit), **facts}
        self.write_line({"unit": unit, **record})
        self.units[unit] = record
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

    def shard_bytes(self, unit: str) -> int | None:
        """Size of a unit's shard on disk; None where there is none."""
        array, *place = unit.rsplit("/", 2)
        # Arrays with channels have one shard along these.
        for leading in ((), ("0",)):
            file = self.store.joinpath(array, "c", *leading, *place)
            if file.is_file():
                return file.stat().st_size
        return None

    def drop_lost(self) -> None:
        """Forget the units whose shards are gone or cut off; all, where the stage cannot go on with the others."""
        lost = {unit for unit, facts in self.units.items() if facts.get("bytes") != self.shard_bytes(unit)}
        if lost and self.identity["stage"] in MENDED:
            log.warning("%s: %d shards are missing or cut off; computing these shards again", self.store, len(lost))
            self.forget(lost)
        elif lost:
            log.warning("%s: %d shards are missing or cut off; computing it again", self.store, len(lost))
            self.restart()

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
    The lock lasts as long as the process; a second process on the same result waits, with a message that names the
    first.
    """
    digests = {m.name: m.content for m in inputs} | {f"source/{p.name}": sha256_of_source(p) for p in sources}
    identity = {"stage": stage, "spec": json.loads(canonical_json(spec)), "code": code, "inputs": digests}
    output.parent.mkdir(parents=True, exist_ok=True)
    path = output.with_name(output.name.removesuffix(".json") + ".ledger")
    with named(output), path.open("a+b") as file, locked(file, output):
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
            ledger.drop_lost()
            log.info("going on behind %d finished units: %s", len(ledger.units), output)
        ledger.store.mkdir(exist_ok=True)
        try:
            yield ledger
        except (AnnotationError, SourceError):
            # What was made of a refused file is nothing to go on with.
            ledger.restart()
            raise
        except StoreError as error:
            own = [file.relative_to(ledger.store) for file in error.files if file.is_relative_to(ledger.store)]
            if not own:
                raise
            # `verify` reads finished results only.
            ledger.take_back({file.as_posix(): f"{ledger.store / file}: damaged" for file in own})
            raise StoreError(
                f"{ledger.store / own[0]}: damaged since it was written; it is taken back: give the same command again"
            ) from None


@contextmanager
def locked(file: IO[bytes], output: Path) -> Iterator[None]:
    """Wait until no other process works on this result; who does stands in a file aside, for those that wait."""
    aside = output.with_name(f".{output.name.removesuffix('.json')}.holder")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # It is there a moment behind the lock.
        other = aside.read_text(encoding="utf-8") if aside.exists() else "just begun"
        log.warning("%s: another process works on this result (%s); waiting for it to end", output, other)
        fcntl.flock(file, fcntl.LOCK_EX)
    aside.write_text(holder(), encoding="utf-8")
    try:
        yield
    finally:
        aside.unlink(missing_ok=True)


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

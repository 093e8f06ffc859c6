"""Manifests: how the readers of a result know what it is, and that it is whole.

A stage's result is a small manifest `NAME.json`, written last, beside a store of the same stem (`NAME.zarr`, or a
folder `NAME`) and a ledger `NAME.ledger`.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unetpipe.errors import StoreError

__all__ = [
    "FOLDERS",
    "Manifest",
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
        raise StoreError(
            f"{path}: expected a manifest of stage {stage}, came one of stage {manifest.stage}; name that one"
        )
    for fault in damage(manifest.store, manifest.objects).values() if whole else ():
        raise StoreError(f"{fault}; delete {path} and run again")
    return manifest


def damage(store: Path, objects: Mapping[str, int]) -> dict[str, str]:
    """The files of a store that are missing or have another size, each with words for it."""
    found = {}
    for name, size in objects.items():
        try:
            there = (store / name).stat().st_size
        except FileNotFoundError:
            found[name] = f"{store / name}: missing from a finished store"
            continue
        if there != size:
            found[name] = f"{store / name}: expected {size} bytes, found {there}: the store is damaged"
    return found


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

"""verify: every store against its manifest, and the chain of digests from the report back to the sources."""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unetpipe.errors import StoreError
from unetpipe.geometry import Box
from unetpipe.ledgers import MENDED
from unetpipe.manifests import Manifest, read_manifest
from unetpipe.patches import open_patches
from unetpipe.provenance import chain_faults, forget_units, ledger_faults, read_all, read_units
from unetpipe.slides import Plane, digest_of, open_plane, shard_boxes
from unetpipe.sources.files import sha256_of_file

__all__ = ["verify"]

log = logging.getLogger(__name__)

# Units that are files.
FILES = {"weights": "weights.safetensors", "index.html": "index.html"}


def verify(results: Path, *, tell: Callable[[str], None], mend: bool = False) -> None:
    """Check all results of a project.

    Reads
    -----
    results : folder
        With the manifests of all stages, their ledgers and stores; and ``run.json``, which knows the sources.

    Writes
    ------
    tell : callable
        Takes a line for every fault, and a last one.
    mend : bool
        Whether damaged shards of probabilities and segmentations are taken back, with the manifests that vouch for
        them: their stages go on as if they had been stopped before, and make these again, with the same bytes.

    Raises
    ------
    StoreError
        If anything is not as it was written, and was not taken back.

    Notes
    -----
    Every shard, patch and file of parameters is decoded and held against the digest that was taken when it was written,
    one at a time, so that memory does not grow with the results. The other files of a store (tables, cards, pictures,
    metadata) are held against their own digests. Sources are read as far as ``run.json`` tells where they lie.
    """
    manifests, unusable = read_all(results)
    if not manifests and not unusable:
        raise StoreError(f"{results}: expected a folder of results with manifests, came none")
    sources = read_sources(results / "run.json")
    faults, mended = list[str](), list[Path]()
    for path, fault in unusable.items():
        tell(fault)
        if mend and is_mended(path, manifests, sources, results.parent):
            mended.append(path)
        else:
            faults.append(fault)
    todo = sum(sum(m.objects.values()) for m in manifests.values())
    done = 0
    for manifest in manifests.values():
        show(done, todo)
        found = [f"{manifest.path}: {fault}" for fault in faults_of(manifest, manifests, sources, results.parent)]
        done += sum(manifest.objects.values())
        for fault in found:
            tell(fault)
        if found and mend and is_mended(manifest.path, manifests, sources, results.parent):
            mended.append(manifest.path)
        else:
            faults += found
    show(done, todo)
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    if mended:
        names = " ".join(map(str, mended))
        tell(
            f"{len(mended)} results were taken back; make them again by: snakemake {names} --cores 8 --resources gpu=1"
        )
    if faults:
        raise StoreError(
            f"{results}: {len(faults)} faults in {len(manifests) + len(unusable)} results; give --mend for damaged "
            "shards, or delete each named .json and the .ledger beside it; then: snakemake THESE.json --cores 8 "
            "--resources gpu=1"
        )
    if mended:
        return
    known = "and sources " if sources else ""
    tell(f"{results}: {len(manifests)} results {known}are as they were written, {todo / 1e9:.3g} GB")


def is_mended(
    path: Path, manifests: Mapping[str, Manifest], sources: Mapping[str, Mapping[str, str]], root: Path
) -> bool:
    """Take back the damaged shards of a result, if nothing else is wrong with it; whether that was so."""
    try:
        manifest = read_manifest(path, whole=False)
        key, units = read_units(manifest)
        damaged = {unit for unit, _ in store_faults(manifest, units)}
        others = [
            *chain_faults(manifest, manifests, sources, root),
            *ledger_faults(manifest, key, units),
            *file_faults(manifest),
        ]
    except StoreError:
        return False
    if manifest.stage not in MENDED or not all("/" in unit for unit in damaged) or others:
        return False
    forget_units(manifest, damaged)
    return True


def read_sources(path: Path) -> dict[str, dict[str, str]]:
    """Where the sources of each sample lie; nothing where no run has been recorded."""
    try:
        found: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))["sources"]
    except FileNotFoundError:
        log.warning("%s: no such file; sources are not checked", path)
        return {}
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"{path}: not the record of a run; delete it and run again") from None
    return found


def show(done: int, todo: int) -> None:
    """How far the look is, where somebody looks."""
    if sys.stderr.isatty():
        share = done / max(todo, 1)
        sys.stderr.write(f"\r[{'#' * int(24 * share):24}] {share:.0%} of {todo / 1e9:.3g} GB\x1b[K")
        sys.stderr.flush()


def faults_of(
    manifest: Manifest, manifests: Mapping[str, Manifest], sources: Mapping[str, Mapping[str, str]], root: Path
) -> Iterator[str]:
    """What is wrong with one result, in words."""
    yield from chain_faults(manifest, manifests, sources, root)
    try:
        key, units = read_units(manifest)
        yield from ledger_faults(manifest, key, units)
        yield from (fault for _, fault in store_faults(manifest, units))
        yield from file_faults(manifest)
    except StoreError as error:
        yield str(error)


def store_faults(manifest: Manifest, units: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """What of a store is not what its ledger says: each unit, with words."""
    planes: dict[str, dict[str, Box]] = {}
    patches = dict(open_patches(manifest.store).iter_blocks()) if manifest.stage == "augment" else {}
    for unit, record in units.items():
        folder = unit.rpartition("/")[0].rpartition("/")[0]
        if unit in patches:
            found = digest_of_block(manifest, patches[unit])
        elif folder and (manifest.store / folder / "zarr.json").is_file():
            plane = open_plane(manifest.store / folder)
            boxes = planes.setdefault(folder, {name: box for name, box in boxes_of(plane, folder)})
            try:
                found = digest_of(plane.read(boxes[unit])) if unit in boxes else "none"
            except StoreError as error:
                yield unit, str(error)
                continue
        else:
            # The file itself is read with the others of the store.
            found = manifest.digests.get(FILES[unit], "none") if unit in FILES else record["digest"]
        if found != record["digest"]:
            yield unit, f"{manifest.store.name}: {unit} is not what was written"


def file_faults(manifest: Manifest) -> Iterator[str]:
    """Which files of a store, beside its chunks, are not what was written, in words."""
    for name, digest in manifest.digests.items():
        try:
            if sha256_of_file(manifest.store / name) != digest:
                yield f"{manifest.store.name}: {name} is not what was written"
        except OSError as error:
            yield f"{manifest.store.name}: {name} cannot be read ({error.strerror})"


def digest_of_block(manifest: Manifest, numbers: range) -> str:
    """Digest of a block of patches, as it was taken when they were written."""
    store = open_patches(manifest.store)
    try:
        blocks = (
            np.asarray(array[numbers.start : numbers.stop]) for array in (store.image, store.classes, store.weights)
        )
        return "-".join(digest_of(block) for block in blocks)
    except (ValueError, RuntimeError) as error:
        raise StoreError(f"{manifest.store}: patches are damaged ({str(error).splitlines()[0]})") from None


def boxes_of(plane: Plane, folder: str) -> Iterator[tuple[str, Box]]:
    """Units of an array and their boxes; those of a source that is used in place are as long as our own shards."""
    side = plane.shard_side if plane.array.shards is not None else None
    return shard_boxes(folder, plane.shape, side)

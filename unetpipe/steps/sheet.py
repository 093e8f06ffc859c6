"""sheet: the sample sheet of a folder, told by the names of its files."""

import csv
import io
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from unetpipe.annotations.qupath import iter_qupath
from unetpipe.annotations.shapes import ClassNames
from unetpipe.errors import AnnotationError, ConfigError, SourceError
from unetpipe.examination import count_parts
from unetpipe.geometry import Box
from unetpipe.layouts import (
    KNOWN,
    SHAPES,
    Pair,
    coco_pairs,
    ending_of,
    find_pairs,
    iter_files,
    named,
    split_lists,
    with_splits,
)
from unetpipe.manifests import write_file
from unetpipe.sources.files import listed_files
from unetpipe.sources.images import open_source
from unetpipe.sources.ngff import is_zarr

__all__ = ["sheet"]

# Annotations that are looked into, and the side in px or the bytes of what is looked at.
PEEKS, PEEK_PX, PEEK_BYTES = 3, 2048, 2**26
# From so many images on, jobs that take one each begin longer than they work.
MANY = 200
# GeoJSON packs about so well; what is looked at counts unpacked.
PACKED = 10


def sheet(folder: Path, *, output: Path, split: str = "70,15,15", overwrite: bool = False) -> list[str]:
    """Write the sample sheet of a folder.

    Reads
    -----
    folder : folder
        Images and annotations in one of the usual layouts (see `unetpipe.layouts`).

    Writes
    ------
    output : sample sheet
        One row per image, paths as they begin with `folder`. Images without annotation have split predict.

    Parameters
    ----------
    split : str
        Percent of train, val and test, for images of which no folder tells it.
    overwrite : bool
        Whether a sheet that is there may be replaced.

    Returns
    -------
    list of str
        What was recognised, line by line.

    Raises
    ------
    ConfigError
        If nothing pairs, a path cannot stand in a sheet, or the sheet is there already.
    """
    percent = percentages(split)
    if output.exists() and not overwrite:
        raise ConfigError(f"{output}: is there already; add --overwrite, or give another --output")
    files, apart = without_parts(folder, list(iter_files(folder)))
    pairs, notes = find_pairs(files)
    pairs, more = coco_pairs(folder, files, pairs)
    pairs, loose = without_loose(pairs)
    annotated = [pair for pair in pairs if pair.annotation]
    if not annotated:
        raise ConfigError("; ".join([why_nothing(folder, files), *apart]))
    listed = split_lists(folder, files)
    pairs = with_splits([replace(p, split=listed.get(p.image.stem, p.split)) for p in pairs], percent)
    text = sheet_text(folder, named(pairs))
    output.parent.mkdir(parents=True, exist_ok=True)
    write_file(output, text.encode())
    counts = Counter(pair.split for pair in pairs)
    parts = ", ".join(f"{counts[name]} {name}" for name in ("train", "val", "test", "predict") if counts[name])
    kind = likely_kind([folder / pair.annotation for pair in annotated if pair.annotation])
    hint = [f"by their values, annotations are of kind {kind}: set annotate.kind to {kind}"] if kind else []
    names = names_found([folder / pair.annotation for pair in annotated if pair.annotation])
    hint += [f"objects are called {', '.join(names)}: set classes, or annotate.names, to that"] if names else []
    if len(pairs) >= MANY:
        hint.append("so many jobs take long to begin: samples_per_job: 24 in config.yaml puts 24 images into each")
    return [
        *apart,
        *notes,
        *more,
        *loose,
        f"{len(pairs)} images: {parts}",
        *hint,
        f"written to {output}; look through it",
    ]


def without_parts(folder: Path, files: Sequence[PurePosixPath]) -> tuple[list[PurePosixPath], list[str]]:
    """The files without those that look like images and are none, and what to say of these."""
    parts = {path.parent / name for path in files for name in listed_files(folder / path)} & set(files)
    objects = [path for path in files if path.suffix.lower() == ".npy" and holds_objects(folder / path)]
    notes = [f"{len(parts)} file(s) belong to .vms or .vmu slides, and are no images of their own"] if parts else []
    if objects:
        notes.append(
            f"{len(objects)} NumPy file(s) of Python objects are left out, as {objects[0]}: such files are not read; "
            "in Cellpose, save the masks as PNG or TIFF"
        )
    left_out = parts.union(objects)
    return [path for path in files if path not in left_out], notes


def holds_objects(path: Path) -> bool:
    """Whether a NumPy file holds Python objects, as Cellpose's ``_seg.npy`` does: a type O at the header's start."""
    with path.open("rb") as file:
        return b"'|O'" in file.read(128)


def without_loose(pairs: Sequence[Pair]) -> tuple[list[Pair], list[str]]:
    """The pairs without DICOM files that nothing annotates: a slide has several, and names do not tell which."""
    kept = [pair for pair in pairs if pair.annotation or pair.image.suffix.lower() != ".dcm"]
    count = len(pairs) - len(kept)
    notes = [
        f"{count} DICOM file(s) that nothing annotates are left out: a slide has several; to predict one, add a row "
        "with any of its files"
    ]
    return kept, notes if count else []


def percentages(text: str) -> tuple[float, float, float]:
    """Percent of train, val and test."""
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--split: expected three numbers such as 70,15,15, came {text!r:.60}") from None
    if not (min(train, val, test) >= 0 and train > 0 and train + val + test < 1e6):
        raise ConfigError(f"--split: expected percent from 0 on, and some for train, came {text!r:.60}")
    return train, val, test


def why_nothing(folder: Path, files: Sequence[PurePosixPath]) -> str:
    """What to say where no image has an annotation."""
    names = [str(path).lower() for path in files]
    if any(name.endswith((".nii", ".nii.gz")) for name in names):
        return f"{folder}: expected pictures, came NIfTI volumes; save their slices as TIFF"
    return f"{folder}: no image with an annotation among {len(names)} file(s); known layouts: {KNOWN}"


def sheet_text(folder: Path, pairs: Sequence[Pair]) -> str:
    """The sheet's content."""
    stacks = any(pair.plane is not None for pair in pairs)
    columns = ["sample", "image", "annotation", "split", *(["plane", "annotation_plane"] if stacks else [])]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, delimiter="\t", lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for pair in pairs:
        paths = {"image": written(folder, pair.image), "annotation": written(folder, pair.annotation)}
        planes = {"plane": pair.plane, "annotation_plane": pair.annotation_plane}
        writer.writerow({"sample": pair.name, "split": pair.split, **paths, **planes})
    return text.getvalue()


def written(folder: Path, path: PurePosixPath | None) -> str:
    """A path as it stands in the sheet."""
    text = (folder / path).as_posix() if path else ""
    if any(sign in text for sign in "{}\t\n\r") or text != text.strip():
        raise ConfigError(f"{text!r}: braces, tabs and line breaks cannot stand in a sample sheet; rename the file")
    return text


def names_found(annotations: Sequence[Path]) -> list[str]:
    """Names of the classes in the first GeoJSON files, sorted; none where these cannot be read or are large."""
    names = ClassNames((), {})
    for path in [path for path in annotations if ending_of(path) in (".geojson", ".geojson.gz")][:PEEKS]:
        try:
            if path.stat().st_size * (PACKED if path.suffix.lower() == ".gz" else 1) <= PEEK_BYTES:
                deque(iter_qupath(path, names=names, objects="all", notes=Counter()), maxlen=0)
        except AnnotationError:
            return []
    return sorted(name for name in names.unknown if name)


def likely_kind(annotations: Sequence[Path]) -> str:
    """What the values of the first annotations look like; "" where that cannot be told."""
    found = set()
    for path in annotations[:PEEKS]:
        if ending_of(path) in SHAPES | {".json"}:
            return ""
        if path.is_dir() and not is_zarr(path):
            found.add("instances")
            continue
        try:
            with open_source(path, palette="indices") as source:
                block = source.read(Box(start=(0, 0), stop=(PEEK_PX, PEEK_PX)).clipped(source.shape))
        except SourceError:
            return ""
        values = np.unique(block[0])
        if len(values) > 1 and block.dtype.kind in "ui" and not (block != block[:1]).any():
            ids = np.count_nonzero(values)
            many = count_parts(block[0].astype(np.uint32)) >= 5 * ids
            found.add("mask" if ids == 1 else "classes" if many else "instances")
    return found.pop() if len(found) == 1 else ""

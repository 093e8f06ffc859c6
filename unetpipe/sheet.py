"""The sample sheet: one row per image, held against what names, paths and splits may be."""

import csv
import dataclasses
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path

from unetpipe.documents import read_text, unknown
from unetpipe.errors import ConfigError
from unetpipe.specs import IngestSpec

__all__ = ["COLUMNS", "SPLITS", "Sample", "check_name", "read_samples"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = {"con", "prn", "aux", "nul", *(f"{p}{i}" for p in ("com", "lpt") for i in range(1, 10))}
SPLITS = ("train", "val", "test", "predict")
COLUMNS = ("sample", "image", "annotation", "split", "fold", "plane", "annotation_plane", "channels", "pixel_size_um")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One row of the sample sheet.

    Parameters
    ----------
    name : str
        Unique name of the sample.
    image : str
        Path of the source image.
    annotation : str
        Path of the annotation; empty where there is none.
    split : str
        train, val, test or predict.
    fold : int or None
        Fold of a training sample in cross-validation.
    ingest : IngestSpec
        What becomes the sample's image.
    annotation_plane : int or None
        Plane of an annotation stack.
    """

    name: str
    image: str
    annotation: str
    split: str
    fold: int | None
    ingest: IngestSpec
    annotation_plane: int | None


def check_name(name: str, where: str) -> None:
    """Refuse names that are not safe as a file name on every system."""
    if not NAME.fullmatch(name) or ".." in name or name.split(".")[0].lower() in RESERVED or name.endswith("."):
        raise ConfigError(
            f"{where}: name {name!r:.80} is not usable; use letters, digits, '.', '_' and '-', "
            "at most 64, beginning with a letter or digit"
        )


def read_samples(path: Path, ingest: IngestSpec) -> dict[str, Sample]:
    """The rows of the sample sheet, by name; `ingest` is what all samples have in common."""
    rows = list(csv.reader(io.StringIO(read_text(path)), delimiter="\t"))
    header = [cell.strip() for cell in rows[0]] if rows else []
    for name in header:
        if name not in COLUMNS:
            raise ConfigError(f"{path}: {unknown(name, COLUMNS, 'column')}")
    for name in ("sample", "image", "split"):
        if header.count(name) != 1:
            raise ConfigError(f"{path}: expected one column {name!r} separated by tabs, came columns {header!r:.120}")
    samples: dict[str, Sample] = {}
    seen: dict[str, int] = {}
    for number, row in enumerate(rows[1:], start=2):
        if any(cell.strip() for cell in row):
            where = f"{path} row {number}"
            if len(row) > len(header):
                raise ConfigError(f"{where}: expected {len(header)} cells, came {len(row)}")
            cells = dict.fromkeys(COLUMNS, "") | {k: v.strip() for k, v in zip(header, row, strict=False)}
            sample = read_row(cells, where, ingest)
            twin = seen.setdefault(sample.name.lower(), number)
            if twin != number:
                raise ConfigError(f"{where}: sample {sample.name!r} stands in row {twin} already; names must be unique")
            samples[sample.name] = sample
    if not any(sample.split == "train" for sample in samples.values()):
        raise ConfigError(f"{path}: expected at least one sample of split train, came none")
    return samples


def read_row(cells: dict[str, str], where: str, common: IngestSpec) -> Sample:
    """One sample of the sheet."""
    check_name(cells["sample"], f"{where}: sample")
    if cells["split"] not in SPLITS:
        raise ConfigError(f"{where}: split: expected one of {', '.join(SPLITS)}, came {cells['split']!r}")
    if not cells["image"]:
        raise ConfigError(f"{where}: image: expected a path, came nothing")
    if cells["split"] != "predict" and not cells["annotation"]:
        raise ConfigError(f"{where}: annotation: expected a path, since split is {cells['split']}, came nothing")
    size, channels = cells["pixel_size_um"], cells["channels"]
    try:
        ingest = dataclasses.replace(
            common,
            plane=index(cells["plane"], f"{where}: plane"),
            channels=tuple(channel(c, f"{where}: channels") for c in channels.split(",")) if channels else None,
            pixel_size_um=decimal(size, f"{where}: pixel_size_um") if size else common.pixel_size_um,
        )
    except ConfigError as error:
        raise ConfigError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
    return Sample(
        name=cells["sample"],
        image=usable_path(cells["image"], f"{where}: image"),
        annotation=usable_path(cells["annotation"], f"{where}: annotation") if cells["split"] != "predict" else "",
        split=cells["split"],
        fold=index(cells["fold"], f"{where}: fold"),
        ingest=ingest,
        annotation_plane=index(cells["annotation_plane"] or cells["plane"], f"{where}: annotation_plane"),
    )


def index(cell: str, where: str) -> int | None:
    """A cell with a whole number; None where it is empty."""
    if not cell:
        return None
    if not re.fullmatch(r"\s*\d{1,9}\s*", cell):
        raise ConfigError(f"{where}: expected a whole number from 0 on, came {cell!r:.60}")
    return int(cell)


def channel(cell: str, where: str) -> int | str:
    """The number or the name of a channel."""
    if not cell.strip():
        raise ConfigError(f"{where}: expected numbers or names separated by commas, came an empty one")
    return int(cell) if re.fullmatch(r"\s*\d{1,9}\s*", cell) else cell.strip()


def decimal(cell: str, where: str) -> float:
    """A cell with a decimal number."""
    try:
        return float(cell)
    except ValueError:
        raise ConfigError(f"{where}: expected a number with a decimal point, came {cell!r:.60}") from None


def usable_path(cell: str, where: str) -> str:
    """An expanded path; without braces, in which Snakemake would look for a wildcard."""
    path = expanded(cell)
    if re.search(r"\{\s*\w", path):
        raise ConfigError(f"{where}: expected a path without braces, came {path!r:.120}; rename it or link to it")
    return path


def expanded(path: str) -> str:
    """A path with ``${NAME}`` and ``${NAME:-default}`` replaced from the environment."""
    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", lambda m: os.environ.get(m[1]) or (m[2] or ""), path)

"""The sample sheet: one row per image, held against what names, paths and splits may be."""

import csv
import dataclasses
import hashlib
import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from unetpipe.documents import read_text, unknown
from unetpipe.errors import ConfigError
from unetpipe.fields import check_bounds
from unetpipe.specs import AnnotateSpec, IngestSpec

__all__ = ["COLUMNS", "SPLITS", "Sample", "check_name", "datasets_of", "read_samples", "usable"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = {"con", "prn", "aux", "nul", *(f"{p}{i}" for p in ("com", "lpt") for i in range(1, 10))}
SPLITS = ("train", "val", "test", "predict")
COLUMNS = (
    *("sample", "image", "annotation", "split", "fold", "plane", "annotation_plane", "channels", "pixel_size_um"),
    *("level", "region", "dataset", "annotation_kind"),
)
KINDS: tuple[str, ...] = get_args(next(f.type for f in dataclasses.fields(AnnotateSpec) if f.name == "kind"))


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
    region : str
        Path of the areas that are predicted; empty: everything.
    dataset : str
        Data set that it belongs to; empty where the sheet has one only.
    annotation_kind : str
        What its annotation's values mean; empty: as for all.
    """

    name: str
    image: str
    annotation: str
    split: str
    fold: int | None
    ingest: IngestSpec
    annotation_plane: int | None
    region: str
    dataset: str
    annotation_kind: str

    @property
    def sources(self) -> dict[str, str]:
        """Path of each file that the sample is made of, by column."""
        given = {"image": self.image, "annotation": self.annotation, "region": self.region}
        return {column: path for column, path in given.items() if path}


def check_name(name: str, where: str) -> None:
    """Refuse names that are not safe as a file name on every system."""
    if not NAME.fullmatch(name) or ".." in name or name.split(".")[0].lower() in RESERVED or name.endswith("."):
        raise ConfigError(
            f"{where}: name {name!r:.80} is not usable; use letters, digits, '.', '_' and '-', "
            "at most 64, beginning with a letter or digit"
        )


def usable(text: str) -> str:
    """A text as a sample's name: accents dropped, other characters as ``_``, cut at 64 with a hash."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"\.{2,}|[^A-Za-z0-9.-]+", "_", plain).strip("._-")
    code = hashlib.sha256(text.encode()).hexdigest()
    if not re.search(r"[A-Za-z0-9]", name):
        return f"s-{code[:8]}"
    name = name if len(name) <= 64 else f"{name[:55]}-{code[:8]}"
    try:
        check_name(name, "")
    except ConfigError:
        return f"s-{name[:62]}"
    return name


def read_samples(path: Path, ingest: IngestSpec) -> dict[str, Sample]:
    """The rows of the sample sheet, by name; `ingest` is what all samples have in common."""
    rows = read_rows(path)
    header = checked_header(rows[0][1] if rows else [], path)
    samples: dict[str, Sample] = {}
    seen: dict[str, int] = {}
    for number, row in rows[1:]:
        where = f"{path} row {number}"
        if any(row[len(header) :]):
            raise ConfigError(
                f"{where}: expected {len(header)} cells, came {len(row)}; remove what is behind the last column"
            )
        cells = dict.fromkeys(COLUMNS, "") | dict(zip(header, row, strict=False))
        sample = read_row(cells, where, ingest)
        twin = seen.setdefault(sample.name.lower(), number)
        if twin != number:
            raise ConfigError(f"{where}: sample {sample.name!r} stands in row {twin} already; give each its own name")
        samples[sample.name] = sample
    check_datasets(samples, path)
    return samples


def datasets_of(samples: Mapping[str, Sample]) -> list[str]:
    """The data sets of a sheet, in its order; one without a name where it names none."""
    return list(dict.fromkeys(sample.dataset for sample in samples.values()))


def check_datasets(samples: Mapping[str, Sample], path: Path) -> None:
    """Refuse data sets without anything to learn from, and samples that belong to none where others do."""
    datasets = {sample.dataset for sample in samples.values()} or {""}
    homeless = next((name for name, sample in samples.items() if not sample.dataset), None)
    if len(datasets) > 1 and homeless is not None:
        raise ConfigError(
            f"{path}: sample {homeless}: dataset: expected a name as other samples have, came nothing; write one"
        )
    for dataset in sorted(datasets):
        if not any(sample.split == "train" and sample.dataset == dataset for sample in samples.values()):
            where = f"{path}: dataset {dataset}" if dataset else f"{path}"
            raise ConfigError(
                f"{where}: expected at least one sample of split train, came none; set split to train in some rows"
            )


def read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Number and stripped cells of every row that is not blank; the header comes first.

    Cells are separated by tabs, or by the semicolons or commas that a spreadsheet writes: the header tells, for no name
    of a column holds any of them. With commas every row must have the header's number of cells, since a decimal comma
    or a comma in a path looks the same.
    """
    lines = read_text(path).split("\n")
    if re.fullmatch("sep=.", lines[0]):
        lines[0] = ""
    header = next((line for line in lines if line.strip()), "")
    delimiter = next((sign for sign in "\t;," if sign in header), "\t")
    reader, rows, width = csv.reader(lines, delimiter=delimiter, strict=True), list[tuple[int, list[str]]](), 0
    number = 0
    try:
        for row in reader:
            cells, number, start = [cell.strip() for cell in row], reader.line_num, number + 1
            if number > start:
                raise csv.Error
            width = width or len(cells)
            if any(cells) and delimiter == "," and len(cells) != width:
                raise ConfigError(
                    f"{path} row {number}: expected {width} cells separated by commas, came {len(cells)}; put cells "
                    "that hold commas in quotation marks, or save the sheet with tabs"
                )
            rows += [(number, cells)] if any(cells) else []
    except csv.Error:
        raise ConfigError(f"{path} row {number + 1}: a quotation mark is not closed; write none or two") from None
    return rows


def checked_header(cells: list[str], path: Path) -> list[str]:
    """Names of the columns, each of them known and there once; blank ones at the end do not count."""
    header = cells[: len(cells) - next((i for i, cell in enumerate(reversed(cells)) if cell), len(cells))]
    for number, name in enumerate(header, start=1):
        if not name:
            raise ConfigError(f"{path}: column {number} has no name; name it, or take it out")
        if name not in COLUMNS:
            raise ConfigError(f"{path}: {unknown(name, COLUMNS, 'column')}")
    for name in dict.fromkeys(("sample", "image", "split", *header)):
        if header.count(name) != 1:
            raise ConfigError(
                f"{path}: expected one column {name!r}, came columns {', '.join(header)!r:.120}; correct the header"
            )
    return header


def read_row(cells: dict[str, str], where: str, common: IngestSpec) -> Sample:
    """One sample of the sheet."""
    check_name(cells["sample"], f"{where}: sample")
    if cells["split"] not in SPLITS:
        raise ConfigError(
            f"{where}: split: expected one of {', '.join(SPLITS)}, came {cells['split']!r:.60}; write one"
        )
    if not cells["image"]:
        raise ConfigError(f"{where}: image: expected a path, came nothing; write one, or delete the row")
    if cells["split"] != "predict" and not cells["annotation"]:
        raise ConfigError(
            f"{where}: annotation: expected a path, since split is {cells['split']}, came nothing; write one, or set "
            "split to predict"
        )
    if cells["dataset"]:
        check_name(cells["dataset"], f"{where}: dataset")
    kind = cells["annotation_kind"]
    if kind and kind not in KINDS:
        raise ConfigError(
            f"{where}: annotation_kind: expected one of {', '.join(KINDS)}, came {kind!r:.60}; write one, or leave it "
            "empty"
        )
    size, channels = cells["pixel_size_um"], cells["channels"]
    try:
        ingest = dataclasses.replace(
            common,
            plane=index(cells["plane"], f"{where}: plane"),
            level=index(cells["level"], f"{where}: level") or 0,
            channels=tuple(channel(c, f"{where}: channels") for c in channels.split(",")) if channels else None,
            source_pixel_size_um=decimal(size, f"{where}: pixel_size_um") if size else None,
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
        region=usable_path(cells["region"], f"{where}: region"),
        dataset=cells["dataset"],
        annotation_kind=kind,
    )


def index(cell: str, where: str) -> int | None:
    """A cell with a whole number; None where it is empty."""
    if not cell:
        return None
    if not re.fullmatch(r"\s*\d{1,9}\s*", cell):
        raise ConfigError(
            f"{where}: expected a whole number from 0 on, came {cell!r:.60}; write one, or leave it empty"
        )
    return int(cell)


def channel(cell: str, where: str) -> int | str:
    """The number or the name of a channel."""
    if not cell.strip():
        raise ConfigError(
            f"{where}: expected numbers or names separated by commas, came an empty one; delete its comma"
        )
    return int(cell) if re.fullmatch(r"\s*\d{1,9}\s*", cell) else cell.strip()


def decimal(cell: str, where: str) -> float:
    """A cell with a decimal number above 0."""
    try:
        number = float(cell)
        check_bounds(where, number, {"above": 0})
    except ValueError:
        raise ConfigError(
            f"{where}: expected a number with a decimal point, above 0, came {cell!r:.60}; write it as 0.25"
        ) from None
    return number


def usable_path(cell: str, where: str) -> str:
    """An expanded path; without braces, in which Snakemake would look for a wildcard."""
    path = expanded(cell, where)
    if cell and not path:
        raise ConfigError(f"{where}: expected a path, came nothing for {cell!r:.120}; set the variable to a path")
    if {*"{}\0"} & {*path}:
        raise ConfigError(f"{where}: expected a path without braces, came {path!r:.120}; rename it or link to it")
    return path


def expanded(path: str, where: str) -> str:
    """A path with ``${NAME}`` and ``${NAME:-default}`` replaced from the environment."""

    def value(found: re.Match[str]) -> str:
        name, default = found.groups()
        if default is None and not os.environ.get(name):
            raise ConfigError(f"{where}: the variable {name} is not set; set it, or write ${{{name}:-DEFAULT}}")
        return os.environ.get(name) or str(default)

    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", value, path)

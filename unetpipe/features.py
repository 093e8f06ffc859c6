"""Objects as tables and as outlines for other software: CSV and Parquet, and GeoJSON as QuPath reads it.

All are written object by object; what waits for its turn lies on the disk.
"""

import csv
import gzip
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from unetpipe.outlines import OFFSET, Contours, joined, pieces
from unetpipe.resampling import Resampling

__all__ = ["OutlineFile", "iter_geometries", "iter_texts", "write_geojson", "write_parquet", "write_table"]

_BYTES_PER_VERTEX = 8
_COLUMNS = OFFSET + 1
_BYTES_PER_RUN = 8 * _COLUMNS
_RUNS_AT_ONCE = 2**14
_VERTICES_AT_ONCE = 2**16
_CHARACTERS_AT_ONCE = 2**18
_ROWS_OF_A_GROUP = 2**16


class OutlineFile:
    """Vertices and runs of all blocks, in temporary files that have no name.

    Parameters
    ----------
    folder : Path
        On the disk that has room for them.
    """

    def __init__(self, folder: Path) -> None:
        self.vertices, self.runs = (tempfile.TemporaryFile(dir=folder) for _ in range(2))  # noqa: SIM115
        self.count = self.n_runs = 0

    def __enter__(self) -> "OutlineFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.vertices.close()
        self.runs.close()

    def add(self, vertices: NDArray[np.int32], runs: NDArray[np.int64]) -> None:
        """Keep what `trace` has found in a block."""
        runs[:, OFFSET] += self.count
        self.vertices.write(vertices.tobytes())
        self.runs.write(runs.tobytes())
        self.count, self.n_runs = self.count + len(vertices), self.n_runs + len(runs)

    def joined(self) -> Contours:
        """The closed outlines of all blocks; none may be added behind."""
        self.vertices.flush()
        self.runs.flush()
        return joined(self.column)

    def column(self, number: int) -> NDArray[np.int64]:
        """(R,) one column of all runs."""
        found = np.empty(self.n_runs, np.int64)
        for at in range(0, self.n_runs, _RUNS_AT_ONCE):
            rows = os.pread(self.runs.fileno(), _RUNS_AT_ONCE * _BYTES_PER_RUN, at * _BYTES_PER_RUN)
            found[at : at + _RUNS_AT_ONCE] = np.frombuffer(rows, np.int64).reshape(-1, _COLUMNS)[:, number]
        return found

    def ring(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """(M, 9) the runs of these numbers."""
        rows = (os.pread(self.runs.fileno(), _BYTES_PER_RUN, n * _BYTES_PER_RUN) for n in numbers.tolist())
        return np.frombuffer(b"".join(rows), np.int64).reshape(-1, _COLUMNS)

    def read(self, start: int, count: int) -> NDArray[np.int32]:
        """(count, 2) vertices from a number on."""
        found = os.pread(self.vertices.fileno(), count * _BYTES_PER_VERTEX, start * _BYTES_PER_VERTEX)
        return np.frombuffer(found, np.int32).reshape(-1, 2)


def iter_texts(columns: Iterable[dict[str, NDArray[Any]]]) -> Iterator[dict[str, list[str]]]:
    """Tables of numbers as tables of text.

    Parameters
    ----------
    columns : iterable of dict of str to (N,) array
        Tables of equal columns, one behind the other.

    Yields
    ------
    dict of str to list of str
        Whole numbers as they are, others with nine digits.

    Examples
    --------
    >>> next(iter_texts([{"a": np.array([1, 2]), "b": np.array([0.5, 1 / 3])}]))
    {'a': ['1', '2'], 'b': ['0.5', '0.333333333']}
    """
    for table in columns:
        yield {
            name: [f"{v:.9g}" for v in values.tolist()] if values.dtype.kind == "f" else list(map(str, values.tolist()))
            for name, values in table.items()
        }


def write_table(path: Path, tables: Iterable[dict[str, list[str]]]) -> str:
    """Write a CSV table.

    Parameters
    ----------
    path : Path
        The file.
    tables : iterable of dict of str to list of str
        Tables of equal columns, one behind the other; the first gives the names.

    Returns
    -------
    str
        SHA-256 of the file's content.
    """
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for number, table in enumerate(tables):
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            if number == 0:
                writer.writerow(table)
            writer.writerows(zip(*table.values(), strict=True))
            content = text.getvalue().encode()
            digest.update(content)
            file.write(content)
        _make_durable(file)
    return digest.hexdigest()


def write_parquet(path: Path, tables: Iterable[dict[str, NDArray[Any]]]) -> str:
    """Write a Parquet table.

    Parameters
    ----------
    path : Path
        The file.
    tables : iterable of dict of str to (N,) array
        Tables of equal columns, one behind the other; the first gives names and types.

    Returns
    -------
    str
        SHA-256 of the columns' names, types and values.

    Notes
    -----
    Row groups of 65,536 rows or a little more, compressed by zstd; no more than one is in memory. Numbers keep all
    their digits. Equal objects give equal bytes with one version of pyarrow.

    References
    ----------
    Apache Parquet, https://parquet.apache.org/docs/file-format.
    """
    digest, writer = hashlib.sha256(), None
    with path.open("wb") as file:
        for table in _grouped(tables):
            for name, values in table.items():
                digest.update(f"{name} {values.dtype.str}\n".encode() + values.tobytes())
            group = pyarrow.table({name: _column(values) for name, values in table.items()})
            writer = writer or pyarrow.parquet.ParquetWriter(file, group.schema, compression="zstd")
            writer.write_table(group)
        if writer is not None:
            writer.close()
        _make_durable(file)
    return digest.hexdigest()


def iter_geometries(outlines: OutlineFile, frame: Resampling) -> Iterator[Iterator[str]]:
    """Outlines of all objects as GeoJSON geometries.

    Parameters
    ----------
    outlines : OutlineFile
        With the outlines of all blocks.
    frame : Resampling
        From the source to the image in which they were traced.

    Yields
    ------
    iterator of str
        For each object, in the order of labels, the text of its geometry, in pieces of bounded size: a polygon, or
        several where an object has several 4-connected parts.

    Notes
    -----
    Coordinates are (x, y) in px of the source's finest level, (0, 0) being the outer corner of the first pixel, as
    QuPath has it. Outer rings run counter-clockwise and holes clockwise for y upwards, as RFC 7946 wants it: on the
    screen, the other way round.

    References
    ----------
    RFC 7946, doi:10.17487/RFC7946.
    """
    contours = outlines.joined()

    def text(first: int, stop: int) -> Iterator[str]:
        several = contours.parts[first] != contours.parts[stop - 1]
        yield '{"type":"MultiPolygon","coordinates":[[' if several else '{"type":"Polygon","coordinates":['
        for ring in range(first, stop):
            if ring > first:
                yield "," if contours.holes[ring] else "],["
            yield from _ring(outlines, pieces(outlines.ring(contours.runs(ring))), frame)
        yield "]]}" if several else "]}"

    for first, stop in pairwise(map(int, contours.bounds)):
        yield text(first, stop)


def write_geojson(
    path: Path,
    geometries: Iterable[Iterable[str]],
    tables: Iterable[dict[str, list[str]]],
    *,
    colours: Mapping[str, Sequence[int]],
) -> str:
    """Write objects as a gzipped GeoJSON file that QuPath opens.

    Parameters
    ----------
    path : Path
        The file.
    geometries : iterable of iterable of str
        From `iter_geometries`.
    tables : iterable of dict of str to list of str
        The objects' columns ``id`` and ``class``, and their measurements, in the same order.
    colours : mapping of str to sequence of int
        Red, green and blue, 0 to 255, of each class by its name.

    Returns
    -------
    str
        SHA-256 of the content before it is compressed.

    Notes
    -----
    One FeatureCollection, one line per object, each a detection with a classification and measurements, named by its
    id. The archive holds no time and no name: equal objects give equal bytes with one version of zlib.

    References
    ----------
    QuPath: doi:10.1038/s41598-017-17204-5.
    """
    digest = hashlib.sha256()
    with path.open("wb") as file:
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6) as archive:
            for content in _gathered(_collection(geometries, tables, colours)):
                digest.update(content)
                archive.write(content)
        _make_durable(file)
    return digest.hexdigest()


def _collection(
    geometries: Iterable[Iterable[str]],
    tables: Iterable[dict[str, list[str]]],
    colours: Mapping[str, Sequence[int]],
) -> Iterator[str]:
    """The text of a FeatureCollection, in pieces."""
    classes = {name: json.dumps({"name": name, "color": list(colour)}) for name, colour in colours.items()}
    outlines, line = iter(geometries), "\n"
    yield '{"type":"FeatureCollection","features":['
    for table in tables:
        names = [json.dumps(name) for name in table if name not in ("id", "class")]
        measures = zip(*(values for name, values in table.items() if name not in ("id", "class")), strict=True)
        for number, kind, measured in zip(table["id"], table["class"], measures, strict=True):
            yield line + '{"type":"Feature","geometry":'
            yield from next(outlines)
            values = ",".join(map(":".join, zip(names, measured, strict=True)))
            about = f'"objectType":"detection","name":"{number}","classification":{classes[kind]}'
            yield f',"properties":{{{about},"measurements":{{{values}}}}}}}'
            line = ",\n"
    yield "\n]}\n"


def _gathered(pieces: Iterable[str]) -> Iterator[bytes]:
    """Pieces of text as bytes, some hundred kB at once."""
    gathered, size = [], 0
    for piece in pieces:
        gathered.append(piece)
        size += len(piece)
        if size >= _CHARACTERS_AT_ONCE:
            yield "".join(gathered).encode()
            gathered, size = [], 0
    yield "".join(gathered).encode()


def _ring(outlines: OutlineFile, spans: list[tuple[int, int]], frame: Resampling) -> Iterator[str]:
    """The text of a ring that lies in spans of the file, in pieces; its first point comes again at the end."""
    text, first = "[", ""
    for start, count in spans:
        for at in range(start, start + count, _VERTICES_AT_ONCE):
            corners = outlines.read(at, min(_VERTICES_AT_ONCE, start + count - at))
            # JSON, as the list holds numbers only; several times as fast as json.dumps.
            points = str(frame.source_corners(corners)[:, ::-1].tolist()).replace(" ", "")
            first = first or points[1 : points.index("]") + 1]
            yield text + points[1:-1]
            text = ","
    yield f",{first}]"


def _grouped(tables: Iterable[dict[str, NDArray[Any]]]) -> Iterator[dict[str, NDArray[Any]]]:
    """Tables put together to those of a row group, at least one even where there are no rows."""
    gathered: list[dict[str, NDArray[Any]]] = []
    rows, found = 0, False
    for table in tables:
        gathered.append(table)
        rows += len(next(iter(table.values())))
        if rows >= _ROWS_OF_A_GROUP:
            yield {name: np.concatenate([one[name] for one in gathered]) for name in table}
            gathered, rows, found = [], 0, True
    if gathered and (rows or not found):
        yield {name: np.concatenate([one[name] for one in gathered]) for name in gathered[0]}


def _column(values: NDArray[Any]) -> Any:
    """A column as Arrow has it; text where there are no rows is text, too."""
    return pyarrow.array(values.tolist(), pyarrow.string()) if values.dtype.kind == "U" else pyarrow.array(values)


def _make_durable(file: Any) -> None:
    """Wait until a file's content is on the disk."""
    file.flush()
    os.fsync(file.fileno())

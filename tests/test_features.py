import csv
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from numpy.typing import NDArray
from skimage.measure import label

from unetpipe.annotations.qupath import iter_qupath
from unetpipe.annotations.shapes import ClassNames
from unetpipe.features import OutlineFile, iter_geometries, iter_texts, write_geojson, write_parquet, write_table
from unetpipe.geometry import Box
from unetpipe.outlines import trace
from unetpipe.polygons import paint, polygons_of
from unetpipe.resampling import Resampling

Labels = NDArray[np.uint32]


def written(path: Path, labels: Labels, *, side: int = 64, factor: float = 1.0, source: Any = None) -> str:
    """Write the outlines of labels, traced in square blocks; the digest of the content."""
    parts = label(labels, background=0, connectivity=1).astype(np.uint32)
    windows, shape = [np.pad(array, 1) for array in (labels, parts)], labels.shape
    frame = Resampling(shape=source or shape, factor=factor)
    columns = {"id": np.arange(1, labels.max() + 1), "class": np.full(labels.max(), 'T "1"')}
    columns["area_px"] = np.bincount(labels.ravel())[1:]
    with OutlineFile(path.parent) as outlines:
        for y in range(0, shape[0], side):
            for x in range(0, shape[1], side):
                box = Box(start=(y, x), stop=(y + side, x + side)).clipped(shape)
                pair = (array[box.grown(1).relative_to((-1, -1)).slices] for array in windows)
                outlines.add(*trace(*pair, box=box, image_width=shape[1]))
        colours = {'T "1"': (230, 159, 0)}
        return write_geojson(path, iter_geometries(outlines, frame), iter_texts([columns]), colours=colours)


def painted(path: Path, shape: tuple[int, int]) -> Labels:
    """The file's objects on an image, read as an annotation."""
    canvas, notes = np.zeros(shape, np.uint32), Counter[str]()
    shapes = list(iter_qupath(path, names=ClassNames(["-", 'T "1"'], {}), objects="detection", notes=notes))
    assert not notes and {one.value for one in shapes} <= {1}
    box = Box(start=(0, 0), stop=shape)
    for number, one in enumerate(shapes, start=1):
        polygons = polygons_of(one.parts)
        values = np.full(polygons.count, number, np.uint32)
        paint(canvas, polygons, box=box, order=np.arange(polygons.count), values=values)
    return canvas


@pytest.fixture(scope="module")
def noise() -> Labels:
    """8-connected objects with holes, numbered in raster order."""
    mask = np.random.default_rng(2).random((70, 90)) < 0.5
    return label(mask, connectivity=2).astype(np.uint32)


def test_the_file_is_the_labels_again(tmp_path: Path, noise: Labels) -> None:
    path = tmp_path / "objects.geojson.gz"
    written(path, noise)
    assert np.array_equal(painted(path, noise.shape), noise)
    document = json.loads(gzip.decompress(path.read_bytes()))
    assert document["type"] == "FeatureCollection"
    assert len(document["features"]) == noise.max()
    kinds = {feature["geometry"]["type"] for feature in document["features"]}
    assert kinds == {"Polygon", "MultiPolygon"}
    for number, feature in enumerate(document["features"], start=1):
        assert feature["properties"] == {
            "objectType": "detection",
            "name": str(number),
            "classification": {"name": 'T "1"', "color": [230, 159, 0]},
            "measurements": {"area_px": int((noise == number).sum())},
        }
        found = feature["geometry"]["coordinates"]
        for polygon in [found] if feature["geometry"]["type"] == "Polygon" else found:
            assert all(ring[0] == ring[-1] and ring.count(ring[0]) == 2 for ring in polygon)


def test_blocks_do_not_change_a_byte_and_the_archive_tells_no_time(tmp_path: Path, noise: Labels) -> None:
    paths = {side: tmp_path / f"{side}.gz" for side in (90, 17, 8)}
    digests = {written(path, noise, side=side) for side, path in paths.items()}
    assert len(digests) == len({path.read_bytes() for path in paths.values()}) == 1
    assert paths[8].read_bytes()[3:8] == bytes(5), "no name, no time"
    assert {*tmp_path.iterdir()} == {*paths.values()}


@pytest.mark.parametrize(("factor", "source"), [(2.0, (12, 16)), (1.5, (9, 12)), (0.5, (3, 4)), (2.2, (13, 17))])
def test_outlines_stand_where_the_source_stood(tmp_path: Path, factor: float, source: tuple[int, int]) -> None:
    """Each pixel of the result covers the source's pixels whose labels it got, by the rule of the resampling."""
    frame = Resampling(shape=source, factor=factor)
    labels = (np.arange(frame.result[0] * frame.result[1], dtype=np.uint32) + 1).reshape(frame.result)
    path = tmp_path / "objects.geojson.gz"
    written(path, labels, factor=factor, source=source)
    positions = ((np.arange(n) + 0.5) / factor for n in source)
    rows, columns = (np.minimum(p.astype(int), n - 1) for p, n in zip(positions, frame.result, strict=True))
    assert np.array_equal(painted(path, source), labels[rows[:, None], columns])


def test_the_first_pixel_has_its_corner_at_zero_and_its_centre_at_a_half(tmp_path: Path) -> None:
    path = tmp_path / "objects.geojson.gz"
    labels = np.array([[1, 0, 0], [0, 0, 2]], np.uint32)
    written(path, labels)
    one, two = (f["geometry"]["coordinates"][0] for f in json.loads(gzip.decompress(path.read_bytes()))["features"])
    assert one == [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]
    assert two == [[2, 1], [3, 1], [3, 2], [2, 2], [2, 1]]
    written(path, labels, factor=2.2, source=(4, 6))
    (*_, two) = (f["geometry"]["coordinates"][0] for f in json.loads(gzip.decompress(path.read_bytes()))["features"])
    assert two == [[4.4, 2.2], [6, 2.2], [6, 4], [4.4, 4], [4.4, 2.2]], "it ends with the source"


def test_a_ring_longer_than_what_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros((40, 41), np.uint32)
    labels[:, ::2] = labels[-1] = 1
    written(tmp_path / "one.gz", labels)
    monkeypatch.setattr("unetpipe.features._VERTICES_AT_ONCE", 5)
    monkeypatch.setattr("unetpipe.features._RUNS_AT_ONCE", 7)
    written(tmp_path / "other.gz", labels, side=9)
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "other.gz").read_bytes()


def test_no_objects_are_an_empty_collection_and_a_table_of_names(tmp_path: Path) -> None:
    written(tmp_path / "objects.gz", np.zeros((3, 3), np.uint32))
    document = json.loads(gzip.decompress((tmp_path / "objects.gz").read_bytes()))
    assert document == {"type": "FeatureCollection", "features": []}
    write_table(tmp_path / "objects.csv", iter_texts([{"id": np.zeros(0, int), "x": np.zeros(0)}]))
    assert (tmp_path / "objects.csv").read_text() == "id,x\n"


def test_a_table_quotes_what_must_be_quoted(tmp_path: Path) -> None:
    tables = [{"id": np.array([1, 2]), "class": np.array(["a, b"] * 2), "x": np.array([1e-7, 123456.789])}] * 2
    digest = write_table(tmp_path / "objects.csv", iter_texts(tables))
    with (tmp_path / "objects.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["id", "class", "x"] and len(rows) == 5
    assert rows[2] == rows[4] == ["2", "a, b", "123456.789"]
    assert len(digest) == 64


def test_parquet_keeps_every_digit_in_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetpipe.features._ROWS_OF_A_GROUP", 5)
    rng = np.random.default_rng(1)
    columns = {"id": np.arange(1, 13), "class": np.array(["a", "bcd"] * 6), "x": rng.normal(size=12)}
    tables = [{name: values[at : at + 2] for name, values in columns.items()} for at in range(0, 12, 2)]
    path = tmp_path / "objects.parquet"
    digest = write_parquet(path, tables)
    found = pd.read_parquet(path)
    assert list(found) == list(columns)
    assert all(found[name].tolist() == values.tolist() for name, values in columns.items())
    file = pyarrow.parquet.ParquetFile(path)
    assert [file.metadata.row_group(k).num_rows for k in range(file.metadata.num_row_groups)] == [6, 6]
    assert [str(field.type) for field in file.schema_arrow] == ["int64", "string", "double"]
    before = path.read_bytes()
    assert write_parquet(path, tables) == digest and path.read_bytes() == before
    tables[3]["x"][1] += 1e-12
    assert write_parquet(path, tables) != digest


def test_no_objects_are_a_parquet_table_of_names(tmp_path: Path) -> None:
    empty = {"id": np.zeros(0, int), "class": np.full(0, "a"), "x": np.zeros(0)}
    write_parquet(tmp_path / "objects.parquet", [empty])
    schema = pyarrow.parquet.read_schema(tmp_path / "objects.parquet")
    assert schema.names == ["id", "class", "x"] and [str(t) for t in schema.types] == ["int64", "string", "double"]

"""What is used in place has the content of a copy, and the source is never touched."""

import json
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import yaozarrs
import zarr
from zarr.codecs import TransposeCodec, ZstdCodec

from imagefiles import noise, read
from unetpipe.errors import SourceError, StoreError
from unetpipe.manifests import Manifest, read_manifest
from unetpipe.oldzarr import write_old_pyramid
from unetpipe.slides import open_plane
from unetpipe.specs import IngestSpec
from unetpipe.steps.ingest import ingest

SIZES = {"t": 2, "c": 3, "z": 2, "y": 300, "x": 200}
SHARDED = {"chunks": {"y": 64, "x": 32}, "shards": {"y": 128, "x": 64}}


def write_array(folder: Path, axes: str, version: int, **keys: Any) -> np.ndarray:
    """An array whose chunks hold one of each axis but y and x, unless told otherwise."""
    image = noise(*(SIZES[a] for a in axes), dtype=keys.pop("dtype", np.uint16))
    for name in ("chunks", "shards"):
        if name in keys or name == "chunks":
            sides = {"y": 128, "x": 64} | keys.get(name, {})
            keys[name] = tuple(sides.get(a, 1) for a in axes)
    if version == 2:
        keys = {"chunk_key_encoding": {"name": "v2", "separator": "/"}} | keys
        attributes = {"_ARRAY_DIMENSIONS": list(axes)}
        array = zarr.create_array(
            folder, shape=image.shape, dtype=image.dtype, zarr_format=2, attributes=attributes, **keys
        )
    else:
        array = zarr.create_array(folder, shape=image.shape, dtype=image.dtype, dimension_names=list(axes), **keys)
    array[...] = image
    return image


def ingested(source: Path, folder: Path, **keys: Any) -> Manifest:
    """The image made of a source."""
    output = folder / "images" / "a.json"
    ingest(source, output=output, spec=IngestSpec(**keys), code="i@1")
    return read_manifest(output, stage="ingest")


def copied_files(image: Manifest) -> int:
    """How many files of level 0 are the store's own."""
    folder = image.store / "0"
    return sum(
        not path.is_symlink() and path.name not in ("zarr.json", ".zarray")
        for path in folder.rglob("*")
        if path.is_file()
    )


def tree(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("axes", "keys", "spec"),
    [
        ("yx", {}, {}),
        ("cyx", {}, {}),
        ("cyx", {}, {"channels": (2, 0)}),
        ("cyx", {"chunks": {"c": 3}}, {}),
        ("tczyx", {}, {"plane": 3, "channels": (1,)}),
        ("tczyx", {"chunks": {"c": 3}}, {"plane": 2}),
        ("czyx", {"dtype": np.float32}, {"plane": 1}),
        ("zyx", {"dtype": np.uint8}, {"plane": 1}),
        ("yx", {"serializer": {"name": "bytes", "configuration": {"endian": "big"}}}, {}),
        ("cyx", {"compressors": None}, {}),
        ("cyx", {"compressors": {"id": "blosc", "cname": "lz4", "shuffle": 2}}, {}),
        ("cyx", {"compressors": {"id": "zstd", "level": 3}}, {}),
        ("cyx", {"compressors": {"id": "gzip", "level": 3}}, {}),
        ("tczyx", SHARDED, {"plane": 1, "channels": (0, 2)}),
        ("cyx", {"chunks": {"y": 64, "x": 32, "c": 1}, "shards": {"c": 3}}, {}),
    ],
)
def test_links_have_the_content_of_a_copy(
    tmp_path: Path, version: int, axes: str, keys: dict[str, Any], spec: dict[str, Any]
) -> None:
    if version == 2 and {"shards", "serializer"} & keys.keys():
        pytest.skip("version 2 has neither shards nor serializers")
    if version == 3 and keys.get("compressors"):
        pytest.skip("compressors by their names in version 2")
    write_array(tmp_path / "мышь a[1]", axes, version, **keys)
    before = tree(tmp_path / "мышь a[1]")
    linked = ingested(tmp_path / "мышь a[1]", tmp_path / "linked", **spec)
    copied = ingested(tmp_path / "мышь a[1]", tmp_path / "copied", copy=True, **spec)
    assert linked.content == copied.content
    assert linked.facts == copied.facts
    assert copied_files(linked) == 0 < copied_files(copied)
    yaozarrs.validate_zarr_store(str(linked.store))
    for level in range(linked.facts["levels"]):
        one, other = (open_plane(image.store / str(level)).read_whole() for image in (linked, copied))
        np.testing.assert_array_equal(one, other)
    assert any(name.startswith("0/") and name.endswith("0") for name in linked.objects)
    ingested(tmp_path / "мышь a[1]", tmp_path / "linked", copy=True, **spec)
    assert tree(tmp_path / "мышь a[1]") == before


@pytest.mark.parametrize(
    ("axes", "version", "keys", "spec"),
    [
        ("cyx", 3, {"chunks": {"c": 2}}, {}),
        ("cyx", 3, {"chunks": {"c": 3}}, {"channels": (0, 1)}),
        ("cyx", 3, {"chunks": {"c": 3}}, {"channels": (2, 1, 0)}),
        ("zyx", 3, {"chunks": {"z": 2}}, {"plane": 1}),
        ("cyx", 3, {"filters": [TransposeCodec(order=(0, 2, 1))]}, {}),
        ("cyx", 2, {"order": "F"}, {}),
        ("cyx", 2, {"compressors": {"id": "zlib", "level": 1}}, {}),
        ("cyx", 2, {"filters": [numcodecs.Delta(dtype="<u2")]}, {}),
        ("cyx", 2, {"chunk_key_encoding": {"name": "v2", "separator": "."}}, {}),
        ("cyx", 3, {"chunk_key_encoding": {"name": "default", "separator": "."}}, {}),
        ("cyx", 3, {"dtype": np.int16}, {}),
    ],
)
def test_what_cannot_be_linked_is_copied(
    tmp_path: Path, axes: str, version: int, keys: dict[str, Any], spec: dict[str, Any]
) -> None:
    image = write_array(tmp_path / "a", axes, version, **({"compressors": None} | keys))
    made = ingested(tmp_path / "a", tmp_path / "linked", **spec)
    assert copied_files(made) > 0
    expected = image[list(spec.get("channels", slice(None)))] if "channels" in spec else image
    expected = image[1:2] if axes == "zyx" else expected
    np.testing.assert_array_equal(open_plane(made.store / "0").read_whole(), expected)


def test_many_files_are_copied_into_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetpipe.sources.views._MOST_FILES", 35)
    write_array(tmp_path / "a", "cyx", 3)
    assert copied_files(ingested(tmp_path / "a", tmp_path)) == 1


@pytest.mark.parametrize("version", [2, 3])
def test_links_are_exported_as_pixels(tmp_path: Path, version: int) -> None:
    image = write_array(tmp_path / "a", "cyx", version)
    write_old_pyramid(ingested(tmp_path / "a", tmp_path).store, tmp_path / "old.zarr")
    np.testing.assert_array_equal(read(tmp_path / "old.zarr"), image)


def test_links_are_listed_and_what_they_lead_to_is_missed(tmp_path: Path) -> None:
    write_array(tmp_path / "a", "cyx", 3)
    ingested(tmp_path / "a", tmp_path)
    (tmp_path / "a" / "c" / "1" / "0" / "0").unlink()
    with pytest.raises(StoreError, match="missing from a finished store"):
        read_manifest(tmp_path / "images" / "a.json")


def test_links_are_relative_so_that_a_project_may_move(tmp_path: Path) -> None:
    write_array(tmp_path / "project" / "data" / "a", "cyx", 3)
    ingested(tmp_path / "project" / "data" / "a", tmp_path / "project" / "results")
    (tmp_path / "project").rename(tmp_path / "moved")
    assert read_manifest(tmp_path / "moved" / "results" / "images" / "a.json").facts["channels"] == 3


def test_values_are_checked_as_in_a_copy(tmp_path: Path) -> None:
    write_array(tmp_path / "a", "cyx", 3, dtype=np.float32, compressors=[ZstdCodec()])
    zarr.open_array(tmp_path / "a")[1, 200, 100] = np.nan
    with pytest.raises(SourceError, match="holds 1 values that are NaN"):
        ingested(tmp_path / "a", tmp_path)
    assert json.loads((tmp_path / "a" / "zarr.json").read_text())["shape"] == [3, 300, 200]


@pytest.mark.parametrize("shards", [None, (2560, 2560)])
def test_chunks_that_would_be_decoded_for_each_part_are_copied(tmp_path: Path, shards: tuple[int, int] | None) -> None:
    image = noise(2100, 2049)
    for name, side in (("long", 2560), ("short", 1280)):
        keys = {"chunk_key_encoding": {"name": "default", "separator": "/"}, "dimension_names": ["y", "x"]}
        array = zarr.create_array(
            tmp_path / name, shape=image.shape, dtype="u1", chunks=(side, 1280), shards=shards, **keys
        )
        array[...] = image
        found = ingested(tmp_path / name, tmp_path / f"of {name}")
        assert (copied_files(found) > 0) == (name == "long")
        np.testing.assert_array_equal(open_plane(found.store / "0").read_whole()[0], image)

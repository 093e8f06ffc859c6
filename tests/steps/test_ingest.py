"""Pixels come in unchanged, with a pyramid, or not at all."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from imagefiles import exact_level
from unetpipe.errors import SourceError
from unetpipe.manifests import read_manifest
from unetpipe.slides import open_plane
from unetpipe.specs import IngestSpec
from unetpipe.steps.ingest import ingest, intensity_windows


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "images" / "s.json"


@pytest.mark.parametrize(("dtype", "channels"), [("u1", 1), ("u1", 3), ("u2", 1), ("u2", 3), ("f4", 1)])
def test_level_0_is_the_source_and_levels_are_area_means(
    tmp_path: Path, output: Path, dtype: str, channels: int
) -> None:
    shape = (600, 301) if channels == 1 else (600, 301, channels)
    pixels = (np.random.default_rng(0).random(shape) * 250).astype(dtype)
    tifffile.imwrite(tmp_path / "s.tif", pixels, tile=(128, 64), photometric="rgb" if channels == 3 else "minisblack")
    ingest(tmp_path / "s.tif", output=output, spec=IngestSpec(source_pixel_size_um=0.5), code="i@1")
    manifest = read_manifest(output, stage="ingest")
    expected = pixels[None] if channels == 1 else np.moveaxis(pixels, -1, 0)
    for level in range(manifest.facts["levels"]):
        found = open_plane(manifest.store / str(level)).read_whole()
        np.testing.assert_allclose(found, exact_level(expected, level), rtol=1e-6 if dtype == "f4" else 0, atol=0)
    assert manifest.facts["shape"] == [600, 301]
    assert (manifest.facts["channels"], manifest.facts["pixel_size_um"]) == (channels, 0.5)
    low, high = manifest.facts["percentiles"][0]
    assert (low, high) == tuple(np.percentile(pixels if channels == 1 else pixels[..., 0], (1, 99.8)))


def test_planes_and_channels_are_chosen(tmp_path: Path, output: Path) -> None:
    stack = np.random.default_rng(1).integers(0, 255, (4, 30, 40, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "s.tif", stack, photometric="rgb")
    ingest(tmp_path / "s.tif", output=output, spec=IngestSpec(plane=2, channels=(2, 0)), code="i@1")
    found = open_plane(read_manifest(output).store / "0").read_whole()
    assert np.array_equal(found, np.moveaxis(stack[2][..., [2, 0]], -1, 0))


def test_content_does_not_depend_on_the_layout_of_the_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 999, (300, 200), dtype=np.uint16)
    contents = set()
    for name, keys in {"a": {}, "b": {"tile": (64, 64)}, "c": {"compression": "zlib", "byteorder": ">"}}.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, **keys)
        output = tmp_path / "images" / f"{name}.json"
        ingest(tmp_path / f"{name}.tif", output=output, spec=IngestSpec(), code="i@1")
        contents.add(read_manifest(output).content)
    assert len(contents) == 1


@pytest.mark.parametrize(
    ("pixels", "spec", "said"),
    [
        (np.zeros((20, 20), np.uint8), IngestSpec(channels=("DAPI",)), "does not name its channels, came 'DAPI'"),
        (np.full((20, 20), np.nan, np.float32), IngestSpec(), "s.tif"),
        (np.full((20, 20), np.inf, np.float32), IngestSpec(), "s.tif"),
        (np.zeros((20, 20), np.int32), IngestSpec(), "s.tif"),
        (np.zeros((20, 20), np.uint8), IngestSpec(channels=(1,)), "expected channels 0 to 0, came 1"),
        (np.zeros((20, 20), np.uint8), IngestSpec(plane=3), "s.tif"),
        (np.zeros((5, 20, 20), np.uint8), IngestSpec(), "planes"),
    ],
)
def test_what_cannot_be_used_is_refused_and_no_manifest_written(
    tmp_path: Path, output: Path, pixels: np.ndarray, spec: IngestSpec, said: str
) -> None:
    tifffile.imwrite(tmp_path / "s.tif", pixels, photometric="minisblack")
    with pytest.raises(SourceError, match=said):
        ingest(tmp_path / "s.tif", output=output, spec=spec, code="i@1")
    assert not output.exists()


def test_channels_are_chosen_by_name_and_keep_it(tmp_path: Path, output: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (3, 30, 40), dtype=np.uint8)
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP", "GFP"]}}
    tifffile.imwrite(tmp_path / "s.ome.tif", pixels, photometric="minisblack", metadata=metadata)
    with pytest.raises(SourceError, match="expected one of the channels DAPI, GFP, GFP, came 'GFP'"):
        ingest(tmp_path / "s.ome.tif", output=output, spec=IngestSpec(channels=("GFP",)), code="i@1")
    ingest(tmp_path / "s.ome.tif", output=output, spec=IngestSpec(channels=(2, "DAPI")), code="i@1")
    manifest = read_manifest(output)
    assert np.array_equal(open_plane(manifest.store / "0").read_whole(), pixels[[2, 0]])
    assert manifest.facts["channel_names"] == ["GFP", "DAPI"]
    ome = json.loads((manifest.store / "zarr.json").read_text())["attributes"]["ome"]
    assert [channel["label"] for channel in ome["omero"]["channels"]] == ["GFP", "DAPI"]


@pytest.mark.parametrize(
    "name", ["a b.tif", "[1]{2}(3)#%.tif", "мышь 細胞 ü.tif", "-rf $(touch x);'.tif", "a.zarr", "a.npy"]
)
def test_any_path_and_any_container_give_the_same_content(tmp_path: Path, output: Path, name: str) -> None:
    pixels = np.random.default_rng(2).integers(0, 999, (300, 200), dtype=np.uint16)
    contents = set()
    for path in (tmp_path / "plain.tif", tmp_path / name):
        if path.suffix == ".zarr":
            zarr.create_array(path, shape=pixels.shape, dtype=pixels.dtype, chunks=(64, 100))[...] = pixels
        elif path.suffix == ".npy":
            np.save(path, pixels)
        else:
            tifffile.imwrite(path, pixels)
        ingest(path, output=output, spec=IngestSpec(), code="i@1")
        contents.add(read_manifest(output).content)
    assert len(contents) == 1


def test_every_byte_of_a_folder_counts(tmp_path: Path, output: Path) -> None:
    array = zarr.create_array(tmp_path / "a", shape=(64, 64), dtype="u1", chunks=(32, 32), compressors=None)
    contents = []
    for value in (1, 2):
        array[40, 40] = value
        ingest(tmp_path / "a", output=output, spec=IngestSpec(), code="i@1")
        contents.append(open_plane(read_manifest(output).store / "0").read_whole()[0, 40, 40])
    assert contents == [1, 2]


@pytest.mark.parametrize("kind", ["file", "folder", "gone"])
def test_a_source_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, output: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "a.tif"
    tifffile.imwrite(source, np.zeros((30, 30), np.uint8))
    if kind == "folder":
        source = tmp_path / "a"
        array = zarr.create_array(source, shape=(64, 64), dtype="u1", chunks=(32, 32))
        array[...] = 1

    def change(levels: Any) -> Any:
        if kind == "folder":
            array[40, 40] = 2
        elif kind == "gone":
            source.unlink()
        else:
            with source.open("ab") as file:
                file.write(b"more")
        return intensity_windows(levels)

    monkeypatch.setattr("unetpipe.steps.ingest.intensity_windows", change)
    with pytest.raises(SourceError, match=r"changed while it was read.*run again"):
        ingest(source, output=output, spec=IngestSpec(), code="i@1")
    assert not output.exists()


def test_a_source_that_changes_before_the_first_pixel_is_refused(
    tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((30, 30), np.uint8))
    change = lambda *_: os.utime(tmp_path / "a.tif", (1, 1))  # noqa: E731
    monkeypatch.setattr("unetpipe.steps.ingest.check_second_reader", change)
    with pytest.raises(SourceError, match="changed while it was read"):
        ingest(tmp_path / "a.tif", output=output, spec=IngestSpec(), code="i@1")


@pytest.mark.parametrize(("plane", "level", "compared"), [(0, 0, True), (1, 0, False), (0, 1, False)])
def test_only_what_openslide_reads_too_is_compared(
    tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch, plane: int, level: int, compared: bool
) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        pixels = np.zeros((2, 64, 64, 3), np.uint8)
        file.write(pixels, subifds=1, photometric="rgb", metadata={"axes": "ZYXS"})
        file.write(pixels[:, ::2, ::2], subfiletype=1, photometric="rgb")
    seen = []
    monkeypatch.setattr("unetpipe.steps.ingest.check_second_reader", lambda *given: seen.append(given[2] is not None))
    ingest(tmp_path / "a.ome.tif", output=output, spec=IngestSpec(plane=plane, level=level), code="i@1")
    assert seen == [compared]

"""Zarr folders and NumPy files against the arrays that were written, and those that want to harm."""

import asyncio
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from imagefiles import Array, noise, read, refused, whole
from unetpipe.geometry import Box
from unetpipe.multiscales import write_multiscale
from unetpipe.slides import create_plane
from unetpipe.sources.arrays import likely_axes
from unetpipe.sources.bounds import BoundedStore
from unetpipe.sources.images import open_source

SIZES = {"t": 2, "c": 3, "z": 4, "y": 45, "x": 70}
UNITS = {"y": {"unit": "micrometer"}, "x": {"unit": "micrometer"}, "z": {"unit": "micrometer"}}
TYPES = {"t": "time", "c": "channel"}


def multiscales(axes: str, scale: float, levels: int) -> dict[str, Any]:
    """Metadata of an image whose level 0 has pixels of `scale`."""
    described = [{"name": a, "type": TYPES.get(a, "space"), **UNITS.get(a, {})} for a in axes]
    datasets = []
    for level in range(levels):
        factors = [scale * 2**level if a in "yx" else 1.0 for a in axes]
        datasets.append({"path": f"s{level}", "coordinateTransformations": [{"type": "scale", "scale": factors}]})
    return {"name": "a", "axes": described, "datasets": datasets}


def write_ome_zarr(
    folder: Path, image: Array, axes: str, version: str, names: tuple[str, ...] = (), **keys: Any
) -> None:
    """An OME-Zarr of two levels as other software writes it."""
    one = multiscales(axes, 0.25, 2)
    extra = {"omero": {"channels": [{"label": n, "color": "FFFFFF"} for n in names]}} if names else {}
    if version == "0.4":
        attributes = {"multiscales": [one | {"version": "0.4"}], **extra}
        group = zarr.open_group(folder, mode="w", zarr_format=2, attributes=attributes)
        keys: dict[str, Any] = {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
    else:
        attributes = {"ome": {"version": "0.5", "multiscales": [one], **extra}}
        group, keys = zarr.open_group(folder, mode="w", zarr_format=3, attributes=attributes), {}
    for level in range(2):
        pixels = image[..., :: 2**level, :: 2**level]
        chunks = (*(1 for _ in pixels.shape[:-2]), 16, 32)
        array = group.create_array(f"s{level}", shape=pixels.shape, dtype=pixels.dtype, chunks=chunks, **keys)
        array[...] = pixels


@pytest.mark.parametrize("axes", ["yx", "cyx", "zyx", "tyx", "tczyx", "czyx"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_by_planes_and_channels(tmp_path: Path, version: str, axes: str) -> None:
    image = noise(*(SIZES[a] for a in axes), dtype=np.uint16)
    names = ("DAPI", "GFP", "мышь") if "c" in axes else ()
    write_ome_zarr(tmp_path / "a b[1].zarr", image, axes, version, names)
    planes = np.moveaxis(image, axes.index("c"), -3) if "c" in axes else image[..., None, :, :]
    planes = planes.reshape(-1, *planes.shape[-3:])
    for number, plane in enumerate(planes):
        with open_source(tmp_path / "a b[1].zarr", plane=number) as source:
            np.testing.assert_array_equal(whole(source, 20), plane)
            assert (source.pixel_sides_um, source.channel_names) == ((0.25, 0.25), names)
    if len(planes) > 1:
        assert f"holds {len(planes)} planes; choose one" in refused(tmp_path / "a b[1].zarr")


STORED: dict[str, dict[str, Any]] = {
    "plain": {"compressors": None},
    "zstd, crc32c": {"compressors": [ZstdCodec(level=1), Crc32cCodec()]},
    "gzip": {"compressors": [GzipCodec()]},
    "blosc": {"compressors": [BloscCodec(cname="lz4", shuffle="bitshuffle")]},
    "big-endian": {"serializer": {"name": "bytes", "configuration": {"endian": "big"}}},
    "one chunk": {"chunks": (3, 45, 70)},
    "shards": {"chunks": (1, 16, 16), "shards": (3, 64, 64)},
    "v2": {"zarr_format": 2},
    "v2 plain": {"zarr_format": 2, "compressors": None},
    "v2 columns first": {"zarr_format": 2, "order": "F"},
    "v2 zlib, delta": {"zarr_format": 2, "compressors": [numcodecs.Zlib()], "filters": [numcodecs.Delta(dtype="u2")]},
    "v2 shuffle": {"zarr_format": 2, "compressors": [numcodecs.GZip()], "filters": [numcodecs.Shuffle(2)]},
    "v2 blosc": {"zarr_format": 2, "compressors": [numcodecs.Blosc()]},
    "v2 lz4": {"zarr_format": 2, "compressors": [numcodecs.LZ4()]},
    "v2 bz2": {"zarr_format": 2, "compressors": [numcodecs.BZ2()]},
    "v2 lzma": {"zarr_format": 2, "compressors": [numcodecs.LZMA()]},
    "names": {"dimension_names": ["C", "Y", "X"]},
}


@pytest.mark.parametrize("stored", STORED)
def test_pixels_do_not_know_how_an_array_is_stored(tmp_path: Path, stored: str) -> None:
    image = noise(3, 45, 70, dtype=np.uint16)
    keys = {"chunks": (2, 20, 30)} | STORED[stored]
    zarr.create_array(tmp_path / "a", shape=image.shape, dtype=image.dtype, **keys)[...] = image
    np.testing.assert_array_equal(read(tmp_path / "a"), image)


@pytest.mark.parametrize("stored", STORED)
def test_damaged_chunks_end_in_one_line(tmp_path: Path, stored: str) -> None:
    image = noise(3, 45, 70, dtype=np.uint16)
    keys = {"chunks": (2, 20, 30)} | STORED[stored]
    zarr.create_array(tmp_path / "a", shape=image.shape, dtype=image.dtype, **keys)[...] = image
    chunk = min(p for p in (tmp_path / "a").rglob("*") if p.is_file() and p.name[0] not in ".z")
    sound = chunk.read_bytes()
    for content in (sound[: len(sound) // 2], sound[:20], b"no chunk" * 20):
        chunk.write_bytes(content)
        assert "is damaged or not supported" in refused(tmp_path / "a")


@pytest.mark.parametrize("name", ["0.0", "zarr.json", ".zattrs"])
def test_a_pipe_among_the_files_of_an_array_is_not_opened(tmp_path: Path, name: str) -> None:
    zarr.create_array(tmp_path / "a", shape=(40, 40), dtype="u1", chunks=(20, 20), zarr_format=2)[...] = 1
    (tmp_path / "a" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "a" / name)
    assert f"a: holds {name}, a device or pipe; remove it, or copy the folder again" in refused(tmp_path / "a")


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """By the key of each chunk that is fetched from now on, how many were under way, this one included."""
    seen: dict[str, list[int]] = {}
    active = 0

    async def get(self: BoundedStore, key: str, *given: Any, **more: Any) -> Any:
        nonlocal active
        active += 1
        seen.setdefault(key, []).append(active)
        await asyncio.sleep(0)
        found = await fetch(self, key, *given, **more)
        active -= 1
        return found

    fetch: Any = BoundedStore.get
    monkeypatch.setattr(BoundedStore, "get", get)
    return seen


@pytest.mark.parametrize("chunks", [(1, 1, 100, 90), (2, 3, 70, 200), (1, 3, 1000, 33)])
def test_chunks_that_boxes_cut_are_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetched: dict[str, list[int]], chunks: tuple[int, ...]
) -> None:
    monkeypatch.setattr("unetpipe.sources.arrays._KEPT_BYTES", 0)
    image = noise(2, 3, 250, 300, dtype=np.uint16)
    names = ["t", "c", "y", "x"]
    array = zarr.create_array(tmp_path / "a", shape=image.shape, dtype="u2", chunks=chunks, dimension_names=names)
    array[...] = image
    with open_source(tmp_path / "a", plane=1) as source:
        fetched.clear()
        for y in range(0, 250, 64):
            for x in range(0, 300, 64):
                box = Box(start=(y, x), stop=(min(y + 64, 250), min(x + 64, 300)))
                np.testing.assert_array_equal(source.read(box), image[1][:, *box.slices])
    assert {len(times) for times in fetched.values()} == {1}


@pytest.mark.parametrize(("width", "in_rows"), [(300, True), (150, False)])
def test_chunks_that_reach_across_are_read_row_by_row(tmp_path: Path, width: int, in_rows: bool) -> None:
    keys: dict[str, Any] = {"shape": (250, 300), "chunks": (10, width), "dimension_names": ["y", "x"]}
    zarr.create_array(tmp_path / "a", dtype="u2", **keys)[...] = 7
    np.save(tmp_path / "a.npy", np.zeros((250, width), np.uint8))
    with open_source(tmp_path / "a") as stored, open_source(tmp_path / "a.npy") as runs:
        assert stored.row_by_row == in_rows and not runs.row_by_row


@pytest.mark.parametrize(("large", "expected"), [(10**9, False), (0, True)])
def test_large_chunks_are_decoded_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetched: dict[str, list[int]], large: int, expected: bool
) -> None:
    monkeypatch.setattr("unetpipe.sources.arrays._LARGE_COST", large)
    image = noise(100, 100)
    zarr.create_array(tmp_path / "a", shape=image.shape, dtype="u1", chunks=(20, 20))[...] = image
    with open_source(tmp_path / "a") as source:
        fetched.clear()
        np.testing.assert_array_equal(whole(source)[0], image)
    assert (max(max(times) for times in fetched.values()) == 1) == expected


@pytest.mark.parametrize(
    ("keys", "factor"),
    [
        ({"compressors": [ZstdCodec()]}, 2.0),
        ({"compressors": [GzipCodec()]}, 2.5),
        ({"zarr_format": 2, "compressors": [numcodecs.LZMA()], "filters": [numcodecs.Shuffle(2)]}, 3.0),
    ],
)
def test_chunks_that_cost_too_much_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], factor: float
) -> None:
    image = np.zeros((64, 64), np.uint16)
    image[::2] = 7
    zarr.create_array(tmp_path / "a", shape=image.shape, dtype="u2", chunks=(64, 64), **keys)[...] = image
    (stored,) = [f.stat().st_size for f in (tmp_path / "a").rglob("*") if f.is_file() and f.name[0] not in ".z"]
    monkeypatch.setattr("unetpipe.sources.refusals.DECODE_LIMIT", round(factor * image.nbytes) + stored)
    np.testing.assert_array_equal(read(tmp_path / "a")[0], image)
    monkeypatch.setattr("unetpipe.sources.refusals.DECODE_LIMIT", round(factor * image.nbytes) + stored - 1)
    assert "has chunks of (64, 64) px: " in refused(tmp_path / "a")


def test_every_codec_that_is_listed_is_read_and_damaged() -> None:
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    listed = page.partition("| codecs ")[2].partition(" |")[0].split(", ")
    assert {name for name in listed if not any(name in case for case in STORED)} == set()


def test_what_this_package_writes_is_read(tmp_path: Path) -> None:
    image = noise(2, 300, 200, dtype=np.uint16)
    plane = create_plane(tmp_path / "a" / "0", shape=image.shape, dtype=image.dtype)
    for _, box in plane.iter_shards():
        plane.write_shard(box, np.ascontiguousarray(image[:, *box.slices]))
    write_multiscale(tmp_path / "a", name="a", shapes=[image.shape], pixel_size_um=0.5, centred=True)
    with open_source(tmp_path / "a") as source:
        np.testing.assert_array_equal(whole(source), image)
        assert source.pixel_sides_um == (0.5, 0.5)


def test_dimension_names_decide_what_is_a_channel(tmp_path: Path) -> None:
    image = noise(3, 20, 30)
    for name in ("z", "c"):
        keys = {"chunks": (1, 20, 30), "dimension_names": [name, "y", "x"]}
        zarr.create_array(tmp_path / name, shape=image.shape, dtype=image.dtype, **keys)[...] = image
    np.testing.assert_array_equal(read(tmp_path / "z", plane=2), image[2:])
    np.testing.assert_array_equal(read(tmp_path / "c"), image)


def test_chunks_that_are_not_stored_have_the_fill_value(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a", shape=(40, 40), dtype="u1", chunks=(20, 20), fill_value=7)
    assert "holds no pixels" in refused(tmp_path / "a")
    array[:20, :20] = 1
    assert np.unique(read(tmp_path / "a")[0], return_counts=True)[1].tolist() == [400, 1200]


@pytest.mark.parametrize("unit", ["nanometer", "micrometer", None, "pixel"])
def test_pixel_size_is_the_product_of_all_scales_in_micrometre(tmp_path: Path, unit: str | None) -> None:
    write_ome_zarr(tmp_path / "a", noise(2, 40, 50), "cyx", "0.5")
    document = json.loads((tmp_path / "a" / "zarr.json").read_text())
    one = document["attributes"]["ome"]["multiscales"][0]
    for axis in one["axes"][1:]:
        axis.pop("unit")
        axis.update({"unit": unit} if unit else {})
    one["coordinateTransformations"] = [{"type": "scale", "scale": [1, 16, 8]}]
    (tmp_path / "a" / "zarr.json").write_text(json.dumps(document))
    with open_source(tmp_path / "a") as source:
        assert source.pixel_sides_um == {"nanometer": (0.004, 0.002), "micrometer": (4.0, 2.0)}.get(str(unit))


def test_layouts_of_several_images(tmp_path: Path) -> None:
    image = noise(40, 50)
    group = zarr.open_group(tmp_path / "a", mode="w", zarr_format=2, attributes={"bioformats2raw.layout": 3})
    write_ome_zarr(tmp_path / "a" / "0", image, "yx", "0.4")
    np.testing.assert_array_equal(read(tmp_path / "a")[0], image)
    write_ome_zarr(tmp_path / "a" / "1", image, "yx", "0.4")
    assert "holds 2 images; name the folder of one of them, such as a/0" in refused(tmp_path / "a")
    group.attrs.put({"plate": {}})
    assert "is a plate" in refused(tmp_path / "a")
    group.attrs.put({})
    assert "without an image" in refused(tmp_path / "a")
    group.attrs.put({"multiscales": [{"version": "0.1", "datasets": [{"path": "0"}]}]})
    assert "version 0.1; expected 0.4 or 0.5" in refused(tmp_path / "a")


def test_a_level_must_lie_inside_and_not_be_larger(tmp_path: Path) -> None:
    write_ome_zarr(tmp_path / "a", noise(40, 50), "yx", "0.5")
    document = json.loads((tmp_path / "a" / "zarr.json").read_text())
    levels = document["attributes"]["ome"]["multiscales"][0]["datasets"]
    for path, said in (("../b/s0", "not inside"), ("/etc", "not inside"), ("s7", "no array"), ("", "not inside")):
        levels[0]["path"] = path
        (tmp_path / "a" / "zarr.json").write_text(json.dumps(document))
        assert said in refused(tmp_path / "a")
    levels[0]["path"], levels[1]["path"] = "s1", "s0"
    (tmp_path / "a" / "zarr.json").write_text(json.dumps(document))
    assert "level 1 of (40, 50) px, larger than its first" in refused(tmp_path / "a")


# --- NumPy files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((9, 8), "yx"),
        ((9, 8, 3), "yxc"),
        ((9, 8, 1), "yxc"),
        ((4, 9, 8), "cyx"),
        ((5, 9, 8), "iyx"),
        ((5, 2, 9, 8), "icyx"),
        ((5, 9, 8, 2), "iyxc"),
        ((7, 5, 9, 8), "iiyx"),
    ],
)
def test_likely_axes(shape: tuple[int, ...], axes: str) -> None:
    assert "".join(likely_axes(shape)) == axes


@given(
    st.sampled_from([(9, 8), (9, 8, 3), (2, 9, 8), (6, 9, 8), (6, 2, 9, 8), (5, 6, 9, 8, 3), (1, 7)]),
    st.sampled_from(["u1", "<u2", ">u2", "<i2", ">f4", "<f8"]),
    st.sampled_from("CF"),
    st.integers(0, 29),
    st.tuples(*[st.integers(0, 9)] * 4),
)
@settings(max_examples=80)
def test_a_box_of_a_npy_file_is_a_slice_of_the_array(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, ...],
    dtype: str,
    order: str,
    number: int,
    corners: tuple[int, ...],
) -> None:
    path = tmp_path_factory.getbasetemp() / "a.npy"
    array = np.asarray(noise(*shape, dtype=np.dtype(dtype).newbyteorder("=")), dtype, order=order)
    np.save(path, array)
    axes = likely_axes(array.shape)
    count = int(np.prod([n for n, name in zip(array.shape, axes, strict=True) if name == "i"]))
    planes = array.reshape(count, *array.shape[axes.count("i") :])
    number %= count
    plane = planes[number] if "c" in axes else planes[number][None]
    plane = np.moveaxis(plane, -1, 0) if axes[-1] == "c" else plane
    with open_source(path, plane=number) as source:
        ys, xs = sorted(corners[:2]), sorted(corners[2:])
        box = Box(start=(ys[0], xs[0]), stop=(ys[1], xs[1])).clipped(source.shape)
        np.testing.assert_array_equal(source.read(box), plane[:, *box.slices])


def test_npy_files_that_are_no_image(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((8, 9), np.uint8))
    sound = path.read_bytes()
    for array, said in (
        (np.zeros(8), "axes y, x of sizes (8,)"),
        (np.zeros((0, 9)), "no pixels"),
        (np.zeros((8, 9), "c8"), "complex"),
    ):
        np.save(path, array)
        assert said in refused(path)
    path.write_bytes(sound[:-1])
    assert "truncated" in refused(path)
    for spoilt in (
        sound.replace(b"}", b"{"),
        sound.replace(b"(8", b"[8"),
        sound[:8] + b"\xff\xff" + sound[10:],
        sound[:9],
    ):
        path.write_bytes(spoilt)
        assert "is damaged" in refused(path)
    path.write_bytes(sound.replace(b"(8, 9)", b"(8, 9**9)"))
    assert "is damaged" in refused(path)
    np.save(path, np.array([[Canary(tmp_path)]], object), allow_pickle=True)
    assert "holds object values" in refused(path)
    assert not (tmp_path / "canary").exists()


# --- folders that want to harm -----------------------------------------------------------------------------------


class Canary:
    """Leaves a file where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.folder / "canary",)


@pytest.mark.parametrize("place", ["filters", "compressor"])
def test_no_codec_runs_code(tmp_path: Path, place: str) -> None:
    zarr.create_array(tmp_path / "a", shape=(8, 9), dtype="u1", chunks=(8, 9), zarr_format=2)[...] = 1
    document = json.loads((tmp_path / "a" / ".zarray").read_text())
    codec = {"id": "pickle", "protocol": 5}
    document |= {"compressor": None, "filters": None} | {place: [codec] if place == "filters" else codec}
    (tmp_path / "a" / ".zarray").write_text(json.dumps(document))
    (tmp_path / "a" / "0.0").write_bytes(pickle.dumps(Canary(tmp_path)))
    assert "is encoded with 'pickle'" in refused(tmp_path / "a")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"shape": [', '"shape": [9', "more than 50000:1"),
        ('"shape": [80000', '"shape": [0', "no pixels"),
        ('"shape": [', '"shape": [-', "is damaged"),
        ('"shape": [', '"shape": [[', "is damaged"),
        ('"array"', '"arra"', "multiscales"),
        ('"uint8"', '"string"', "is damaged"),
        ('"name": "zstd"', '"name": "shell"', "is encoded with 'shell'"),
        ("{", "[" * 10**5, "is damaged"),
    ],
)
def test_metadata_that_want_to_harm(tmp_path: Path, old: str, new: str, said: str) -> None:
    zarr.create_array(tmp_path / "a", shape=(80000, 90000), dtype="u1", chunks=(80, 90))[:80, :90] = 1
    text = json.dumps(json.loads((tmp_path / "a" / "zarr.json").read_text()))
    assert old in text
    (tmp_path / "a" / "zarr.json").write_text(text.replace(old, new, 1))
    assert said in refused(tmp_path / "a")


def test_chunks_that_are_damaged_too_large_or_linked_in_a_circle(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", shape=(80, 90), dtype="u1", chunks=(80, 90))[...] = noise(80, 90)
    chunk = tmp_path / "a" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    assert "is damaged" in refused(tmp_path / "a")
    chunk.write_bytes(bytes(100_000))
    assert "a chunk of 100000 bytes, which may hold 79936 at most" in refused(tmp_path / "a")
    (tmp_path / "a" / "c" / "loop").symlink_to(tmp_path / "a")
    assert "symbolic links that lead in a circle" in refused(tmp_path / "a")
    for keys in ({"chunks": (30000, 30000)}, {"chunks": (1, 1), "shards": (30000, 30000)}):
        zarr.create_array(tmp_path / "b", shape=(30000, 30000), dtype="u1", overwrite=True, **keys)
        (tmp_path / "b" / "c" / "0").mkdir(parents=True)
        (tmp_path / "b" / "c" / "0" / "0").write_bytes(bytes(30000))
        assert "write smaller ones" in refused(tmp_path / "b")

"""Readers against pixels that were written, against slicing, and against files that want to harm."""

import json
import os
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unetpipe.errors import GeometryError, SourceError
from unetpipe.geometry import Box
from unetpipe.sources import Source, checked_image_block, image_dtype, open_source
from unetpipe.tiff import TiffSource
from unetpipe.tiffpages import tiff_pixel_size_um

Array = NDArray[Any]


def noise(*shape: int, dtype: Any = np.uint8) -> Array:
    """Reproducible values that fill the range of a type, with flat stretches for the codecs."""
    rng = np.random.default_rng(7)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True) // 3 * 3


def whole(source: Source, band: int = 10**9) -> Array:
    """All pixels, read band after band."""
    height, width = source.shape
    tops = range(0, height, band)
    return np.concatenate([source.read(Box(start=(y, 0), stop=(min(y + band, height), width))) for y in tops], axis=1)


def read(path: Path, **options: Any) -> Array:
    """All pixels of a file."""
    with open_source(path, **options) as source:
        pixels = whole(source)
        assert pixels.shape == (source.channels, *source.shape)
        assert pixels.dtype == source.dtype
        return pixels


def tiff_bytes(tags: dict[int, tuple[int, Any]], data: bytes = b"", *, next_page: int = 0, order: str = "<") -> bytes:
    """A classic TIFF of one page; {code: (type, value or values or bytes)}; the data begin at byte 8."""
    sizes = {1: "B", 2: "c", 3: "H", 4: "I"}
    start = 8 + len(data) + len(data) % 2
    behind = start + 2 + 12 * len(tags) + 4
    table, heap = b"", b""
    for code, (kind, value) in sorted(tags.items()):
        if isinstance(value, bytes):
            raw, count = value, len(value)
        else:
            values = value if isinstance(value, tuple) else (value,)
            raw, count = struct.pack(f"{order}{len(values)}{sizes[kind]}", *values), len(values)
        if len(raw) > 4:
            table += struct.pack(order + "HHII", code, kind, count, behind + len(heap))
            heap += raw
        else:
            table += struct.pack(order + "HHI", code, kind, count) + raw.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(order + "I", start) + data.ljust(start - 8, b"\0")
    return head + struct.pack(order + "H", len(tags)) + table + struct.pack(order + "I", next_page) + heap


def page_tags(height: int, width: int, nbytes: int, **more: tuple[int, Any]) -> dict[int, tuple[int, Any]]:
    """Tags of an 8-bit grey page of one uncompressed strip at byte 8; more as t<code>=(type, value)."""
    tags = {256: (4, width), 257: (4, height), 258: (3, 8), 259: (3, 1), 262: (3, 1), 273: (4, 8), 277: (3, 1)}
    tags |= {278: (4, height), 279: (4, nbytes)}
    return tags | {int(name[1:]): tag for name, tag in more.items()}


def png_bytes(height: int, width: int, bits: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of the rows, each with its filter byte in front."""
    start = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", start), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


LAYOUTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "one strip": (np.uint8, {}),
    "strips": (np.uint16, {"rowsperstrip": 7}),
    "tiles": (np.uint8, {"tile": (16, 32)}),
    "planar strips": (np.uint8, {"rowsperstrip": 9, "planarconfig": "separate"}),
    "planar one strip": (np.uint16, {"planarconfig": "separate", "byteorder": ">"}),
    "planar tiles": (np.uint16, {"tile": (16, 16), "planarconfig": "separate", "compression": "zlib"}),
    "big-endian strips": (np.uint16, {"byteorder": ">", "rowsperstrip": 5, "compression": "lzw"}),
    "big-endian float": (np.float32, {"byteorder": ">"}),
    "BigTIFF": (np.uint8, {"bigtiff": True, "tile": (32, 16), "compression": "zstd"}),
    "BigTIFF big-endian": (np.int16, {"bigtiff": True, "byteorder": ">"}),
    "predictor": (np.uint16, {"predictor": 2, "compression": "lzw", "rowsperstrip": 11}),
    "float predictor": (np.float32, {"predictor": 3, "compression": "zlib", "tile": (16, 16)}),
    "packbits": (np.uint8, {"compression": "packbits", "rowsperstrip": 4}),
    "JPEG 2000": (np.uint8, {"compression": "jpeg2000", "tile": (32, 32)}),
    "half float": (np.float16, {"rowsperstrip": 8}),
    "float64": (np.float64, {"compression": "zlib"}),
    "int8": (np.int8, {"tile": (16, 16)}),
    "uint32": (np.uint32, {"compression": "zlib", "predictor": 2}),
    "int64": (np.int64, {"rowsperstrip": 3}),
    "uint64": (np.uint64, {}),
}


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pixels_come_back_as_they_were_written(tmp_path: Path, layout: str, samples: int) -> None:
    dtype, options = LAYOUTS[layout]
    planar = options.get("planarconfig") == "separate" and samples > 1
    options = options if samples > 1 else {k: v for k, v in options.items() if k != "planarconfig"}
    image = noise(samples, 45, 70, dtype=dtype)
    stored = image if planar else np.moveaxis(image, 0, -1)
    photometric = "rgb" if samples == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", stored if samples > 1 else image[0], photometric=photometric, **options)
    expected = np.float32 if dtype == np.float16 else dtype
    with open_source(tmp_path / "a.tif") as source:
        assert (source.shape, source.channels, source.dtype) == ((45, 70), samples, np.dtype(expected))
        for band in (1, 6, 16, 45):
            np.testing.assert_array_equal(whole(source, band), image.astype(expected))


def boxes(height: int, width: int) -> st.SearchStrategy[Box]:
    """Boxes inside an image, empty ones too."""
    ys, xs = (st.lists(st.integers(0, n), min_size=2, max_size=2).map(sorted) for n in (height, width))
    return st.builds(lambda y, x: Box(start=(y[0], x[0]), stop=(y[1], x[1])), ys, xs)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Source, Array]]]:
    """Sources of several layouts and formats, with all their pixels."""
    folder = tmp_path_factory.mktemp("boxes")
    image = noise(45, 70, 3)
    for i, options in enumerate(({"rowsperstrip": 7}, {"tile": (16, 32), "compression": "zlib"}, {})):
        orientation = [(274, "H", 1, (1, 7, 6)[i], True)]
        tifffile.imwrite(folder / f"{i}.tif", image, photometric="rgb", extratags=orientation, **options)
    (folder / "3.png").write_bytes(imagecodecs.png_encode(image))
    sources = [open_source(path) for path in sorted(folder.iterdir())]
    yield [(source, whole(source)) for source in sources]
    for source in sources:
        source.close()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_box_is_a_slice_of_the_whole(opened: list[tuple[Source, Array]], data: st.DataObject) -> None:
    source, pixels = data.draw(st.sampled_from(opened))
    box = data.draw(boxes(*source.shape))
    np.testing.assert_array_equal(source.read(box), pixels[:, *box.slices])


def test_a_box_outside_the_image_is_an_error(opened: list[tuple[Source, Array]]) -> None:
    for source, _ in opened:
        with pytest.raises(GeometryError, match="outside"):
            source.read(Box(start=(0, -1), stop=(1, 1)))


def test_a_block_belongs_to_the_caller(opened: list[tuple[Source, Array]]) -> None:
    for source, pixels in opened:
        source.read(Box(start=(0, 0), stop=(9, 9)))[:] = 0
        np.testing.assert_array_equal(whole(source), pixels)


# --- orientation, samples, colours -------------------------------------------------------------------------------

UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_is_applied(tmp_path: Path, orientation: int, tile: tuple[int, int] | None) -> None:
    image = noise(21, 34)
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", image, tile=tile, extratags=tags, rowsperstrip=None if tile else 5)
    expected = UPRIGHT[orientation](image)
    with open_source(tmp_path / "a.tif") as source:
        assert source.shape == expected.shape
        np.testing.assert_array_equal(whole(source, 8)[0], expected)


def test_one_stored_picture_in_nine_orientations(data_folder: Path) -> None:
    stored = tifffile.imread(data_folder / "wsi" / "test_orient1.tif", key=0)
    for orientation in range(9):
        pixels = read(data_folder / "wsi" / f"test_orient{orientation}.tif")[0]
        np.testing.assert_array_equal(pixels, UPRIGHT[orientation or 1](stored))


@pytest.mark.parametrize(
    ("extra", "photometric", "samples", "kept"),
    [
        ("unassalpha", "rgb", 4, 3),
        ("assocalpha", "rgb", 4, 3),
        ("unspecified", "rgb", 4, 3),
        ("unassalpha", "minisblack", 2, 1),
        ("unspecified", "minisblack", 2, 2),
        ("unspecified", "minisblack", 5, 5),
    ],
)
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_alpha_is_dropped_and_channels_are_kept(
    tmp_path: Path, extra: str, photometric: str, samples: int, kept: int, planar: str
) -> None:
    image = noise(samples, 20, 30)
    stored = image if planar == "separate" else np.moveaxis(image, 0, -1)
    extras = [extra] * (samples - (3 if photometric == "rgb" else 1))
    tifffile.imwrite(
        tmp_path / "a.tif", stored, photometric=photometric, planarconfig=planar, extrasamples=extras, metadata=None
    )
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), image[:kept])


def test_palette_tiff_as_colours_and_as_indices(tmp_path: Path) -> None:
    indices = noise(20, 30)
    table = noise(3, 256)
    tifffile.imwrite(tmp_path / "a.tif", indices, photometric="palette", colormap=table.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), table[:, indices])
    np.testing.assert_array_equal(read(tmp_path / "a.tif", palette="indices"), indices[None])


def test_bits(tmp_path: Path) -> None:
    mask = noise(19, 29) > 127
    tifffile.imwrite(tmp_path / "1.tif", mask, rowsperstrip=4)
    np.testing.assert_array_equal(read(tmp_path / "1.tif")[0], mask.astype(np.uint8))
    (tmp_path / "4.tif").write_bytes(tiff_bytes(page_tags(2, 3, 4, t258=(3, 4)), b"\x12\x30\x45\x60"))
    np.testing.assert_array_equal(read(tmp_path / "4.tif"), [[[1, 2, 3], [4, 5, 6]]])


def test_stored_values_are_kept_where_zero_is_white(tmp_path: Path) -> None:
    image = noise(20, 30)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="miniswhite")
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], image)


@pytest.mark.parametrize(("space", "photometric"), [("RGB", 2), ("YCBCR", 6)])
@pytest.mark.parametrize("colour", [(200, 30, 60), (10, 240, 120)])
def test_jpeg_segments_come_as_rgb(tmp_path: Path, space: str, photometric: int, colour: tuple[int, ...]) -> None:
    image = np.tile(np.array(colour, np.uint8), (16, 16, 1))
    data = imagecodecs.jpeg_encode(image, level=98, colorspace="RGB", outcolorspace=space)
    tags = page_tags(16, 16, len(data), t258=(3, (8, 8, 8)), t259=(3, 7), t262=(3, photometric), t277=(3, 3))
    (tmp_path / "a.tif").write_bytes(tiff_bytes(tags, data))
    assert np.abs(np.moveaxis(read(tmp_path / "a.tif"), 0, -1).astype(int) - colour).max() <= 3


def test_aperio_ycbcr_in_jpeg_2000_comes_as_rgb(tmp_path: Path) -> None:
    ycbcr = np.broadcast_to(np.array([100, 128, 228], np.uint8), (16, 16, 3))
    data = imagecodecs.jpeg2k_encode(ycbcr, codecformat="j2k", reversible=True, mct=False)
    tags = page_tags(16, 16, len(data), t258=(3, (8, 8, 8)), t259=(3, 33003), t262=(3, 2), t277=(3, 3))
    (tmp_path / "a.svs").write_bytes(tiff_bytes(tags, data))
    assert np.unique(read(tmp_path / "a.svs").reshape(3, -1), axis=1).T.tolist() == [[240, 29, 100]]


# --- planes and channels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "axes"),
    [*product(("tifffile", "ome", "imagej"), ("TZCYX", "ZCYX", "CYX", "ZYX")), ("tifffile", "CZYX"), ("ome", "CZYX")],
)
def test_planes_count_z_and_t_and_hold_all_channels(tmp_path: Path, kind: str, axes: str) -> None:
    sizes = {"T": 2, "Z": 3, "C": 2, "Y": 12, "X": 17}
    image = noise(*(sizes[a] for a in axes), dtype=np.uint16)
    path = tmp_path / ("a.ome.tif" if kind == "ome" else "a.tif")
    tifffile.imwrite(path, image, imagej=kind == "imagej", photometric="minisblack", metadata={"axes": axes})
    front = axes[:-2]
    planes = np.moveaxis(image, front.index("C"), -3) if "C" in front else image[..., None, :, :]
    planes = planes.reshape(-1, *planes.shape[-3:])
    if len(planes) > 1:
        with pytest.raises(SourceError, match=f"holds {len(planes)} planes: choose one with plane = 0 to"):
            open_source(path)
    else:
        np.testing.assert_array_equal(read(path), planes[0])
    for i, plane in enumerate(planes):
        np.testing.assert_array_equal(read(path, plane=i), plane)
    for wrong in (-1, len(planes)):
        with pytest.raises(SourceError, match=f"no plane {wrong}"):
            open_source(path, plane=wrong)


def test_pages_without_metadata_are_planes(tmp_path: Path) -> None:
    image = noise(4, 12, 17)
    tifffile.imwrite(tmp_path / "a.tif", image, metadata=None, photometric="minisblack")
    np.testing.assert_array_equal(read(tmp_path / "a.tif", plane=2)[0], image[2])


def test_an_imagej_stack_of_one_page(tmp_path: Path) -> None:
    image = noise(3, 2, 12, 17)
    text = b"ImageJ=1.54f\nimages=6\nchannels=2\nslices=3\n\0"
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_bytes(page_tags(12, 17, 12 * 17, t270=(2, text)), image.tobytes()))
    np.testing.assert_array_equal(read(path, plane=1), image[1])
    path.write_bytes(tiff_bytes(page_tags(12, 17, 12 * 17, t270=(2, text)), image[:1].tobytes()))
    with pytest.raises(SourceError, match="truncated"):
        read(path, plane=2)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('SizeZ="3"', 'SizeZ="4"', "declares 4 images, but it holds 3"),
        ('PlaneCount="3"', 'PlaneCount="2"', "says for 1 of 3 images not where"),
        ('PlaneCount="3"', 'PlaneCount="999999999"', "places 999999999 images"),
        ('"XYCZT"', '"XYZZT"', "declares the axes"),
        ('IFD="0"', 'IFD="2"', "places 3 images from page 2"),
    ],
)
def test_ome_xml_that_does_not_fit_its_file(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, noise(3, 8, 9), photometric="minisblack", metadata={"axes": "ZYX"})
    text = tifffile.tiffcomment(path)
    assert text is not None and old in text
    tifffile.tiffcomment(path, text.replace(old, new))
    with pytest.raises(SourceError, match=message):
        open_source(path, plane=0)


def test_ome_xml_may_order_pages_freely(tmp_path: Path) -> None:
    path, image = tmp_path / "a.ome.tif", noise(3, 8, 9)
    tifffile.imwrite(path, image, photometric="minisblack", metadata={"axes": "ZYX"})
    text = tifffile.tiffcomment(path)
    assert text is not None
    start, stop = text.index("<TiffData"), text.index("</Pixels>")
    blocks = "".join(f'<TiffData FirstZ="{z}" IFD="{2 - z}" PlaneCount="1"/>' for z in range(3))
    tifffile.tiffcomment(path, text[:start] + blocks + text[stop:])
    for z in range(3):
        np.testing.assert_array_equal(read(path, plane=z)[0], image[2 - z])
    parts = "".join(f'<TiffData FirstZ="{z}"><UUID FileName="{z}.tif">urn:{z}</UUID></TiffData>' for z in range(3))
    tifffile.tiffcomment(path, text[:start] + parts + text[stop:])
    with pytest.raises(SourceError, match="several files"):
        open_source(path, plane=0)


def test_the_largest_image_is_the_main_one(tmp_path: Path) -> None:
    image = noise(40, 60)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for pixels in (image[::4, ::4], image, image[::2, ::2]):
            writer.write(pixels, metadata=None)
        writer.write(image, subfiletype=1, metadata=None)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], image)


# --- laziness ----------------------------------------------------------------------------------------------------


def counted(source: Source) -> Counter[int]:
    """How often each segment of a TIFF is decoded from now on, by its running number."""
    assert isinstance(source, TiffSource)
    calls: Counter[int] = Counter()
    segments = source._segments[0]

    def decode(data: bytes, index: int) -> Array:
        calls[index] += 1
        return segments.decode(data, index)

    source._segments[0] = replace(segments, decode=decode)
    return calls


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("options", [{"tile": (32, 32)}, {"rowsperstrip": 5}])
def test_bands_decode_each_segment_once(tmp_path: Path, options: dict[str, Any], orientation: int) -> None:
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", noise(100, 130), compression="zlib", extratags=tags, **options)
    with open_source(tmp_path / "a.tif") as source:
        calls = counted(source)
        whole(source, 7)
    assert set(calls.values()) == {1}
    assert len(calls) == (4 * 5 if "tile" in options else 20)


def test_a_box_decodes_only_what_it_meets(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(128, 160), compression="zlib", tile=(32, 32))
    with open_source(tmp_path / "a.tif") as source:
        calls = counted(source)
        source.read(Box(start=(40, 30), stop=(64, 65)))
    assert sorted(calls) == [5, 6, 7]


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetpipe.tiff._CACHE_BYTES", 1000)
    tifffile.imwrite(tmp_path / "a.tif", noise(128, 160), compression="zlib", tile=(32, 32))
    with open_source(tmp_path / "a.tif") as source:
        assert isinstance(source, TiffSource)
        calls = counted(source)
        for y in range(128):
            source.read(Box(start=(y, 0), stop=(y + 1, 160)))
            assert sum(pixels.nbytes for pixels in source._cache.values()) <= 5 * 32 * 32
    assert set(calls.values()) == {1}


def test_one_large_plain_strip_is_read_in_pieces(tmp_path: Path) -> None:
    image = noise(3000, 1000)
    tifffile.imwrite(tmp_path / "a.tif", image)
    with open_source(tmp_path / "a.tif") as source:
        calls = counted(source)
        np.testing.assert_array_equal(source.read(Box(start=(1500, 3), stop=(1510, 9)))[0], image[1500:1510, 3:9])
    assert len(calls) == 1


# --- pixel size --------------------------------------------------------------------------------------------------

OME = '<OME><Image><Pixels PhysicalSizeX="{}" PhysicalSizeY="{}" {}/></Image></OME>'


@pytest.mark.parametrize(
    ("description", "resolution", "unit", "expected"),
    [
        ("", (40000.0, 40000.0), 3, 0.25),
        ("", (50800.0, 50800.0), 2, 0.5),
        ("", (40000.0, 40000.0), 1, None),
        ("", (40000.0, 20000.0), 3, None),
        ("", (40000.0, 40100.0), 3, 0.25),
        ("", (0.0, 0.0), 3, None),
        ("", (72.0, 72.0), 2, None),
        ("", (96.0, 96.0), 2, None),
        ("", (300.0, 300.0), 2, None),
        ("", (28.3465, 28.3465), 3, None),
        ("", (1e8, 1e8), 3, None),
        ("Aperio Image Library|AppMag = 20|MPP = 0.4990|Left = 25", (0.0, 0.0), 2, 0.499),
        ("Aperio Image Library|AppMag = 20", (0.0, 0.0), 2, None),
        ("ImageJ=1.54f\nunit=micron\n", (4.0, 4.0), 1, 0.25),
        ("ImageJ=1.54f\nunit=\\u00B5m\n", (4.0, 4.0), 1, 0.25),
        ("ImageJ=1.54f\nunit=nm\n", (0.25, 0.25), 1, 0.004),
        ("ImageJ=1.54f\nunit=pixel\n", (4.0, 4.0), 1, None),
        (OME.format(0.3, 0.3, ""), (72.0, 72.0), 2, 0.3),
        (OME.format(300, 300, 'PhysicalSizeXUnit="nm" PhysicalSizeYUnit="nm"'), (0.0, 0.0), 2, 0.3),
        (OME.format(0.3, 0.4, ""), (0.0, 0.0), 2, None),
        (OME.format(0.3, 0.3, 'PhysicalSizeXUnit="pixel"'), (0.0, 0.0), 2, None),
        ("<OME><Image><Pixels/></Image></OME>", (20000.0, 20000.0), 3, 0.5),
    ],
)
def test_pixel_size(description: str, resolution: tuple[float, float], unit: int, expected: float | None) -> None:
    size = tiff_pixel_size_um(description, resolution, unit)
    assert size == (None if expected is None else pytest.approx(expected))


def test_pixel_size_of_a_file(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(9, 9), resolution=(20000, 20000), resolutionunit="CENTIMETER")
    with open_source(tmp_path / "a.tif") as source:
        assert source.pixel_size_um == 0.5


# --- PNG and JPEG ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "kept"), [(1, 1), (2, 1), (3, 3), (4, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png(tmp_path: Path, samples: int, kept: int, dtype: Any) -> None:
    image = noise(samples, 31, 22, dtype=dtype)
    stored = np.ascontiguousarray(np.moveaxis(image, 0, -1))
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(stored if samples > 1 else stored[..., 0]))
    np.testing.assert_array_equal(read(tmp_path / "a.png"), image[:kept])
    with open_source(tmp_path / "a.png") as source:
        assert source.pixel_size_um is None


@pytest.mark.parametrize(
    ("bits", "row", "indices"), [(1, b"\xa0", [1, 0, 1]), (2, b"\x1c", [0, 1, 3]), (4, b"\x12\x30", [1, 2, 3])]
)
def test_png_palette_and_few_bits(tmp_path: Path, bits: int, row: bytes, indices: list[int]) -> None:
    table = noise(2**bits, 3)
    extra = ((b"PLTE", table.tobytes()), (b"tRNS", b"\0\1"))
    (tmp_path / "a.png").write_bytes(png_bytes(1, 3, bits, 3, b"\0" + row, *extra))
    np.testing.assert_array_equal(read(tmp_path / "a.png")[:, 0], table[indices].T)
    assert read(tmp_path / "a.png", palette="indices").tolist() == [[indices]]
    (tmp_path / "g.png").write_bytes(png_bytes(1, 3, bits, 0, b"\0" + row))
    assert read(tmp_path / "g.png", palette="indices").tolist() == [[indices]]
    assert read(tmp_path / "g.png").tolist() == [[[i * 255 // (2**bits - 1) for i in indices]]]


def test_png_index_without_a_colour(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_bytes(1, 2, 8, 3, b"\0\1\2", (b"PLTE", b"abcdef")))
    assert read(tmp_path / "a.png", palette="indices").tolist() == [[[1, 2]]]
    with pytest.raises(SourceError, match=r"a\.png: is damaged"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3)])
def test_jpeg(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = np.full(shape, 77, np.uint8)
    data = imagecodecs.jpeg_encode(image, level=98)
    (tmp_path / "a.jpg").write_bytes(data)
    pixels = read(tmp_path / "a.jpg")
    assert pixels.shape == (len(shape) * 2 - 3, 40, 50)
    assert np.abs(pixels.astype(int) - 77).max() <= 2
    for stop in (len(data) - 2, len(data) // 2, 30):
        (tmp_path / "b.jpg").write_bytes(data[:stop])
        with pytest.raises(SourceError, match=r"b\.jpg: is"):
            read(tmp_path / "b.jpg")


# --- values ------------------------------------------------------------------------------------------------------


def test_image_types() -> None:
    kept = {t: image_dtype(np.dtype(t), Path("a")).name for t in ("u1", "u2", "i1", "i2", "f2", "f4", "f8")}
    assert set(kept.values()) == {"uint8", "uint16", "float32"}
    assert (kept["u1"], kept["u2"], kept["i2"]) == ("uint8", "uint16", "float32")
    for name in ("u4", "i4", "u8", "i8", "c8"):
        with pytest.raises(SourceError, match=r"a\.tif: holds .* values"):
            image_dtype(np.dtype(name), Path("a.tif"))


def test_image_blocks_are_finite(tmp_path: Path) -> None:
    block = noise(2, 3, 4)
    assert checked_image_block(block, tmp_path) is block
    for wrong in (np.nan, np.inf, -np.inf, 1e300):
        values = np.zeros((1, 2, 2))
        values[0, 1, 1] = wrong
        with pytest.raises(SourceError, match=r"a\.tif: holds 1 values that are NaN"):
            checked_image_block(values, Path("a.tif"))


# --- files that cannot be read -----------------------------------------------------------------------------------


def refused(path: Path, **options: Any) -> str:
    """The one line with which reading a file ends."""
    with pytest.raises(SourceError) as caught:
        read(path, **options)
    line = str(caught.value)
    assert len(line) <= 300
    assert line.isprintable()
    return line


def test_what_is_no_image(tmp_path: Path) -> None:
    assert "none.tif: no such file" in refused(tmp_path / "none.tif")
    (tmp_path / "link.tif").symlink_to("nowhere")
    assert "no such file" in refused(tmp_path / "link.tif")
    assert "is a directory" in refused(tmp_path)
    (tmp_path / "empty.tif").touch()
    assert refused(tmp_path / "empty.tif").endswith("empty.tif: is empty (0 bytes)")
    (tmp_path / "text.tif").write_text("no image")
    assert "unknown format" in (line := refused(tmp_path / "text.tif"))
    assert "OME-TIFF" in line and "NDPI" in line and "PNG" in line and "JPEG" in line
    os.mkfifo(tmp_path / "pipe.tif")
    assert "device or pipe" in refused(tmp_path / "pipe.tif")
    assert "nnn.tif: " in refused(tmp_path / ("n" * 300 + ".tif"))
    assert refused(Path("a\nb\x1b.tif")).startswith("a b?.tif: ")
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(noise(5, 5)))
    assert "no plane 1" in refused(tmp_path / "a.png", plane=1)
    assert read(tmp_path / "a.png", plane=0).shape == (1, 5, 5)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.tif").write_bytes(b"II*\0")
    monkeypatch.setattr(Path, "open", denied)
    assert refused(tmp_path / "a.tif").endswith("a.tif: may not be read: permission denied")


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_a_closed_source(tmp_path: Path, name: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(5, 5))
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(noise(5, 5)))
    with open_source(tmp_path / name) as source:
        pass
    with pytest.raises(SourceError, match="is closed"):
        whole(source)


def faults() -> dict[str, tuple[bytes, str]]:
    """Files made to harm, each with a word of the line that refuses it."""
    ones = bytes(100)
    good = page_tags(10, 10, 100)
    deflated = zlib.compress(bytes(200 * 2**20), 9)
    bomb = page_tags(64, 64, len(deflated), t259=(3, 8))
    jpeg = imagecodecs.jpeg_encode(noise(16, 16))
    frame = jpeg.index(b"\xff\xc0") + 5
    huge_jpeg = jpeg[:frame] + b"\xff\xdc\xff\xdc" + jpeg[frame + 4 :]
    codestream = bytearray(imagecodecs.jpeg2k_encode(noise(16, 16), codecformat="j2k"))
    codestream[8:16] = b"\0\1\0\0\0\1\0\0"
    tiled = {322: (4, 16), 323: (4, 16)}
    text = b"ImageJ=1.54f\nimages=99999999\nslices=99999999\n\0"
    laughs = '<!DOCTYPE x [<!ENTITY a "lol">' + "".join(
        f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(12)
    )
    xml = f"{laughs}]><OME>&m;</OME>".encode() + b"\0"
    many = b"".join(struct.pack("<HHHIII", 1, 256, 4, 1, 1, 8 + 18 * i + 18) for i in range(100_001))
    made = {
        "cycle": (tiff_bytes(good, ones, next_page=108), "points back"),
        "many pages": (b"II*\0" + struct.pack("<I", 8) + many, "more than 100000 pages"),
        "page behind": (tiff_bytes(good, ones, next_page=2**31), "truncated"),
        "no page": (b"II*\0\0\0\0\0", "without pages"),
        "half a header": (b"II*\0\0", "damaged"),
        "zero width": (tiff_bytes(page_tags(10, 0, 100), ones), "10 x 0 px"),
        "zero rows": (tiff_bytes(good | {278: (4, 0)}, ones), "strips or tiles"),
        "zero tile": (tiff_bytes(good | {322: (4, 0), 323: (4, 16)}, ones), ""),
        "missing strip": (tiff_bytes(good | {273: (4, 0)}, ones), "misses 1 of 1"),
        "empty strip": (tiff_bytes(good | {279: (4, 0)}, ones), "misses 1 of 1"),
        "too few strips": (tiff_bytes(good | {278: (4, 1)}, ones), "needs 10 strips or tiles, but lists 1"),
        "short strip": (tiff_bytes(good | {279: (4, 99)}, ones), "damaged"),
        "strip behind": (tiff_bytes(good | {279: (4, 10**6)}, ones), "truncated"),
        "65k x 65k": (tiff_bytes(page_tags(65535, 65535, 100, t259=(3, 8)), ones), "more than 50000:1"),
        "65k x 65k plain": (tiff_bytes(page_tags(65535, 65535, 100), ones), "more than 50000:1"),
        "65k tiles": (tiff_bytes(good | {322: (4, 65535), 323: (4, 65535), 259: (3, 8)}, ones), "over 536870912 bytes"),
        "deflate bomb": (tiff_bytes(bomb, deflated), "damaged"),
        "jpeg in strip": (tiff_bytes(page_tags(16, 16, len(huge_jpeg), t259=(3, 7)), huge_jpeg), "declares 65500"),
        "j2k in strip": (tiff_bytes(page_tags(16, 16, len(codestream), t259=(3, 34712)), codestream), "declares 65536"),
        "ccitt": (tiff_bytes(good | {259: (3, 4)}, ones), "CCITTFAX4, which is not read"),
        "volume": (tiff_bytes(good | tiled | {32997: (4, 2)}, ones), "volumes"),
        "cmyk": (tiff_bytes(good | {262: (3, 5), 277: (3, 4), 258: (3, (8,) * 4)}, ones * 4), "SEPARATED"),
        "complex": (tiff_bytes(good | {258: (3, 64), 339: (3, 6)}, ones * 8), "complex64"),
        "odd bits": (tiff_bytes(good | {258: (3, 77)}, ones), "77 bits"),
        "virtual stack": (tiff_bytes(good | {270: (2, text)}, ones), "declare 99999999 images"),
        "deep json": (tiff_bytes(good | {270: (2, b'{"shape":' + b"[" * 10**5)}, ones), "damaged"),
        "laughs": (tiff_bytes(good | {270: (2, xml)}, ones), "damaged"),
        "no iend.png": (imagecodecs.png_encode(noise(9, 9))[:-12], "truncated"),
        "65k.png": (png_bytes(65535, 65535, 8, 0, b"\0\1"), "declares 4294836225 bytes"),
        "ratio.png": (png_bytes(20000, 20000, 8, 0, b"\0\1"), "more than 50000:1"),
        "few rows.png": (png_bytes(3, 3, 8, 0, b"\0abc"), "damaged"),
        "many rows.png": (png_bytes(3, 3, 8, 0, b"\0abc" * 10**6), "more pixels than it declares"),
        "odd bits.png": (png_bytes(3, 3, 9, 0, b"\0abc"), "with 9 bits"),
        "header flip.png": (png_bytes(3, 3, 8, 0, b"\0abc" * 3).replace(b"\x08\0\0\0", b"\x08\0\0\7"), "IHDR"),
        "zero.png": (png_bytes(0, 3, 8, 0, b""), "0 x 3 px"),
        "65k.jpg": (huge_jpeg, "declares 4290250000 bytes"),
        "scans.jpg": (jpeg + b"\xff\xda" * 600, "scans"),
        "no frame.jpg": (b"\xff\xd8\xff\xe0\0\4ab" * 99, "without a frame header"),
    }
    sound = {
        "t": tiff_bytes(page_tags(10, 10, 100), ones),
        "p": imagecodecs.png_encode(noise(16, 16)),
        "z": tiff_bytes(page_tags(16, 16, 30, t259=(3, 8)), zlib.compress(bytes(256))),
    }
    for name, share in product(sound, (0.05, 0.3, 0.6, 0.9, 0.99)):
        made[f"{name} cut at {share}"] = (sound[name][: int(share * len(sound[name]))], "")
    return made


CHILD = """
import json, pathlib, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from unetpipe.errors import SourceError
from unetpipe.geometry import Box
from unetpipe.sources import open_source
for name in json.load(sys.stdin):
    try:
        try:
            source = open_source(pathlib.Path(name))
        except SourceError as error:
            if "planes: choose" not in str(error):
                raise
            source = open_source(pathlib.Path(name), plane=0)
        with source:
            height, width = source.shape
            for y in range(0, height, 256):
                block = source.read(Box(start=(y, 0), stop=(min(y + 256, height), width)))
                assert block.shape == (source.channels, min(256, height - y), width) and block.dtype == source.dtype
        print(json.dumps([name, "read", ""]))
    except SourceError as error:
        print(json.dumps([name, "refused", str(error)]))
print(json.dumps(["", "peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


def outcomes(paths: list[Path]) -> dict[str, tuple[str, Any]]:
    """What a process of 3 GB makes of each file; it must survive, print nothing else and stay below 2 GB."""
    command = [sys.executable, "-W", "error", "-c", CHILD]
    names = json.dumps([str(path) for path in paths])
    root = Path(__file__).parents[1]
    done = subprocess.run(command, input=names, capture_output=True, text=True, timeout=300, cwd=root, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    lines = {Path(name).name: (kind, value) for name, kind, value in map(json.loads, done.stdout.splitlines())}
    assert lines.pop("")[1] < 2 * 2**20
    for name, (kind, line) in lines.items():
        assert kind == "read" or (f"{name[-40:]}: " in line and len(line) <= 300 and line.isprintable()), line
    assert len(lines) == len(paths)
    return lines


def test_malformed_files_are_read_or_refused_in_one_line(data_folder: Path) -> None:
    found = outcomes(sorted((data_folder / "malformed" / "pillow").iterdir()))
    assert len(found) == 57
    assert Counter(kind for kind, _ in found.values()) == {"read": 11, "refused": 46}


def test_faults_are_refused_in_one_line(tmp_path: Path) -> None:
    made = faults()
    for name, (data, _) in made.items():
        (tmp_path / name).write_bytes(data)
    found = outcomes([tmp_path / name for name in made])
    for name, (kind, line) in found.items():
        assert kind == "refused" and made[name][1] in line, (name, kind, line)


def test_flipped_bytes_are_read_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    tifffile.imwrite(tmp_path / "t", noise(20, 30, 3), photometric="rgb", compression="lzw", tile=(16, 16))
    tifffile.imwrite(tmp_path / "s", noise(2, 20, 30), imagej=True)
    originals = [(tmp_path / name).read_bytes() for name in "ts"]
    originals += [imagecodecs.png_encode(noise(20, 30)), imagecodecs.jpeg_encode(noise(20, 30))]
    paths = []
    for number in range(200):
        data = bytearray(originals[number % 4])
        for position in rng.integers(0, min(len(data), 700), 3):
            data[position] = rng.integers(256)
        paths.append(tmp_path / f"flipped {number}")
        paths[-1].write_bytes(data)
    assert {kind for kind, _ in outcomes(paths).values()} == {"read", "refused"}


def test_a_file_that_shrinks_while_open(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(500, 500))
    with open_source(tmp_path / "a.tif") as source:
        os.truncate(tmp_path / "a.tif", 1000)
        with pytest.raises(SourceError, match=r"a\.tif: is damaged"):
            whole(source)


# --- real slides -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "channels", "pixel_size_um"),
    [
        ("CMU-1-Small-Region.svs", (2967, 2220), 3, 0.499),
        ("tcga-cr-7395-01a-01-ts1.svs", (3567, 4443), 3, None),
        ("test3-DAPI-2-(387).ndpi", (4864, 3968), 3, 0.22818),
        ("test3-TRITC 2 (560).ndpi", (4864, 3968), 3, 0.22818),
        ("grey10kx5k.tif", (5000, 10000), 1, None),
        ("yb10kx5k.zstd.tiff", (5000, 10000), 3, None),
        ("boxes.tiff", (250, 300), 3, None),
    ],
)
def test_slides(
    data_folder: Path, name: str, shape: tuple[int, int], channels: int, pixel_size_um: float | None
) -> None:
    path = data_folder / "wsi" / name
    with open_source(path) as source, tifffile.TiffFile(path) as file:
        assert (source.shape, source.channels, source.dtype) == (shape, channels, np.dtype(np.uint8))
        assert source.pixel_size_um == (None if pixel_size_um is None else pytest.approx(pixel_size_um, rel=1e-4))
        y, x = shape[0] // 2, shape[1] // 3
        pixels = source.read(Box(start=(y, x), stop=(y + 90, x + 80)))
        store = np.asarray(_selection(file, (slice(y, y + 90), slice(x, x + 80))))
    np.testing.assert_array_equal(pixels, store.reshape(90, 80, -1).transpose(2, 0, 1))


def _selection(file: tifffile.TiffFile, box: tuple[slice, slice]) -> Array:
    """The same box by tifffile's Zarr interface."""
    zarr = pytest.importorskip("zarr")
    return zarr.open_array(file.series[0].aszarr(level=0), mode="r")[box]


def test_an_ome_tiff_of_channels_and_z(data_folder: Path) -> None:
    path = data_folder / "wsi" / "multi-channel-z-series.ome.tif"
    image = tifffile.imread(path)
    for z in range(5):
        np.testing.assert_array_equal(read(path, plane=z), image[:, z])


def test_stacks_and_photographs(data_folder: Path) -> None:
    stack = data_folder / "isbi2012" / "train-volume.tif"
    np.testing.assert_array_equal(read(stack, plane=23)[0], tifffile.imread(stack)[23])
    for path in sorted((data_folder / "dsb2018" / "images").glob("*.png"))[:5]:
        np.testing.assert_array_equal(read(path), imagecodecs.imread(path)[..., :3].transpose(2, 0, 1))
    for path in sorted((data_folder / "dsb2018" / "labels").glob("*.tif"))[:5]:
        np.testing.assert_array_equal(read(path)[0], tifffile.imread(path))

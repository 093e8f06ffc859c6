"""Pixels of TIFF files, whatever their layout, against those that were written."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from imagefiles import UPRIGHT, Array, noise, page_tags, read, refused, tiff_bytes, whole
from unetpipe.geometry import Box
from unetpipe.sources.images import Source, open_source
from unetpipe.sources.tiff import TiffSource

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


# Lossless codecs, with the types that they hold, and what makes them lossless.
CODECS: dict[str | None, tuple[str, dict[str, Any]]] = {
    None: ("u1 u2 u4 i2 f4 f8", {}),
    "lzw": ("u1 u2 u4 i2 f4 f8", {}),
    "zlib": ("u1 u2 u4 i2 f4 f8", {}),
    "zstd": ("u1 u2 u4 i2 f4 f8", {}),
    "packbits": ("u1 u2 u4 i2", {}),
    "jpeg2000": ("u1 u2", {"reversible": True}),
    "jpegxl": ("u1 u2", {"lossless": True}),
    "webp": ("u1", {"lossless": True}),
}


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Array, dict[str, Any]]:
    """An image, (samples, Y, X), and how it is laid out in a TIFF."""
    codec = draw(st.sampled_from(list(CODECS)))
    types, lossless = CODECS[codec]
    dtype = np.dtype(draw(st.sampled_from(types.split())))
    samples = 3 if codec == "webp" else draw(st.sampled_from([1, 3]))
    options: dict[str, Any] = {"compression": codec, "compressionargs": dict(lossless), "bigtiff": draw(st.booleans())}
    # tifffile hands big-endian values as they are to codecs that expect native ones.
    options["byteorder"] = draw(st.sampled_from("<" if lossless else "<>"))
    if draw(st.booleans()):
        options["tile"] = tuple(draw(st.sampled_from([16, 48, 64])) for _ in "yx")
    else:
        options["rowsperstrip"] = draw(st.integers(1, 45))
    if codec in ("lzw", "zlib", "zstd") and draw(st.booleans()):
        options["predictor"] = 3 if dtype.kind == "f" else 2
    if samples == 3:
        options["photometric"] = "rgb"
        options["planarconfig"] = "contig" if codec == "webp" else draw(st.sampled_from(["contig", "separate"]))
    return noise(samples, 45, 70, dtype=dtype), options


@given(layouts())
@settings(max_examples=120)
def test_pixels_do_not_know_how_they_are_stored(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[Array, dict[str, Any]]
) -> None:
    image, options = drawn
    path = tmp_path_factory.getbasetemp() / "layout.tif"
    stored = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
    tifffile.imwrite(path, image if options.get("planarconfig") == "separate" else stored, **options)
    np.testing.assert_array_equal(read(path), image)


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("codec", ["webp", "jpegxl", "jpeg", "jpeg2000"])
def test_a_code_stream_of_another_size_is_refused(tmp_path: Path, codec: str, lossless: bool) -> None:
    encode = {"webp": imagecodecs.webp_encode, "jpegxl": imagecodecs.jpegxl_encode}.get(codec)
    tags = {"webp": 50001, "jpegxl": 50002, "jpeg": 7, "jpeg2000": 34712}
    for side, fits in ((16, True), (160, False)):
        image = noise(side, side, 3)
        if encode is not None:
            data = encode(image, lossless=lossless)
        else:
            data = imagecodecs.jpeg_encode(image) if codec == "jpeg" else imagecodecs.jpeg2k_encode(image)
        page = page_tags(16, 16, len(data), t258=(3, (8,) * 3), t259=(3, tags[codec]), t262=(3, 2), t277=(3, 3))
        (tmp_path / "a.tif").write_bytes(tiff_bytes(page, data))
        if fits:
            assert read(tmp_path / "a.tif").shape == (3, 16, 16)
        else:
            assert "declares 160 x 160 px" in refused(tmp_path / "a.tif")


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
        assert source.row_by_row == ("tile" not in options)
    assert set(calls.values()) == {1}
    assert len(calls) == (4 * 5 if "tile" in options else 20)


def test_a_box_decodes_only_what_it_meets(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(128, 160), compression="zlib", tile=(32, 32))
    with open_source(tmp_path / "a.tif") as source:
        calls = counted(source)
        source.read(Box(start=(40, 30), stop=(64, 65)))
    assert sorted(calls) == [5, 6, 7]


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetpipe.sources.tiff._CACHE_BYTES", 1000)
    tifffile.imwrite(tmp_path / "a.tif", noise(128, 160), compression="zlib", tile=(32, 32))
    with open_source(tmp_path / "a.tif") as source:
        assert isinstance(source, TiffSource)
        calls = counted(source)
        for y in range(128):
            source.read(Box(start=(y, 0), stop=(y + 1, 160)))
            assert sum(pixels.nbytes for pixels in source._cache.values()) <= 6 * 32 * 32
    assert set(calls.values()) == {1}


def test_one_large_plain_strip_is_read_in_pieces(tmp_path: Path) -> None:
    image = noise(3000, 1000)
    tifffile.imwrite(tmp_path / "a.tif", image)
    with open_source(tmp_path / "a.tif") as source:
        calls = counted(source)
        np.testing.assert_array_equal(source.read(Box(start=(1500, 3), stop=(1510, 9)))[0], image[1500:1510, 3:9])
    assert len(calls) == 1


COSTS: dict[str, tuple[float, dict[str, Any]]] = {
    "zstd": (1.0, {"compression": "zstd"}),
    "packbits": (2.0, {"compression": "packbits"}),
    "jpeg": (3.2, {"compression": "jpeg"}),
    "jpeg 2000": (5.5, {"compression": "jpeg2000"}),
    "webp": (2.5, {"compression": "webp"}),
    "jpeg xl": (6.0, {"compression": "jpegxl"}),
}


@pytest.mark.parametrize("codec", COSTS)
def test_tiles_that_cost_too_much_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    factor, keys = COSTS[codec]
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((64, 64, 3), np.uint8), tile=(64, 64), photometric="rgb", **keys)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        cost = round(factor * 64 * 64 * 3) + max(file.pages[0].databytecounts)
    monkeypatch.setattr("unetpipe.sources.refusals.DECODE_LIMIT", cost)
    read(tmp_path / "a.tif")
    monkeypatch.setattr("unetpipe.sources.refusals.DECODE_LIMIT", cost - 1)
    said = refused(tmp_path / "a.tif")
    assert f"has strips or tiles of 64 x 64 px: {cost} bytes to decode it, limit {cost - 1}; write it in" in said


@pytest.mark.parametrize("keys", [{"byteorder": ">"}, {"dtype": "f4", "predictor": True}])
def test_values_that_are_copied_cost_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any]
) -> None:
    image = np.zeros((64, 64), keys.pop("dtype", "u2"))
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64), compression="zlib", **keys)
    monkeypatch.setattr("unetpipe.sources.refusals.DECODE_LIMIT", 2 * image.nbytes)
    assert "has strips or tiles of 64 x 64 px: " in refused(tmp_path / "a.tif")
    monkeypatch.setattr("unetpipe.sources.refusals.DECODE_LIMIT", 2 * image.nbytes + 500)
    read(tmp_path / "a.tif")

"""Readers against slicing, against each other, and what they refuse."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from imagefiles import Array, noise, read, refused, whole
from unetpipe.errors import GeometryError, SourceError
from unetpipe.geometry import Box
from unetpipe.sources.images import Source, checked_image_block, image_dtype, open_source


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


def test_what_is_no_image(tmp_path: Path) -> None:
    assert "none.tif: no such file" in refused(tmp_path / "none.tif")
    (tmp_path / "link.tif").symlink_to("nowhere")
    assert "no such file" in refused(tmp_path / "link.tif")
    assert "is a directory" in refused(tmp_path)
    (tmp_path / "empty.tif").touch()
    assert refused(tmp_path / "empty.tif").endswith("empty.tif: is empty (0 bytes); copy it again, or export it anew")
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
    assert refused(tmp_path / "a.tif").endswith(
        "a.tif: may not be read: permission denied; ask its owner for the right to read it"
    )


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_a_closed_source(tmp_path: Path, name: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(5, 5))
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(noise(5, 5)))
    with open_source(tmp_path / name) as source:
        pass
    with pytest.raises(SourceError, match="is closed"):
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
        expected = None if pixel_size_um is None else pytest.approx((pixel_size_um, pixel_size_um), rel=1e-4)
        assert source.pixel_sides_um == expected
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

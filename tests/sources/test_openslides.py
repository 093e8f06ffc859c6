"""Slides by OpenSlide against the same pixels by tifffile, and without it."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from imagefiles import noise, read, refused, whole
from slidefiles import TILE, Writer, picture, write_dicom, write_leica, write_mirax, write_ventana
from unetpipe.errors import SourceError
from unetpipe.geometry import Box
from unetpipe.sources.files import sha256_of_source
from unetpipe.sources.images import open_source
from unetpipe.sources.openslides import SLIDE_SUFFIXES, check_second_reader


def test_without_openslide_one_line_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openslide", None)
    for suffix in SLIDE_SUFFIXES:
        path = tmp_path / f"a{suffix.upper()}"
        path.write_bytes(b"\xff\xd8\xff")
        assert "needs OpenSlide; install the extra: pip install 'unetpipe[slides]'" in refused(path)


SLIDES = ["CMU-1-Small-Region.svs", "tcga-cr-7395-01a-01-ts1.svs", "test3-DAPI-2-(387).ndpi", "yb10kx5k.zstd.tiff"]


@pytest.mark.parametrize("name", SLIDES)
def test_two_readers_agree_on_a_slide(data_folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "a b[1] ü.bif").symlink_to((data_folder / "wsi" / name).resolve())
    with open_source(data_folder / "wsi" / name) as ours, open_source(tmp_path / "a b[1] ü.bif") as theirs:
        assert (ours.shape, ours.channels, ours.dtype) == (theirs.shape, theirs.channels, theirs.dtype)
        assert ours.pixel_sides_um == theirs.pixel_sides_um
        height, width = ours.shape
        for y, x in ((0, 0), (height // 2, width // 3), (height - 300, width - 200)):
            box = Box(start=(y, x), stop=(y + 300, x + 200))
            np.testing.assert_array_equal(ours.read(box), theirs.read(box))
        assert theirs.read(Box(start=(5, 5), stop=(5, 9))).shape == (3, 0, 4)
    with pytest.raises(ValueError, match="is closed"):
        theirs.read(Box(start=(0, 0), stop=(1, 1)))


def test_a_slide_of_several_files(tmp_path: Path) -> None:
    from PIL import Image

    image = np.kron(noise(32, 40, 3), np.ones((8, 8, 1), np.uint8))
    for name, step in (("a.jpg", 1), ("map.jpg", 4)):
        pixels = Image.fromarray(image[::step, ::step])
        pixels.save(tmp_path / name, quality=98, subsampling=0, restart_marker_blocks=5)
    keys = ["NoLayers=1", "NoJpegColumns=1", "NoJpegRows=1", "ImageFile=a.jpg", "MapFile=map.jpg", "MacroImage=map.jpg"]
    lines = ["[Virtual Microscope Specimen]", *keys, "PhysicalWidth=160000", "PhysicalHeight=128000"]
    (tmp_path / "a.vms").write_text("\n".join(lines))
    with open_source(tmp_path / "a.vms") as source:
        assert (source.shape, source.pixel_sides_um) == (image.shape[:2], (0.5, 0.5))
        pixels = whole(source, 100)
    assert np.abs(np.moveaxis(pixels, 0, -1).astype(int) - image).max() <= 4
    digest = sha256_of_source(tmp_path / "a.vms")
    (tmp_path / "map.jpg").write_bytes(b"other")
    assert sha256_of_source(tmp_path / "a.vms") != digest


# By the end of its name: who writes it, height and width, and the pixels of bare glass around what is scanned.
SCANNERS: dict[str, tuple[Writer, tuple[int, int], int]] = {
    "dcm": (write_dicom, (200, 304), 0),
    "mrxs": (write_mirax, (256, 384), 0),
    "scn": (write_leica, (200, 304), TILE),
    "bif": (write_ventana, (TILE + 2 * 56, TILE + 4 * 56), 0),
}


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("ending", SCANNERS)
def test_a_scanner_s_slide_comes_in_as_it_was_written(tmp_path: Path, ending: str, lossless: bool) -> None:
    write, shape, glass = SCANNERS[ending]
    levels = [picture(*shape), picture(*shape)[::2, ::2]]
    path = write(tmp_path / f"a.{ending}", levels, 0.25, lossless=lossless)
    # Squares of 4 px do not survive JPEG as those of 8 do.
    for number, (written, apart) in enumerate(zip(levels, (1, 8), strict=True)):
        edge = glass >> number
        expected = np.pad(written, ((edge, edge), (edge, edge), (0, 0)), constant_values=255)
        with open_source(path, level=number) as source:
            assert len(source.levels) == 2 and source.levels[number] == source.shape == expected.shape[:2]
            assert (source.pixel_sides_um, source.channels, source.dtype) == ((0.25, 0.25), 3, np.uint8)
            pixels = np.moveaxis(whole(source, 50), 0, -1)
        assert np.abs(pixels.astype(int) - expected).max() <= (0 if lossless else apart)


def test_tiles_that_a_scanner_left_out_have_its_background(tmp_path: Path) -> None:
    image = picture(128, 192)
    path = write_mirax(tmp_path / "a.mrxs", [image], 0.5, lossless=True, missing=(1,))
    image[:TILE, TILE : 2 * TILE] = (0x10, 0x20, 0x30)
    np.testing.assert_array_equal(np.moveaxis(read(path), 0, -1), image)


@pytest.mark.parametrize("ending", SCANNERS)
def test_a_damaged_slide_of_a_scanner_is_one_line(tmp_path: Path, ending: str) -> None:
    write, shape, _ = SCANNERS[ending]
    path = write(tmp_path / f"a.{ending}", [picture(*shape)], 0.5, lossless=False)
    files = sorted((tmp_path / "a").glob("*")) or [path]
    for file in files:
        data = file.read_bytes()
        for kept in (0.02, 0.5, 0.999):
            file.write_bytes(data[: int(kept * len(data))])
            assert "is damaged or not supported (OpenSlide: " in refused(path)
        file.write_bytes(data)
    # The middle of a tile's JPEG is gone.
    pixels = max(files, key=lambda file: file.stat().st_size)
    data = bytearray(pixels.read_bytes())
    begin = data.index(b"\xff\xda", len(data) // 3) + 20
    data[begin : begin + 200] = bytes(200)
    pixels.write_bytes(data)
    assert "is damaged or not supported (OpenSlide: " in refused(path)
    for file in files:
        file.unlink()
    assert ("no such file" if files == [path] else "Unsupported or missing image file") in refused(path)


def test_two_readers_agree_on_every_pixel_without_loss(tmp_path: Path) -> None:
    image = noise(300, 400, 3)
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(128, 128), photometric="rgb", compression="lzw")
    (tmp_path / "a.scn").symlink_to("a.tif")
    with open_source(tmp_path / "a.tif") as ours, open_source(tmp_path / "a.scn") as theirs:
        box = Box(start=(37, 41), stop=(299, 400))
        np.testing.assert_array_equal(ours.read(box), theirs.read(box))


def test_what_openslide_does_not_take_is_one_line(tmp_path: Path) -> None:
    for name, data in (("a.mrxs", b"\xff\xd8\xff"), ("a.dcm", bytes(128) + b"DICM"), ("a.vms", b"[Virtual]\n")):
        (tmp_path / name).write_bytes(data)
        assert "is damaged or not supported" in refused(tmp_path / name)
    assert "no plane 1" in refused(tmp_path / "a.mrxs", plane=1)


class SecondReader:
    """OpenSlide as this project uses it, of one slide of 40 x 50 px of one grey."""

    class OpenSlideError(Exception):
        pass

    def __init__(self, *_: object, vendor: str | None = "aperio", broken: bool = False) -> None:
        self.vendor, self.broken, self.dimensions = vendor, broken, (50, 40)
        self.OpenSlide = self

    def __call__(self, path: Path) -> "SecondReader":
        if self.broken:
            raise self.OpenSlideError
        return self

    def detect_format(self, path: Path) -> str | None:
        return self.vendor

    def read_region(self, corner: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        assert corner == (25, 20) and level == 0 and size == (25, 20)
        return np.full((*size[::-1], 4), 255, np.uint8) * np.array([0.5, 0.5, 0.5, 1], np.float32)

    def __enter__(self) -> "SecondReader":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def grey(value: float) -> Callable[[Box], np.ndarray]:
    """A first reader, of a slide of one grey."""
    return lambda box: np.full((3, *box.shape), value, np.uint8)


def test_two_readers_that_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openslide", SecondReader())
    check_second_reader(Path("a.svs"), (40, 50), grey(128))
    check_second_reader(Path("a.svs"), (40, 50), None)
    words = "read differently by two readers: 40 x 51 px for tifffile, 40 x 50 px for OpenSlide; export it anew"
    with pytest.raises(SourceError, match=words):
        check_second_reader(Path("a.svs"), (40, 51), grey(128))
    with pytest.raises(SourceError, match="differ by 72 grey values at y 20, x 25; export it anew"):
        check_second_reader(Path("a.svs"), (40, 50), grey(200))


@pytest.mark.parametrize(
    "second", [None, SecondReader(vendor=None), SecondReader(vendor="generic-tiff"), SecondReader(broken=True)]
)
def test_a_second_reader_that_is_not_asked(second: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openslide", second)
    check_second_reader(Path("a.tif"), (1, 1), grey(0))

import errno
import resource
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from unetpipe.errors import ConfigError, GeometryError, Interrupted
from unetpipe.geometry import Box
from unetpipe.phantoms import phantom_image, phantom_labels
from unetpipe.steps import simulate as step
from unetpipe.steps.simulate import iter_tiles, simulate, write_tiff

SHAPE = (700, 1100)
ARGUMENTS: dict[str, Any] = {"shape": SHAPE, "seed": 4, "diameter_px": 30.0, "pixel_size_um": 0.25}


def everything(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


def test_files_hold_the_phantom(tmp_path: Path) -> None:
    image, annotation = tmp_path / "images" / "a.tif", tmp_path / "labels" / "a.tif"
    simulate(image, annotation, **ARGUMENTS)
    whole = Box(start=(0, 0), stop=SHAPE)
    drawn: dict[str, Any] = {"shape": SHAPE, "seed": 4, "diameter_px": 30.0}
    assert np.array_equal(tifffile.imread(image), phantom_image(whole, **drawn))
    assert np.array_equal(tifffile.imread(annotation), phantom_labels(whole, **drawn))
    assert sorted(everything(tmp_path)) == [image, annotation]


def test_files_are_tiled_and_say_their_pixel_size(tmp_path: Path) -> None:
    simulate(tmp_path / "a.tif", tmp_path / "b.tif", **ARGUMENTS)
    for name, dtype in (("a.tif", "uint8"), ("b.tif", "uint32")):
        with tifffile.TiffFile(tmp_path / name) as file:
            page = file.pages.first
            assert (page.shape, str(page.dtype), page.axes) == (SHAPE, dtype, "YX")
            assert (page.tilewidth, page.tilelength) == (512, 512)
            assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
            # 10,000 um per cm, 0.25 um per px
            assert page.tags["XResolution"].value == page.tags["YResolution"].value == (40_000, 1)
            assert page.tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
            assert page.tags["Software"].value == "unetpipe"
            assert not {"DateTime", "HostComputer", "ImageDescription"} & {tag.name for tag in page.tags}


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    simulate(tmp_path / "a.tif", None, **ARGUMENTS)
    simulate(tmp_path / "b.tif", None, **ARGUMENTS)
    simulate(tmp_path / "c.tif", None, **ARGUMENTS | {"seed": 5})
    a, b, c = ((tmp_path / name).read_bytes() for name in ("a.tif", "b.tif", "c.tif"))
    assert a == b != c


def test_an_image_smaller_than_a_tile(tmp_path: Path) -> None:
    simulate(tmp_path / "a.tif", None, **ARGUMENTS | {"shape": (1, 33)})
    assert tifffile.imread(tmp_path / "a.tif").shape == (1, 33)


def test_tiles_cover_the_image_once() -> None:
    count = np.zeros(SHAPE, int)
    for box in iter_tiles(SHAPE):
        count[box.slices] += 1
    assert (count == 1).all()


@pytest.mark.parametrize(("limit", "is_big"), [(SHAPE[0] * SHAPE[1], False), (SHAPE[0] * SHAPE[1] - 1, True)])
def test_large_images_are_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, is_big: bool) -> None:
    monkeypatch.setattr(step, "CLASSIC_BYTES", limit)
    write_tiff(tmp_path / "a.tif", lambda box: np.ones(box.shape, np.uint8), SHAPE, np.dtype(np.uint8), 1.0)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff == is_big
        assert (file.asarray() == 1).all()


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(box: Box, **_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(step, "phantom_labels", fail)
    with pytest.raises(OSError, match="No space left") as failure:
        simulate(tmp_path / "a.tif", tmp_path / "b.tif", **ARGUMENTS)
    assert failure.value.errno == errno.ENOSPC
    assert failure.value.filename == str(tmp_path / "a.tif")
    assert everything(tmp_path) == []


def test_a_write_that_really_fails_leaves_nothing_and_old_files_whole(tmp_path: Path) -> None:
    simulate(tmp_path / "a.tif", None, **ARGUMENTS | {"shape": (32, 32)})
    before = (tmp_path / "a.tif").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            simulate(tmp_path / "a.tif", None, **ARGUMENTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert everything(tmp_path) == [tmp_path / "a.tif"]
    assert (tmp_path / "a.tif").read_bytes() == before


def test_a_stop_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def draw(box: Box, **arguments: Any) -> Any:
        if box.shape == (512, 512):
            asked.set()
        return phantom_image(box, **arguments)

    monkeypatch.setattr(step, "phantom_image", draw)
    monkeypatch.setattr(step, "stop_asked", asked.is_set)
    with pytest.raises(Interrupted):
        simulate(tmp_path / "a.tif", tmp_path / "b.tif", **ARGUMENTS)
    assert everything(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"pixel_size_um": 0.0}, ConfigError),
        ({"pixel_size_um": float("nan")}, ConfigError),
        ({"diameter_px": 1.0}, ConfigError),
        ({"seed": -1}, ConfigError),
        ({"shape": (0, 5)}, (GeometryError, ConfigError)),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path: Path, changes: dict[str, Any], error: Any) -> None:
    with pytest.raises(error):
        simulate(tmp_path / "a.tif", tmp_path / "b.tif", **ARGUMENTS | changes)
    assert everything(tmp_path) == []


def test_one_file_for_both_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two files"):
        simulate(tmp_path / "a.tif", tmp_path / "a.tif", **ARGUMENTS)

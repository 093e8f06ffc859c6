"""Levels of a file's own pyramid: which there are, and their pixels, by what wrote them."""

import re
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from imagefiles import noise, page_tags, read, refused, tiff_bytes
from unetpipe.errors import SourceError
from unetpipe.geometry import Box
from unetpipe.sources.images import open_source
from unetpipe.sources.tiffchain import PageEntry, coarser_pages

TILE = {"tile": (16, 16), "photometric": "minisblack"}


def halved(image: np.ndarray, level: int) -> np.ndarray:
    """Every 2^level-th pixel."""
    return image[..., :: 2**level, :: 2**level]


def write_subifds(path: Path, image: np.ndarray, levels: int) -> None:
    """An OME-TIFF with a pyramid in SubIFDs."""
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(image, subifds=levels - 1, metadata={"axes": "ZCYX"[4 - image.ndim :]}, **TILE)
        for level in range(1, levels):
            writer.write(halved(image, level), subfiletype=1, **TILE)


def write_chain(path: Path, image: np.ndarray, levels: int, kind: int) -> None:
    """A TIFF whose pages grow smaller."""
    with tifffile.TiffWriter(path) as writer:
        for level in range(levels):
            writer.write(halved(image, level), subfiletype=kind if level else 0, metadata=None, **TILE)


def level_shapes(path: Path, **options: int) -> list[tuple[int, int]]:
    """What a source says of its levels."""
    with open_source(path, **options) as source:
        return source.levels


@pytest.mark.parametrize("plane", range(3))
def test_every_channel_of_a_plane_has_its_own_level_in_subifds(tmp_path: Path, plane: int) -> None:
    image = noise(3, 2, 81, 118, dtype=np.uint16)
    write_subifds(tmp_path / "a.ome.tif", image, 3)
    assert level_shapes(tmp_path / "a.ome.tif", plane=plane) == [(81, 118), (41, 59), (21, 30)]
    for level in range(3):
        pixels = read(tmp_path / "a.ome.tif", plane=plane, level=level)
        np.testing.assert_array_equal(pixels, halved(image[plane], level))


@pytest.mark.parametrize("kind", [0, 1])
def test_smaller_pages_are_levels_whether_they_say_so_or_not(tmp_path: Path, kind: int) -> None:
    image = noise(80, 119)
    write_chain(tmp_path / "a.tif", image, 3, kind)
    assert level_shapes(tmp_path / "a.tif") == [(80, 119), (40, 60), (20, 30)]
    for level in range(3):
        np.testing.assert_array_equal(read(tmp_path / "a.tif", level=level)[0], halved(image, level))


def test_thumbnails_labels_and_masks_are_no_levels() -> None:
    slide = PageEntry(4000, 3000, 3, 0, tiled=True)
    thumbnail, label = PageEntry(1000, 750, 3, 0), PageEntry(400, 400, 3, 1, tiled=True)
    mask, grey = PageEntry(2000, 1500, 3, 4, tiled=True), PageEntry(2000, 1500, 1, 1, tiled=True)
    level = PageEntry(1000, 750, 3, 0, tiled=True)
    assert coarser_pages([slide, thumbnail, label, mask, grey, level], [0]) == [[5]]
    # Two planes have two pages at each level.
    assert coarser_pages([slide, level, slide], [0, 2]) == []
    assert coarser_pages([slide, level, slide, level], [0, 2]) == [[1, 3]]


def test_levels_of_real_slides_are_those_that_tifffile_finds(data_folder: Path) -> None:
    for name in ("tcga-cr-7395-01a-01-ts1.svs", "test3-DAPI-2-(387).ndpi", "CMU-1-Small-Region.svs", "boxes.tiff"):
        path = data_folder / "wsi" / name
        with tifffile.TiffFile(path) as file:
            expected = file.series[0].levels
            assert level_shapes(path) == [level.shape[:2] for level in expected]
            pixels = np.moveaxis(expected[-1].asarray(), -1, 0)
        np.testing.assert_array_equal(read(path, level=len(expected) - 1), pixels)


def test_a_level_of_an_upright_image_is_upright(data_folder: Path) -> None:
    for orientation in (1, 3, 6):
        path = data_folder / "wsi" / f"test_orient{orientation}.tif"
        finest, coarse = read(path)[0].astype(float), read(path, level=1)[0].astype(float)
        means = finest.reshape(coarse.shape[0], 2, coarse.shape[1], 2).mean(axis=(1, 3))
        assert np.abs(means - coarse).mean() < 4


def write_ngff(folder: Path, image: np.ndarray, levels: int) -> None:
    """An OME-Zarr 0.5 with axes z, c, y, x."""
    axes = [{"name": name, "type": "space"} for name in "zcyx"]
    datasets = []
    for level in range(levels):
        scale = [1.0, 1.0, 0.25 * 2**level, 0.25 * 2**level]
        datasets.append({"path": f"s{level}", "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    group = zarr.create_group(store=str(folder), zarr_format=3)
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    for level in range(levels):
        pixels = halved(image, level)
        group.create_array(f"s{level}", shape=pixels.shape, chunks=(1, 1, 32, 32), dtype=pixels.dtype)[:] = pixels


def test_levels_of_an_ome_zarr(tmp_path: Path) -> None:
    image = noise(2, 3, 60, 90, dtype=np.uint16)
    write_ngff(tmp_path / "a.zarr", image, 3)
    for level in range(3):
        np.testing.assert_array_equal(read(tmp_path / "a.zarr", plane=1, level=level), halved(image[1], level))
    assert "no level 3; expected one of 0: 60 x 90, 1: 30 x 45, 2: 15 x 23 px" in refused(
        tmp_path / "a.zarr", plane=1, level=3
    )


def test_what_has_one_level_refuses_a_second(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", noise(8, 9))
    tifffile.imwrite(tmp_path / "a.tif", noise(8, 9))
    for name in ("a.npy", "a.tif"):
        assert level_shapes(tmp_path / name) == [(8, 9)]
        assert refused(tmp_path / name, level=1).endswith(
            "has no level 1; expected one of 0: 8 x 9 px: correct the column level of the sheet"
        )


def test_a_level_of_other_values_is_refused(tmp_path: Path) -> None:
    image = noise(64, 64, dtype=np.uint16)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(image, subifds=1, **TILE)
        writer.write(noise(32, 32), subfiletype=1, **TILE)
    assert "level 1 of other values" in refused(tmp_path / "a.tif", level=1)


@pytest.mark.parametrize("at", ["behind", "itself", "zeros"])
def test_subifds_that_lead_astray_are_refused_and_level_0_is_read(tmp_path: Path, at: str) -> None:
    image = noise(6, 7)
    tags = page_tags(6, 7, 42)
    plain = tiff_bytes(tags | {330: (4, 0)}, image.tobytes())
    (start,) = struct.unpack_from("<I", plain, 4)
    offset = {"behind": len(plain) + 5, "itself": start, "zeros": len(plain)}[at]
    (tmp_path / "a.tif").write_bytes(tiff_bytes(tags | {330: (4, offset)}, image.tobytes()) + bytes(2))
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], image)
    message = {"behind": "truncated", "itself": "no level 1", "zeros": "damaged"}[at]
    assert message in refused(tmp_path / "a.tif", level=1)


def test_flipped_bytes_of_a_pyramid_give_pixels_or_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    write_subifds(path, noise(2, 64, 64), 2)
    data, rng = path.read_bytes(), np.random.default_rng(3)
    for _ in range(150):
        broken = bytearray(data)
        broken[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        try:
            read(path, level=1)
        except SourceError as error:
            assert len(str(error)) <= 300 and "\n" not in str(error)


def test_openslide_reads_levels_that_are_whole_numbers_smaller(tmp_path: Path) -> None:
    image = noise(256, 320, 3)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for step, kind in ((1, 0), (4, 1)):
            writer.write(image[::step, ::step], subfiletype=kind, tile=(64, 64), photometric="rgb", compression="lzw")
    (tmp_path / "a.scn").symlink_to("a.tif")
    box = Box(start=(11, 7), stop=(59, 80))
    with open_source(tmp_path / "a.scn", level=1) as theirs, open_source(tmp_path / "a.tif", level=1) as ours:
        assert theirs.levels == ours.levels == [(256, 320), (64, 80)]
        np.testing.assert_array_equal(theirs.read(box), ours.read(box))


def test_openslide_refuses_a_level_that_it_would_interpolate(data_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.bif").symlink_to((data_folder / "wsi" / "tcga-cr-7395-01a-01-ts1.svs").resolve())
    assert re.search(r"level 1 that is 2\.0005 times smaller", refused(tmp_path / "a.bif", level=1))

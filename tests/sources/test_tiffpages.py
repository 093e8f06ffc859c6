"""Which pages make up which plane, and the size of a pixel."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tifffile

from imagefiles import noise, page_tags, read, refused, tiff_bytes, whole
from unetpipe.errors import SourceError
from unetpipe.sources.images import open_source
from unetpipe.sources.tiffpages import tiff_pixel_sides_um


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
        with pytest.raises(SourceError, match=f"holds {len(planes)} planes; choose one with plane = 0 to"):
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


def test_an_ome_tiff_of_t_z_and_c_with_its_pyramid_in_subifds(tmp_path: Path) -> None:
    path, image = tmp_path / "a.ome.tif", noise(2, 3, 2, 64, 48, dtype=np.uint16)
    keys = {"photometric": "minisblack", "tile": (16, 16), "compression": "zlib"}
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        metadata = {"axes": "TZCYX", "Channel": {"Name": ["DAPI", "µ-opsin"]}, "PhysicalSizeX": 0.25}
        writer.write(image, subifds=2, metadata=metadata, **keys)
        for step in (2, 4):
            writer.write(image[..., ::step, ::step], subfiletype=1, **keys)
    for plane in range(6):
        with open_source(path, plane=plane) as source:
            np.testing.assert_array_equal(whole(source), image[plane // 3, plane % 3])
            assert (source.channel_names, source.pixel_sides_um) == (("DAPI", "µ-opsin"), (0.25, 0.25))
    assert "holds 6 planes; choose one with plane = 0 to 5 (2 t x 3 z, the last one fastest)" in refused(path)


def test_the_largest_image_is_the_main_one(tmp_path: Path) -> None:
    image = noise(40, 60)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for pixels in (image[::4, ::4], image, image[::2, ::2]):
            writer.write(pixels, metadata=None)
        writer.write(image, subfiletype=1, metadata=None)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], image)


OME = '<OME><Image><Pixels PhysicalSizeX="{}" PhysicalSizeY="{}" {}/></Image></OME>'


@pytest.mark.parametrize(
    ("description", "resolution", "unit", "expected"),
    [
        ("", (40000.0, 40000.0), 3, 0.25),
        ("", (50800.0, 50800.0), 2, 0.5),
        ("", (40000.0, 40000.0), 1, None),
        ("", (40000.0, 20000.0), 3, (0.5, 0.25)),
        ("", (40000.0, 1.0), 3, None),
        ("", (40000.0, 0.0), 3, None),
        ("", (0.0, 0.0), 3, None),
        ("", (72.0, 72.0), 2, None),
        ("", (96.0, 96.0), 2, None),
        ("", (300.0, 300.0), 2, None),
        ("", (1200.0, 1200.0), 2, None),
        ("", (118.11, 118.11), 3, None),
        ("", (5080.0, 5080.0), 2, 5.0),
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
        (OME.format(0.3, 0.4, ""), (0.0, 0.0), 2, (0.4, 0.3)),
        (OME.format(0.3, 200, ""), (20000.0, 20000.0), 3, 0.5),
        (OME.format(0.3, 0.3, 'PhysicalSizeXUnit="pixel"'), (0.0, 0.0), 2, None),
        ("<OME><Image><Pixels/></Image></OME>", (20000.0, 20000.0), 3, 0.5),
    ],
)
def test_pixel_size(
    description: str, resolution: tuple[float, float], unit: int, expected: float | tuple[float, float] | None
) -> None:
    sides = tiff_pixel_sides_um(description, resolution, unit)
    square = (expected, expected) if isinstance(expected, float) else expected
    assert sides == (None if square is None else pytest.approx(square))


def test_pixel_size_of_a_file(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(9, 9), resolution=(20000, 20000), resolutionunit="CENTIMETER")
    with open_source(tmp_path / "a.tif") as source:
        assert source.pixel_sides_um == (0.5, 0.5)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_sides_are_those_of_the_upright_image(tmp_path: Path, orientation: int) -> None:
    extra = [(274, 3, 1, orientation, False)]
    tifffile.imwrite(tmp_path / "a.tif", noise(9, 9), resolution=(40000, 20000), resolutionunit=3, extratags=extra)
    with open_source(tmp_path / "a.tif") as source:
        assert source.pixel_sides_um == ((0.5, 0.25) if orientation < 5 else (0.25, 0.5))

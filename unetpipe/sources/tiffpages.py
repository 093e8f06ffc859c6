"""What a TIFF declares of its pages: which of them make up which plane, channel names, the size of a pixel."""

import json
import math
import re
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from unetpipe.sources.tiffchain import PAGE_LIMIT

__all__ = [
    "PagePlanes",
    "PageRef",
    "believed_sides",
    "ome_channel_names",
    "page_planes",
    "tiff_pixel_sides_um",
    "um_per_unit",
]

_UM_PER_UNIT = {"nm": 1e-3, "um": 1.0, "micron": 1.0, "microns": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "inch": 25400.0}
_UM_PER_UNIT |= {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}
_UM_PER_UNIT |= {"angstrom": 1e-4, "picometer": 1e-6}
# Coarser pixels by resolution tags alone are those of screens and printers.
_PRINTED_UM = 10.0
_XML_LIMIT = 16 * 2**20


class PageRef(NamedTuple):
    """Where the pixels of one channel of one plane are."""

    page: int
    """Index of the page in the chain."""
    part: int
    """Which of the images stored one behind another in that page; 0 but for ImageJ's stacks of one page."""


class PagePlanes(NamedTuple):
    """The planes of an image, and what they count through."""

    axes: list[tuple[str, int]]
    """Name and size of each axis but the channel, slowest first."""
    channels: list[list[PageRef]]
    """[plane][channel], the last axis fastest."""


def page_planes(description: str, group: list[int], *, pages: int, samples: int, values: int) -> PagePlanes:
    """Planes of the main image, each with its channels, as the metadata of OME, ImageJ or tifffile order them.

    Parameters
    ----------
    description : str
        ImageDescription of the first page.
    group : list of int
        Pages of the main image.
    pages : int
        Number of pages in the chain.
    samples : int
        Samples per pixel.
    values : int
        Values in one page: rows * columns * samples.

    Returns
    -------
    PagePlanes
        Planes count through all axes but the channel in the order of the file, the last axis fastest. Without
        metadata each page is a plane of one channel.

    Raises
    ------
    ValueError
        If the metadata declare more images than there are, or images in other files.
    """
    pixels = _ome_pixels(description)
    if pixels is not None:
        return _ome_planes(pixels, pages=pages, samples=samples)
    declared = _imagej_axes(description, samples) or _shaped_axes(description, values)
    total = math.prod(n for _, n in declared)
    if total > len(group) > 1 or total > PAGE_LIMIT:
        raise ValueError(f"its metadata declare {total} images, but it holds {len(group)}; is it truncated?")
    if total > len(group):
        refs = [PageRef(group[0], part) for part in range(total)]
    else:
        refs = [PageRef(page, 0) for page in group]
    # Several series of one size in one file: only the whole list of pages is sure.
    return _by_plane(declared if total == len(refs) else [("pages", len(refs))], refs)


def _by_plane(axes: list[tuple[str, int]], refs: list[PageRef]) -> PagePlanes:
    """References in the order of `axes` (slowest first) by plane and channel."""
    index = np.arange(len(refs)).reshape([n for _, n in axes])
    names = [name for name, _ in axes]
    index = np.moveaxis(index, names.index("C"), -1) if "C" in names else index[..., None]
    planes = [[refs[i] for i in plane] for plane in index.reshape(-1, index.shape[-1])]
    return PagePlanes([(name.lower(), n) for name, n in axes if name != "C"], planes)


def _imagej_axes(description: str, samples: int) -> list[tuple[str, int]]:
    """Axes in front of an ImageJ page, slowest first; empty if ImageJ did not write it."""
    if not description.startswith("ImageJ="):
        return []
    found = dict(re.findall(r"^(channels|slices|frames)=(\d{1,9})\s*$", description, re.MULTILINE))
    frames, slices, channels = (max(int(found.get(name, 1)), 1) for name in ("frames", "slices", "channels"))
    if samples > 1 and channels == samples:
        channels = 1
    axes = [("T", frames), ("Z", slices), ("C", channels)]
    images = re.search(r"^images=(\d{1,9})\s*$", description, re.MULTILINE)
    return axes if frames * slices * channels > 1 or not images else [("images", max(int(images[1]), 1))]


def _shaped_axes(description: str, values: int) -> list[tuple[str, int]]:
    """Axes in front of a page that tifffile wrote, slowest first; empty if it did not."""
    if not description.startswith('{"shape":'):
        return []
    metadata = json.loads(description)
    shape, names = metadata["shape"], str(metadata.get("axes", ""))
    names = names if len(names) == len(shape) else "Q" * len(shape)
    if not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f"its metadata declare the shape {shape}")
    inside = [k for k in range(len(shape)) if math.prod(shape[k:]) == values]
    return list(zip(names, shape, strict=True))[: max(inside, default=0)]


def _ome_pixels(description: str) -> Element | None:
    """The first Pixels element of an OME-XML, or None."""
    if not description.rstrip().endswith("OME>") or len(description) > _XML_LIMIT:
        return None
    return next((e for e in ElementTree.fromstring(description).iter() if e.tag.endswith("Pixels")), None)


def ome_channel_names(description: str) -> tuple[str, ...]:
    """Names of the channels in an OME-XML.

    Parameters
    ----------
    description : str
        ImageDescription of the first page.

    Returns
    -------
    tuple of str
        In the order of the channels, empty where one has none; no names at all without OME-XML.

    Examples
    --------
    >>> ome_channel_names('<OME><Pixels><Channel Name="DAPI"/><Channel/></Pixels></OME>')
    ('DAPI', '')
    """
    pixels = _ome_pixels(description)
    return () if pixels is None else tuple(e.get("Name", "") for e in pixels if e.tag.endswith("Channel"))


def _ome_planes(pixels: Element, *, pages: int, samples: int) -> PagePlanes:
    """Planes of an OME-TIFF, from its Pixels element and the chain's length."""
    sizes = {axis: int(pixels.get("Size" + axis, 1)) for axis in "CZT"}
    if samples > 1 and sizes["C"] % samples == 0:
        sizes["C"] //= samples
    order = pixels.get("DimensionOrder", "XYCZT")[:1:-1]
    if sorted(order) != ["C", "T", "Z"] or min(sizes.values()) < 1:
        raise ValueError(f"its OME-XML declares the axes {order} of sizes {sizes}")
    axes = [(name, sizes[name]) for name in order]
    total = math.prod(sizes.values())
    if len({e.text for e in pixels.iter() if e.tag.endswith("UUID")}) > 1:
        raise ValueError("it is one part of an OME-TIFF of several files; write the image into one file")
    if total > pages:
        raise ValueError(f"its OME-XML declares {total} images, but it holds {pages}; is it truncated?")
    page_of = np.full([n for _, n in axes], -1).reshape(-1)
    blocks = [e.attrib for e in pixels if e.tag.endswith("TiffData")] or [{}]
    for block in blocks:
        start = 0
        for name, n in axes:
            start = start * n + int(block.get("First" + name, 0))
        count = int(block.get("PlaneCount", block.get("NumPlanes", 1 if "IFD" in block else total)))
        page = int(block.get("IFD", 0))
        if not (0 <= start <= start + count <= total and 0 <= page <= page + count <= pages):
            raise ValueError(f"its OME-XML places {count} images from page {page} at {start} of {total}")
        page_of[start : start + count] = page + np.arange(count)
    if page_of.min() < 0:
        raise ValueError(f"its OME-XML says for {int((page_of < 0).sum())} of {total} images not where they are")
    return _by_plane(axes, [PageRef(int(page), 0) for page in page_of])


def tiff_pixel_sides_um(description: str, resolution: tuple[float, float], unit: int) -> tuple[float, float] | None:
    """Height and width of a pixel in um, as a TIFF's metadata declare them.

    Parameters
    ----------
    description : str
        ImageDescription of the page.
    resolution : (float, float)
        XResolution and YResolution in pixels per unit; 0 where not declared.
    unit : int
        ResolutionUnit: 1 none, 2 inch, 3 cm.

    Returns
    -------
    (float, float) or None
        None if nothing usable is declared: sizes outside 0.001 to 100 um, by resolution tags alone of over 10 um (what
        has less than 2,540 per inch is meant for screens and printers), or no unit.

    Notes
    -----
    The first that declares a usable size wins: OME-XML (PhysicalSizeX and Y), Aperio (MPP), ImageJ (its unit, with
    the resolution tags counted per that unit), the resolution tags, in which Hamamatsu's NDPI is right too.

    Examples
    --------
    >>> tiff_pixel_sides_um("", (20000.0, 10000.0), 3)
    (1.0, 0.5)
    >>> tiff_pixel_sides_um("", (72.0, 72.0), 2) is None
    True
    """
    x, y = (1 / r if r > 0 else 0.0 for r in resolution)
    per_unit = {2: 25400.0, 3: 10000.0}.get(unit, 0.0)
    tags = (x * per_unit, y * per_unit)
    sides = [tags if max(tags) <= _PRINTED_UM else (0.0, 0.0)]
    if description.startswith("ImageJ="):
        name = re.search(r"^unit=(.+)$", description, re.MULTILINE)
        scale = um_per_unit(name[1]) if name else 0.0
        sides.insert(0, (x * scale, y * scale))
    if found := re.search(r"\bMPP\s*=\s*(\d+\.?\d*)", description) if description.startswith("Aperio") else None:
        sides.insert(0, (float(found[1]), float(found[1])))
    if (pixels := _ome_pixels(description)) is not None:
        ome = (pixels.get("PhysicalSize" + a, "0") for a in "XY")
        units = (um_per_unit(pixels.get(f"PhysicalSize{a}Unit", "um")) for a in "XY")
        width, height = (float(value) * scale for value, scale in zip(ome, units, strict=True))
        sides.insert(0, (width, height or width))
    return next((believed for width, height in sides if (believed := believed_sides(height, width))), None)


def believed_sides(height: float, width: float) -> tuple[float, float] | None:
    """Height and width of a pixel in um, if both are 0.001 to 100 um: None else, for what is no microscope's pixel.

    Examples
    --------
    >>> believed_sides(0.5, 0.25), believed_sides(352.8, 352.8)
    ((0.5, 0.25), None)
    """
    return (height, width) if min(height, width) >= 0.001 and max(height, width) <= 100 else None


def um_per_unit(name: str) -> float:
    """Micrometres per unit of this name, short or long; 0 if it is no length.

    Examples
    --------
    >>> um_per_unit("nm"), um_per_unit("micrometer"), um_per_unit("pixel")
    (0.001, 1.0, 0.0)
    """
    plain = name.strip().replace("\\u00B5", "u").replace("µ", "u").replace("μ", "u")
    return _UM_PER_UNIT.get(plain, 0.0)

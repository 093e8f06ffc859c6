"""ImageJ's regions of interest: single files, zip archives, and the overlay inside a TIFF.

Coordinates of areas are corners of pixels, (0, 0) being the outer corner of the first one, in whole numbers or, where
the ROI was drawn so, in fractions: the rectangle from 2 to 5 covers the pixels 2, 3 and 4.
"""

import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffPage

from unetpipe.annotations.shapes import ClassNames, Place, Shape, refused
from unetpipe.errors import AnnotationError
from unetpipe.polygons import Rings, area_of, ellipse, rectangles
from unetpipe.sources.refusals import damage_reported
from unetpipe.sources.tiffchain import scan_pages

__all__ = ["iter_imagej"]

_POLYGON, _RECTANGLE, _OVAL, _FREEHAND, _TRACED = 0, 1, 2, 7, 8
_KINDS = {3: "line", 4: "line", 5: "line", 6: "nothing", 9: "angle", 10: "point"}
_TEXT, _IMAGE = 1, 4
_SUBPIXEL = 128
# Smaller ones are meant as unsigned: the format stores 16 bits, and images reach to 65,535 px.
_LOWEST = -5000
_ROI_BYTES = 64 * 2**20
_ZIP_ENTRIES = 1_000_000
_ZIP_BYTES = 2 * 2**30
# More than any slide has; an oval becomes one rectangle per row.
_OVAL_ROWS = 2**20
_CURVE = np.linspace(0, 1, 17)[1:, None]
# A running number behind a name, as in "cell-12", "cell 3" or "cell (4)".
_NUMBER = re.compile(r"[\s._#(-]*\d+\)?$")


def iter_imagej(path: Path, *, names: ClassNames, notes: Counter[str]) -> Iterator[Shape]:
    """Read the areas of an ImageJ file.

    Parameters
    ----------
    path : Path
        A ``.roi`` file, a zip archive of them, or a TIFF with an overlay (without one, its active selection counts).
    names : ClassNames
        What the names of ROIs mean, with or without a running number behind them. Where the name says nothing, the
        ROI's group is its class (group 1 is the first foreground class); without a group it is the only one.
    notes : Counter of str
        Counts what is left out: lines, angles, points, texts and images.

    Yields
    ------
    Shape
        In the order of the file; a rectangle, oval, polygon, freehand or traced area, or a composite, even-odd.

    Raises
    ------
    AnnotationError
        If the file is damaged, holds no ROI, or is a zip archive that expands to more than 2 GiB.

    Notes
    -----
    An oval covers the pixels whose centres lie inside the ellipse. Rounded corners of rectangles are taken as corners,
    splines as their nodes; curves of composites as 16 lines each.

    References
    ----------
    Schneider et al. 2012, doi:10.1038/nmeth.2089; the format is that of ij.io.RoiDecoder.
    """
    for number, (label, data) in enumerate(_rois(path), start=1):
        try:
            shape = _shape(data, label, names, notes)
        except (struct.error, ValueError, IndexError, OverflowError) as error:
            where = f"ROI {number} {label!r:.60}" if label else f"ROI {number}"
            raise refused(path, f"{where} is damaged or not supported ({error})") from None
        if shape is not None:
            yield shape


def _rois(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name, "" without one, and bytes of each ROI of a file."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == b"Iout":
        if path.stat().st_size > _ROI_BYTES:
            raise refused(path, f"has more than {_ROI_BYTES} bytes, too many for one ROI")
        yield path.stem, path.read_bytes()
    elif magic[:2] == b"PK":
        yield from _zipped(path)
    else:
        yield from _overlay(path)


def _zipped(path: Path) -> Iterator[tuple[str, bytes]]:
    """The ROIs of a zip archive; nothing is unpacked to the disk."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [e for e in archive.infolist() if e.filename.lower().endswith(".roi") and not e.is_dir()]
            total = sum(entry.file_size for entry in entries)
            if not entries or len(entries) > _ZIP_ENTRIES or total > _ZIP_BYTES:
                what = f"{len(entries)} ROIs of {total} bytes"
                raise refused(path, f"expected 1 to {_ZIP_ENTRIES} ROIs of up to {_ZIP_BYTES} bytes, came {what}")
            for entry in entries:
                if entry.file_size > _ROI_BYTES:
                    raise refused(path, f"{entry.filename!r:.80} has {entry.file_size} bytes, too many for one ROI")
                with archive.open(entry) as file:
                    # No more than declared, whatever the stream expands to.
                    data = file.read(entry.file_size)
                yield PurePosixPath(entry.filename).stem, data
    except AnnotationError:
        raise
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, LZMAError, zlib.error) as error:
        raise refused(path, f"is a damaged zip archive ({error})") from None


def _overlay(path: Path) -> Iterator[tuple[str, bytes]]:
    """The overlay of a TIFF, or else its selection."""
    with damage_reported(path):
        with path.open("rb") as stream:
            scan_pages(stream, path, size=path.stat().st_size)
        with TiffFile(path, is_lsm=False, is_scanimage=False) as file:
            page = file.pages[0]
            found: Any = page.tags.valueof(50839) if isinstance(page, TiffPage) else None
    kept = found.get("Overlays", found.get("ROI")) if isinstance(found, dict) else None
    rois = [kept] if isinstance(kept, bytes) else kept
    if not rois or not all(isinstance(data, bytes) for data in rois):
        raise refused(
            path, "holds no ImageJ overlay; save it in ImageJ with its overlay, or set annotate.overlay: false"
        )
    yield from (("", data) for data in rois)


def _shape(data: bytes, label: str, names: ClassNames, notes: Counter[str]) -> Shape | None:
    """The shape of a ROI, or None and a note."""
    if data[:4] != b"Iout":
        raise ValueError(f"starts with {data[:4].hex(' ')}, expected Iout")
    kind, subtype = data[6], struct.unpack_from(">h", data, 48)[0]
    if kind in _KINDS or (kind == _RECTANGLE and subtype in (_TEXT, _IMAGE)):
        notes[f"ROIs without an area ({_KINDS.get(kind, 'text or image')}) were left out"] += 1
        return None
    if kind not in (_POLYGON, _RECTANGLE, _OVAL, _FREEHAND, _TRACED):
        raise ValueError(f"is of the unknown type {kind}")
    part = _part(data, kind)
    if part is None:
        notes["outlines of fewer than 3 points were left out"] += 1
        return None
    name, group, plane = _second_header(data)
    value = _class(name or label, group, names)
    return Shape(value=value, parts=(part,), area=area_of(part, holes=False), plane=plane)


def _class(name: str, group: int, names: ClassNames) -> int:
    """The class of a ROI by its name, its group, or as the only one."""
    found = names.find(name) if name else None
    if found is None and name:
        bare = _NUMBER.sub("", name)
        found = names.find(bare) if bare else None
    if found is None and 0 < group < len(names.classes):
        return group
    if found is None and names.find(None) is not None and not group:
        return names.value_of(None)
    return names.value_of(name or None) if found is None else found


def _second_header(data: bytes) -> tuple[str, int, Place | None]:
    """Name, group and plane of a ROI: "", 0 and None where it does not say."""
    position, offset = struct.unpack_from(">ii", data, 56)
    name, group = "", 0
    plane: Place | None = position - 1 if position > 0 else None
    if 64 <= offset <= len(data) - 52:
        _, slice_, frame, at, length = struct.unpack_from(">5i", data, offset + 4)
        group = data[offset + 30]
        # Of a stack with z and t the position is 0.
        if plane is None and max(slice_, frame) > 0:
            plane = (max(slice_ - 1, 0), max(frame - 1, 0))
        if 0 < at <= at + 2 * length <= len(data):
            name = data[at : at + 2 * length].decode("utf-16-be", "replace")
    return name, group, plane


def _part(data: bytes, kind: int) -> Rings | None:
    """The outline of a ROI."""
    top, left, bottom, right = (_unsigned(v) for v in struct.unpack_from(">4h", data, 8))
    options, version = struct.unpack_from(">h", data, 50)[0], struct.unpack_from(">h", data, 4)[0]
    size = struct.unpack_from(">i", data, 36)[0]
    if kind == _RECTANGLE and size > 0:
        return _composite(_numbers(data, ">f4", 64, size))
    if kind in (_RECTANGLE, _OVAL):
        box: tuple[float, ...] = (top, left, bottom, right)
        if options & _SUBPIXEL and version >= 223:
            x, y, width, height = struct.unpack_from(">4f", data, 18)
            box = (y, x, y + height, x + width)
        if not (box[0] < box[2] and box[1] < box[3] and max(map(abs, box)) < 2**31):
            return None
        if kind == _OVAL and box[2] - box[0] > _OVAL_ROWS:
            raise ValueError(f"an oval of {box[2] - box[0]:.0f} rows, expected at most {_OVAL_ROWS}")
        return rectangles(np.array([box])) if kind == _RECTANGLE else ellipse(*box)
    count = struct.unpack_from(">H", data, 16)[0] or struct.unpack_from(">i", data, 18)[0]
    if count < 3:
        return None
    if options & _SUBPIXEL and version >= 222:
        x, y = _numbers(data, ">f4", 64 + 4 * count, 2 * count).reshape(2, -1)
    else:
        x, y = _numbers(data, ">i2", 64, 2 * count).reshape(2, -1)
        x, y = np.where(x < _LOWEST, x + 65536, x) + left, np.where(y < _LOWEST, y + 65536, y) + top
    return np.stack([y, x], axis=1), np.array([count], np.int64)


def _unsigned(value: int) -> int:
    """A coordinate of 16 bits; far below zero it is one beyond 32,767."""
    return value + 65536 if value < _LOWEST else value


def _numbers(data: bytes, dtype: str, start: int, count: int) -> NDArray[np.float64]:
    """Numbers of a ROI as floats."""
    if count < 0 or start + count * np.dtype(dtype).itemsize > len(data):
        raise ValueError(f"ends after {len(data)} bytes, before its {count} coordinates")
    return np.frombuffer(data, dtype, count, start).astype(np.float64)


def _composite(values: NDArray[np.float64]) -> Rings | None:
    """The rings of a composite: commands with their coordinates x, y, absolute."""
    rings: list[list[NDArray[np.float64]]] = []
    at = 0
    while at < values.size:
        command = int(values[at])
        points = {0: 1, 1: 1, 2: 2, 3: 3, 4: 0}.get(command)
        if points is None or at + 1 + 2 * points > values.size or (not rings and command != 0):
            raise ValueError(f"has an unknown command {values[at]:g} in its outline")
        given = values[at + 1 : at + 1 + 2 * points].reshape(-1, 2)
        if command == 0:
            rings.append([given])
        elif command in (1, 2, 3):
            rings[-1].append(_curve(np.concatenate([rings[-1][-1][-1:], given])))
        at += 1 + 2 * points
    closed = [np.concatenate(ring)[:, ::-1] for ring in rings]
    closed = [ring for ring in closed if len(ring) >= 3]
    if not closed:
        return None
    return np.concatenate(closed), np.array([len(ring) for ring in closed], np.int64)


def _curve(nodes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2 to 4, 2) nodes of a Bezier curve -> points behind the first node; a line is its end."""
    if len(nodes) == 2:
        return nodes[1:]
    # De Casteljau's scheme for all parameters at once: (nodes, parameters, 2).
    between: NDArray[np.float64] = nodes[:, None]
    while len(between) > 1:
        between = between[:-1] * (1 - _CURVE) + between[1:] * _CURVE
    return between.reshape(-1, 2)

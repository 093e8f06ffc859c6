"""Slides in the formats of scanners, written byte by byte: what only OpenSlide reads."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from imagefiles import noise

Pixels = NDArray[np.uint8]
Writer = Callable[..., Path]
TILE = 64


def picture(height: int, width: int) -> Pixels:
    """Squares of 8 px, (Y, X, 3), of which JPEG keeps nearly everything."""
    return np.kron(noise(height // 8, width // 8, 3), np.ones((8, 8, 1), np.uint8))


def jpeg(tile: Pixels) -> bytes:
    """As scanners compress, but with all colours."""
    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(tile), level=98, subsampling="444"))


def png(tile: Pixels) -> bytes:
    """The same without loss."""
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(tile)))


def tiles(image: Pixels) -> list[Pixels]:
    """Row by row; what lies outside is black."""
    height, width, _ = image.shape
    padded = np.pad(image, ((0, -height % TILE), (0, -width % TILE), (0, 0)))
    return [
        padded[y : y + TILE, x : x + TILE]
        for y in range(0, padded.shape[0], TILE)
        for x in range(0, padded.shape[1], TILE)
    ]


def _element(group: int, number: int, kind: str, value: bytes, *, open_ended: bool = False) -> bytes:
    """A DICOM element: explicit type, little endian."""
    value += bytes(len(value) % 2) if kind in ("OB", "UI") else b" " * (len(value) % 2)
    head = struct.pack("<HH2s", group, number, kind.encode())
    if kind in ("OB", "SQ"):
        return head + struct.pack("<HI", 0, 2**32 - 1 if open_ended else len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def _item(value: bytes) -> bytes:
    """An item of a sequence, or a frame."""
    value += bytes(len(value) % 2)
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value


def dicom(image: Pixels, *, uid: str, pixel_size_um: float, lossless: bool, series: str = "1.2.3") -> bytes:
    """A whole slide image of one level by part 10 of the standard, its frames in full order."""
    instance, study = f"{series}.{uid}", b"1.2.3.4"
    syntax, colours = (b"1.2.840.10008.1.2.1", b"RGB") if lossless else (b"1.2.840.10008.1.2.4.50", b"YBR_FULL_422")
    sop, frames = b"1.2.840.10008.5.1.4.1.1.77.1.6", tiles(image)
    about = _element(2, 1, "OB", b"\0\1") + _element(2, 2, "UI", sop) + _element(2, 3, "UI", instance.encode())
    about += _element(2, 0x10, "UI", syntax) + _element(2, 0x12, "UI", b"1.2.3.9")
    spacing = _element(0x28, 0x30, "DS", b"\\".join([f"{pixel_size_um / 1000:.7f}".encode()] * 2))
    shared = _item(_element(0x28, 0x9110, "SQ", _item(spacing)))
    if lossless:
        pixels = _element(0x7FE0, 0x10, "OB", b"".join(frame.tobytes() for frame in frames))
    else:
        parts = b"".join(_item(jpeg(frame)) for frame in frames)
        end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        pixels = _element(0x7FE0, 0x10, "OB", _item(b"") + parts + end, open_ended=True)
    short = {2: 3, 6: 0, 0x10: TILE, 0x11: TILE, 0x100: 8, 0x101: 8, 0x102: 7, 0x103: 0}
    group28 = {number: _element(0x28, number, "US", struct.pack("<H", value)) for number, value in short.items()}
    group28 |= {4: _element(0x28, 4, "CS", colours), 8: _element(0x28, 8, "IS", str(len(frames)).encode())}
    sides = ((6, image.shape[1]), (7, image.shape[0]), (0x303, 1))
    elements = [
        _element(8, 8, "CS", rb"ORIGINAL\PRIMARY\VOLUME\NONE"),
        _element(8, 0x16, "UI", sop),
        _element(8, 0x18, "UI", instance.encode()),
        _element(0x20, 0xD, "UI", study),
        _element(0x20, 0xE, "UI", series.encode()),
        _element(0x20, 0x9311, "CS", b"TILED_FULL"),
        *(group28[number] for number in sorted(group28)),
        *(_element(0x48, number, "UL", struct.pack("<I", side)) for number, side in sides),
        _element(0x5200, 0x9229, "SQ", shared),
        pixels,
    ]
    length = _element(2, 0, "UL", struct.pack("<I", len(about)))
    return bytes(128) + b"DICM" + length + about + b"".join(elements)


def write_dicom(path: Path, levels: list[Pixels], pixel_size_um: float, *, lossless: bool) -> Path:
    """A level in each file; the path of the finest."""
    for number, level in enumerate(levels):
        step = levels[0].shape[0] / level.shape[0]
        data = dicom(level, uid=f"{number + 1}", pixel_size_um=pixel_size_um * step, lossless=lossless)
        path.with_name(f"{path.stem}{number or ''}.dcm").write_bytes(data)
    return path


def write_mirax(
    path: Path, levels: list[Pixels], pixel_size_um: float, *, lossless: bool, missing: tuple[int, ...] = ()
) -> Path:
    """MRXS: the folder beside it has the settings, an index of pages and the tiles; some of the finest left out."""
    folder, name = path.with_suffix(""), "0123456789ABCDEF"
    folder.mkdir()
    rows, columns = (side // TILE for side in levels[0].shape[:2])
    data, pages = b"", []
    for number, level in enumerate(levels):
        step, records = 2**number, []
        for place, tile in enumerate(tiles(level)):
            if number == 0 and place in missing:
                continue
            code = (png if lossless else jpeg)(tile)
            y, x = divmod(place, columns // step)
            records.append(struct.pack("<4i", y * step * columns + x * step, len(data), len(code), 0))
            data += code
        pages.append(struct.pack("<2i", len(records), 0) + b"".join(records))
    root = len(b"01.02" + name.encode()) + 8
    heads = root + 4 * len(levels)
    starts = [heads + 8 * len(levels) + len(b"".join(pages[:number])) for number in range(len(levels))]
    index = b"01.02" + name.encode() + struct.pack("<2i", root, 0)
    index += struct.pack(f"<{len(levels)}i", *(heads + 8 * number for number in range(len(levels))))
    index += b"".join(struct.pack("<2i", 0, start) for start in starts) + b"".join(pages)
    lines = ["[GENERAL]", "SLIDE_VERSION = 01.02", f"SLIDE_ID = {name}", "OBJECTIVE_MAGNIFICATION = 20"]
    lines += [f"IMAGENUMBER_X = {columns}", f"IMAGENUMBER_Y = {rows}", "[HIERARCHICAL]", "HIER_COUNT = 1"]
    lines += ["NONHIER_COUNT = 0", "INDEXFILE = Index.dat", "HIER_0_NAME = Slide zoom level"]
    lines += [f"HIER_0_COUNT = {len(levels)}"]
    lines += [f"HIER_0_VAL_{number}_SECTION = LEVEL_{number}" for number in range(len(levels))]
    for number in range(len(levels)):
        lines += [f"[LEVEL_{number}]", "OVERLAP_X = 0", "OVERLAP_Y = 0", f"IMAGE_CONCAT_FACTOR = {min(number, 1)}"]
        lines += [f"MICROMETER_PER_PIXEL_{axis} = {pixel_size_um * 2**number}" for axis in "XY"]
        lines += [f"IMAGE_FORMAT = {'PNG' if lossless else 'JPEG'}", f"IMAGE_FILL_COLOR_BGR = {0x302010}"]
        lines += [f"DIGITIZER_{side} = {TILE}" for side in ("WIDTH", "HEIGHT")]
    lines += ["[DATAFILE]", "FILE_COUNT = 1", "FILE_0 = Data0000.dat"]
    (folder / "Slidedat.ini").write_text("\n".join(lines))
    (folder / "Index.dat").write_bytes(index)
    (folder / "Data0000.dat").write_bytes(data)
    path.write_bytes(b"\xff\xd8\xff")
    return path


def _write_pages(path: Path, pages: list[tuple[Pixels, dict[str, Any]]], pixel_size_um: float, lossless: bool) -> Path:
    """A BigTIFF of tiled pages."""
    resolution = (1e4 / pixel_size_um, 1e4 / pixel_size_um)
    codec: dict[str, Any] = {"compression": "lzw"} if lossless else {"compression": "jpeg", "subsampling": (1, 1)}
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for pixels, options in pages:
            writer.write(
                pixels,
                tile=(TILE, TILE),
                photometric="rgb",
                resolution=resolution,
                resolutionunit="CENTIMETER",
                metadata=None,
                **codec | ({} if lossless else {"compressionargs": {"level": 98}}) | options,
            )
    return path


def write_leica(path: Path, levels: list[Pixels], pixel_size_um: float, *, lossless: bool) -> Path:
    """SCN: an overview of the glass, then the scanned area, TILE px from the glass's left and upper edge."""
    height, width, _ = levels[0].shape
    nm, macro = round(pixel_size_um * 1000), picture(TILE, TILE)
    glass = f'sizeX="{(width + 2 * TILE) * nm}" sizeY="{(height + 2 * TILE) * nm}"'
    source = "<illuminationSource>brightfield</illuminationSource><numericalAperture>0.4</numericalAperture>"
    lens = "<objectiveSettings><objective>20</objective></objectiveSettings>"
    settings = f"<scanSettings>{lens}<illuminationSettings>{source}</illuminationSettings></scanSettings>"
    sizes = [f'sizeX="{level.shape[1]}" sizeY="{level.shape[0]}"' for level in [macro, *levels]]
    pixels = [f'<dimension {size} r="0" ifd="{number}"/>' for number, size in enumerate(sizes)]
    area = f'sizeX="{width * nm}" sizeY="{height * nm}" offsetX="{TILE * nm}" offsetY="{TILE * nm}"'
    views = [(f'{glass} offsetX="0" offsetY="0"', pixels[0]), (area, "".join(pixels[1:]))]
    images = "".join(f"<image>{settings}<pixels>{p}</pixels><view {view}/></image>" for view, p in views)
    text = f"<collection {glass}><barcode>MQ==</barcode>{images}</collection></scn>"
    text = f'<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">{text}'
    pages: list[tuple[Pixels, dict[str, Any]]] = [(macro, {"description": text}), *((level, {}) for level in levels)]
    return _write_pages(path, pages, pixel_size_um, lossless)


def write_ventana(path: Path, levels: list[Pixels], pixel_size_um: float, *, lossless: bool, overlap: int = 8) -> Path:
    """BIF: a label, then levels of tiles that overlap, joined from below to above, there and back."""
    step = TILE - overlap
    rows, columns = ((side - TILE) // step + 1 for side in levels[0].shape[:2])
    numbers = np.arange(1, rows * columns + 1).reshape(rows, columns)
    numbers[1::2] = numbers[1::2, ::-1]
    numbers = numbers[::-1]
    pairs = [(row[x], row[x + 1], "RIGHT") for row in numbers for x in range(columns - 1)]
    pairs += [(numbers[y + 1, x], numbers[y, x], "UP") for y in range(rows - 1) for x in range(columns)]
    joints = "".join(
        f'<TileJointInfo FlagJoined="1" Confidence="98" Direction="{way}" Tile1="{one}" Tile2="{two}" '
        f'OverlapX="{overlap * (way == "RIGHT")}" OverlapY="{overlap * (way == "UP")}"/>'
        for one, two, way in pairs
    )
    size = f'Width="{TILE}" Height="{TILE}" NumRows="{rows}" NumCols="{columns}"'
    info = f'<ImageInfo AOIScanned="1" AOIIndex="0" {size} Pos-X="0" Pos-Y="0">{joints}</ImageInfo>'
    origin = '<AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin>'
    encoded = f"<EncodeInfo><SlideStitchInfo>{info}</SlideStitchInfo>{origin}</EncodeInfo>".encode()
    scan = f'<iScan Magnification="20" ScanRes="{pixel_size_um}" Z-layers="1"/>'.encode()
    pages: list[tuple[Pixels, dict[str, Any]]] = [(picture(TILE, TILE), {"description": "Label Image"})]
    pages[0][1]["extratags"] = [(700, 1, len(scan), scan, True)]
    for number, level in enumerate(levels):
        side, stride = TILE >> number, step >> number
        cut = [[level[y * stride :][:side, x * stride :][:, :side] for x in range(columns)] for y in range(rows)]
        stored = np.concatenate([np.concatenate(row, axis=1) for row in cut])
        tags = [(700, 1, len(encoded), encoded, True)] if number == 0 else []
        pages.append((stored, {"description": f"level={number} mag={20 / 2**number:g} quality=98", "extratags": tags}))
    return _write_pages(path, pages, pixel_size_um, lossless)

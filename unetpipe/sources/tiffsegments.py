"""Strips and tiles of one page of a TIFF: where they are, whether they can be believed, how they are decoded."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffPage

from unetpipe.sources.codestreams import CodeFrame, jpeg2000_frame, jpeg_frame, jpegxl_frame, rgb_of_ycbcr, webp_frame
from unetpipe.sources.refusals import check_cost, check_declared_size, refusal

__all__ = ["PALETTE", "YCBCR", "Segments", "page_segments"]

PALETTE, YCBCR = 3, 6
"""Photometric interpretations that need more than a copy."""

_NATIVE = "<" if sys.byteorder == "little" else ">"
_PIECE_BYTES = 2**20
_JPEG = (6, 7)
_JPEG2000 = (33003, 33004, 33005, 34712)
_WEBP = (34927, 50001)
_JPEGXL = (50002, 52546)
_APERIO_YCBCR = 33003
# None, LZW, old JPEG, JPEG, deflate, PackBits, JPEG 2000, zstd, WebP, JPEG XL: those whose decoded size can be bounded
# beforehand. CCITT fax is left out: its decoder fills what is damaged with zeros.
_COMPRESSIONS = (1, 5, *_JPEG, 8, 32946, 32773, *_JPEG2000, 34926, 50000, *_WEBP, *_JPEGXL)
# Bytes that decoders take for each decoded one, measured on 16 megapixels; 1 for those that are not named.
_COSTS = {32773: 2.0, **dict.fromkeys(_JPEG, 3.2), **dict.fromkeys(_JPEG2000, 5.5), **dict.fromkeys(_WEBP, 2.5)}
# Colours are converted as floats.
_COSTS |= {**dict.fromkeys(_JPEGXL, 6.0), _APERIO_YCBCR: 21.0}
_GREY_OR_RGB = (0, 1, 2, 34892)
_KINDS = ("b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """Strips or tiles of one channel page."""

    offsets: NDArray[np.int64]
    """(planar samples, rows of segments, columns of segments) positions in bytes."""
    counts: NDArray[np.int64]
    """Sizes in bytes, of the same shape."""
    side: tuple[int, int]
    """Height and width of a segment in px."""
    samples: int
    """How many samples per pixel a segment holds."""
    cost: int
    """Most bytes of memory that it takes to decode one."""
    decode: Callable[[bytes, int], NDArray[Any]]
    """Turns the bytes of the segment with a running number into (height, width, samples) pixels."""


def _check_page(path: Path, page: TiffPage) -> None:
    """Refuse a page whose pixels are not read, saying why."""
    _, depth, length, width, _ = page.shaped
    if min(page.shaped) < 1 or page.dtype is None:
        bits = f"{page.bitspersample} bits of sample format {int(page.sampleformat)}"
        raise refusal(path, f"declares {length} x {width} px of {bits}: no image that is read")
    if depth > 1 or page.tiledepth > 1:
        raise refusal(path, "stores volumes in one page (ImageDepth); write one page per plane")
    if page.compression not in _COMPRESSIONS:
        name = getattr(page.compression, "name", page.compression)
        raise refusal(path, f"is compressed with {name}, which is not read; use LZW, deflate, zstd or JPEG")
    if page.dtype.str[1:] not in _KINDS:
        raise refusal(path, f"holds {page.dtype} values; save it as integers or floats")
    ycbcr = page.photometric == YCBCR and page.samplesperpixel == 3 and page.planarconfig == 1
    known = page.photometric in _GREY_OR_RGB or (page.photometric == PALETTE and page.samplesperpixel == 1)
    if not known and not (ycbcr and page.compression in (*_JPEG, *_WEBP, *_JPEGXL, _APERIO_YCBCR)):
        name = getattr(page.photometric, "name", page.photometric)
        raise refusal(path, f"stores {page.samplesperpixel} samples as {name}; save it as grey, RGB or palette")


def _check_table(path: Path, page: TiffPage, grid: tuple[int, int, int], size: int) -> None:
    """Refuse a page with missing segments, segments behind the end of the file, or more pixels than they can hold."""
    offsets, counts = page.dataoffsets, page.databytecounts
    wanted = grid[0] * grid[1] * grid[2]
    if min(len(offsets), len(counts)) < wanted:
        raise refusal(path, f"needs {wanted} strips or tiles, but lists {min(len(offsets), len(counts))}")
    pairs = list(zip(offsets[:wanted], counts[:wanted], strict=True))
    # A sparse file and one whose writer was stopped look the same, so neither is taken for black pixels.
    if missing := sum(offset <= 0 or count <= 0 for offset, count in pairs):
        raise refusal(
            path,
            f"misses {missing} of {wanted} strips or tiles, and may be unfinished; copy it again or, where they are "
            "meant to be empty, write all of them: gdal_translate -co TILED=YES IN OUT",
        )
    end = max(offset + count for offset, count in pairs)
    if end > size:
        raise refusal(path, f"is truncated: its pixels end at byte {end}, the file has {size} bytes")
    stored = min(size, sum(count for _, count in pairs))
    check_declared_size(path, declared=math.prod(page.shaped) * _itemsize(page), stored=stored)


def _itemsize(page: TiffPage) -> int:
    """Bytes of one decoded value."""
    return page.dtype.itemsize if page.dtype is not None else 0


def page_segments(path: Path, file: TiffFile, page: TiffPage, part: int) -> Segments:
    """Segments of a page.

    Parameters
    ----------
    path : Path
        The file, for messages.
    file : TiffFile
        The open file.
    page : TiffPage
        One of its pages, all tags read.
    part : int
        Which of the images stored one behind another in the page; 0 but for ImageJ's stacks of one page.

    Raises
    ------
    SourceError
        If the page holds what is not read, lacks segments, or declares more than its bytes can hold.
    """
    size = file.filehandle.size
    _check_page(path, page)
    planes, _, length, width, samples = page.shaped
    side = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, width)
    if min(side) < 1:
        raise refusal(path, f"declares strips or tiles of {side[0]} x {side[1]} px")
    grid = (planes, -(-length // side[0]), -(-width // side[1]))
    _check_table(path, page, grid, size)
    offsets, counts = (
        np.array(table[: math.prod(grid)], np.int64).reshape(grid) for table in (page.dataoffsets, page.databytecounts)
    )
    raw = _is_raw(page, offsets, counts)
    if part and not raw:
        raise refusal(path, "declares a stack in one page, but does not store it in one piece")
    limit = (1 if raw else side[0]) * side[1] * samples * _itemsize(page)
    counts = np.minimum(counts, limit) if page.compression == 1 and not raw else counts
    # Values in another byte order, or floats as differences, are copied.
    copied = page.predictor == 3 or (file.byteorder != _NATIVE and _itemsize(page) > 1)
    factor = 1.0 if raw else _COSTS.get(page.compression, 1.0) + copied
    what = f"has strips or tiles of {side[0]} x {side[1]} px; write it in smaller tiles"
    check_cost(path, what, decoded=limit, stored=0 if raw else int(counts.max()), factor=factor)
    if raw:
        return _raw_segments(path, file, page, part)
    return Segments(
        offsets=offsets,
        counts=counts,
        side=side,
        samples=samples,
        cost=round(factor * limit),
        decode=_decoder(page, side),
    )


def _is_raw(page: TiffPage, offsets: NDArray[np.int64], counts: NDArray[np.int64]) -> bool:
    """Whether the strips of a page, (planar samples, rows, 1), are plain values, one behind the other."""
    plain = page.compression == 1 and page.predictor == 1 and page.fillorder == 1 and not page.is_tiled
    if not plain or page.bitspersample != 8 * _itemsize(page):
        return False
    _, _, length, width, samples = page.shaped
    tops = np.arange(offsets.shape[1], dtype=np.int64) * page.rowsperstrip
    nbytes = np.minimum(page.rowsperstrip, length - tops) * (width * samples * _itemsize(page))
    gaps = np.diff(offsets.ravel()) - np.tile(nbytes, len(offsets))[:-1]
    return not gaps.any() and bool((counts[..., 0] >= nbytes).all())


def _raw_segments(path: Path, file: TiffFile, page: TiffPage, part: int) -> Segments:
    """Plain values cut into pieces of about 1 MiB, whatever the strips are: ImageJ writes one strip per image."""
    planes, _, length, width, samples = page.shaped
    line = width * samples * _itemsize(page)
    rows = min(max(_PIECE_BYTES // line, 1), length)
    tops = np.arange(0, length, rows, dtype=np.int64)
    first = page.dataoffsets[0] + (part * planes) * length * line
    if first + planes * length * line > file.filehandle.size:
        raise refusal(path, f"is truncated: image {part} of the stack ends behind the file")
    offsets = first + (np.arange(planes)[:, None] * length + tops) * line
    counts = np.broadcast_to(np.minimum(rows, length - tops) * line, offsets.shape)
    dtype = np.dtype(page.dtype).newbyteorder(file.byteorder)

    def decode(data: bytes, _: int) -> NDArray[Any]:
        """(height, width, samples) native values of one piece."""
        pixels: NDArray[Any] = np.frombuffer(data, dtype).reshape(-1, width, samples)
        native: NDArray[Any] = pixels.astype(dtype.newbyteorder("="), copy=False)
        return native

    return Segments(
        offsets=offsets[..., None],
        counts=counts[..., None],
        side=(rows, width),
        samples=samples,
        cost=rows * line,
        decode=decode,
    )


def _frame(page: TiffPage, data: bytes) -> CodeFrame | None:
    """What the code stream of a segment declares; None for codecs whose output the page bounds."""
    if page.compression in _JPEG2000:
        return jpeg2000_frame(data)
    if page.compression in _WEBP:
        return webp_frame(data)
    if page.compression in _JPEGXL:
        return jpegxl_frame(data)
    # Abbreviated streams have their frame in the page's header.
    return jpeg_frame(data) if page.compression in _JPEG and page.jpegheader is None else None


def _decoder(page: TiffPage, side: tuple[int, int]) -> Callable[[bytes, int], NDArray[Any]]:
    """A function from the bytes and running number of a segment to its (height, width, samples) pixels."""
    options = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression in _JPEG else {}
    limit = side[0] * side[1] * page.shaped[4] * _itemsize(page)

    def decode(data: bytes, index: int) -> NDArray[Any]:
        """(height, width, samples) pixels, after a look at the size that the code stream declares."""
        frame = _frame(page, data)
        # Subsampled chroma makes the decoder convert to RGB by itself.
        ycbcr = page.compression == _APERIO_YCBCR and not (frame and frame.process)
        if frame is not None and frame.nbytes > limit:
            raise ValueError(f"segment {index} declares {frame.height} x {frame.width} px, expected {side}")
        pixels: NDArray[Any] = np.asarray(page.decode(data, index, **options)[0])[0]
        if pixels.dtype != page.dtype or pixels.ndim != 3:
            raise ValueError(f"segment {index} decodes to {pixels.dtype} pixels, expected {page.dtype}")
        return rgb_of_ycbcr(pixels) if ycbcr and pixels.shape[2] == 3 else pixels

    return decode

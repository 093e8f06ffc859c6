"""TIFF files as sources: one plane of the main image, decoded strip by strip or tile by tile.

A read decodes only the segments (strips or tiles) that meet its box, and keeps the last ones, so that
reading a slide band after band decodes each segment about once in bounded memory.
"""

import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffPage

from unetpipe.codestreams import jpeg2000_frame, jpeg_frame, rgb_of_ycbcr
from unetpipe.geometry import Box
from unetpipe.rasters import (
    DECODE_LIMIT,
    Palette,
    check_box,
    check_declared_size,
    damage_reported,
    refusal,
)
from unetpipe.tiffpages import PageRef, chosen_plane, main_pages, page_planes, scan_pages, tiff_pixel_size_um

__all__ = ["TiffSource"]

# tifffile reports what it tolerates to its logger, which prints to stderr; here damage is an error or nothing.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_CACHE_BYTES = 64 * 2**20
_PIECE_BYTES = 2**20
_JPEG = (6, 7)
_JPEG2000 = (33003, 33004, 33005, 34712)
_APERIO_YCBCR = 33003
# None, LZW, old JPEG, JPEG, deflate, PackBits, JPEG 2000, zstd: those whose decoded size can be bounded beforehand.
# CCITT fax is left out: its decoder fills what is damaged with zeros.
_COMPRESSIONS = (1, 5, *_JPEG, 8, 32946, 32773, *_JPEG2000, 34926, 50000)
_GREY_OR_RGB = (0, 1, 2, 34892)
_PALETTE, _YCBCR = 3, 6
_KINDS = ("b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")
# Orientation tag -> whether stored rows run upwards, stored columns leftwards, and rows are columns (applied last).
_ORIENTATIONS = {
    2: (False, True, False),
    3: (True, True, False),
    4: (True, False, False),
    5: (False, False, True),
    6: (True, False, True),
    7: (True, True, True),
    8: (False, True, True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segments:
    """Strips or tiles of one channel page.

    `offsets` and `counts` are (planar samples, rows of segments, columns of segments) byte positions and sizes,
    `side` the height and width of a segment in px, `samples` how many a segment holds, `decode` turns the bytes
    of the segment with a running number into (height, width, samples) pixels.
    """

    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    side: tuple[int, int]
    samples: int
    decode: Callable[[bytes, int], NDArray[Any]]


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
        raise refusal(path, f"holds {page.dtype} values; expected bool, integers or floats of up to 64 bits")
    ycbcr = page.photometric == _YCBCR and page.samplesperpixel == 3 and page.planarconfig == 1
    known = page.photometric in _GREY_OR_RGB or (page.photometric == _PALETTE and page.samplesperpixel == 1)
    if not known and not (ycbcr and page.compression in (*_JPEG, _APERIO_YCBCR)):
        name = getattr(page.photometric, "name", page.photometric)
        raise refusal(path, f"stores {page.samplesperpixel} samples as {name}; expected grey, RGB or palette")


def _check_table(path: Path, page: TiffPage, grid: tuple[int, int, int], size: int) -> None:
    """Refuse a page with missing segments, segments behind the end of the file, or more pixels than they can hold."""
    offsets, counts = page.dataoffsets, page.databytecounts
    wanted = grid[0] * grid[1] * grid[2]
    if min(len(offsets), len(counts)) < wanted:
        raise refusal(path, f"needs {wanted} strips or tiles, but lists {min(len(offsets), len(counts))}")
    pairs = list(zip(offsets[:wanted], counts[:wanted], strict=True))
    # A sparse file and one whose writer was stopped look the same, so neither is taken for black pixels.
    if missing := sum(offset <= 0 or count <= 0 for offset, count in pairs):
        raise refusal(path, f"misses {missing} of {wanted} strips or tiles: a sparse or unfinished file; write it anew")
    end = max(offset + count for offset, count in pairs)
    if end > size:
        raise refusal(path, f"is truncated: its pixels end at byte {end}, the file has {size} bytes")
    stored = min(size, sum(count for _, count in pairs))
    check_declared_size(path, declared=math.prod(page.shaped) * _itemsize(page), stored=stored)
    if max(count for _, count in pairs) > DECODE_LIMIT and page.compression != 1:
        raise refusal(path, f"has a strip or tile of over {DECODE_LIMIT} bytes; write it in smaller tiles")


def _itemsize(page: TiffPage) -> int:
    """Bytes of one decoded value."""
    return page.dtype.itemsize if page.dtype is not None else 0


def _segments(path: Path, file: TiffFile, page: TiffPage, part: int) -> _Segments:
    """Segments of a page, checked; `part` counts images stored one behind another in it."""
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
    if limit > DECODE_LIMIT:
        raise refusal(path, f"has strips or tiles of {side[0]} x {side[1]} px, over {DECODE_LIMIT} bytes each")
    if raw:
        return _raw_segments(path, file, page, part)
    return _Segments(
        offsets=offsets,
        counts=np.minimum(counts, limit) if page.compression == 1 else counts,
        side=side,
        samples=samples,
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


def _raw_segments(path: Path, file: TiffFile, page: TiffPage, part: int) -> _Segments:
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

    return _Segments(
        offsets=offsets[..., None], counts=counts[..., None], side=(rows, width), samples=samples, decode=decode
    )


def _decoder(page: TiffPage, side: tuple[int, int]) -> Callable[[bytes, int], NDArray[Any]]:
    """A function from the bytes and running number of a segment to its (height, width, samples) pixels."""
    options = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression in _JPEG else {}
    limit = side[0] * side[1] * page.shaped[4] * _itemsize(page)

    def decode(data: bytes, index: int) -> NDArray[Any]:
        """(height, width, samples) pixels, after a look at the size that the code stream declares."""
        ycbcr = page.compression == _APERIO_YCBCR
        if page.compression in _JPEG2000:
            frame = jpeg2000_frame(data)
            # Subsampled chroma makes the decoder convert to RGB by itself.
            ycbcr = ycbcr and not frame.process
        elif page.compression in _JPEG and page.jpegheader is None:
            frame = jpeg_frame(data)
        else:
            frame = None
        if frame is not None and frame.nbytes > limit:
            raise ValueError(f"segment {index} declares {frame.height} x {frame.width} px, expected {side}")
        pixels: NDArray[Any] = np.asarray(page.decode(data, index, **options)[0])[0]
        if pixels.dtype != page.dtype or pixels.ndim != 3:
            raise ValueError(f"segment {index} decodes to {pixels.dtype} pixels, expected {page.dtype}")
        return rgb_of_ycbcr(pixels) if ycbcr and pixels.shape[2] == 3 else pixels

    return decode


def _kept_samples(page: TiffPage) -> int:
    """Samples of a page without alpha: a fourth sample of RGB, and last ones that are declared to be alpha."""
    if page.photometric in (2, _YCBCR) and page.samplesperpixel == 4:
        return 3
    kept: int = page.samplesperpixel
    for extra in reversed(page.extrasamples):
        if extra not in (1, 2) or kept == 1:
            break
        kept -= 1
    return kept


def _colours(page: TiffPage) -> NDArray[np.uint8]:
    """(3, 2^bits) uint8 colours of a palette page."""
    table = np.asarray(page.tags.valueof(320), np.uint16).reshape(3, -1)
    # Values are 16-bit by the standard; some writers fill in 8-bit ones.
    return (table >> 8 if table.max() > 255 else table).astype(np.uint8)


def _pixel_size_um(page: TiffPage, description: str) -> float | None:
    """Side of a pixel from the resolution tags of a page and the first page's description."""
    ratios = [page.tags.valueof(code) or (0, 1) for code in (282, 283)]
    across, down = (r[0] / r[1] if isinstance(r, tuple) and len(r) == 2 and r[1] else 0.0 for r in ratios)
    return tiff_pixel_size_um(description, (across, down), int(page.tags.valueof(296) or 2))


class TiffSource:
    """One plane of a TIFF as a source.

    Parameters
    ----------
    path : Path
        The file: strips or tiles, planar or not, classic or BigTIFF, either byte order; OME-TIFF, SVS and NDPI too.
    plane : int, optional
        Which z or time plane of the main image; needed where there are several.
    palette : {"colours", "indices"}
        Whether the pixels of a palette image are its colours (3 channels) or its indices (1 channel).

    Raises
    ------
    SourceError
        If the file is damaged, hostile, truncated or sparse, or holds what is not read, or has several planes and
        none is named.

    Notes
    -----
    The main image is the largest one; its pyramid, label and macro images are not read. Alpha is dropped. Grey values
    are as stored also where the file calls 0 white. Orientation (tag 274) is applied. Decoded segments are kept up to
    64 MiB, or up to those that meet one row of the image if that is more, at most 512 MiB. Not for several threads.
    """

    def __init__(self, path: Path, *, plane: int | None, palette: Palette) -> None:
        self.path = path
        self._cache: OrderedDict[tuple[int, ...], NDArray[Any]] = OrderedDict()
        self._cached_bytes = 0
        with damage_reported(path):
            with path.open("rb") as stream:
                entries = scan_pages(stream, path, size=path.stat().st_size)
            self._file = TiffFile(path, is_lsm=False, is_scanimage=False)
            with ExitStack() as opened:
                opened.callback(self._file.close)
                group = main_pages(entries)
                first = self._page(group[0])
                description = self._page(0).description
                samples, values = first.samplesperpixel, math.prod(first.shaped)
                planes = page_planes(description, group, pages=len(entries), samples=samples, values=values)
                self._describe(chosen_plane(path, planes, plane), palette)
                self.pixel_size_um = _pixel_size_um(first, description)
                opened.pop_all()

    def _page(self, index: int) -> TiffPage:
        """The page at an index of the chain, all its tags read."""
        page = self._file.pages[index]
        if not isinstance(page, TiffPage):
            raise TypeError(f"page {index} was not read as a page")
        return page

    def _describe(self, refs: list[PageRef], palette: Palette) -> None:
        """Segments and facts of the chosen plane."""
        pages = [self._page(ref.page) for ref in refs]
        page = pages[0]
        if any(p.shaped != page.shaped or p.dtype != page.dtype for p in pages):
            raise refusal(self.path, "has channels of different size or type in one plane")
        self._segments = [_segments(self.path, self._file, p, ref.part) for p, ref in zip(pages, refs, strict=True)]
        self._stored = np.dtype(page.dtype)
        self._samples = _kept_samples(page)
        self._lut = _colours(page) if page.photometric == _PALETTE and palette == "colours" else None
        self._flips = _ORIENTATIONS.get(page.tags.valueof(274, 1), (False, False, False))
        length, width = page.shaped[2:4]
        self.shape = (width, length) if self._flips[2] else (length, width)
        self.channels = (1 if self._lut is None else 3) * len(pages) * self._samples
        dtype = {"b1": np.uint8, "f2": np.float32}.get(self._stored.str[1:], self._stored)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8 if self._lut is not None else dtype)
        row = self._stored_box(Box(start=(0, 0), stop=(1, self.shape[1])))
        self._cache_limit = max(_CACHE_BYTES, min(DECODE_LIMIT, self._met_bytes(row)))

    def _stored_box(self, box: Box) -> Box:
        """Where the pixels of a box of the upright image are stored."""
        up, left, transposed = self._flips
        (y0, x0), (y1, x1) = box.start, box.stop
        length, width = self.shape
        if transposed:
            y0, x0, y1, x1, length, width = x0, y0, x1, y1, width, length
        y0, y1 = (length - y1, length - y0) if up else (y0, y1)
        x0, x1 = (width - x1, width - x0) if left else (x0, x1)
        return Box(start=(y0, x0), stop=(y1, x1))

    def _met_bytes(self, box: Box) -> int:
        """Decoded bytes of all segments that meet a box."""
        height, width = self._segments[0].side
        rows = -(-box.stop[0] // height) - box.start[0] // height
        columns = -(-box.stop[1] // width) - box.start[1] // width
        depth: int = len(self._segments) * self._segments[0].samples * self._segments[0].offsets.shape[0]
        return rows * columns * height * width * depth * self._stored.itemsize

    def _segment(self, channel: int, index: tuple[int, int, int]) -> NDArray[Any]:
        """(height, width, samples) pixels of a segment, from memory or decoded."""
        key = (channel, *index)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        segments = self._segments[channel]
        count = int(segments.counts[index])
        self._file.filehandle.seek(int(segments.offsets[index]))
        data = self._file.filehandle.read(count)
        if len(data) < count:
            raise ValueError(f"segment {index} ends after {len(data)} of {count} bytes; the file has shrunk")
        pixels = segments.decode(data, int(np.ravel_multi_index(index, segments.offsets.shape)))
        self._cache[key] = pixels
        self._cached_bytes += pixels.nbytes
        while self._cached_bytes > self._cache_limit and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return pixels

    def _read_stored(self, box: Box) -> NDArray[Any]:
        """(stored channels, Y, X) pixels of a box in the stored orientation."""
        out = np.empty((len(self._segments) * self._samples, *box.shape), self._stored)
        height, width = self._segments[0].side
        for row in range(box.start[0] // height, -(-box.stop[0] // height)):
            for column in range(box.start[1] // width, -(-box.stop[1] // width)):
                origin = (row * height, column * width)
                part = box.relative_to(origin).clipped((height, width))
                into = part.relative_to((box.start[0] - origin[0], box.start[1] - origin[1]))
                self._fill(out[:, *into.slices], (row, column), part)
        return out

    def _fill(self, out: NDArray[Any], at: tuple[int, int], part: Box) -> None:
        """Write a part of the segments at (row, column) to (channels, Y, X) `out`."""
        rows, columns = part.slices
        for channel, segments in enumerate(self._segments):
            for sample in range(self._samples):
                planar = segments.samples == 1
                pixels = self._segment(channel, (sample if planar else 0, *at))
                out[channel * self._samples + sample] = pixels[rows, columns, 0 if planar else sample]

    def read(self, box: Box) -> NDArray[Any]:
        """Pixels of a box, (C, Y, X); see `unetpipe.sources.Source`."""
        check_box(box, self.shape)
        up, left, transposed = self._flips
        if self._file.filehandle.closed:
            raise refusal(self.path, "is closed")
        with damage_reported(self.path):
            block = self._read_stored(self._stored_box(box))
            if self._lut is not None:
                block = self._lut[:, block[0].astype(np.intp)]
        block = block[:, :: -1 if up else 1, :: -1 if left else 1]
        block = block.transpose(0, 2, 1) if transposed else block
        return np.ascontiguousarray(block, self.dtype)

    def close(self) -> None:
        """Close the file and forget the decoded segments."""
        self._file.close()
        self._cache.clear()
        self._cached_bytes = 0

    def __enter__(self) -> "TiffSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

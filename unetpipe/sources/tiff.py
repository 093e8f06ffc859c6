"""TIFF files as sources: one plane of the main image, decoded strip by strip or tile by tile.

A read decodes only the segments (strips or tiles) that meet its box, and keeps the last ones, so that
reading a slide band after band decodes each segment about once in bounded memory.
"""

import logging
import math
from collections import OrderedDict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffPage

from unetpipe.geometry import Box
from unetpipe.sources.annexes import FLIPS, upright
from unetpipe.sources.refusals import (
    DECODE_LIMIT,
    Palette,
    check_box,
    chosen_plane,
    damage_reported,
    refusal,
)
from unetpipe.sources.tiffpages import (
    PageRef,
    main_pages,
    ome_channel_names,
    page_planes,
    scan_pages,
    tiff_pixel_sides_um,
)
from unetpipe.sources.tiffsegments import PALETTE, YCBCR, page_segments

__all__ = ["TiffSource"]

# tifffile reports what it tolerates to its logger, which prints to stderr; here damage is an error or nothing.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_CACHE_BYTES = 64 * 2**20


def _kept_samples(page: TiffPage) -> int:
    """Samples of a page without alpha: a fourth sample of RGB, and last ones that are declared to be alpha."""
    if page.photometric in (2, YCBCR) and page.samplesperpixel == 4:
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


def _pixel_sides_um(page: TiffPage, description: str) -> tuple[float, float] | None:
    """Height and width of a stored pixel from the resolution tags of a page and the first page's description."""
    ratios = [page.tags.valueof(code) or (0, 1) for code in (282, 283)]
    across, down = (r[0] / r[1] if isinstance(r, tuple) and len(r) == 2 and r[1] else 0.0 for r in ratios)
    return tiff_pixel_sides_um(description, (across, down), int(page.tags.valueof(296) or 2))


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
                self._describe(planes.channels[chosen_plane(path, planes.axes, plane)], palette)
                names = ome_channel_names(description)
                self.channel_names = names if any(names) and len(names) == self.channels else ()
                sides = _pixel_sides_um(first, description)
                self.pixel_sides_um = (sides[1], sides[0]) if sides and self._flips[2] else sides
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
        self._segments = [page_segments(self.path, self._file, p, ref.part) for p, ref in zip(pages, refs, strict=True)]
        self._stored = np.dtype(page.dtype)
        self._samples = _kept_samples(page)
        self._lut = _colours(page) if page.photometric == PALETTE and palette == "colours" else None
        self._orientation = page.tags.valueof(274, 1)
        self._flips = FLIPS.get(self._orientation, (False, False, False))
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
        if self._file.filehandle.closed:
            raise refusal(self.path, "is closed")
        with damage_reported(self.path):
            block = self._read_stored(self._stored_box(box))
            if self._lut is not None:
                block = self._lut[:, block[0].astype(np.intp)]
        return np.ascontiguousarray(upright(block, self._orientation), self.dtype)

    def close(self) -> None:
        """Close the file and forget the decoded segments."""
        self._file.close()
        self._cache.clear()
        self._cached_bytes = 0

    def __enter__(self) -> "TiffSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

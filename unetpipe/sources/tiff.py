"""TIFF files as sources: one level of one plane of the main image, decoded strip by strip or tile by tile.

A read decodes only the segments (strips or tiles) that meet its box, and keeps the last ones, so that
reading a slide band after band decodes each segment about once in bounded memory.
"""

import logging
import math
from collections import OrderedDict
from contextlib import ExitStack
from functools import cached_property
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
    check_level,
    chosen_plane,
    damage_reported,
    refusal,
)
from unetpipe.sources.tiffchain import coarser_pages, is_coarser_copy, main_pages, scan_pages, scan_subpages
from unetpipe.sources.tiffpages import ome_channel_names, page_planes, tiff_pixel_sides_um
from unetpipe.sources.tiffsegments import PALETTE, YCBCR, page_segments

__all__ = ["TiffSource"]

# tifffile reports what it tolerates to its logger, which prints to stderr; here damage is an error or nothing.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_CACHE_BYTES = 32 * 2**20
_MOST_LEVELS = 64


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


def _flips(page: TiffPage) -> tuple[bool, bool, bool]:
    """Whether the pixels of a page are stored upside down, mirrored and transposed."""
    return FLIPS.get(page.tags.valueof(274, 1), (False, False, False))


def _upright_shape(page: TiffPage) -> tuple[int, int]:
    """Height and width of a page in px, its Orientation applied."""
    length, width = page.shaped[2:4]
    return (width, length) if _flips(page)[2] else (length, width)


def _pixel_sides_um(page: TiffPage, description: str) -> tuple[float, float] | None:
    """Height and width of a stored pixel from the resolution tags of a page and the first page's description."""
    ratios = [page.tags.valueof(code) or (0, 1) for code in (282, 283)]
    across, down = (r[0] / r[1] if isinstance(r, tuple) and len(r) == 2 and r[1] else 0.0 for r in ratios)
    return tiff_pixel_sides_um(description, (across, down), int(page.tags.valueof(296) or 2))


class TiffSource:
    """One level of one plane of a TIFF as a source.

    Parameters
    ----------
    path : Path
        The file: strips or tiles, planar or not, classic or BigTIFF, either byte order; OME-TIFF, SVS and NDPI too.
    plane : int, optional
        Which z or time plane of the main image; needed where there are several.
    level : int
        Which level of its pyramid, 0 the finest: pages in SubIFDs, or smaller pages of the same proportions.
    palette : {"colours", "indices"}
        Whether the pixels of a palette image are its colours (3 channels) or its indices (1 channel).

    Raises
    ------
    SourceError
        If the file is damaged, hostile, truncated or sparse, or holds what is not read, has no such level, or has
        several planes and none is named.

    Notes
    -----
    The main image is the largest one; label, macro and thumbnail are not read. Alpha is dropped. Grey values are as
    stored also where the file calls 0 white. Orientation (tag 274) is applied. Decoded segments are kept up to
    32 MiB, or up to those that meet one row of the image if that is more, at most 512 MiB together with what it takes
    to decode the next one. Not for several threads.
    """

    def __init__(self, path: Path, *, plane: int | None, level: int, palette: Palette) -> None:
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
                self._refs = planes.channels[chosen_plane(path, planes.axes, plane)]
                self.plane_axes = tuple(planes.axes)
                self._entries, self._group = entries, group
                if level:
                    check_level(path, self.levels, level)
                self._describe(level, palette)
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

    def _page_at(self, offset: int) -> TiffPage:
        """The page at a position in the file, all its tags read."""
        self._file.filehandle.seek(offset)
        return TiffPage(self._file, len(self._entries))

    @cached_property
    def _copies(self) -> list[list[TiffPage]]:
        """[level - 1][channel]: pages of the plane's coarser copies, finest first."""
        main = [self._page(ref.page) for ref in self._refs]
        if any(ref.part or ref.page not in self._group for ref in self._refs):
            return []
        below = [tuple(page.subifds or ())[:_MOST_LEVELS] for page in main]
        if not all(below):
            chain = coarser_pages(self._entries, self._group)
            at = [self._group.index(ref.page) for ref in self._refs]
            return [[self._page(pages[i]) for i in at] for pages in chain]
        found = []
        for offsets in zip(*below, strict=False):
            with self.path.open("rb") as stream:
                entries = scan_subpages(stream, self.path, size=self._file.filehandle.size, offsets=offsets)
            finest = (main[0].imagelength, main[0].imagewidth)
            if all(is_coarser_copy((entry.length, entry.width), finest) for entry in entries):
                found.append([self._page_at(offset) for offset in offsets])
        return sorted(found, key=lambda pages: -pages[0].imagelength * pages[0].imagewidth)

    @property
    def levels(self) -> list[tuple[int, int]]:
        """Height and width of each level in px; see `unetpipe.sources.Source`."""
        with damage_reported(self.path):
            pages = [self._page(self._refs[0].page), *(pages[0] for pages in self._copies)]
            return [_upright_shape(page) for page in pages]

    def _describe(self, level: int, palette: Palette) -> None:
        """Segments and facts of the chosen level of the plane."""
        main = [self._page(ref.page) for ref in self._refs]
        pages = self._copies[level - 1] if level else main
        page = pages[0]
        if any(p.shaped != page.shaped or p.dtype != page.dtype for p in pages):
            raise refusal(self.path, "has channels of different size or type in one plane")
        if (page.dtype, page.samplesperpixel, page.photometric == PALETTE) != (
            main[0].dtype,
            main[0].samplesperpixel,
            main[0].photometric == PALETTE,
        ):
            raise refusal(self.path, f"has a level {level} of other values than its finest; choose another level")
        parts = [ref.part for ref in self._refs]
        self._segments = [page_segments(self.path, self._file, p, k) for p, k in zip(pages, parts, strict=True)]
        self._stored = np.dtype(page.dtype)
        self._samples = _kept_samples(page)
        self._lut = _colours(page) if page.photometric == PALETTE and palette == "colours" else None
        self._orientation = page.tags.valueof(274, 1)
        self._flips = _flips(page)
        self.shape = _upright_shape(page)
        self.row_by_row = self._segments[0].side[1] >= page.shaped[3]
        self.channels = (1 if self._lut is None else 3) * len(pages) * self._samples
        dtype = {"b1": np.uint8, "f2": np.float32}.get(self._stored.str[1:], self._stored)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8 if self._lut is not None else dtype)
        row = self._stored_box(Box(start=(0, 0), stop=(1, self.shape[1])))
        self._cost = self._segments[0].cost
        self._cache_limit = max(_CACHE_BYTES, min(DECODE_LIMIT, self._met_bytes(row) + self._cost))

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
        # Room is made before it is needed.
        while self._cache and self._cached_bytes + self._cost > self._cache_limit:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        pixels = segments.decode(data, int(np.ravel_multi_index(index, segments.offsets.shape)))
        self._cache[key] = pixels
        self._cached_bytes += pixels.nbytes
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
                # No name keeps a segment alive while the next one is decoded.
                source = rows, columns, 0 if planar else sample
                out[channel * self._samples + sample] = self._segment(channel, (sample if planar else 0, *at))[source]

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

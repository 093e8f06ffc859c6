"""The pages of a TIFF: their chain, those of the main image, and the coarser copies of it.

The chain is walked here, before any library sees the file, because a cyclic or endless one, or tags that
declare more bytes than the file has, must end in one line and not in a stalled process.
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from unetpipe.sources.refusals import refusal

__all__ = ["PAGE_LIMIT", "PageEntry", "coarser_pages", "is_coarser_copy", "main_pages", "scan_pages", "scan_subpages"]

PAGE_LIMIT = 100_000
"""Most pages of a file."""

_TAG_LIMIT = 4096
_TILE_WIDTH = 322
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TYPE_CODES = {1: "B", 3: "H", 4: "I", 16: "Q"}


class PageEntry(NamedTuple):
    """The tags of one page that tell which image it belongs to."""

    width: int
    """Columns in px, 0 if not declared."""
    length: int
    """Rows in px, 0 if not declared."""
    samples: int
    """Samples per pixel."""
    kind: int
    """NewSubfileType: bit 0 is set for a reduced image, bit 2 for a transparency mask."""
    tiled: bool = False
    """Whether its pixels lie in tiles."""


class _Layout(NamedTuple):
    """How a TIFF counts."""

    order: str
    """`<` or `>`, as in `struct`."""
    count_at: struct.Struct
    """Number of tags of a page."""
    tag_at: struct.Struct
    """One tag: code, type, count, value or offset."""
    offset_at: struct.Struct
    """Where a page begins."""


def _layout(file: BinaryIO, path: Path) -> _Layout:
    """How a TIFF counts; the file then stands at the offset of its first page."""
    header = file.read(4)
    order = "<" if header[:2] == b"II" else ">"
    if struct.unpack(order + "H", header[2:4])[0] == 43:
        file.seek(8)
        return _Layout(order, struct.Struct(order + "Q"), struct.Struct(order + "HHQ8s"), struct.Struct(order + "Q"))
    # Hamamatsu's NDPI is a classic TIFF with 64-bit offsets.
    wide = path.suffix.lower() == ".ndpi" and order == "<"
    offset_at = struct.Struct(order + ("Q" if wide else "I"))
    return _Layout(order, struct.Struct(order + "H"), struct.Struct(order + "HHI4s"), offset_at)


def scan_pages(file: BinaryIO, path: Path, *, size: int) -> list[PageEntry]:
    """Walk the chain of pages (IFDs) of a TIFF without reading the values that tags point to.

    Parameters
    ----------
    file : BinaryIO
        The open file.
    path : Path
        Its path, for messages; the extension `.ndpi` announces 64-bit offsets.
    size : int
        Bytes of the file.

    Returns
    -------
    list of PageEntry
        One per page, in the order of the chain.

    Raises
    ------
    SourceError
        If the chain is empty, cyclic, leaves the file, or has over 100,000 pages, or if tags declare more than
        four times the bytes of the file.
    """
    layout = _layout(file, path)
    offset = layout.offset_at.unpack(file.read(layout.offset_at.size))[0]
    entries: list[PageEntry] = []
    seen: set[int] = set()
    tag_bytes = 0
    while offset:
        number = len(entries)
        if offset in seen:
            raise refusal(path, f"is damaged: page {number} of the chain points back to an earlier page")
        if number == PAGE_LIMIT:
            raise refusal(path, f"has more than {PAGE_LIMIT} pages")
        seen.add(offset)
        entry, nbytes, offset = _read_page(file, path, layout, offset, f"page {number}", size)
        entries.append(entry)
        tag_bytes += nbytes
        _check_tag_bytes(path, tag_bytes, len(entries), size)
    if not entries:
        raise refusal(path, "is a TIFF without pages; was its writer stopped before it had finished?")
    return entries


def scan_subpages(file: BinaryIO, path: Path, *, size: int, offsets: Sequence[int]) -> list[PageEntry]:
    """Look at pages beside the chain, such as the levels of a pyramid, as `scan_pages` does.

    Parameters
    ----------
    file : BinaryIO
        The open file, at its beginning.
    path : Path
        Its path.
    size : int
        Bytes of the file.
    offsets : sequence of int
        Where the pages begin.

    Returns
    -------
    list of PageEntry
        One per offset.

    Raises
    ------
    SourceError
        As `scan_pages`.
    """
    layout = _layout(file, path)
    found = [_read_page(file, path, layout, offset, f"the page at byte {offset}", size) for offset in offsets]
    _check_tag_bytes(path, sum(nbytes for _, nbytes, _ in found), len(found), size)
    return [entry for entry, _, _ in found]


def _check_tag_bytes(path: Path, tag_bytes: int, pages: int, size: int) -> None:
    """Refuse pages whose tags declare more than the file can hold."""
    if tag_bytes > 4 * size + 2**20:
        raise refusal(path, f"is damaged: the tags of {pages} pages declare {tag_bytes} bytes of {size}")


def _read_page(
    file: BinaryIO, path: Path, layout: _Layout, offset: int, name: str, size: int
) -> tuple[PageEntry, int, int]:
    """The entry of a page, the bytes that its tags point to, and the offset of the next page."""
    if offset + layout.count_at.size > size:
        raise refusal(path, f"is truncated: {name} starts at byte {offset}, the file has {size} bytes")
    file.seek(offset)
    count = layout.count_at.unpack(file.read(layout.count_at.size))[0]
    table = file.read(layout.tag_at.size * count) if count <= _TAG_LIMIT else b""
    link = file.read(layout.offset_at.size)
    if not 0 < count <= _TAG_LIMIT or len(table) < layout.tag_at.size * count or len(link) < layout.offset_at.size:
        raise refusal(path, f"is damaged or truncated: {name} at byte {offset} has {count} tags")
    entry, nbytes = _page_entry(layout, table, size)
    return entry, nbytes, layout.offset_at.unpack(link)[0]


def _page_entry(layout: _Layout, table: bytes, size: int) -> tuple[PageEntry, int]:
    """The entry of one tag table, and the bytes that its tags point to inside the file."""
    found: dict[int, int] = {}
    nbytes, tiled = 0, False
    for code, kind, count, value in layout.tag_at.iter_unpack(table):
        tiled |= code == _TILE_WIDTH
        extent = count * _TYPE_BYTES.get(kind, 0)
        if len(value) < extent <= size:
            nbytes += extent
        if code in (254, 256, 257, 277) and count == 1 and kind in _TYPE_CODES:
            found[code] = struct.unpack_from(layout.order + _TYPE_CODES[kind], value + b"\0\0\0\0")[0]
    return PageEntry(found.get(256, 0), found.get(257, 0), found.get(277, 1), found.get(254, 0), tiled), nbytes


def main_pages(entries: list[PageEntry]) -> list[int]:
    """Pages of the main image: all that have the size and samples of the largest one that is not a reduced copy.

    Parameters
    ----------
    entries : list of PageEntry
        The chain.

    Returns
    -------
    list of int
        Indices into the chain, ascending. Among equally large images the first counts.

    Examples
    --------
    >>> main_pages([PageEntry(40, 30, 3, 0), PageEntry(20, 15, 3, 1), PageEntry(40, 30, 3, 0)])
    [0, 2]
    """
    whole = [i for i, entry in enumerate(entries) if not entry.kind & 5] or list(range(len(entries)))
    first = entries[max(whole, key=lambda i: (entries[i].width * entries[i].length, -i))]
    return [i for i in whole if entries[i][:3] == first[:3]]


def is_coarser_copy(shape: tuple[int, int], finest: tuple[int, int]) -> bool:
    """Whether an image may be another one made smaller: its sides are in the same proportion, up to rounding.

    Parameters
    ----------
    shape, finest : (int, int)
        Height and width in px.

    Examples
    --------
    >>> is_coarser_copy((1783, 2221), (3567, 4443)), is_coarser_copy((406, 1188), (4864, 3968))
    (True, False)
    """
    (height, width), (full_height, full_width) = shape, finest
    if not (0 < height <= full_height and 0 < width <= full_width) or shape == finest:
        return False
    # Each side is rounded by less than 1 px.
    return abs(full_height * width - full_width * height) <= full_height + full_width


def coarser_pages(entries: list[PageEntry], group: list[int]) -> list[list[int]]:
    """Pages of the chain that hold coarser copies of the main image.

    Parameters
    ----------
    entries : list of PageEntry
        The chain.
    group : list of int
        Pages of the main image.

    Returns
    -------
    list of list of int
        [level - 1][number of the main image's page]: indices into the chain, the finest copy first. A copy has as
        many pages as the image, in tiles where the image has them (a thumbnail beside a tiled slide is one strip).

    Examples
    --------
    >>> coarser_pages([PageEntry(40, 30, 3, 0), PageEntry(10, 8, 3, 1), PageEntry(20, 15, 3, 1)], [0])
    [[2], [1]]
    """
    first = entries[group[0]]
    finest = (first.length, first.width)
    found: dict[tuple[int, int], list[int]] = {}
    for i, entry in enumerate(entries):
        alike = (entry.samples, entry.tiled, entry.kind & 4) == (first.samples, first.tiled, first.kind & 4)
        if alike and is_coarser_copy((entry.length, entry.width), finest):
            found.setdefault((entry.length, entry.width), []).append(i)
    return [found[shape] for shape in sorted(found, reverse=True) if len(found[shape]) == len(group)]

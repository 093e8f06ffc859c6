"""Image files that tests write byte by byte, and how they read them back."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unetpipe.errors import SourceError
from unetpipe.geometry import Box
from unetpipe.pyramids import means_of, quad_sums
from unetpipe.sources.images import Source, open_source

Array = NDArray[Any]


def noise(*shape: int, dtype: Any = np.uint8) -> Array:
    """Reproducible values that fill the range of a type, with flat stretches for the codecs."""
    rng = np.random.default_rng(7)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True) // 3 * 3


def area_mean(block: Array) -> Array:
    """The next level of a pyramid of (..., Y, X) pixels."""
    height, width = block.shape[-2:]
    return means_of(quad_sums(block, level=1), level=1, origin=(0, 0), whole=(height, width), dtype=block.dtype)


def whole(source: Source, band: int = 10**9) -> Array:
    """All pixels, read band after band."""
    height, width = source.shape
    tops = range(0, height, band)
    return np.concatenate([source.read(Box(start=(y, 0), stop=(min(y + band, height), width))) for y in tops], axis=1)


def read(path: Path, **options: Any) -> Array:
    """All pixels of a file."""
    with open_source(path, **options) as source:
        pixels = whole(source)
        assert pixels.shape == (source.channels, *source.shape)
        assert pixels.dtype == source.dtype
        return pixels


def tiff_bytes(tags: dict[int, tuple[int, Any]], data: bytes = b"", *, next_page: int = 0, order: str = "<") -> bytes:
    """A classic TIFF of one page; {code: (type, value or values or bytes)}; the data begin at byte 8."""
    sizes = {1: "B", 2: "c", 3: "H", 4: "I"}
    start = 8 + len(data) + len(data) % 2
    behind = start + 2 + 12 * len(tags) + 4
    table, heap = b"", b""
    for code, (kind, value) in sorted(tags.items()):
        if isinstance(value, bytes):
            raw, count = value, len(value)
        else:
            values = value if isinstance(value, tuple) else (value,)
            raw, count = struct.pack(f"{order}{len(values)}{sizes[kind]}", *values), len(values)
        if len(raw) > 4:
            table += struct.pack(order + "HHII", code, kind, count, behind + len(heap))
            heap += raw
        else:
            table += struct.pack(order + "HHI", code, kind, count) + raw.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(order + "I", start) + data.ljust(start - 8, b"\0")
    return head + struct.pack(order + "H", len(tags)) + table + struct.pack(order + "I", next_page) + heap


def page_tags(height: int, width: int, nbytes: int, **more: tuple[int, Any]) -> dict[int, tuple[int, Any]]:
    """Tags of an 8-bit grey page of one uncompressed strip at byte 8; more as t<code>=(type, value)."""
    tags = {256: (4, width), 257: (4, height), 258: (3, 8), 259: (3, 1), 262: (3, 1), 273: (4, 8), 277: (3, 1)}
    tags |= {278: (4, height), 279: (4, nbytes)}
    return tags | {int(name[1:]): tag for name, tag in more.items()}


def png_bytes(height: int, width: int, bits: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of the rows, each with its filter byte in front."""
    start = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", start), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


def refused(path: Path, **options: Any) -> str:
    """The one line with which reading a file ends."""
    with pytest.raises(SourceError) as caught:
        read(path, **options)
    line = str(caught.value)
    assert len(line) <= 300
    assert line.isprintable()
    return line


def exact_level(pixels: np.ndarray, level: int) -> np.ndarray:
    """A level of a pyramid: (..., Y, X) means over blocks of 2^level px, of what is there; integers rounded half up."""
    sums = pixels.astype(np.float64 if pixels.dtype.kind == "f" else object)
    counts = np.ones(pixels.shape[-2:], int)
    for axis in (-2, -1):
        starts = np.arange(0, pixels.shape[axis], 2**level)
        sums, counts = np.add.reduceat(sums, starts, axis), np.add.reduceat(counts, starts, axis)
    exact = sums / counts if pixels.dtype.kind == "f" else (2 * sums + counts) // (2 * counts)
    return exact.astype(pixels.dtype)

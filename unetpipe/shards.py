"""Shards of zarr arrays as bytes: chunks of zstd with their checksums, and the table that says where they are.

Written and read straight, which takes a third of the time that zarr's own way takes; the arrays are plain Zarr v3.
A shard is its chunks one behind the other, then the place and size of each as two 64-bit numbers, little-endian, then
the table's CRC-32C; a chunk that is not there has both numbers all ones. A chunk is one zstd frame and its CRC-32C.
"""

import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import google_crc32c
import imagecodecs
import numpy as np
import zstandard
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

__all__ = ["COMPRESSORS", "FAULTS", "ShardTable", "encoded_shard", "helper_threads", "in_threads"]

LEVEL = 1
# A block is as large as the window: one channel of a chunk of 8 bits, which gets a code of its own; images of several
# channels become 1 to 6 % smaller than by the level alone. Matches shorter than 7 bytes are chance in noise and cost
# time, as does a table of matches that takes the processor's cache from the pixels.
ENCODER = zstandard.ZstdCompressionParameters.from_level(LEVEL, window_log=16, hash_log=10, min_match=7)
COMPRESSORS = (ZstdCodec(level=LEVEL), Crc32cCodec())
"""The codecs of a chunk, for `zarr.create_array`."""
FAULTS = (ValueError, RuntimeError, OSError, struct.error)
"""What reading a damaged shard raises."""
# What the table says of a chunk that is not there.
MISSING = 2**64 - 1
THREADS = min(4, os.cpu_count() or 1)
# Fewer chunks than this are not worth a thread.
FEW = 4

T = TypeVar("T")
R = TypeVar("R")


def in_threads(call: Callable[[T], R], items: Sequence[T], pool: Executor | None = None) -> list[R]:
    """Results of a call for each of some items, in their order, by up to four threads where there are many.

    Parameters
    ----------
    call : callable
        Releases the interpreter's lock where it takes time.
    items : sequence
        What it is called with.
    pool : Executor, optional
        One of `helper_threads`, for callers that come often; by default threads are started and ended.

    Returns
    -------
    list

    Examples
    --------
    >>> in_threads(abs, [-1, 2])
    [1, 2]
    """
    if len(items) < FEW or THREADS == 1:
        return [call(item) for item in items]

    def share(first: int) -> list[R]:
        """Results of every item that a thread does; to hand over one by one takes longer than some calls."""
        return [call(item) for item in items[first::THREADS]]

    with nullcontext(pool) if pool else helper_threads() as threads:
        others = [threads.submit(share, first) for first in range(1, THREADS)]
        shares = [share(0), *(other.result() for other in others)]
    return [shares[i % THREADS][i // THREADS] for i in range(len(items))]


def helper_threads() -> Executor:
    """Threads that help the caller of `in_threads`; they begin when they are needed."""
    return ThreadPoolExecutor(max(THREADS - 1, 1))


def encoded_shard(chunks: Sequence[NDArray[Any] | None]) -> list[bytes]:
    """All bytes of a shard, in pieces.

    Parameters
    ----------
    chunks : sequence of array or None
        In the order of the table; None for one that lies outside the array.

    Returns
    -------
    list of bytes
        To be written one behind the other. Equal chunks give equal bytes.
    """
    parts = in_threads(_encoded, chunks)
    table, end = b"", 0
    for part in parts:
        table += struct.pack("<QQ", end, len(part)) if part else struct.pack("<QQ", MISSING, MISSING)
        end += len(part)
    return [*parts, table, _checksum(table)]


def _encoded(chunk: NDArray[Any] | None) -> bytes:
    """Bytes of a chunk; none of a missing one."""
    if chunk is None:
        return b""
    plain = np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("<"))
    body = zstandard.ZstdCompressor(compression_params=ENCODER).compress(plain.data.cast("B"))
    return body + _checksum(body)


def _checksum(content: bytes) -> bytes:
    """Checksum of bytes, as it stands behind them."""
    checksum: int = google_crc32c.value(content)
    return checksum.to_bytes(4, "little")


def _checked(file: IO[bytes], size: int) -> bytes:
    """The next bytes of a file without the checksum that ends them."""
    body, checksum = file.read(max(size - 4, 0)), file.read(4)
    if _checksum(body) != checksum:
        raise ValueError("the checksum does not fit")
    return body


@dataclass(frozen=True, slots=True)
class ShardTable:
    """A shard on disk and where its chunks are.

    Parameters
    ----------
    path : Path
        The file.
    places : tuple of (int, int)
        First byte and number of bytes of each chunk.
    """

    path: Path
    places: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, path: Path, count: int) -> "ShardTable":
        """Read the table of a shard of `count` chunks; one of `FAULTS` if it is damaged."""
        with path.open("rb") as file:
            file.seek(-(16 * count + 4), os.SEEK_END)
            table = _checked(file, 16 * count + 4)
        numbers = struct.unpack(f"<{2 * count}Q", table)
        return cls(path, tuple(zip(numbers[::2], numbers[1::2], strict=True)))

    def read(self, place: int, out: NDArray[Any]) -> None:
        """Decode a chunk into an array in C order, little-endian; one of `FAULTS` if damaged or never written."""
        start, size = self.places[place]
        if size == MISSING:
            raise ValueError("it was never written")
        with self.path.open("rb") as file:
            file.seek(start)
            body = _checked(file, size)
        found = imagecodecs.zstd_decode(body, out=out.reshape(-1).view(np.uint8).data)
        if len(found) != out.nbytes:
            raise ValueError(f"it holds {len(found)} bytes, not {out.nbytes}")

"""Zarr chunks from elsewhere, held against the size that they may decode to before any codec decodes them.

A chunk of some kilobytes can claim, or decode to, gigabytes: zstd and blosc allocate what a chunk's header says, gzip,
bz2 and lzma go on as long as there are data.
"""

import bz2
import lzma
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
from zarr.abc.store import ByteRequest, RangeByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

__all__ = ["COMPRESSORS", "BoundedStore", "check_chunk"]

COMPRESSORS = ("zstd", "blosc", "lz4", "gzip", "zlib", "bz2", "lzma")
"""Codecs that make chunks smaller, by name."""

# What is stored beside pixels, such as check sums.
_SLACK = 2**16
# Deflate makes at most 1,032 bytes of one: what stays below this need not be decoded twice.
_DEFLATE_RATIO, _HARMLESS = 1032, 2**26
_MISSING = 2**64 - 1
_LZMA_MEMORY = 2**28


def check_chunk(data: bytes, codecs: Sequence[str], limit: int) -> None:
    """Refuse a chunk that decodes to more than it may.

    Parameters
    ----------
    data : bytes
        As stored.
    codecs : sequence of str
        Names of the compressors, the one applied last behind the others; one at most is expected.
    limit : int
        Most bytes that it may decode to.

    Raises
    ------
    ValueError
        If it declares or holds more, is compressed several times, or is shorter than blosc's header says.

    Examples
    --------
    >>> check_chunk(zlib.compress(bytes(100)), ["zlib"], 100)
    """
    if len(codecs) > 1:
        raise ValueError(f"its chunks are compressed {len(codecs)} times, with {' and '.join(codecs)}")
    found = _decoded_size(data, codecs[0], limit) if codecs else len(data)
    if found > limit + _SLACK:
        raise ValueError(f"a chunk decodes to {found} bytes or more, expected at most {limit}: damaged or hostile")


def _decoded_size(data: bytes, codec: str, limit: int) -> int:
    """Bytes that a chunk declares to decode to, or, where it does not, does decode to, as far as that matters."""
    if codec == "zstd":
        return _zstd_size(data, limit)
    if codec == "blosc":
        size, _, stored = struct.unpack_from("<III", data, 4)
        # Its decoder trusts this length, and reads whatever lies in memory behind a shorter chunk.
        if stored > len(data):
            raise ValueError(f"a chunk has {len(data)} of {stored} bytes: it is cut off")
        return int(size)
    if codec == "lz4":
        return int(struct.unpack_from("<I", data)[0])
    if codec in ("gzip", "zlib"):
        small = len(data) * _DEFLATE_RATIO <= _HARMLESS
        return 0 if small else len(zlib.decompressobj(47).decompress(data, limit + _SLACK + 1))
    if codec == "bz2":
        return len(bz2.BZ2Decompressor().decompress(data, limit + _SLACK + 1))
    return len(lzma.LZMADecompressor(memlimit=_LZMA_MEMORY).decompress(data, limit + _SLACK + 1))


def _zstd_size(data: bytes, limit: int) -> int:
    """Content size in the header of a zstd frame; without one, what the frame decodes to."""
    flags = data[4] if len(data) > 4 and data[:4] == b"\x28\xb5\x2f\xfd" else 0
    size = (1 if flags & 32 else 0, 2, 4, 8)[flags >> 6]
    start = 5 + (0 if flags & 32 else 1) + (0, 1, 2, 4)[flags & 3]
    if size:
        return int.from_bytes(data[start : start + size], "little") + (256 if size == 2 else 0)
    try:
        return len(imagecodecs.zstd_decode(data, out=limit + _SLACK))
    except imagecodecs.ZstdError as error:
        raise ValueError(f"a chunk of unknown size cannot be decoded into {limit} bytes ({error})") from None


class BoundedStore(WrapperStore[LocalStore]):
    """A folder whose chunks are looked at before they are handed on.

    Parameters
    ----------
    store : LocalStore
        The folder.
    codecs : sequence of str
        Compressors of a chunk, or of a chunk in a shard.
    limit : int
        Bytes of a decoded chunk.
    per_shard : int
        Number of chunks in a shard; 0 where there are none.
    """

    def __init__(self, store: LocalStore, codecs: Sequence[str] = (), limit: int = 0, per_shard: int = 0) -> None:
        super().__init__(store)
        self.bounds = codecs, limit
        self.per_shard = per_shard

    def _with_store(self, store: LocalStore) -> "BoundedStore":
        return type(self)(store, *self.bounds, self.per_shard)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Bytes of a file or of a part of it; ValueError for a chunk that is larger than it should be."""
        found = await super().get(key, prototype, byte_range)
        name = Path(key).name
        if found is not None and not name.startswith(".") and name != "zarr.json":
            data: Any = found.to_bytes()
            if not self.per_shard or isinstance(byte_range, RangeByteRequest):
                check_chunk(data, *self.bounds)
            elif byte_range is None:
                self._check_shard(data)
        return found

    def _check_shard(self, data: bytes) -> None:
        """Look at each chunk of a shard, as the table at its end has them."""
        table = data[-(16 * self.per_shard + 4) : -4]
        for start, size in struct.iter_unpack("<QQ", table[: len(table) // 16 * 16]):
            if _MISSING not in (start, size):
                check_chunk(data[start : start + size], *self.bounds)

"""What a chunk will decode to is known before it is decoded."""

import bz2
import contextlib
import gzip
import lzma
import struct
import zlib
from pathlib import Path

import imagecodecs
import numcodecs
import numpy as np
import pytest
import zarr

from imagefiles import noise, read
from unetpipe.sources.bounds import check_chunk

LIMIT = 2**20


def frame(content: bytes) -> bytes:
    """A zstd frame of one plain block that does not say how large its content is."""
    return b"\x28\xb5\x2f\xfd\x00\x58" + struct.pack("<I", 1 | len(content) << 3)[:3] + content


ENCODERS = {
    "zstd": lambda data: imagecodecs.zstd_encode(data, level=1),
    "blosc": lambda data: imagecodecs.blosc_encode(data, compressor="lz4"),
    "lz4": numcodecs.LZ4().encode,
    "gzip": lambda data: gzip.compress(data, 1),
    "zlib": lambda data: zlib.compress(data, 1),
    "bz2": bz2.compress,
    "lzma": lambda data: lzma.compress(data, preset=0),
}


@pytest.mark.parametrize("codec", ENCODERS)
@pytest.mark.parametrize("size", [1, 255, 256, 257, 65535, 65791, 65792, LIMIT])
def test_chunks_of_their_size_pass(codec: str, size: int) -> None:
    check_chunk(ENCODERS[codec](noise(size).tobytes()), [codec], LIMIT)


@pytest.mark.parametrize("codec", ENCODERS)
def test_larger_chunks_are_refused(codec: str) -> None:
    # Deflate is only looked into where it could do harm.
    large = ENCODERS[codec](bytes((80 if codec in ("gzip", "zlib") else 4) * 2**20))
    with pytest.raises(ValueError, match="a chunk decodes to"):
        check_chunk(large, [codec], LIMIT)


def test_a_frame_of_unknown_size_is_tried() -> None:
    check_chunk(frame(bytes(1000)), ["zstd"], 1000)
    with pytest.raises(ValueError, match="cannot be decoded into 1000 bytes"):
        check_chunk(frame(bytes(100_000)), ["zstd"], 1000)


@pytest.mark.parametrize("content", [b"", b"\x28", b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfd\xff"])
def test_half_a_frame_is_harmless_or_refused(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        check_chunk(content, ["zstd"], LIMIT)


def test_a_blosc_chunk_that_is_cut_off_is_not_decoded() -> None:
    sound = ENCODERS["blosc"](noise(1000).tobytes())
    with pytest.raises(ValueError, match=f"has {len(sound) - 1} of {len(sound)} bytes: it is cut off"):
        check_chunk(sound[:-1], ["blosc"], 1000)


def test_plain_chunks_and_several_compressors() -> None:
    check_chunk(bytes(100), [], 100)
    with pytest.raises(ValueError, match="decodes to 100000 bytes"):
        check_chunk(bytes(100_000), [], 100)
    with pytest.raises(ValueError, match="compressed 2 times, with zstd and gzip"):
        check_chunk(b"", ["zstd", "gzip"], 100)


@pytest.mark.parametrize("shards", [None, (64, 64)])
def test_arrays_are_read_as_before(tmp_path: Path, shards: tuple[int, int] | None) -> None:
    image = noise(100, 90, dtype=np.uint16)
    array = zarr.create_array(tmp_path / "a", shape=image.shape, dtype="u2", chunks=(32, 32), shards=shards)
    array[...] = image
    np.testing.assert_array_equal(read(tmp_path / "a")[0], image)

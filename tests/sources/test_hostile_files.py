"""Files that are broken or want to harm: read, or refused in one line, in bounded memory."""

import bz2
import gzip
import json
import lzma
import os
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import google_crc32c
import imagecodecs
import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from imagefiles import noise, page_tags, png_bytes, tiff_bytes, whole
from unetpipe.errors import SourceError
from unetpipe.sources.images import open_source


def faults() -> dict[str, tuple[bytes, str]]:
    """Files made to harm, each with a word of the line that refuses it."""
    ones = bytes(100)
    good = page_tags(10, 10, 100)
    deflated = zlib.compress(bytes(200 * 2**20), 1)
    bomb = page_tags(64, 64, len(deflated), t259=(3, 8))
    jpeg = imagecodecs.jpeg_encode(noise(16, 16))
    frame = jpeg.index(b"\xff\xc0") + 5
    huge_jpeg = jpeg[:frame] + b"\xff\xdc\xff\xdc" + jpeg[frame + 4 :]
    codestream = bytearray(imagecodecs.jpeg2k_encode(noise(16, 16), codecformat="j2k"))
    codestream[8:16] = b"\0\1\0\0\0\1\0\0"
    tiled = {322: (4, 16), 323: (4, 16)}
    text = b"ImageJ=1.54f\nimages=99999999\nslices=99999999\n\0"
    laughs = '<!DOCTYPE x [<!ENTITY a "lol">' + "".join(
        f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(12)
    )
    xml = f"{laughs}]><OME>&m;</OME>".encode() + b"\0"
    many = b"".join(struct.pack("<HHHIII", 1, 256, 4, 1, 1, 8 + 18 * i + 18) for i in range(100_001))
    made = {
        "cycle": (tiff_bytes(good, ones, next_page=108), "points back"),
        "many pages": (b"II*\0" + struct.pack("<I", 8) + many, "more than 100000 pages"),
        "page behind": (tiff_bytes(good, ones, next_page=2**31), "truncated"),
        "no page": (b"II*\0\0\0\0\0", "without pages"),
        "half a header": (b"II*\0\0", "damaged"),
        "zero width": (tiff_bytes(page_tags(10, 0, 100), ones), "10 x 0 px"),
        "zero rows": (tiff_bytes(good | {278: (4, 0)}, ones), "strips or tiles"),
        "zero tile": (tiff_bytes(good | {322: (4, 0), 323: (4, 16)}, ones), ""),
        "missing strip": (tiff_bytes(good | {273: (4, 0)}, ones), "misses 1 of 1"),
        "empty strip": (tiff_bytes(good | {279: (4, 0)}, ones), "misses 1 of 1"),
        "too few strips": (tiff_bytes(good | {278: (4, 1)}, ones), "needs 10 strips or tiles, but lists 1"),
        "short strip": (tiff_bytes(good | {279: (4, 99)}, ones), "damaged"),
        "strip behind": (tiff_bytes(good | {279: (4, 10**6)}, ones), "truncated"),
        "65k x 65k": (tiff_bytes(page_tags(65535, 65535, 100, t259=(3, 8)), ones), "more than 50000:1"),
        "65k x 65k plain": (tiff_bytes(page_tags(65535, 65535, 100), ones), "more than 50000:1"),
        "65k tiles": (
            tiff_bytes(good | {322: (4, 65535), 323: (4, 65535), 259: (3, 8)}, ones),
            "4294836325 bytes to decode it, limit 536870912",
        ),
        "deflate bomb": (tiff_bytes(bomb, deflated), "damaged"),
        "jpeg in strip": (tiff_bytes(page_tags(16, 16, len(huge_jpeg), t259=(3, 7)), huge_jpeg), "declares 65500"),
        "j2k in strip": (tiff_bytes(page_tags(16, 16, len(codestream), t259=(3, 34712)), codestream), "declares 65536"),
        "ccitt": (tiff_bytes(good | {259: (3, 4)}, ones), "CCITTFAX4, which is not read"),
        "volume": (tiff_bytes(good | tiled | {32997: (4, 2)}, ones), "volumes"),
        "cmyk": (tiff_bytes(good | {262: (3, 5), 277: (3, 4), 258: (3, (8,) * 4)}, ones * 4), "SEPARATED"),
        "complex": (tiff_bytes(good | {258: (3, 64), 339: (3, 6)}, ones * 8), "complex64"),
        "odd bits": (tiff_bytes(good | {258: (3, 77)}, ones), "77 bits"),
        "virtual stack": (tiff_bytes(good | {270: (2, text)}, ones), "declare 99999999 images"),
        "deep json": (tiff_bytes(good | {270: (2, b'{"shape":' + b"[" * 10**5)}, ones), "damaged"),
        "laughs": (tiff_bytes(good | {270: (2, xml)}, ones), "damaged"),
        "no iend.png": (imagecodecs.png_encode(noise(9, 9))[:-12], "truncated"),
        "65k.png": (png_bytes(65535, 65535, 8, 0, b"\0\1"), "4724319982 bytes to decode it, limit 536870912"),
        "ratio.png": (png_bytes(20000, 20000, 8, 0, b"\0\1"), "more than 50000:1"),
        "few rows.png": (png_bytes(3, 3, 8, 0, b"\0abc"), "damaged"),
        "many rows.png": (png_bytes(3, 3, 8, 0, b"\0abc" * 10**6), "more pixels than it declares"),
        "odd bits.png": (png_bytes(3, 3, 9, 0, b"\0abc"), "with 9 bits"),
        "header flip.png": (png_bytes(3, 3, 8, 0, b"\0abc" * 3).replace(b"\x08\0\0\0", b"\x08\0\0\7"), "IHDR"),
        "zero.png": (png_bytes(0, 3, 8, 0, b""), "0 x 3 px"),
        "65k.jpg": (huge_jpeg, "5148300590 bytes to decode it, limit 536870912"),
        "scans.jpg": (jpeg + b"\xff\xda" * 600, "scans"),
        "no frame.jpg": (b"\xff\xd8\xff\xe0\0\4ab" * 99, "without a frame header"),
    }
    sound = {
        "t": tiff_bytes(page_tags(10, 10, 100), ones),
        "p": imagecodecs.png_encode(noise(16, 16)),
        "z": tiff_bytes(page_tags(16, 16, 30, t259=(3, 8)), zlib.compress(bytes(256))),
    }
    for name, share in product(sound, (0.05, 0.3, 0.6, 0.9, 0.99)):
        made[f"{name} cut at {share}"] = (sound[name][: int(share * len(sound[name]))], "")
    return made


CHILD = """
import json, pathlib, resource, signal, sys
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from unetpipe.errors import SourceError
from unetpipe.geometry import Box
from unetpipe.sources.images import open_source
for name in json.load(sys.stdin):
    signal.alarm(10)
    try:
        try:
            source = open_source(pathlib.Path(name))
        except SourceError as error:
            if "planes; choose" not in str(error):
                raise
            source = open_source(pathlib.Path(name), plane=0)
        with source:
            height, width = source.shape
            for y in range(0, height, 256):
                block = source.read(Box(start=(y, 0), stop=(min(y + 256, height), width)))
                assert block.shape == (source.channels, min(256, height - y), width) and block.dtype == source.dtype
        print(json.dumps([name, "read", ""]))
    except SourceError as error:
        print(json.dumps([name, "refused", str(error)]))
# ru_maxrss would begin with what the parent had when it forked.
peak = pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(json.dumps(["", "peak", int(peak)]))
"""


def outcomes(paths: list[Path]) -> dict[str, tuple[str, Any]]:
    """What a process makes of each file: it must survive, print nothing else, take 10 s a file and 1 GB at most."""
    command = [sys.executable, "-W", "error", "-c", CHILD]
    names = json.dumps([str(path) for path in paths])
    root = Path(__file__).parents[2]
    done = subprocess.run(command, input=names, capture_output=True, text=True, timeout=300, cwd=root, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    lines = {Path(name).name: (kind, value) for name, kind, value in map(json.loads, done.stdout.splitlines())}
    assert lines.pop("")[1] < 10**9 / 1024
    for name, (kind, line) in lines.items():
        assert kind == "read" or (f"{name[-40:]}: " in line and len(line) <= 300 and line.isprintable()), line
    assert len(lines) == len(paths)
    return lines


def test_malformed_files_are_read_or_refused_in_one_line(data_folder: Path) -> None:
    found = outcomes(sorted((data_folder / "malformed" / "pillow").iterdir()))
    assert len(found) == 57
    assert Counter(kind for kind, _ in found.values()) == {"read": 11, "refused": 46}


def test_faults_are_refused_in_one_line(tmp_path: Path) -> None:
    made = faults()
    for name, (data, _) in made.items():
        (tmp_path / name).write_bytes(data)
    found = outcomes([tmp_path / name for name in made])
    for name, (kind, line) in found.items():
        assert kind == "refused" and made[name][1] in line, (name, kind, line)


def lying_frame(size: int) -> bytes:
    """A zstd frame that declares a content of this size, and ends at once."""
    return b"\x28\xb5\x2f\xfd\xc0\x58" + struct.pack("<Q", size) + b"\1\0\0"


def test_chunks_that_decode_to_more_than_they_should(tmp_path: Path) -> None:
    zeros = bytes(80 * 2**20)
    made: dict[str, tuple[Any, bytes]] = {
        "gzip": (GzipCodec(), gzip.compress(zeros, 1)),
        "zstd": (ZstdCodec(), imagecodecs.zstd_encode(zeros, level=1)),
        "blosc": (BloscCodec(), imagecodecs.blosc_encode(zeros, compressor="zstd", level=1)),
        "bz2": (numcodecs.BZ2(), bz2.compress(zeros, 1)),
        "lz4": (numcodecs.LZ4(), numcodecs.LZ4().encode(zeros)),
        "lzma": (numcodecs.LZMA(), lzma.compress(zeros, preset=0)),
    }
    made |= {f"zstd {size}": (ZstdCodec(), lying_frame(size)) for size in (2**20, 2**31, 2**40, 2**63, 2**64 - 1)}
    for name, (codec, data) in made.items():
        version = 2 if isinstance(codec, numcodecs.abc.Codec) else 3
        keys: dict[str, Any] = {"shape": (64, 64), "dtype": "u1", "chunks": (64, 64), "zarr_format": version}
        zarr.create_array(tmp_path / name, compressors=[codec], **keys)[...] = 1
        chunk = tmp_path / name / ("0.0" if version == 2 else "c/0/0")
        assert len(data) < len(zeros) / 30 and chunk.is_file()
        chunk.write_bytes(data)
    # The same inside a shard, whose table says where.
    array = zarr.create_array(tmp_path / "shard", shape=(64, 64), dtype="u1", chunks=(32, 32), shards=(64, 64))
    array[...] = 1
    shard, data = tmp_path / "shard" / "c" / "0" / "0", made["zstd"][1]
    table = struct.pack("<QQ", 0, len(data)) * 4
    shard.write_bytes(data + table + struct.pack("<I", google_crc32c.value(table)))
    found = outcomes([tmp_path / name for name in [*made, "shard"]])
    for name, (kind, line) in found.items():
        assert kind == "refused" and ("a chunk decodes to" in line or "which may hold" in line), (name, line)


def sound_files(folder: Path) -> list[bytes]:
    """Small sound files of every format and of most codecs."""
    image = noise(40, 50, 3)
    layouts: list[dict[str, Any]] = [
        {"compression": "lzw", "tile": (16, 16)},
        {"compression": "zlib", "predictor": 2, "rowsperstrip": 9, "byteorder": ">"},
        {"compression": "zstd", "bigtiff": True, "planarconfig": "separate"},
        {"compression": "jpeg", "tile": (16, 16)},
        {"compression": "jpeg2000", "tile": (32, 32)},
        {"compression": "webp", "rowsperstrip": 20},
        {"compression": "jpegxl", "rowsperstrip": 20},
        {"compression": "packbits", "metadata": {"axes": "YXS"}, "ome": True},
    ]
    made = []
    for options in layouts:
        stored = np.moveaxis(image, -1, 0) if "planarconfig" in options else image
        tifffile.imwrite(folder / "a.tif", stored, photometric="rgb", **options)
        made.append((folder / "a.tif").read_bytes())
    tifffile.imwrite(folder / "a.tif", noise(2, 20, 30), imagej=True)
    np.save(folder / "a.npy", image)
    made += [(folder / "a.tif").read_bytes(), (folder / "a.npy").read_bytes()]
    return [*made, imagecodecs.png_encode(image), imagecodecs.jpeg_encode(image), imagecodecs.bmp_encode(image)]


def spoilt(data: bytes, rng: np.random.Generator) -> Iterator[bytes]:
    """The file cut off, with bytes of its head, middle or tail rewritten, or with extreme numbers in its head."""
    for share in (0.1, 0.4, 0.8, 0.99):
        yield data[: int(share * len(data))]
    for start, stop in (
        (4, 64),
        (0, 700),
        (0, len(data)),
        (len(data) // 2, len(data)),
        (max(len(data) - 300, 0), len(data)),
    ):
        for count in (1, 3, 20):
            changed = bytearray(data)
            for position in rng.integers(start, min(stop, len(data)), count):
                changed[position] = rng.integers(256)
            yield bytes(changed)
    for extreme in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\1\0\0\0"):
        for position in rng.integers(4, min(len(data), 400), 4):
            yield data[:position] + extreme + data[position + 4 :]


def test_spoilt_files_are_read_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    paths = []
    for data in sound_files(tmp_path):
        for changed in spoilt(data, rng):
            paths.append(tmp_path / f"spoilt {len(paths)}")
            paths[-1].write_bytes(changed)
    assert len(paths) > 400
    assert {kind for kind, _ in outcomes(paths).values()} == {"read", "refused"}


def test_a_file_that_shrinks_while_open(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(500, 500))
    with open_source(tmp_path / "a.tif") as source:
        os.truncate(tmp_path / "a.tif", 1000)
        with pytest.raises(SourceError, match=r"a\.tif: is damaged"):
            whole(source)

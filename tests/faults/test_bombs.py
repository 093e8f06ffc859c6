"""Small files that would become large: refused in one line, by a process that has little memory."""

import gzip
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from zarr.codecs import GzipCodec

from imagefiles import noise, page_tags, png_bytes, tiff_bytes
from unetpipe.specs import IngestSpec
from unetpipe.steps.ingest import ingest

# Of address space: a stage starts with a good half of it.
LIMIT_KB = 2_000_000
MAX_LINE = 300


def bombs() -> dict[str, bytes]:
    """Images, and an annotation, of some kilobytes."""
    ones, good = bytes(100), page_tags(10, 10, 100)
    deflated = zlib.compress(bytes(200 * 2**20), 9)
    jpeg = imagecodecs.jpeg_encode(noise(16, 16))
    frame = jpeg.index(b"\xff\xc0") + 5
    codestream = bytearray(imagecodecs.jpeg2k_encode(noise(16, 16), codecformat="j2k"))
    codestream[8:16] = b"\0\1\0\0\0\1\0\0"
    laughs = "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(12))
    xml = f'<!DOCTYPE x [<!ENTITY a "lol">{laughs}]><OME>&m;</OME>'.encode() + b"\0"
    many = b"".join(struct.pack("<HHHIII", 1, 256, 4, 1, 1, 8 + 18 * i + 18) for i in range(100_001))
    return {
        "deflate.tif": tiff_bytes(page_tags(64, 64, len(deflated), t259=(3, 8)), deflated),
        "wide.tif": tiff_bytes(page_tags(65535, 65535, 100, t259=(3, 8)), ones),
        "tiles.tif": tiff_bytes(good | {322: (4, 65535), 323: (4, 65535), 259: (3, 8)}, ones),
        "pages.tif": b"II*\0" + struct.pack("<I", 8) + many,
        "laughs.tif": tiff_bytes(good | {270: (2, xml)}, ones),
        "strip.tif": tiff_bytes(page_tags(16, 16, len(codestream), t259=(3, 34712)), codestream),
        "wide.png": png_bytes(20000, 20000, 8, 0, b"\0\1"),
        "wide.jpg": jpeg[:frame] + b"\xff\xdc\xff\xdc" + jpeg[frame + 4 :],
        "blanks.json": gzip.compress(b" " * 2**27),
        "chunk.zarr": gzip.compress(bytes(80 * 2**20)),
    }


BOMBS = bombs()


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.faults) if i else n for i, n in enumerate(BOMBS)])
def test_bombs(tmp_path: Path, name: str) -> None:
    """Small files that would become gigabytes: refused in one line, with 2 GB of address space."""
    path, output = tmp_path / name, tmp_path / "out" / "x.json"
    command = ["ingest", str(path)]
    if name.endswith(".zarr"):
        zarr.create_array(path, shape=(64, 64), dtype="u1", chunks=(64, 64), compressors=[GzipCodec()])[...] = 1
        (path / "c" / "0" / "0").write_bytes(BOMBS[name])
    else:
        path.write_bytes(BOMBS[name])
    if name.endswith(".json"):
        tifffile.imwrite(tmp_path / "image.tif", np.arange(100, dtype=np.uint8).reshape(10, 10))
        image = tmp_path / "images" / "x.json"
        ingest(tmp_path / "image.tif", output=image, spec=IngestSpec(), code="x@1")
        command = ["annotate", str(path), str(image)]
    limited = ["sh", "-c", f'ulimit -v {LIMIT_KB}; exec "$@"', "sh", sys.executable, "-m", "unetpipe", *command]
    ended = subprocess.run([*limited, "--output", str(output)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert name in line and "memory" not in line and len(line) <= MAX_LINE
    assert not output.exists()

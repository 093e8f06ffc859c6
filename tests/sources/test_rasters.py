"""PNG, JPEG and BMP against the pixels that were written."""

import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from imagefiles import noise, png_bytes, read, refused
from unetpipe.errors import SourceError
from unetpipe.geometry import Box
from unetpipe.sources.annexes import exif_orientation
from unetpipe.sources.images import open_source


@pytest.mark.parametrize(("samples", "kept"), [(1, 1), (2, 1), (3, 3), (4, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png(tmp_path: Path, samples: int, kept: int, dtype: Any) -> None:
    image = noise(samples, 31, 22, dtype=dtype)
    stored = np.ascontiguousarray(np.moveaxis(image, 0, -1))
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(stored if samples > 1 else stored[..., 0]))
    np.testing.assert_array_equal(read(tmp_path / "a.png"), image[:kept])
    with open_source(tmp_path / "a.png") as source:
        assert source.pixel_sides_um is None


@pytest.mark.parametrize(
    ("bits", "row", "indices"), [(1, b"\xa0", [1, 0, 1]), (2, b"\x1c", [0, 1, 3]), (4, b"\x12\x30", [1, 2, 3])]
)
def test_png_palette_and_few_bits(tmp_path: Path, bits: int, row: bytes, indices: list[int]) -> None:
    table = noise(2**bits, 3)
    extra = ((b"PLTE", table.tobytes()), (b"tRNS", b"\0\1"))
    (tmp_path / "a.png").write_bytes(png_bytes(1, 3, bits, 3, b"\0" + row, *extra))
    np.testing.assert_array_equal(read(tmp_path / "a.png")[:, 0], table[indices].T)
    assert read(tmp_path / "a.png", palette="indices").tolist() == [[indices]]
    (tmp_path / "g.png").write_bytes(png_bytes(1, 3, bits, 0, b"\0" + row))
    assert read(tmp_path / "g.png", palette="indices").tolist() == [[indices]]
    assert read(tmp_path / "g.png").tolist() == [[[i * 255 // (2**bits - 1) for i in indices]]]


def test_png_index_without_a_colour(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_bytes(1, 2, 8, 3, b"\0\1\2", (b"PLTE", b"abcdef")))
    assert read(tmp_path / "a.png", palette="indices").tolist() == [[[1, 2]]]
    with pytest.raises(SourceError, match=r"a\.png: is damaged"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3)])
def test_jpeg(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = np.full(shape, 77, np.uint8)
    data = imagecodecs.jpeg_encode(image, level=98)
    (tmp_path / "a.jpg").write_bytes(data)
    pixels = read(tmp_path / "a.jpg")
    assert pixels.shape == (len(shape) * 2 - 3, 40, 50)
    assert np.abs(pixels.astype(int) - 77).max() <= 2
    for stop in (len(data) - 2, len(data) // 2, 30):
        (tmp_path / "b.jpg").write_bytes(data[:stop])
        with pytest.raises(SourceError, match=r"b\.jpg: is"):
            read(tmp_path / "b.jpg")


# --- BMP ---------------------------------------------------------------------------------------------------------


def bmp_bytes(width: int, height: int, bits: int, rows: list[bytes], palette: bytes = b"", core: bool = False) -> bytes:
    """A BMP of rows in the order of the file, filled up to four bytes."""
    if core:
        head = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, 0, 2835, 2835, 0, 0)
    pixels = b"".join(row + bytes(-len(row) % 4) for row in rows)
    start = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + head + palette + pixels


@pytest.mark.parametrize("core", [False, True])
@pytest.mark.parametrize(
    ("bits", "row", "indices"),
    [(1, b"\xa0", [1, 0, 1]), (4, b"\x12\x30", [1, 2, 3]), (8, b"\x07\x00\xff", [7, 0, 255])],
)
def test_bmp_of_a_palette(tmp_path: Path, bits: int, row: bytes, indices: list[int], core: bool) -> None:
    table = noise(2**bits, 3)
    width = 3 if core else 4
    blue_first = np.zeros((2**bits, width), np.uint8)
    blue_first[:, 2::-1] = table
    (tmp_path / "a.bmp").write_bytes(bmp_bytes(3, 1, bits, [row], blue_first.tobytes(), core))
    np.testing.assert_array_equal(read(tmp_path / "a.bmp")[:, 0], table[indices].T)
    assert read(tmp_path / "a.bmp", palette="indices").tolist() == [[indices]]
    blue_first[:, :3] = table[:, :1]
    (tmp_path / "g.bmp").write_bytes(bmp_bytes(3, 1, bits, [row], blue_first.tobytes(), core))
    np.testing.assert_array_equal(read(tmp_path / "g.bmp")[:, 0], table[indices, 0][None])


@pytest.mark.parametrize("bits", [24, 32])
@pytest.mark.parametrize("upwards", [True, False])
def test_bmp_of_colours(tmp_path: Path, bits: int, upwards: bool) -> None:
    image = noise(7, 5, 3)
    stored = np.full((7, 5, bits // 8), 99, np.uint8)
    stored[..., 2::-1] = image
    rows = [row.tobytes() for row in (stored[::-1] if upwards else stored)]
    data = bmp_bytes(5, 7 if upwards else -7, bits, rows)
    (tmp_path / "a.bmp").write_bytes(data)
    np.testing.assert_array_equal(read(tmp_path / "a.bmp"), np.moveaxis(image, -1, 0))


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (28, struct.pack("<H", 16), "16 bits"),
        (30, struct.pack("<I", 1), "compression 1"),
        (18, struct.pack("<i", 10**6), "truncated"),
        (22, struct.pack("<i", 0), "0 x 5 px"),
        (18, struct.pack("<i", -5), "px"),
        (10, struct.pack("<I", 2**31), "truncated"),
    ],
)
def test_bmp_that_is_no_image(tmp_path: Path, at: int, value: bytes, said: str) -> None:
    data = bmp_bytes(5, 2, 24, [bytes(15)] * 2)
    (tmp_path / "a.bmp").write_bytes(data[:at] + value + data[at + len(value) :])
    assert said in refused(tmp_path / "a.bmp")
    for stop in (10, 30, 53, len(data) - 1):
        (tmp_path / "a.bmp").write_bytes(data[:stop])
        assert "is damaged" in refused(tmp_path / "a.bmp")


# --- what stands beside the pixels -------------------------------------------------------------------------------


def exif(orientation: int, order: str) -> bytes:
    """An EXIF block with an orientation behind another tag."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    entries = struct.pack(order + "HHIH2x", 271, 3, 1, 9) + struct.pack(order + "HHIH2x", 274, 3, 1, orientation)
    return head + struct.pack(order + "IH", 8, 2) + entries + bytes(4)


UPRIGHT = {
    2: lambda p: p[:, :, ::-1],
    3: lambda p: p[:, ::-1, ::-1],
    4: lambda p: p[:, ::-1],
    5: lambda p: p.transpose(0, 2, 1),
    6: lambda p: np.rot90(p, -1, (1, 2)),
    7: lambda p: np.rot90(p.transpose(0, 2, 1), 2, (1, 2)),
    8: lambda p: np.rot90(p, 1, (1, 2)),
}


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_orientation_is_applied(tmp_path: Path, order: str) -> None:
    image = noise(20, 30, 3)
    jpeg, png = imagecodecs.jpeg_encode(image, level=95), imagecodecs.png_encode(image)
    (tmp_path / "a.jpg").write_bytes(jpeg)
    (tmp_path / "a.png").write_bytes(png)
    stored = {name: read(tmp_path / name) for name in ("a.jpg", "a.png")}
    for orientation in (*UPRIGHT, 1, 9):
        block = exif(orientation, order)
        app = b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block
        (tmp_path / "a.jpg").write_bytes(jpeg[:2] + app + jpeg[2:])
        chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
        (tmp_path / "a.png").write_bytes(png[:33] + chunk + png[33:])
        for name, pixels in stored.items():
            expected = UPRIGHT.get(orientation, lambda p: p)(pixels)
            np.testing.assert_array_equal(read(tmp_path / name), expected)
            with open_source(tmp_path / name) as source:
                box = Box(start=(3, 5), stop=(9, 18))
                np.testing.assert_array_equal(source.read(box), expected[:, 3:9, 5:18])


@pytest.mark.parametrize(
    "block", [b"", b"II", b"II*\0", b"XX*\0\x08\0\0\0", b"II*\0\xff\xff\xff\xff\1\0", exif(6, "<")[:25]]
)
def test_a_damaged_exif_block_turns_nothing(block: bytes) -> None:
    assert exif_orientation(block) == 1


@pytest.mark.parametrize(
    ("unit", "across", "down", "sides"),
    [
        (2, 20000, 20000, (0.5, 0.5)),
        (2, 20000, 40000, (0.25, 0.5)),
        (1, 50800, 50800, (0.5, 0.5)),
        (1, 72, 72, None),
        (1, 1200, 1200, None),
        (0, 50800, 50800, None),
        (2, 0, 0, None),
    ],
)
def test_density_tells_the_pixel_size(
    tmp_path: Path, unit: int, across: int, down: int, sides: tuple[float, float] | None
) -> None:
    jpeg, png = imagecodecs.jpeg_encode(noise(9, 9)), imagecodecs.png_encode(noise(9, 9))
    jfif = b"JFIF\0" + struct.pack(">HBHHBB", 0x102, unit, across, down, 0, 0)
    rest = 4 + int.from_bytes(jpeg[4:6], "big") if jpeg[2:4] == b"\xff\xe0" else 2
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0" + struct.pack(">H", len(jfif) + 2) + jfif + jpeg[rest:])
    metre = {1: 1 / 0.0254, 2: 100, 0: 1}[unit]
    body = b"pHYs" + struct.pack(">IIB", round(across * metre), round(down * metre), int(unit > 0))
    chunk = struct.pack(">I", 9) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "a.png").write_bytes(png[:33] + chunk + png[33:])
    for name in ("a.jpg", "a.png"):
        with open_source(tmp_path / name) as source:
            assert source.pixel_sides_um == (None if sides is None else pytest.approx(sides))
    spoilt = chunk[:-1] + bytes([chunk[-1] ^ 1])
    (tmp_path / "a.png").write_bytes(png[:33] + spoilt + png[33:])
    with open_source(tmp_path / "a.png") as source:
        assert source.pixel_sides_um is None


def test_density_of_a_bmp(tmp_path: Path) -> None:
    data = bytearray(bmp_bytes(2, 1, 24, [b"abcdef"]))
    data[38:46] = struct.pack("<ii", 4_000_000, 2_000_000)
    (tmp_path / "a.bmp").write_bytes(data)
    with open_source(tmp_path / "a.bmp") as source:
        assert source.pixel_sides_um == (0.5, 0.25)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "progressive.jpg"])
def test_pictures_that_cost_too_much_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    keys = {"progressive": True} if name[0] == "p" else {}
    Image.fromarray(image).save(tmp_path / name, **keys)
    stored = (tmp_path / name).stat().st_size
    cost = {"a.png": 1.1, "a.jpg": 1.2, "progressive.jpg": 3.2}[name] * image.nbytes
    cost = round(cost) + stored * (2 if name == "a.png" else 1)
    monkeypatch.setattr("unetpipe.sources.refusals.DECODE_LIMIT", cost)
    np.testing.assert_allclose(read(tmp_path / name), 0, atol=1)
    monkeypatch.setattr("unetpipe.sources.refusals.DECODE_LIMIT", cost - 1)
    assert "holds all its pixels in one piece: " in refused(tmp_path / name)

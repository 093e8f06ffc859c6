"""PNG and JPEG against the pixels that were written."""

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest

from imagefiles import noise, png_bytes, read
from unetpipe.errors import SourceError
from unetpipe.sources import open_source


@pytest.mark.parametrize(("samples", "kept"), [(1, 1), (2, 1), (3, 3), (4, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png(tmp_path: Path, samples: int, kept: int, dtype: Any) -> None:
    image = noise(samples, 31, 22, dtype=dtype)
    stored = np.ascontiguousarray(np.moveaxis(image, 0, -1))
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(stored if samples > 1 else stored[..., 0]))
    np.testing.assert_array_equal(read(tmp_path / "a.png"), image[:kept])
    with open_source(tmp_path / "a.png") as source:
        assert source.pixel_size_um is None


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

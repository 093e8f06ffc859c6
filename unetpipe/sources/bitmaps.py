"""BMP files: header, palette and pixels, without a library, since nothing in them is compressed."""

import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["BmpHeader", "bmp_header", "bmp_image"]

_BITS = (1, 4, 8, 24, 32)
_PLAIN, _MASKED = 0, 3
_BGR_MASKS = (0xFF0000, 0xFF00, 0xFF)


class BmpHeader(NamedTuple):
    """What a BMP declares of its pixels."""

    height: int
    """Rows in px."""
    width: int
    """Columns in px."""
    bits: int
    """Bits per pixel: 1, 4 or 8 of a palette's index, 24 or 32 of blue, green, red (and alpha)."""
    upwards: bool
    """Whether the last row comes first, as usual."""
    start: int
    """Position of the pixels in bytes."""
    palette: NDArray[np.uint8] | None
    """(colours, 3) red, green and blue, where there is one."""
    density: tuple[int, int]
    """Pixels per metre along x and y; 0 where it is not declared."""

    @property
    def stride(self) -> int:
        """Bytes of a row: a multiple of four."""
        return -(-self.width * self.bits // 32) * 4


def bmp_header(data: bytes) -> BmpHeader:
    """Header and palette of a BMP.

    Parameters
    ----------
    data : bytes
        The whole file.

    Raises
    ------
    ValueError
        If the file is shorter than it says, compressed, or of 16 bits per pixel.
    """
    start, size = struct.unpack_from("<II", data, 10)
    compression, used, entry = _PLAIN, 0, 4
    across, down = 0, 0
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        entry = 3
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
        across, down, used = struct.unpack_from("<iiI", data, 38)
    masked = compression == _MASKED and bits == 32 and struct.unpack_from("<III", data, 54) == _BGR_MASKS
    if bits not in _BITS or not (compression == _PLAIN or masked):
        raise ValueError(f"BMP of {bits} bits with compression {compression}; expected {_BITS} bits, uncompressed")
    palette = None
    if bits <= 8:
        count = min(used or 2**bits, 2**bits)
        table = np.frombuffer(data, np.uint8, count * entry, 14 + size).reshape(count, entry)
        palette = table[:, 2::-1]
    header = BmpHeader(abs(height), width, bits, height > 0, start, palette, (across, down))
    if min(header.height, width) > 0 and start + header.stride * header.height > len(data):
        needed = start + header.stride * header.height
        raise ValueError(f"truncated: its pixels end at byte {needed}, it has {len(data)}")
    return header


def bmp_image(data: bytes, header: BmpHeader) -> NDArray[Any]:
    """Pixels of a BMP.

    Parameters
    ----------
    data : bytes
        The whole file.
    header : BmpHeader
        Its header.

    Returns
    -------
    (Y, X, samples) uint8 array
        Indices of the palette where there is one, else red, green and blue.
    """
    count = header.stride * header.height
    rows = np.frombuffer(data, np.uint8, count, header.start).reshape(header.height, header.stride)
    rows = rows[::-1] if header.upwards else rows
    if header.bits < 8:
        parts = np.unpackbits(rows, axis=1).reshape(header.height, -1, header.bits)
        return np.packbits(parts, axis=2)[:, : header.width] >> (8 - header.bits)
    pixels = rows[:, : header.width * header.bits // 8].reshape(header.height, header.width, -1)
    return pixels if header.bits == 8 else pixels[..., 2::-1]

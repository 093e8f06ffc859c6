"""Headers of JPEG and JPEG 2000 code streams, read before a decoder believes them, and their colour space."""

import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["CodeFrame", "jpeg2000_frame", "jpeg_frame", "rgb_of_ycbcr"]

_SCAN_LIMIT = 500


class CodeFrame(NamedTuple):
    """What the header of a JPEG or JPEG 2000 code stream declares."""

    height: int
    """Rows in px."""
    width: int
    """Columns in px."""
    components: int
    """Samples per pixel."""
    bits: int
    """Bits per sample."""
    process: int
    """JPEG: second byte of the frame marker, 0xC0 baseline, 0xC2 progressive. JPEG 2000: 1 if subsampled, else 0."""
    end: int
    """Position behind the header."""

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded image."""
        return self.height * self.width * self.components * (-(-self.bits // 8))


def jpeg_frame(data: bytes) -> CodeFrame:
    """Frame header (SOF) of a JPEG stream, found by walking its markers.

    Parameters
    ----------
    data : bytes
        The stream from its start, tables or not.

    Raises
    ------
    ValueError
        If there is no frame header before the first scan, or over 500 scans (which stall decoders).

    References
    ----------
    ITU-T T.81 (1992), annex B.
    """
    position = data.find(b"\xff")
    while 0 <= position < len(data) - 9:
        marker = data[position + 1]
        if marker == 0xDA:
            break
        if marker == 0xFF:
            position += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:
            position += 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, components = struct.unpack_from(">BHHB", data, position + 4)
            if data.count(b"\xff\xda", position) > _SCAN_LIMIT:
                raise ValueError(f"more than {_SCAN_LIMIT} JPEG scans")
            return CodeFrame(height, width, components, bits, marker, position + 10)
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        # Decoders skip what stands between segments, and broken files have such bytes.
        position = data.find(b"\xff", position)
    raise ValueError("JPEG stream without a frame header")


def jpeg2000_frame(data: bytes) -> CodeFrame:
    """Size header (SIZ) of a JPEG 2000 code stream, bare or inside a JP2 file.

    Parameters
    ----------
    data : bytes
        The stream from its start.

    Raises
    ------
    ValueError
        If there is no size header in the first 64 KiB, or it has no component.

    References
    ----------
    ITU-T T.800 (2002), annex A.5.1.
    """
    start = data.find(b"\xff\x4f\xff\x51", 0, 65536)
    if start < 0 or len(data) < start + 45:
        raise ValueError("JPEG 2000 stream without a size header")
    x1, y1, x0, y0 = struct.unpack_from(">IIII", data, start + 8)
    components = int.from_bytes(data[start + 40 : start + 42], "big")
    parts = data[start + 42 : start + 42 + 3 * components]
    if not components or len(parts) < 3 * components:
        raise ValueError("JPEG 2000 size header is cut off")
    bits = max(part & 127 for part in parts[::3]) + 1
    subsampled = any(part != 1 for i, part in enumerate(parts) if i % 3)
    return CodeFrame(max(y1 - y0, 0), max(x1 - x0, 0), components, bits, int(subsampled), start + 42 + len(parts))


def rgb_of_ycbcr(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """RGB of full-range YCbCr, as Aperio stores it in JPEG 2000 tiles.

    Parameters
    ----------
    pixels : (Y, X, 3) array
        Y, Cb and Cr in 0 to 255.

    Returns
    -------
    (Y, X, 3) uint8 array
        Red, green and blue, rounded and clipped.

    References
    ----------
    ITU-T T.871 (2011), clause 7.

    Examples
    --------
    >>> rgb_of_ycbcr(np.array([[[100, 128, 228]]])).tolist()
    [[[240, 29, 100]]]
    """
    y, cb, cr = np.moveaxis(pixels.astype(np.float32), -1, 0)
    red, blue = y + 1.402 * (cr - 128), y + 1.772 * (cb - 128)
    green = y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)
    rgb: NDArray[np.uint8] = np.rint(np.clip(np.stack([red, green, blue], -1), 0, 255)).astype(np.uint8)
    return rgb

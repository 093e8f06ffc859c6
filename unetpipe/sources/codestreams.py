"""Headers of JPEG, JPEG 2000, JPEG XL and WebP code streams, read before a decoder believes them."""

import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["CodeFrame", "jpeg2000_frame", "jpeg_frame", "jpegxl_frame", "rgb_of_ycbcr", "webp_frame"]

_SCAN_LIMIT = 500


class CodeFrame(NamedTuple):
    """What the header of a code stream declares."""

    height: int
    """Rows in px."""
    width: int
    """Columns in px."""
    components: int
    """Samples per pixel; 1 where the header does not tell."""
    bits: int
    """Bits per sample; 8 where the header does not tell."""
    process: int
    """JPEG: second byte of the frame marker, 0xC0 baseline, 0xC2 progressive. JPEG 2000: 1 if subsampled. Else 0."""
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


def webp_frame(data: bytes) -> CodeFrame:
    """Size in the header of a WebP file.

    Parameters
    ----------
    data : bytes
        The file from its start.

    Raises
    ------
    ValueError
        If it has no such header, or holds an animation.

    References
    ----------
    RFC 9649 (2024), sections 2.5 to 2.7; RFC 6386 (2011), section 9.1.

    Examples
    --------
    >>> webp_frame(b"RIFF    WEBPVP8X    " + bytes([0, 0, 0, 0, 9, 0, 0, 4, 0, 0]))[:2]
    (5, 10)
    """
    kind, body = data[12:16], data[20:30]
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(body) < 10:
        raise ValueError("WebP stream without a header")
    if kind == b"VP8X" and not body[0] & 2:
        width, height = (int.from_bytes(body[i : i + 3], "little") + 1 for i in (4, 7))
    elif kind == b"VP8L" and body[0] == 0x2F:
        packed = int.from_bytes(body[1:5], "little")
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(body[i : i + 2], "little") & 0x3FFF for i in (6, 8))
    else:
        raise ValueError(f"WebP stream of kind {kind!r}: expected one still picture")
    return CodeFrame(height, width, 3, 8, 0, 30)


# Sides as numerators and denominators of the width over the height, by the ratio's number.
_JPEGXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def jpegxl_frame(data: bytes) -> CodeFrame:
    """Size in the header of a JPEG XL code stream, bare or in its container.

    Parameters
    ----------
    data : bytes
        The stream from its start.

    Raises
    ------
    ValueError
        If it has no such header, or has a preview or an animation.

    References
    ----------
    ISO/IEC 18181-1 (2022), annex D; ISO/IEC 18181-2 (2021), clause 9.

    Examples
    --------
    >>> jpegxl_frame(bytes([0xFF, 0x0A, 0b1_00011_1, 0b1_00]))[:2]
    (32, 32)
    """
    start = 0
    if data[4:12] == b"JXL \r\n\x87\n":
        box = next((i for i in (data.find(b"jxlc", 12, 65536), data.find(b"jxlp", 12, 65536)) if i > 0), len(data))
        start = box + (8 if data[box : box + 4] == b"jxlp" else 4)
    if data[start : start + 2] != b"\xff\x0a":
        raise ValueError("JPEG XL stream without a header")
    bits = int.from_bytes(data[start + 2 : start + 34], "little")

    def take(count: int) -> int:
        """The next bits as a number."""
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    def side(small: int) -> int:
        """One side in px."""
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    def size() -> tuple[int, int]:
        """Height and width in px."""
        small = take(1)
        height, ratio = side(small), take(3)
        over, under = _JPEGXL_RATIOS[ratio - 1]
        return height, height * over // under if ratio else side(small)

    height, width = size()
    if not take(1) and take(1):
        take(3)
        if take(1):
            size()
        if take(2):
            raise ValueError("JPEG XL stream with a preview or an animation: expected one still picture")
    return CodeFrame(height, width, 1, 8, 0, start + 2)


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

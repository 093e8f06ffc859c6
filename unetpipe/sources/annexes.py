"""What JPEG, PNG and BMP files say beside their pixels: which way up the picture is, and how large a pixel is."""

import struct
from typing import Any

from numpy.typing import NDArray

__all__ = ["FLIPS", "exif_orientation", "jpeg_annex", "sides_of_density", "upright"]

FLIPS = {
    2: (False, True, False),
    3: (True, True, False),
    4: (True, False, False),
    5: (False, False, True),
    6: (True, False, True),
    7: (True, True, True),
    8: (False, True, True),
}
"""By Orientation: whether stored rows run upwards, stored columns leftwards, and rows are columns (applied last)."""

# Finer than any printer or screen: 2540 per inch.
_FINE_UM = 10.0
_ORIENTATION = 274


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """A picture the right way up.

    Parameters
    ----------
    pixels : (C, Y, X) array
        As stored.
    orientation : int
        1 to 8 as EXIF and TIFF have it; others are taken for 1.

    Returns
    -------
    (C, Y, X) or (C, X, Y) array
        A view.

    Examples
    --------
    >>> import numpy as np
    >>> upright(np.array([[[1, 2, 3]]]), 6).tolist()
    [[[1], [2], [3]]]
    """
    up, left, transposed = FLIPS.get(orientation, (False, False, False))
    turned = pixels[:, :: -1 if up else 1, :: -1 if left else 1]
    return turned.transpose(0, 2, 1) if transposed else turned


def sides_of_density(across: float, down: float, unit_um: float) -> tuple[float, float] | None:
    """Height and width in um of pixels of which so many fit into a unit.

    Parameters
    ----------
    across, down : float
        Pixels per unit along x and y.
    unit_um : float
        The unit in um; 0 where the file names none.

    Returns
    -------
    (float, float) or None
        None beyond 0.001 to 10 um: coarser ones are what printers and screens have.

    Examples
    --------
    >>> sides_of_density(4e6, 2e6, 1e6), sides_of_density(72, 72, 25400)
    ((0.5, 0.25), None)
    """
    if min(across, down, unit_um) <= 0:
        return None
    height, width = unit_um / down, unit_um / across
    return (height, width) if min(height, width) >= 0.001 and max(height, width) <= _FINE_UM else None


def jpeg_annex(data: bytes) -> tuple[int, tuple[float, float] | None]:
    """Orientation and pixel size of a JPEG file.

    Parameters
    ----------
    data : bytes
        The file, at least up to its first frame.

    Returns
    -------
    int
        The orientation in its EXIF block, 1 where there is none.
    (float, float) or None
        Height and width of a stored pixel in um, by its JFIF header (see `sides_of_density`).

    References
    ----------
    JFIF 1.02 (1992); CIPA DC-008 (EXIF).
    """
    orientation, sides, position = 1, None, 2
    while data[position : position + 1] == b"\xff" and 0xE0 <= data[position + 1] <= 0xEF:
        size = int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + size]
        if body.startswith(b"JFIF\0") and len(body) >= 12:
            unit, across, down = struct.unpack_from(">BHH", body, 7)
            sides = sides_of_density(across, down, {1: 25400.0, 2: 10000.0}.get(unit, 0.0))
        elif body.startswith(b"Exif\0\0"):
            orientation = exif_orientation(body[6:])
        position += 2 + max(size, 2)
    return orientation, sides


def exif_orientation(block: bytes) -> int:
    """The orientation in an EXIF block, 1 where it has none or is damaged.

    Parameters
    ----------
    block : bytes
        From its byte order, ``II`` or ``MM``, on.

    Examples
    --------
    >>> exif_orientation(b"II*\\0\\x08\\0\\0\\0\\x01\\0\\x12\\x01\\x03\\0\\x01\\0\\0\\0\\x06\\0\\0\\0")
    6
    """
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 10:
        return 1
    start = struct.unpack_from(order + "I", block, 4)[0]
    count = struct.unpack(order + "H", block[start : start + 2])[0] if start + 2 <= len(block) else 0
    entries = block[start + 2 : start + 2 + 12 * count]
    for code, _, _, value in struct.iter_unpack(order + "HHIH2x", entries[: len(entries) // 12 * 12]):
        if code == _ORIENTATION:
            return int(value) if 1 <= value <= 8 else 1
    return 1

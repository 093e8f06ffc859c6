"""What every reader needs: one-line refusals, limits of size, and which plane is meant.

A reader believes no header: sizes are compared with limits and with the bytes at hand before anything is
allocated, and whatever a decoder raises becomes one `SourceError`.
"""

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import ParseError

from unetpipe.errors import GeometryError, SourceError
from unetpipe.geometry import Box

__all__ = [
    "DECODE_LIMIT",
    "Palette",
    "check_box",
    "check_cost",
    "check_declared_size",
    "check_level",
    "chosen_plane",
    "damage_reported",
    "refusal",
]

Palette = Literal["colours", "indices"]

DECODE_LIMIT = 512 * 2**20
"""Most bytes of memory that decoding may take at once: a strip, a tile, a chunk, or a whole PNG or JPEG."""

# zstd stores 128 KiB of one value in 4 bytes; deflate reaches 1,032:1, JPEG and JPEG 2000 less than 3,000:1.
_RATIO_LIMIT = 50_000
_RATIO_FREE = 64 * 2**20

_ANEW = "copy it again, or export it anew"

# Decoders raise nearly anything on damaged input; this is every class that was seen or is documented.
_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LZMAError,
    LookupError,
    MemoryError,
    OSError,
    ParseError,
    RuntimeError,
    SyntaxError,
    SystemError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


def _printable(text: str) -> str:
    """One line of `text` without control characters and foreign surrogates."""
    return " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in text).split())


def refusal(path: Path, text: str) -> SourceError:
    """The error that says in one line why a file is not read.

    Parameters
    ----------
    path : Path
        The file; its path opens the message, shortened in the middle to 80 characters.
    text : str
        What is wrong and, behind a semicolon, what to do: where nothing is said, to copy the file again. What is wrong
        is cut so that the line has at most 300 characters.

    Examples
    --------
    >>> str(refusal(Path("a/slide.tif"), "is empty"))
    'a/slide.tif: is empty; copy it again, or export it anew'
    """
    name = _printable(str(path))
    name = name if len(name) <= 80 else f"{name[:27]}...{name[-50:]}"
    problem, semicolon, remedy = _printable(text).rpartition("; ") if "; " in text else (_printable(text), "; ", _ANEW)
    line, room = f"{name}: {problem}", 300 - len(semicolon) - len(remedy)
    return SourceError((line if len(line) <= room else f"{line[: room - 3]}...") + semicolon + remedy)


@contextmanager
def damage_reported(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises inside the block into one `SourceError` about `path`.

    Parameters
    ----------
    path : Path
        The file that is being read.

    Raises
    ------
    SourceError
        In place of any error of the decoders; a `SourceError` passes unchanged.
    """
    try:
        yield
    except SourceError:
        raise
    except MemoryError as error:
        raise refusal(path, "needs more memory than there is; is its header damaged?") from error
    except PermissionError as error:
        raise refusal(path, "may not be read: permission denied; ask its owner for the right to read it") from error
    except _DAMAGE as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise refusal(path, f"is damaged or not supported ({kind}{error})") from error


def check_cost(path: Path, what: str, *, decoded: int, stored: int, factor: float = 1.0) -> None:
    """Refuse what takes over 512 MiB of memory to decode, so that a process with all it holds else stays below 1 GB.

    Parameters
    ----------
    path : Path
        The file.
    what : str
        What is decoded at once and, behind a semicolon, what to do.
    decoded : int
        Its bytes when it is decoded.
    stored : int
        Its bytes as they are stored, which are in memory at the same time.
    factor : float
        Bytes that the decoder takes for each decoded one, the result included, as measured.

    Raises
    ------
    SourceError
        If it costs more.
    """
    cost = stored + round(factor * decoded)
    if cost > DECODE_LIMIT:
        problem, _, remedy = what.partition("; ")
        raise refusal(path, f"{problem}: {cost} bytes to decode it, limit {DECODE_LIMIT}; {remedy}")


def check_declared_size(path: Path, *, declared: int, stored: int) -> None:
    """Refuse an image that its file cannot hold: more than 64 MiB, and 50,000 times the bytes stored for it.

    Parameters
    ----------
    path : Path
        The file.
    declared : int
        Bytes of the decoded image, according to its header.
    stored : int
        Bytes of the file that encode it.

    Raises
    ------
    SourceError
        If no real codec compresses that much.
    """
    if declared > _RATIO_FREE and declared > _RATIO_LIMIT * stored:
        raise refusal(
            path,
            f"declares {declared} bytes of pixels, but {stored} bytes are stored for them: more than "
            f"{_RATIO_LIMIT}:1 is taken for a damaged or hostile header",
        )


def check_box(box: Box, shape: tuple[int, int]) -> None:
    """Refuse a box that is not inside an image.

    Parameters
    ----------
    box : Box
        What is to be read.
    shape : (int, int)
        Height and width of the image in px.

    Raises
    ------
    GeometryError
        If a pixel of the box is outside.
    """
    if box.clipped(shape) != box:
        raise GeometryError(f"box from {box.start} to {box.stop} reaches outside the image of {shape} px; clip it")


def check_level(path: Path, levels: Sequence[tuple[int, int]], level: int) -> None:
    """Refuse a level of a pyramid that is not there.

    Parameters
    ----------
    path : Path
        The file, for messages.
    levels : sequence of (int, int)
        Height and width of each level in px, finest first.
    level : int
        Which one is asked for.

    Raises
    ------
    SourceError
        If there is none of this number; the message lists those there are.
    """
    if not 0 <= level < len(levels):
        sizes = ", ".join(f"{i}: {height} x {width}" for i, (height, width) in enumerate(levels))
        raise refusal(path, f"has no level {level}; expected one of {sizes} px: correct the column level of the sheet")


def chosen_plane(path: Path, axes: Sequence[tuple[str, int]], plane: int | None) -> int:
    """Number of the plane that is asked for, held against those there are.

    Parameters
    ----------
    path : Path
        The file, for messages.
    axes : sequence of (str, int)
        Name and size of each axis but channel, y and x, slowest first: what planes count through.
    plane : int, optional
        Which one, counted from 0; may be left out where there is one only.

    Returns
    -------
    int
        The plane, 0 where there is one only.

    Raises
    ------
    SourceError
        If there are several and none is named, or if there is none of this number.

    Examples
    --------
    >>> chosen_plane(Path("a.tif"), [("t", 2), ("z", 5)], 7)
    7
    """
    count = math.prod(size for _, size in axes)
    if plane is None and count > 1:
        several = [f"{size} {name}" for name, size in axes if size > 1]
        order = " x ".join(several) + (", the last one fastest" if len(several) > 1 else "")
        raise refusal(path, f"holds {count} planes; choose one with plane = 0 to {count - 1} ({order})")
    if plane is not None and not 0 <= plane < count:
        raise refusal(path, f"has no plane {plane}; choose one of {count}, counted from 0")
    return plane or 0

"""Source images as they come, behind one lazy reader: TIFF, OME-TIFF, SVS, NDPI, PNG, JPEG, BMP, OME-Zarr.

`open_source` looks at the first bytes, not at the file's name, and reads headers only; `Source.read` decodes
what meets a box. Whatever is wrong with a file ends in one `SourceError` of one line.
"""

import errno
import stat
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from unetpipe.geometry import Box
from unetpipe.sources.arrays import ArraySource
from unetpipe.sources.ngff import is_zarr
from unetpipe.sources.openslides import SLIDE_SUFFIXES, OpenSlideSource
from unetpipe.sources.rasters import RasterSource
from unetpipe.sources.refusals import Palette, damage_reported, refusal
from unetpipe.sources.tiff import TiffSource

__all__ = ["IMAGE_SUFFIXES", "Source", "channel_index", "checked_image_block", "image_dtype", "open_source"]

_TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf2", ".tf8", ".svs", ".ndpi")
IMAGE_SUFFIXES = frozenset({*_TIFF_SUFFIXES, ".png", ".jpg", ".jpeg", ".bmp", ".npy", ".zarr", *SLIDE_SUFFIXES})
"""Ends of names that what is read here usually has; `open_source` itself minds only those for OpenSlide."""

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_IMAGE_DTYPES = {
    "u1": np.uint8,
    "u2": np.uint16,
    "i1": np.float32,
    "i2": np.float32,
    "f2": np.float32,
    "f4": np.float32,
    "f8": np.float32,
}


class Source(Protocol):
    """An open image file: one level of one plane, upright, without alpha, read box by box.

    It is a context manager; leaving it closes the file. It is not meant for several threads.
    """

    path: Path
    """The file."""
    shape: tuple[int, int]
    """Height and width of the open level in px."""
    channels: int
    """Number of channels."""
    dtype: np.dtype[Any]
    """As stored, but uint8 (0 and 1) for bool and float32 for half floats."""
    pixel_sides_um: tuple[float, float] | None
    """Height and width of a pixel of the finest level in um, where the file declares some that can be believed."""
    channel_names: tuple[str, ...]
    """One name per channel, or none at all where the file does not name them."""
    plane_axes: tuple[tuple[str, int], ...]
    """Name and size of each axis that planes count through, the last one fastest; none where there is one plane."""
    row_by_row: bool
    """Whether what is decoded at once reaches across the image, so that boxes are best read in raster order."""

    @property
    def levels(self) -> list[tuple[int, int]]:
        """Height and width in px of each level that the file has of this plane, finest first."""

    def read(self, box: Box) -> NDArray[Any]:
        """Pixels of a box of the open level.

        Parameters
        ----------
        box : Box
            What to read, inside the image.

        Returns
        -------
        (C, Y, X) array
            A new array of `dtype`.

        Raises
        ------
        GeometryError
            If the box reaches outside the image.
        SourceError
            If a segment that meets the box is damaged.
        """

    def close(self) -> None:
        """Close the file; later reads are errors."""

    def __enter__(self) -> Self:
        """This source."""

    def __exit__(self, *_: object) -> None:
        """Close the file."""


def open_source(path: Path, *, plane: int | None = None, level: int = 0, palette: Palette = "colours") -> Source:
    """Open an image file for reading; no pixel is decoded yet.

    Parameters
    ----------
    path : Path
        A TIFF (also BigTIFF, OME-TIFF, Aperio SVS, Hamamatsu NDPI), PNG, JPEG, BMP or NumPy file, told by its first
        bytes; the folder of an OME-Zarr image or a Zarr array; with OpenSlide installed, a slide of `SLIDE_SUFFIXES`.
    plane : int, optional
        Which z or time plane, counted from 0 in the order of the file; needed where there are several.
    level : int
        Which level of the file's pyramid, 0 the finest.
    palette : {"colours", "indices"}
        Whether the pixels of a palette image are its colours, RGB, or its indices, one channel: annotations are
        often stored as indices. With "indices", grey PNGs of 1, 2 or 4 bits keep their values; else they fill 0 to 255.

    Returns
    -------
    Source
        The main image.

    Raises
    ------
    SourceError
        If the file is missing, a directory, empty, unreadable, of another format, damaged or truncated, declares more
        than it can hold, has no such level, or holds several planes and none is named.

    Notes
    -----
    Files are not trusted. Before anything is allocated, the declared size is compared with the bytes at hand (at most
    50,000:1 above 64 MiB); decoding takes at most 512 MiB at once (a strip, tile or chunk, a whole PNG or JPEG); a TIFF
    has at most 100,000 pages in a chain without cycles, and all its strips or tiles lie inside the file. A TIFF that
    lacks a strip or tile is refused: a sparse file cannot be told from one whose writer was stopped.
    """
    with damage_reported(path):
        header = b"" if path.is_dir() and is_zarr(path) else _header(path)
    if not header or header.startswith(b"\x93NUMPY"):
        return ArraySource(path, plane=plane, level=level)
    if path.suffix.lower() in SLIDE_SUFFIXES:
        return OpenSlideSource(path, plane=plane, level=level)
    if header.startswith(_TIFF_MAGIC):
        return TiffSource(path, plane=plane, level=level, palette=palette)
    if not header.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM")):
        raise refusal(
            path,
            f"is of an unknown format (it starts with {header[:4].hex(' ')}); "
            "save it as TIFF (also OME-TIFF, SVS, NDPI), PNG, JPEG, BMP, OME-Zarr or NPY",
        )
    return RasterSource(path, plane=plane, level=level, palette=palette)


def _header(path: Path) -> bytes:
    """First bytes of a regular file that is not empty."""
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise refusal(path, "no such file; check the path") from error
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise refusal(path, "is a symbolic link that leads to itself; check the path") from error
    if stat.S_ISDIR(status.st_mode):
        raise refusal(path, "is a directory; name an image file, or the folder of a Zarr image")
    if not stat.S_ISREG(status.st_mode):
        raise refusal(path, "is a device or pipe; name an image file")
    if not status.st_size:
        raise refusal(path, "is empty (0 bytes)")
    with path.open("rb") as file:
        return file.read(8)


def channel_index(source: Source, wanted: int | str) -> int:
    """Number of a channel that is asked for by its number or name.

    Parameters
    ----------
    source : Source
        The open file.
    wanted : int or str
        Number from 0 on, or a name, spelt as in the file.

    Raises
    ------
    SourceError
        If there is no such channel, or if several have that name.
    """
    remedy = "correct the column channels of the sample sheet"
    if isinstance(wanted, int):
        if wanted < source.channels:
            return wanted
        raise refusal(source.path, f"expected channels 0 to {source.channels - 1}, came {wanted}; {remedy}")
    if source.channel_names.count(wanted) == 1:
        return source.channel_names.index(wanted)
    if not source.channel_names:
        raise refusal(source.path, f"does not name its channels, came {wanted!r}; give numbers from 0 on: {remedy}")
    names = ", ".join(source.channel_names)
    raise refusal(source.path, f"expected one of the channels {names:.120}, came {wanted!r:.40}; {remedy}")


def image_dtype(dtype: np.dtype[Any], path: Path) -> np.dtype[Any]:
    """Type in which pixels of `dtype` are kept as an image.

    Parameters
    ----------
    dtype : numpy.dtype
        `Source.dtype`.
    path : Path
        The file, for the message.

    Returns
    -------
    numpy.dtype
        uint8 and uint16 as they are; float32 for int8, int16 and all floats.

    Raises
    ------
    SourceError
        For integers of 32 or 64 bits, which hold labels or counts and would lose digits in float32.

    Examples
    --------
    >>> image_dtype(np.dtype(np.int16), Path("a.tif"))
    dtype('float32')
    """
    kept = _IMAGE_DTYPES.get(np.dtype(dtype).str[1:])
    if kept is None:
        raise refusal(path, f"holds {np.dtype(dtype)} values; save it with integers of 8 or 16 bits or with floats")
    return np.dtype(kept)


def checked_image_block(block: NDArray[Any], path: Path) -> NDArray[Any]:
    """A block of a source as image values, all finite.

    Parameters
    ----------
    block : array
        Any shape; what `Source.read` gave.
    path : Path
        The file, for the message.

    Returns
    -------
    array
        The same values as uint8, uint16 or float32 (see `image_dtype`); the block itself where nothing changes.

    Raises
    ------
    SourceError
        For other types, for NaN and infinity, and for float64 beyond the range of float32.

    Examples
    --------
    >>> checked_image_block(np.array([1.5]), Path("a.tif")).dtype
    dtype('float32')
    """
    dtype = image_dtype(block.dtype, path)
    with np.errstate(over="ignore"):
        values = block.astype(dtype, copy=False)
    if dtype.kind == "f" and not np.isfinite(values).all():
        count = int(values.size - np.isfinite(values).sum())
        raise refusal(path, f"holds {count} values that are NaN, infinite or beyond float32 in one block; replace them")
    return values

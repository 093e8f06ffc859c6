"""PNG, JPEG and BMP files as sources: images that are decoded whole."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from unetpipe.geometry import Box
from unetpipe.sources.annexes import FLIPS, exif_orientation, jpeg_annex, sides_of_density, upright
from unetpipe.sources.bitmaps import bmp_header, bmp_image
from unetpipe.sources.codestreams import jpeg_frame
from unetpipe.sources.refusals import (
    Palette,
    check_box,
    check_cost,
    check_declared_size,
    check_level,
    chosen_plane,
    damage_reported,
    refusal,
)

__all__ = ["RasterSource"]

_SLICE = 2**16
_TOO_LARGE = "holds all its pixels in one piece; convert it to a tiled TIFF"


class _PngHeader(NamedTuple):
    """What the IHDR chunk of a PNG declares."""

    width: int
    height: int
    bits: int
    colour: int
    """0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha."""

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded image."""
        return self.height * self.width * _PNG_SAMPLES[self.colour] * (2 if self.bits == 16 else 1)


_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_BITS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


def _png_header(data: bytes) -> _PngHeader:
    """IHDR of a PNG; ValueError where it is missing or not legal."""
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise ValueError("PNG without its header chunk")
    header = _PngHeader(*struct.unpack_from(">IIBB", data, 16))
    if zlib.crc32(data[12:29]) != int.from_bytes(data[29:33], "big"):
        raise ValueError("wrong check sum of the chunk IHDR")
    if header.bits not in _PNG_BITS.get(header.colour, ()) or data[26:29] not in (b"\0\0\0", b"\0\0\1"):
        raise ValueError(f"PNG of colour type {header.colour} with {header.bits} bits, methods {data[26:29].hex()}")
    return header


def _png_chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Name and body of the chunks that pixels depend on, after a look at their check sums."""
    name, position = b"", 8
    while name != b"IEND":
        start = position + 8
        stop = start + int.from_bytes(data[position : position + 4], "big")
        name, check = bytes(data[position + 4 : start]), data[stop : stop + 4]
        if len(check) < 4:
            raise ValueError("PNG is truncated")
        position = stop + 4
        if name in (b"PLTE", b"IDAT", b"IEND"):
            if zlib.crc32(data[start:stop], zlib.crc32(name)) != int.from_bytes(check, "big"):
                raise ValueError(f"wrong check sum of the chunk {name.decode()}")
            yield name, data[start:stop]


def _png_notes(data: memoryview) -> dict[bytes, bytes]:
    """Bodies of the chunks in front of the pixels that tell the pixel size and the orientation, if they are sound."""
    found, position = dict[bytes, bytes](), 8
    while position + 12 <= len(data) and (name := bytes(data[position + 4 : position + 8])) != b"IDAT":
        stop = position + 8 + int.from_bytes(data[position : position + 4], "big")
        body, check = data[position + 8 : stop], data[stop : stop + 4]
        if (name == b"eXIf" or (name == b"pHYs" and len(body) == 9)) and zlib.crc32(body, zlib.crc32(name)) == (
            int.from_bytes(check, "big")
        ):
            found[name] = bytes(body)
        position = stop + 4
    return found


def _check_inflates(pieces: list[memoryview], limit: int) -> None:
    """Refuse a zlib stream that is damaged, cut off or too long: of a wrong check sum libpng only prints a warning."""
    stream, total = zlib.decompressobj(), 0
    for part in (piece[i : i + _SLICE] for piece in pieces for i in range(0, len(piece), _SLICE)):
        rest: bytes | memoryview = part
        while rest and not stream.eof:
            total += len(stream.decompress(rest, 2**20))
            rest = stream.unconsumed_tail
            if total > limit:
                raise ValueError("PNG holds more pixels than it declares")
    if not stream.eof:
        raise ValueError("PNG is truncated inside its pixels")


def _png_image(data: bytes) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    """(Y, X) or (Y, X, samples) pixels of a PNG, and its (colours, 3) palette where the pixels are indices.

    The decoder gets a minimal PNG in which a palette image is declared grey: it returns indices, and it says
    nothing on stderr about chunks that do not matter here.
    """
    header, chunks = _png_header(data), list(_png_chunks(memoryview(data)))
    pixels = [body for name, body in chunks if name == b"IDAT"]
    # Two bytes per row for the filters of an interlaced image, which has up to 15/8 as many rows.
    _check_inflates(pixels, header.nbytes + 2 * header.height + 16)
    palette = b"".join(body for name, body in chunks if name == b"PLTE") if header.colour == 3 else None
    start = data[16:25] + (b"\0" if palette is not None else data[25:26]) + data[26:29]
    plain: list[bytes | memoryview] = [data[:8]]
    bodies: list[tuple[bytes, bytes | memoryview]] = [(b"IHDR", start), *((b"IDAT", body) for body in pixels)]
    for name, body in [*bodies, (b"IEND", b"")]:
        check = zlib.crc32(body, zlib.crc32(name))
        plain += [struct.pack(">I", len(body)), name, body, struct.pack(">I", check)]
    image: NDArray[Any] = np.asarray(imagecodecs.png_decode(b"".join(plain)))
    return image, None if palette is None else np.frombuffer(palette, np.uint8).reshape(-1, 3)


class RasterSource:
    """A PNG, JPEG or BMP as a source; the whole image is decoded at the first read.

    Parameters
    ----------
    path : Path
        The file.
    plane : int, optional
        0, for there is one only.
    level : int
        0, likewise.
    palette : {"colours", "indices"}
        Whether the pixels of a palette image are their colours (3 channels; 1 for a BMP of greys) or their indices
        (1 channel).
        With "indices", grey PNGs of 1, 2 or 4 bits keep their stored values too; else they fill 0 to 255.

    Raises
    ------
    SourceError
        If the header is damaged, or declares more than 512 MiB or than the file can hold.

    Notes
    -----
    Alpha is dropped. The orientation in an EXIF block is applied. A pixel size is that of the density which JFIF, a
    PNG's pHYs chunk or the BMP header declares, if it is 10 um at most: coarser ones are meant for printers.
    """

    shape: tuple[int, int]
    pixel_sides_um: tuple[float, float] | None = None
    channel_names: tuple[str, ...] = ()
    plane_axes: tuple[tuple[str, int], ...] = ()
    row_by_row = False

    def __init__(self, path: Path, *, plane: int | None, level: int, palette: Palette) -> None:
        self.path = path
        chosen_plane(path, [], plane)
        self._image: NDArray[Any] | None = None
        self._colours: NDArray[np.uint8] | None = None
        self._scale, self._orientation, self._factor = 1, 1, 1.0
        self._data: bytes = b""
        with damage_reported(path):
            check_cost(path, _TOO_LARGE, decoded=0, stored=path.stat().st_size)
            self._data = path.read_bytes()
            self._indices = palette == "indices"
            declare = {b"\x89P": self._declare_png, b"BM": self._declare_bmp}
            nbytes = declare.get(self._data[:2], self._declare_jpeg)()
        if FLIPS.get(self._orientation, (False, False, False))[2]:
            self.shape = (self.shape[1], self.shape[0])
            self.pixel_sides_um = self.pixel_sides_um and self.pixel_sides_um[::-1]
        if min(self.shape) < 1:
            raise refusal(path, f"declares an image of {self.shape[0]} x {self.shape[1]} px")
        # Of a PNG, the decoder gets a copy.
        stored = len(self._data) * (2 if self._data.startswith(b"\x89P") else 1)
        check_cost(path, _TOO_LARGE, decoded=nbytes, stored=stored, factor=self._factor)
        check_declared_size(path, declared=nbytes, stored=len(self._data))
        check_level(path, self.levels, level)

    @property
    def levels(self) -> list[tuple[int, int]]:
        """The image itself."""
        return [self.shape]

    def _declare_png(self) -> int:
        """Facts from the header of a PNG; bytes of the decoded image."""
        header = _png_header(self._data)
        self.shape = (header.height, header.width)
        self.dtype: np.dtype[Any] = np.dtype(np.uint16 if header.bits == 16 else np.uint8)
        self.channels = 3 if header.colour in (2, 6) or (header.colour == 3 and not self._indices) else 1
        # A decoder makes small values fill 0 to 255; indices, and grey values read as such, are scaled back.
        scaled = header.bits < 8 and (header.colour == 3 or self._indices)
        self._scale, self._factor = 255 // (2**header.bits - 1) if scaled else 1, 2.0 if scaled else 1.1
        notes = _png_notes(memoryview(self._data))
        self._orientation = exif_orientation(notes.get(b"eXIf", b""))
        across, down, unit = struct.unpack(">IIB", notes.get(b"pHYs", bytes(9)))
        self.pixel_sides_um = sides_of_density(across, down, 1e6 if unit == 1 else 0.0)
        return header.nbytes

    def _declare_bmp(self) -> int:
        """Facts from the header of a BMP; bytes of the decoded image."""
        self._bmp = bmp_header(self._data)
        self.shape, self.dtype = (self._bmp.height, self._bmp.width), np.dtype(np.uint8)
        palette = self._bmp.palette
        grey = self._indices or (palette is not None and bool((palette == palette[:, :1]).all()))
        self.channels = 1 if palette is not None and grey else 3
        self.pixel_sides_um = sides_of_density(*self._bmp.density, 1e6)
        # Bits become bytes, and twice.
        self._factor = 1.0 if self._bmp.bits >= 8 else 24.0
        return self._bmp.stride * self._bmp.height

    def _declare_jpeg(self) -> int:
        """Facts from the frame header of a JPEG; bytes of the decoded image."""
        frame = jpeg_frame(self._data)
        if frame.bits != 8 or frame.components not in (1, 3) or frame.process not in (0xC0, 0xC1, 0xC2):
            raise refusal(
                self.path,
                f"is a JPEG with {frame.components} components of {frame.bits} bits (process {frame.process:#x}); "
                "expected a lossy grey or RGB one of 8 bits; convert it to TIFF or PNG",
            )
        # The decoder fills what is missing with grey and says nothing; the end marker cannot occur inside a scan.
        if self._data.find(b"\xff\xd9", frame.end) < 0:
            raise refusal(self.path, "is truncated: a JPEG without its end marker")
        self.shape = (frame.height, frame.width)
        self.dtype = np.dtype(np.uint8)
        self.channels = frame.components
        # A progressive one is put together as coefficients.
        self._factor = 3.2 if frame.process == 0xC2 else 1.2
        self._orientation, self.pixel_sides_um = jpeg_annex(self._data)
        return frame.nbytes

    def _decode(self) -> NDArray[Any]:
        """The whole image, (samples, Y, X), upright, palette indices as one sample."""
        colours: NDArray[np.uint8] | None = None
        if self._data.startswith(b"\x89P"):
            image, colours = _png_image(self._data)
        elif self._data.startswith(b"BM"):
            image, colours = bmp_image(self._data, self._bmp), self._bmp.palette
        else:
            image = np.asarray(imagecodecs.jpeg8_decode(self._data))
        image = upright(np.moveaxis(image[..., None] if image.ndim == 2 else image, 2, 0), self._orientation)
        if image.shape[1:] != self.shape or image.dtype != self.dtype:
            raise ValueError(f"decodes to {image.shape[1:]} {image.dtype}, declared {self.shape} {self.dtype}")
        self._colours = None if self._indices or colours is None else colours[:, : self.channels]
        if len(image) < self.channels and self._colours is None:
            raise ValueError(f"decodes to {len(image)} channels, declared {self.channels}")
        return image if self._scale == 1 else image // self._scale

    def read(self, box: Box) -> NDArray[Any]:
        """Pixels of a box, (C, Y, X); see `unetpipe.sources.Source`."""
        check_box(box, self.shape)
        rows, columns = box.slices
        with damage_reported(self.path):
            if self._image is None:
                if not self._data:
                    raise refusal(self.path, "is closed")
                self._image = self._decode()
                self._data = b""
            block = self._image[: self.channels, rows, columns]
            if self._colours is not None:
                block = np.moveaxis(self._colours[block[0]], 2, 0)
        return np.ascontiguousarray(block)

    def close(self) -> None:
        """Let go of the image."""
        self._image, self._data = None, b""

    def __enter__(self) -> "RasterSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""Slides by OpenSlide, an optional library: MRXS, SCN, BIF, VMS, VMU, CZI, Sakura and DICOM.

What tifffile reads (SVS, NDPI, generic TIFF) comes here only to be looked at twice.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.geometry import Box
from unetpipe.sources.refusals import check_box, check_level, chosen_plane, damage_reported, refusal
from unetpipe.sources.tiffpages import believed_sides

__all__ = ["SLIDE_SUFFIXES", "OpenSlideSource", "check_second_reader"]

SLIDE_SUFFIXES = (".mrxs", ".scn", ".bif", ".vms", ".vmu", ".dcm", ".svslide", ".czi")
"""Ends of names that mean a slide for OpenSlide: some of these formats begin as a TIFF or JPEG does."""


def _library(path: Path) -> Any:
    """The optional package."""
    try:
        import openslide
    except ModuleNotFoundError as error:
        raise refusal(
            path,
            f"is a slide of type {path.suffix}, which needs OpenSlide; install the extra: pip install "
            "'unetpipe[slides]', or from a checkout: pip install '.[slides]'",
        ) from error
    return openslide


# Two decoders of the same JPEG differ by a grey value or two.
_SIDE, _MOST = 64, 8.0


def check_second_reader(path: Path, shape: tuple[int, int], read: Callable[[Box], NDArray[Any]] | None) -> None:
    """Hold a scanner's TIFF against OpenSlide, where that is installed: its size, and the pixels in its middle.

    Parameters
    ----------
    path : Path
        An image file; those that OpenSlide knows no scanner of are not looked at.
    shape : (int, int)
        Height and width of its finest level in px, as the first reader has it.
    read : callable or None
        The first reader, which gives (3, Y, X) of a box of the finest level; None to compare the size only.

    Raises
    ------
    SourceError
        If the two readers disagree.
    """
    try:
        import openslide
    except ModuleNotFoundError:
        return
    try:
        # Of TIFF files by others it knows neither orientation nor ranges.
        if openslide.OpenSlide.detect_format(path) in (None, "generic-tiff"):
            return
        with openslide.OpenSlide(path) as slide:
            width, height = slide.dimensions
            y, x = height // 2, width // 2
            middle = Box(start=(y, x), stop=(y + _SIDE, x + _SIDE)).clipped((height, width))
            rgba = np.asarray(slide.read_region((x, y), 0, middle.shape[::-1]))
    except openslide.OpenSlideError:
        # What it cannot read it does not contradict.
        return
    remedy = "export it anew, as OME-TIFF"
    if (height, width) != shape:
        came = f"{shape[0]} x {shape[1]} px for tifffile, {height} x {width} px for OpenSlide"
        raise refusal(path, f"is read differently by two readers: {came}; {remedy}")
    if read is not None:
        theirs, seen = rgba[..., :3].transpose(2, 0, 1), rgba[..., 3] > 0
        apart = np.abs(read(middle).astype(float) - theirs)[:, seen]
        if apart.size and apart.mean() > _MOST:
            came = f"tifffile and OpenSlide differ by {apart.mean():.0f} grey values at y {y}, x {x}"
            raise refusal(path, f"is read differently by two readers: {came}; {remedy}")


class OpenSlideSource:
    """One level of a slide as a source of three channels.

    Parameters
    ----------
    path : Path
        The slide's first file.
    plane : int, optional
        0, for there is one only.
    level : int
        Which level, 0 the finest.

    Raises
    ------
    SourceError
        If OpenSlide is not installed or does not take the file, or if the level is not there or not a whole number of
        times smaller.

    Notes
    -----
    OpenSlide takes positions as whole pixels of the finest level; where those of another level lie between them, it
    interpolates, and pixels would depend on the box that they are read in.

    What the scanner left out is filled with the slide's background colour, white where it names none.
    """

    channels = 3
    channel_names: tuple[str, ...] = ()
    plane_axes: tuple[tuple[str, int], ...] = ()
    row_by_row = False
    dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __init__(self, path: Path, *, plane: int | None, level: int) -> None:
        self.path = path
        chosen_plane(path, [], plane)
        self._library = _library(path)
        self._slide = self._asked(lambda: self._library.OpenSlide(path))
        check_level(path, self.levels, level)
        self._level, self._step = level, round(self._slide.level_downsamples[level])
        if self._slide.level_downsamples[level] != self._step:
            raise refusal(
                path,
                f"has a level {level} that is {self._slide.level_downsamples[level]:.5g} times smaller; expected a "
                "whole number, since OpenSlide interpolates others: choose a finer level in the sheet, and "
                "ingest.pixel_size_um",
            )
        self.shape = self.levels[level]
        properties = self._slide.properties
        self._background = np.array([*bytes.fromhex(properties.get("openslide.background-color", "ffffff"))], np.uint8)
        across, down = (float(properties.get(f"openslide.mpp-{axis}", 0)) for axis in "xy")
        self.pixel_sides_um = believed_sides(down, across)

    @property
    def levels(self) -> list[tuple[int, int]]:
        """Height and width of each level in px; see `unetpipe.sources.Source`."""
        return [(int(height), int(width)) for width, height in self._slide.level_dimensions]

    def _asked(self, question: Any) -> Any:
        """The library's answer; its complaint as one line."""
        with damage_reported(self.path):
            try:
                return question()
            except self._library.OpenSlideError as error:
                raise refusal(self.path, f"is damaged or not supported (OpenSlide: {error})") from error

    def read(self, box: Box) -> NDArray[Any]:
        """Pixels of a box, (C, Y, X); see `unetpipe.sources.Source`."""
        check_box(box, self.shape)
        if self._slide is None:
            raise refusal(self.path, "is closed")
        (y, x), (height, width), step = box.start, box.shape, self._step
        if not height * width:
            return np.empty((3, height, width), np.uint8)
        rgba = self._asked(
            lambda: np.asarray(self._slide.read_region((x * step, y * step), self._level, (width, height)))
        )
        block = np.where(rgba[..., 3:] > 0, rgba[..., :3], self._background)
        return np.ascontiguousarray(block.transpose(2, 0, 1))

    def close(self) -> None:
        """Close the slide."""
        if self._slide is not None:
            self._slide.close()
        self._slide = None

    def __enter__(self) -> "OpenSlideSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

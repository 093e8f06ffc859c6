"""simulate: a synthetic micrograph of crowded cells, and its exact instances, as tiled TIFF files of any size."""

import logging
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from tifffile import TiffWriter

from unetpipe.errors import ConfigError, Interrupted
from unetpipe.geometry import Box
from unetpipe.manifests import sync_folder
from unetpipe.phantoms import phantom_image, phantom_labels
from unetpipe.signals import stop_asked

__all__ = ["simulate"]

TILE = 512
# Classic TIFF holds 4 GB and some readers only 2 GB; what may come near is written as BigTIFF.
CLASSIC_BYTES = 2 * 10**9

log = logging.getLogger(__name__)

Draw = Callable[[Box], NDArray[Any]]


def simulate(
    image: Path,
    annotation: Path | None,
    *,
    shape: tuple[int, int],
    seed: int,
    diameter_px: float,
    pixel_size_um: float,
) -> None:
    """Draw a synthetic micrograph of touching cells, and its exact instances if an annotation is wanted.

    Parameters
    ----------
    image, annotation : Path, Path or None
        Files to write; existing ones are replaced, missing folders are made.
    shape : (int, int)
        Height and width in px.
    seed : int
        Which image, 0 to 2^64 - 1.
    diameter_px : float
        Mean diameter of a cell, 8 to 4096 px.
    pixel_size_um : float
        Pixel size that the files declare, above 0 um.

    Raises
    ------
    ConfigError
        If a value is out of range, or both files are one.
    GeometryError
        If the shape has no pixel or too many.
    Interrupted
        If a stop was asked for; nothing is left behind.
    OSError
        If a file cannot be written, e.g. on a full disk; nothing is left behind.

    Writes
    ------
    image : TIFF file
        (Y, X) uint8, tiles of 512 px, deflate; BigTIFF above 2 GB of pixels. Equal arguments give equal bytes.
    annotation : TIFF file
        (Y, X) uint32 instances, 0 is background; written likewise.

    Notes
    -----
    Tiles are drawn one by one, so memory does not grow with the image. Both files get their names when both are
    complete; a process that is killed outright leaves at most hidden ``.partial`` files.
    """
    if not 0 < pixel_size_um < math.inf:
        raise ConfigError(f"pixel size of {pixel_size_um} um: expected a number above 0; change pixel_size_um")
    if image == annotation:
        raise ConfigError(f"{image}: expected two files, came one for image and annotation; rename one of them")

    def draw_image(box: Box) -> NDArray[Any]:
        return phantom_image(box, shape=shape, seed=seed, diameter_px=diameter_px)

    def draw_labels(box: Box) -> NDArray[Any]:
        return phantom_labels(box, shape=shape, seed=seed, diameter_px=diameter_px)

    # One pixel has all arguments checked before anything is written.
    draw_image(Box(start=(0, 0), stop=(1, 1)))
    files: list[tuple[Path, Draw, DTypeLike]] = [(image, draw_image, np.uint8)]
    if annotation is not None:
        files.append((annotation, draw_labels, np.uint32))
    partials = [path.with_name(f".{path.name}.{os.getpid()}.partial") for path, _, _ in files]
    try:
        for (path, draw, dtype), partial in zip(files, partials, strict=True):
            log.info("%s: drawing %d x %d px", path, *shape)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tiff(partial, draw, shape, np.dtype(dtype), pixel_size_um)
        for (path, _, _), partial in zip(files, partials, strict=True):
            partial.replace(path)
            sync_folder(path.parent)
    except OSError as error:
        # The writer's own errors name no file, and a person frees the disk that the named file is on.
        error.filename = error.filename or str(image)
        raise
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)


def write_tiff(path: Path, draw: Draw, shape: tuple[int, int], dtype: np.dtype[Any], pixel_size_um: float) -> None:
    """Write (Y, X) pixels tile by tile, and bring them to the disk."""
    per_cm = 1e4 / pixel_size_um
    is_big = shape[0] * shape[1] * dtype.itemsize > CLASSIC_BYTES
    with path.open("w+b") as file:
        with TiffWriter(file, bigtiff=is_big) as writer:
            writer.write(
                (draw(tile) for tile in iter_tiles(shape)),
                shape=shape,
                dtype=dtype,
                tile=(TILE, TILE),
                photometric="minisblack",
                compression="zlib",
                # The noise of a camera hardly compresses: higher levels take time and save nothing.
                compressionargs={"level": 1},
                maxworkers=1,
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                software="unetpipe",
                metadata=None,
            )
        file.flush()
        os.fsync(file.fileno())


def iter_tiles(shape: tuple[int, int]) -> Iterator[Box]:
    """Boxes of the tiles of an image in the order of the file, cut at its far edges."""
    for y in range(0, shape[0], TILE):
        for x in range(0, shape[1], TILE):
            if stop_asked():
                raise Interrupted("stopped on request; nothing was kept, the same command starts again")
            yield Box(start=(y, x), stop=(y + TILE, x + TILE)).clipped(shape)

"""Areas that a person has drawn around what matters: one region, painted where a box needs it."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetpipe.annotations.imagej import iter_imagej
from unetpipe.annotations.qupath import iter_qupath
from unetpipe.annotations.shapes import ClassNames, refused
from unetpipe.geometry import Box
from unetpipe.polygons import paint, polygons_of
from unetpipe.specs import IGNORE

__all__ = ["read_region"]

_INSIDE = 1


def read_region(path: Path, *, shape: tuple[int, int]) -> Callable[[Box], NDArray[np.bool_]]:
    """Read the areas of a file, whatever their names, as one region.

    Parameters
    ----------
    path : Path
        QuPath's GeoJSON, or ImageJ's ROIs (``.roi``, or a zip archive of them).
    shape : (int, int)
        Height and width of the image in px, on whose pixels the areas lie.

    Returns
    -------
    callable
        Gives the (Y, X) pixels of a box that belong to the region: those whose centre lies in an area, and in none
        whose class begins with "ignore".

    Raises
    ------
    AnnotationError
        If the file cannot be read, or no area meets the image.

    Notes
    -----
    Memory: the vertices, 16 bytes each, and the box that is painted. The rule is that of `paint`, so that the region
    does not depend on the boxes.
    """
    if path.is_dir():
        raise refused(path, "is a folder; name a file of areas: QuPath's GeoJSON or ImageJ's ROIs")
    names, notes = ClassNames(("outside", "region"), {}, other=_INSIDE), Counter[str]()
    with path.open("rb") as file:
        is_imagej = file.read(4) in (b"Iout", b"PK\3\4")
    found = (
        iter_imagej(path, names=names, notes=notes)
        if is_imagej
        else iter_qupath(path, names=names, objects="all", notes=notes)
    )
    # What is cut out lies on top.
    shapes = sorted(found, key=lambda shape: shape.value == IGNORE)
    polygons = polygons_of([part for one in shapes for part in one.parts])
    values = np.array([one.value != IGNORE for one in shapes for _ in one.parts], np.uint32)
    y0, x0, y1, x1 = polygons.bounds.T
    if not ((y0 < shape[0]) & (x0 < shape[1]) & (y1 > 0) & (x1 > 0) & (values > 0)).any():
        raise refused(
            path,
            f"expected areas on the image of {shape[0]} x {shape[1]} px, as QuPath's GeoJSON or ImageJ's ROIs, "
            f"{'all lie outside of it' if len(shapes) else 'came none'}",
        )
    order = np.arange(polygons.count)

    def inside(box: Box) -> NDArray[np.bool_]:
        canvas = np.zeros(box.shape, np.uint32)
        paint(canvas, polygons, box=box, order=order, values=values)
        return canvas > 0

    return inside

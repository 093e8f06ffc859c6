"""Any annotation file as instances and classes in boxes: maps as they are, shapes painted where a box needs them."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unetpipe.annotations.coco import iter_coco
from unetpipe.annotations.imagej import iter_imagej
from unetpipe.annotations.jsonitems import iter_items
from unetpipe.annotations.maps import Truth, open_map
from unetpipe.annotations.maskfolders import iter_masks
from unetpipe.annotations.qupath import iter_qupath
from unetpipe.annotations.shapes import MAX_VERTICES, ClassNames, Place, Shape, refused
from unetpipe.geometry import Box
from unetpipe.polygons import paint, polygons_of
from unetpipe.sources.images import open_source
from unetpipe.sources.ngff import is_zarr
from unetpipe.specs import IGNORE, AnnotateSpec

__all__ = ["ShapeTruth", "form_of", "open_truth"]

log = logging.getLogger(__name__)

Form = Literal["map", "masks", "coco", "qupath", "imagej"]
Axes = Sequence[tuple[str, int]]

_COCO_KEYS = {"images", "annotations", "categories"}


class ShapeTruth:
    """Shapes as instances and classes; memory: their vertices, and the box that is painted.

    Parameters
    ----------
    shapes : sequence of Shape
        In the order of the file.
    outside : {"background", "ignore"}
        What the pixels are that no shape covers.

    Notes
    -----
    Where shapes overlap, the smaller one lies on top, by its area; of two equal ones the later. Ignored regions lie on
    top of everything. A foreground shape is one instance, numbered from 1 in the order of the file; shapes of class 0
    say that nothing is there.
    """

    def __init__(self, shapes: Sequence[Shape], *, outside: Literal["background", "ignore"]) -> None:
        self.polygons = polygons_of([part for shape in shapes for part in shape.parts])
        classes = np.array([shape.value for shape in shapes], np.int64)
        areas = np.array([shape.area for shape in shapes], np.float64)
        parts = np.array([len(shape.parts) for shape in shapes], np.int64)
        owners = np.repeat(np.arange(len(shapes)), parts)
        # From the bottom to the top; a stable sort keeps the order of the file among equals.
        rank = np.empty(len(shapes), np.int64)
        rank[np.lexsort((np.arange(len(shapes)), -areas, classes == IGNORE))] = np.arange(len(shapes))
        self.order = np.argsort(rank[owners], kind="stable")
        self.values = (owners + 1).astype(np.uint32)
        is_object = (classes != 0) & (classes != IGNORE)
        empty = IGNORE if outside == "ignore" else 0
        self.class_of = np.concatenate([[empty], classes]).astype(np.uint8)
        self.number_of = np.concatenate([[0], np.where(is_object, np.cumsum(is_object), 0)]).astype(np.uint32)
        self.owners = owners
        self.crossing = np.zeros(self.polygons.count, np.bool_)

    @property
    def kind(self) -> str:
        """Shapes."""
        return "shapes"

    @property
    def count(self) -> int:
        """Number of instances that were drawn."""
        return int(self.number_of.max())

    def prepare(self, boxes: Sequence[Box]) -> None:
        """Nothing: shapes are painted when they are asked for."""

    def instances(self, box: Box) -> NDArray[np.uint32]:
        """(Y, X) instances of a box."""
        return self.number_of[self._painted(box)]

    def classes(self, box: Box) -> NDArray[np.uint8]:
        """(Y, X) classes of a box."""
        return self.class_of[self._painted(box)]

    def outside(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Shapes that reach beyond an image of (Y, X) px by half a pixel or more, and those that lie beyond it."""
        y0, x0, y1, x1 = self.polygons.bounds.T
        beyond = np.maximum.reduce([-y0, -x0, y1 - shape[0], x1 - shape[1]]) > 0.5
        apart = (y1 <= 0) | (x1 <= 0) | (y0 >= shape[0]) | (x0 >= shape[1])
        inside = np.zeros(self.class_of.size - 1, np.bool_)
        inside[self.owners[~apart]] = True
        return int(np.unique(self.owners[beyond]).size), int((~inside).sum())

    def _painted(self, box: Box) -> NDArray[np.uint32]:
        """(Y, X) number of the shape on top, counted from 1; 0 outside of all."""
        canvas = np.zeros(box.shape, np.uint32)
        self.crossing |= paint(canvas, self.polygons, box=box, order=self.order, values=self.values)
        return canvas


@contextmanager
def open_truth(
    path: Path, spec: AnnotateSpec, *, shape: tuple[int, int], image: str, axes: Axes = ()
) -> Iterator[Truth]:
    """Open an annotation file of any form.

    Parameters
    ----------
    path : Path
        An image file (values, a mask, class indices, colours), a folder of one mask per object, a COCO or GeoJSON file,
        ImageJ ROIs, or a TIFF with an ImageJ overlay; told by its content.
    spec : AnnotateSpec
        What it means.
    shape : (int, int)
        Height and width of the image in px.
    image : str
        File name of the image, which COCO files look up.
    axes : sequence of (str, int)
        What the planes of the image count through, the last one fastest; see `unetpipe.sources.Source`.

    Yields
    ------
    Truth

    Raises
    ------
    AnnotationError
        If the annotation cannot be read, or does not fit the image or the classes.
    SourceError
        If an image file is damaged.
    """
    form = form_of(path, spec)
    if form == "map":
        palette: Literal["colours", "indices"] = "indices" if spec.colours is None else "colours"
        with open_source(path, plane=spec.plane, palette=palette) as source:
            yield open_map(source, spec, shape)
        return
    truth = _drawn(path, spec, form, shape, image, axes)
    yield truth
    if count := int(np.unique(truth.owners[truth.crossing]).size):
        log.warning("%s: %d shapes cross themselves; what their outline runs around twice is left out", path, count)


def form_of(path: Path, spec: AnnotateSpec) -> Form:
    """What an annotation file is, by its first bytes or, of JSON, its first telling key.

    Raises
    ------
    AnnotationError
        If it is JSON but neither COCO nor GeoJSON.
    """
    try:
        # Who opens a pipe waits.
        if not path.is_file():
            return "masks" if path.is_dir() and not is_zarr(path) else "map"
        with path.open("rb") as file:
            start = file.read(64)
    except OSError:
        # Whatever is wrong, the reader of image files says it.
        return "map"
    if start[:4] == b"Iout" or start[:4] in (b"PK\3\4", b"PK\5\6"):
        return "imagej"
    if spec.overlay:
        return "imagej"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not (text.startswith((b"{", b"[")) or start[:2] == b"\x1f\x8b"):
        return "map"
    seen: list[str] = []
    for key, item in iter_items(path):
        if key in _COCO_KEYS:
            return "coco"
        if key in ("", "features") or (key == "type" and item in ("Feature", "FeatureCollection")):
            return "qupath"
        seen += [key] if key not in seen and len(seen) < 5 else []
    if text.startswith(b"["):
        return "qupath"
    shown = ", ".join(repr(key)[:30] for key in seen) or "none"
    raise refused(path, f"expected COCO (images, annotations, categories) or GeoJSON (features), came the keys {shown}")


def _drawn(path: Path, spec: AnnotateSpec, form: Form, shape: tuple[int, int], image: str, axes: Axes) -> ShapeTruth:
    """The shapes of a file, checked against the image and the classes."""
    names, notes = ClassNames(spec.class_names, spec.names or {}), Counter[str]()
    if form == "coco":
        found = iter_coco(path, image=image, shape=shape, names=names, notes=notes)
    elif form == "masks":
        found = iter_masks(path, spec, shape=shape, notes=notes)
    elif form == "qupath":
        found = iter_qupath(path, names=names, objects=spec.objects, notes=notes)
    else:
        found = iter_imagej(path, names=names, notes=notes)
    shapes = _of_plane(path, list(_bounded(path, found)), spec.plane, axes)
    names.check(path)
    truth = ShapeTruth(shapes, outside=spec.outside)
    cut, apart = truth.outside(shape)
    if shapes and apart == len(shapes):
        low, high = truth.polygons.bounds.min(axis=0), truth.polygons.bounds.max(axis=0)
        raise refused(
            path,
            f"all {apart} shapes lie outside the image of {shape[0]} x {shape[1]} px: y {low[0]:.0f} to {high[2]:.0f}, "
            f"x {low[1]:.0f} to {high[3]:.0f}; export them in pixels of the finest level of this image",
        )
    if cut:
        log.warning("%s: %d of %d shapes reach outside the image and were cut", path, cut, len(shapes))
    for note, count in notes.items():
        log.warning("%s: %d %s", path, count, note)
    return truth


def _bounded(path: Path, shapes: Iterator[Shape]) -> Iterator[Shape]:
    """The shapes, until they are too many."""
    total = 0
    for shape in shapes:
        total += sum(len(vertices) for vertices, _ in shape.parts)
        if total > MAX_VERTICES:
            raise refused(path, f"has more than {MAX_VERTICES} vertices; split the annotation, or save it as an image")
        yield shape


def _of_plane(path: Path, shapes: list[Shape], plane: int | None, axes: Axes) -> list[Shape]:
    """The shapes of the chosen plane, and those that belong to all planes."""
    places = {shape.plane for shape in shapes if shape.plane is not None}
    if plane is None and len(places) < 2:
        return shapes
    numbers = {place: _number(path, place, axes) for place in places}
    planes = sorted(set(numbers.values()))
    if plane is None:
        shown = f"{planes[0]} to {planes[-1]}"
        raise refused(
            path, f"holds shapes of {len(planes)} planes ({shown}); choose one with annotation_plane in the sheet"
        )
    kept = [shape for shape in shapes if shape.plane is None or numbers[shape.plane] == plane]
    if shapes and not kept:
        raise refused(
            path,
            f"has no shape in plane {plane}, but {len(shapes)} in others: {', '.join(map(str, planes))}; correct "
            "annotation_plane in the sheet, or name an empty file where nothing is to be found",
        )
    return kept


def _number(path: Path, place: Place, axes: Axes) -> int:
    """The number of a plane in an image whose planes count through the axes."""
    if isinstance(place, int):
        return place
    at, number = dict(zip("zt", place, strict=True)), 0
    several = {name: size for name, size in axes if size > 1}
    if not {"z", "t"} <= several.keys():
        if min(place) == 0:
            return max(place)
        raise refused(
            path, f"has shapes at z {at['z']}, t {at['t']}, but the image has no z and t; name the image they lie on"
        )
    for name, size in axes:
        if not 0 <= at.get(name, 0) < size:
            raise refused(path, f"has shapes at {name} {at[name]}, but the image has {size} {name}; name its own image")
        number = number * size + at.get(name, 0)
    return number

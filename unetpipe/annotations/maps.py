"""Annotations as images: one value per object, a mask, class indices or colours, read in boxes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unetpipe.annotations.shapes import refused
from unetpipe.errors import AnnotationError
from unetpipe.geometry import Box
from unetpipe.instances import CoreComponents, core_components, relabelled, resolve
from unetpipe.labelling import label_core
from unetpipe.sources.images import Source
from unetpipe.specs import IGNORE, AnnotateSpec

__all__ = ["InstanceMap", "MapTruth", "PartsMap", "Truth", "check_size", "open_map"]

_WIDEST = int(np.iinfo(np.uint32).max)
_COLOURS_COUNTED = 4096


class Truth(Protocol):
    """What was annotated, read in boxes. `prepare` comes first."""

    @property
    def kind(self) -> str:
        """How it is read: instances, mask, classes, colours or shapes."""

    @property
    def count(self) -> int | None:
        """Number of instances in the file, where it tells before any pixel is painted."""

    def prepare(self, boxes: Sequence[Box]) -> None:
        """Look at all boxes, in raster order; AnnotationError if there is a fault anywhere."""

    def instances(self, box: Box) -> NDArray[np.uint32]:
        """(Y, X) instances of one of these boxes; 0 on background."""

    def classes(self, box: Box) -> NDArray[np.uint8]:
        """(Y, X) classes of any box inside the image, 255 where nobody annotated; ridges are not cut."""


class MapTruth:
    """Values of one channel, checked.

    Parameters
    ----------
    source : Source
        The open file.
    spec : AnnotateSpec
        What its values mean.
    """

    def __init__(self, source: Source, spec: AnnotateSpec) -> None:
        self.source = source
        self.path: Path = source.path
        self.spec = spec
        self.width = source.shape[1]
        if source.dtype.kind == "f":
            raise AnnotationError(
                f"{self.path}: expected integer labels, came {source.dtype}; save it as 8, 16 or 32 bit integers"
            )

    @property
    def kind(self) -> str:
        """What the values mean, or colours."""
        return "colours" if self.spec.colours else self.spec.kind

    @property
    def count(self) -> None:
        """Nothing: a map does not tell how many instances it holds."""
        return None

    def values(self, box: Box) -> NDArray[Any]:
        """(Y, X) values of a box."""
        block = self.source.read(box)
        if any((block[0] != other).any() for other in block[1:]):
            raise AnnotationError(
                f"{self.path}: expected one channel of labels, came {len(block)} different ones; "
                "save values as a grey image, or name its colours in annotate.colours"
            )
        values: NDArray[Any] = block[0]
        if values.size and int(values.min()) < 0:
            raise AnnotationError(
                f"{self.path}: expected labels from 0 on, came {int(values.min())}; "
                "give background 0 and objects 1, 2, 3"
            )
        return values

    def ignored(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """(Y, X) values -> where nobody annotated."""
        ignored = np.zeros(values.shape, np.bool_)
        if self.spec.ignore_value is not None:
            ignored |= values == self.spec.ignore_value
        if self.spec.outside == "ignore" and self.spec.kind != "classes":
            ignored |= values == 0
        return ignored


class InstanceMap(MapTruth):
    """One value per object, of any integer type; values beyond 32 bits are numbered anew in their order."""

    def __init__(self, source: Source, spec: AnnotateSpec) -> None:
        super().__init__(source, spec)
        self.table: NDArray[Any] | None = None

    def prepare(self, boxes: Sequence[Box]) -> None:
        """Look for negative values and, in 64 bits, for those that need a new number."""
        if self.source.dtype.itemsize < 8 and self.source.dtype.kind == "u":
            return
        found: NDArray[Any] = np.zeros(1, self.source.dtype)
        for box in boxes:
            values = self.values(box)
            found = np.union1d(found, np.unique(values[~self.ignored(values)]))
        if int(found.max()) > _WIDEST:
            self.table = found

    def instances(self, box: Box) -> NDArray[np.uint32]:
        """(Y, X) instances of a box."""
        values = self.values(box)
        kept = np.where(self.ignored(values), 0, values).astype(values.dtype)
        return (kept if self.table is None else np.searchsorted(self.table, kept)).astype(np.uint32)

    def classes(self, box: Box) -> NDArray[np.uint8]:
        """(Y, X) classes of a box: 1 on every object."""
        values = self.values(box)
        classes: NDArray[np.uint8] = (values != 0).astype(np.uint8)
        classes[self.ignored(values)] = IGNORE
        return classes


class PartsMap(MapTruth):
    """Classes whose 4-connected parts are the instances: a mask, class indices, or colours."""

    def __init__(self, source: Source, spec: AnnotateSpec) -> None:
        super().__init__(source, spec)
        self.lookups: dict[tuple[Box, int], NDArray[np.uint32]] = {}
        self.highest = 0
        self.marks: set[int] = set()
        self.colours = _colour_table(spec)
        self.foreign: dict[int, list[Any]] = {}

    def classes(self, box: Box) -> NDArray[np.uint8]:
        """(Y, X) classes of a box."""
        if self.colours is not None:
            return self._classes_of_colours(box)[0]
        values = self.values(box)
        classes = values.astype(np.uint8) if self.spec.kind == "classes" else (values != 0).astype(np.uint8)
        classes[self.ignored(values)] = IGNORE
        return classes

    def prepare(self, boxes: Sequence[Box]) -> None:
        """Check all values, and join the parts of each class over the seams of the boxes."""
        n = self.spec.n_classes
        found: dict[int, list[CoreComponents]] = {value: [] for value in range(1, n)}
        for box in boxes:
            self._survey(box)
            if self.foreign or self.highest >= n or len(self.marks) > 1:
                continue
            classes = self.classes(box)
            present = np.unique(classes)
            blank = np.zeros(box.shape, np.uint32), 0
            for value, cores in found.items():
                parts = label_core(classes == value, connectivity=4) if value in present else blank
                cores.append(core_components(*parts, core=box, image_width=self.width))
        self._check()
        before = 0
        for value, cores in found.items():
            objects = resolve(cores, connectivity=4)
            for box, lookup in zip(boxes, objects.lookups, strict=True):
                self.lookups[box, value] = np.where(lookup != 0, lookup + np.uint32(before), 0).astype(np.uint32)
            before += objects.count

    def instances(self, box: Box) -> NDArray[np.uint32]:
        """(Y, X) instances of a prepared box: class by class, in raster order of their first pixels."""
        classes = self.classes(box)
        labels = np.zeros(box.shape, np.uint32)
        for value in np.unique(classes):
            if value not in (0, IGNORE):
                parts, count = label_core(classes == value, connectivity=4)
                labels += relabelled(parts, count, self.lookups[box, int(value)])
        return labels

    def _survey(self, box: Box) -> None:
        """Note what of a box is not allowed."""
        if self.colours is not None:
            classes, codes = self._classes_of_colours(box)
            self._note_foreign(codes, classes == IGNORE - 1, box)
            return
        values = self.values(box)
        values = values[~self.ignored(values)]
        if self.spec.kind == "classes":
            self.highest = max(self.highest, int(values.max(initial=0)))
        elif len(self.marks) < _COLOURS_COUNTED:
            self.marks |= {int(value) for value in np.unique(values[values != 0])[:_COLOURS_COUNTED]}

    def _check(self) -> None:
        """Refuse what was noted."""
        n = self.spec.n_classes
        if self.foreign:
            code, (_, (y, x), count) = min(self.foreign.items(), key=lambda item: item[1][1])
            others = f", and {len(self.foreign) - 1} more colours" if len(self.foreign) > 1 else ""
            raise refused(
                self.path,
                f"colour #{code:06x} is not in annotate.colours: first at y {y}, x {x}, on {count} px{others}; add it, "
                "or save the file without smoothing, as PNG",
            )
        if self.highest >= n:
            raise AnnotationError(
                f"{self.path}: expected class indices 0 to {n - 1}, came {self.highest}; "
                "name more classes, set annotate.ignore_value, or set annotate.kind"
            )
        if len(self.marks) > 1:
            shown = ", ".join(map(str, sorted(self.marks)[:4]))
            raise refused(
                self.path,
                f"expected a mask of 0 and one other value, came {len(self.marks)} others ({shown} ...); set "
                "annotate.kind to instances or classes, or save it without smoothing, as PNG or TIFF",
            )

    def _classes_of_colours(self, box: Box) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
        """(Y, X) classes, 254 where the colour is not in the table, and (Y, X) colours as red, green, blue."""
        assert self.colours is not None
        codes, classes = self.colours
        block = self.source.read(box)
        if block.dtype != np.uint8 or len(block) not in (1, 3):
            raise AnnotationError(
                f"{self.path}: expected colours of 8 bits for annotate.colours, came {len(block)} channels of "
                f"{block.dtype}; save it as an RGB or palette image, or leave annotate.colours out"
            )
        red, green, blue = np.broadcast_to(block, (3, *box.shape)).astype(np.uint32)
        code = red << 16 | green << 8 | blue
        at = np.minimum(np.searchsorted(codes, code), codes.size - 1)
        return np.where(codes[at] == code, classes[at], IGNORE - 1).astype(np.uint8), code

    def _note_foreign(self, codes: NDArray[np.uint32], foreign: NDArray[np.bool_], box: Box) -> None:
        """Count the colours that are not in the table, with their first pixels in raster order."""
        unknown, first, counts = np.unique(codes[foreign], return_index=True, return_counts=True)
        ys, xs = np.nonzero(foreign)
        for code, at, count in zip(unknown.tolist(), first, counts.tolist(), strict=True):
            place = (int(ys[at]) + box.start[0], int(xs[at]) + box.start[1])
            if code in self.foreign:
                entry = self.foreign[code]
                self.foreign[code] = [code, min(entry[1], place), entry[2] + count]
            elif len(self.foreign) < _COLOURS_COUNTED:
                self.foreign[code] = [code, place, count]


def _colour_table(spec: AnnotateSpec) -> tuple[NDArray[np.uint32], NDArray[np.uint8]] | None:
    """Ascending colours as red, green, blue in 24 bits, and the class of each; None without a table."""
    if spec.colours is None:
        return None
    names = {name: index for index, name in enumerate(spec.class_names)}
    pairs = sorted((int(colour[1:], 16), names.get(name, IGNORE)) for name, colour in spec.colours.items())
    return np.array([code for code, _ in pairs], np.uint32), np.array([value for _, value in pairs], np.uint8)


def check_size(source: Source, shape: tuple[int, int]) -> None:
    """Refuse an annotation that has not the size of its image.

    Parameters
    ----------
    source : Source
        The open annotation.
    shape : (int, int)
        Height and width of the image in px.

    Raises
    ------
    AnnotationError
        If the sizes differ.
    """
    if source.shape != shape:
        expected, came = " x ".join(map(str, shape)), " x ".join(map(str, source.shape))
        raise AnnotationError(
            f"{source.path}: expected the image's size of {expected} px, came {came} px; "
            "name the annotation of this image, drawn at its full size"
        )


def open_map(source: Source, spec: AnnotateSpec, shape: tuple[int, int]) -> InstanceMap | PartsMap:
    """An open image file as annotation.

    Parameters
    ----------
    source : Source
        Read with `palette` "colours" where `spec` has a table of colours, else with "indices".
    spec : AnnotateSpec
        What its values mean.
    shape : (int, int)
        Height and width of the image in px.

    Returns
    -------
    InstanceMap or PartsMap

    Raises
    ------
    AnnotationError
        If the sizes differ or the values are floats.
    """
    check_size(source, shape)
    if spec.colours is not None or spec.kind != "instances":
        return PartsMap(source, spec)
    return InstanceMap(source, spec)

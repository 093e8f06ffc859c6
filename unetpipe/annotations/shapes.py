"""What all files of shapes have in common: an outline with a class name, and how names become classes."""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unetpipe.errors import AnnotationError
from unetpipe.polygons import Rings, area_of
from unetpipe.sources.refusals import refusal
from unetpipe.specs import IGNORE

__all__ = ["MAX_VERTICES", "ClassNames", "Place", "Shape", "polygon_of", "refused", "shape_of"]

Place = int | tuple[int, int]
"""A plane of a stack: its number, or its z and t."""

MAX_VERTICES = 50_000_000
"""Most vertices of all outlines of a file: 0.8 GB."""


def refused(path: Path, text: str) -> AnnotationError:
    """The error that says in one line why an annotation is not read.

    Parameters
    ----------
    path : Path
        The file.
    text : str
        What is wrong and what to do; cut so that the line has at most 300 characters.

    Examples
    --------
    >>> str(refused(Path("a.json"), "is empty"))
    'a.json: is empty; copy it again, or export it anew'
    """
    return AnnotationError(str(refusal(path, text)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shape:
    """One annotated object.

    Parameters
    ----------
    value : int
        Its class; 0 is background, 255 is ignored, -1 a name that is not known.
    parts : tuple of Rings
        Polygons whose union it is, each of them even-odd.
    area : float
        Area in px of all parts.
    plane : int or (int, int) or None
        Plane of a stack on which it was drawn, counted from 0 through all of them, or its z and t; None where the file
        does not say.
    """

    value: int
    parts: tuple[Rings, ...]
    area: float
    plane: Place | None = None


class ClassNames:
    """Names in a file to classes; remembers the names that it does not know.

    Parameters
    ----------
    classes : sequence of str
        Names of the classes by index; the first is background.
    names : mapping of str to str
        Names in files, and the class or ``ignore`` that they mean.
    other : int, optional
        Class of all names that are not known.

    Notes
    -----
    In this order: `names`; a class of just this name; one that differs in upper and lower case only; names that begin
    with "ignore" (QuPath writes ``Ignore*``), which are ignored. An object without a name has the only foreground
    class, if there is only one; in `names` it is the empty name.

    Examples
    --------
    >>> known = ClassNames(["background", "tumour"], {"Stroma": "background"})
    >>> [known.value_of(name) for name in ("Tumour", "Stroma", "Ignore*", None)]
    [1, 0, 255, 1]
    """

    def __init__(self, classes: Sequence[str], names: Mapping[str, str], *, other: int | None = None) -> None:
        self.other = other
        self.classes = tuple(classes)
        self.table = {name.casefold(): index for index, name in reversed([*enumerate(classes)])}
        self.exact = {name: index for index, name in enumerate(classes)}
        self.exact |= {name: self.exact.get(meant, IGNORE) for name, meant in names.items()}
        self.unknown: Counter[str] = Counter()

    def find(self, name: str | None) -> int | None:
        """The class of a name; None if it is not known."""
        if name is None:
            return self.exact.get("", 1 if len(self.classes) == 2 else None)
        folded = name.casefold()
        found = self.exact.get(name, self.table.get(folded))
        if found is None and folded.startswith("ignore"):
            return IGNORE
        return self.other if found is None else found

    def value_of(self, name: str | None) -> int:
        """The class of a name; -1, and a note of it, if it is not known."""
        found = self.find(name)
        if found is None:
            self.unknown[name or ""] += 1
        return -1 if found is None else found

    def check(self, path: Path) -> None:
        """Refuse the file if a name was not known.

        Raises
        ------
        AnnotationError
            Naming the most frequent unknown name, how many objects have it, the nearest class, and the other names.
        """
        if not self.unknown:
            return
        name, count = self.unknown.most_common(1)[0]
        near = difflib.get_close_matches(name.casefold(), list(self.table), n=1)
        hint = f"did you mean {self.classes[self.table[near[0]]]}?" if near else f"classes: {', '.join(self.classes)}"
        what = f"class {name!r:.60}" if name else "no class"
        rest = [repr(other) for other, _ in self.unknown.most_common()[1:]]
        others = f"; nor {'is' if len(rest) == 1 else 'are'} {', '.join(rest)}" if rest else ""
        raise refused(
            path,
            f"{what} (of {count} object{'s' * (count > 1)}) is not configured; {hint:.60}; "
            f"set annotate.names: {{{name[:40]!r}: CLASS or ignore}}{others}",
        )


def polygon_of(rings: Sequence[Any], notes: Counter[str]) -> Rings | None:
    """A polygon of outlines as files have them.

    Parameters
    ----------
    rings : sequence
        The outer ring and its holes, each a list of points (x, y), or (x, y, z) whose z is left out.
    notes : Counter of str
        Counts outlines that are left out since they have fewer than three points.

    Returns
    -------
    Rings or None
        None if the outer ring is left out.

    Raises
    ------
    ValueError
        If a ring is no list of points.

    Examples
    --------
    >>> polygon_of([[[0, 5], [4, 5], [4, 9]]], Counter())[0].tolist()
    [[5.0, 0.0], [5.0, 4.0], [9.0, 4.0]]
    """
    found = []
    for ring in rings:
        points = np.asarray(ring)
        if points.size and (points.ndim != 2 or points.shape[1] not in (2, 3) or points.dtype.kind not in "iuf"):
            raise ValueError("an outline is not a list of points [x, y]")
        if points.size and len(points) >= 3:
            found.append(points[:, 1::-1].astype(np.float64))
        else:
            notes["outlines of fewer than 3 points were left out"] += 1
            if not found:
                return None
    if not found:
        return None
    return np.concatenate(found), np.array([len(points) for points in found], np.int64)


def shape_of(value: int, parts: Sequence[Rings], *, plane: Place | None = None) -> Shape:
    """A shape of polygons whose rings behind the first are holes.

    Parameters
    ----------
    value : int
        Its class.
    parts : sequence of Rings
        At least one.
    plane : int or (int, int), optional
        Plane of a stack on which it was drawn; see `Shape`.

    Returns
    -------
    Shape

    Examples
    --------
    >>> from unetpipe.polygons import rectangles
    >>> shape_of(1, [rectangles(np.array([[0, 0, 2, 3]]))]).area
    6.0
    """
    return Shape(value=value, parts=tuple(parts), area=sum(area_of(part, holes=True) for part in parts), plane=plane)

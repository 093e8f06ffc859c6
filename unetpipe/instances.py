"""Connected components of an image that is labelled core by core: no object is too large, no label tells the cores.

First pass, for each core in any order: `label_core`, then `core_components`, which keeps what the others must know.
In between, once: `resolve` joins what touches across the seams and numbers the objects of the whole image.
Second pass, for each core in any order: `label_core` again, then `relabelled`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from unetpipe.errors import ConfigError, GeometryError, StoreError
from unetpipe.geometry import Box
from unetpipe.labelling import Connectivity, check_connectivity

__all__ = ["CoreComponents", "Objects", "core_components", "numbered", "relabelled", "resolve"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CoreComponents:
    """What the rest of the image must know of one labelled core: 20 bytes per component and 4 per edge pixel.

    Parameters
    ----------
    core : Box
        Where the core lies in the image.
    areas : (N,) int64
        Pixels of each component, by its label less 1.
    first_pixels : (N,) int64
        Raster index in the whole image, y * width + x, of each component's first pixel.
    values : (N,) uint32
        What each component's pixels were; components of different values are never joined.
    top, bottom : (X,) uint32
        Labels along the first and the last row.
    left, right : (Y,) uint32
        Labels along the first and the last column.

    Raises
    ------
    StoreError
        If the arrays do not fit each other or the core.
    """

    core: Box
    areas: NDArray[np.int64]
    first_pixels: NDArray[np.int64]
    values: NDArray[np.uint32]
    top: NDArray[np.uint32]
    bottom: NDArray[np.uint32]
    left: NDArray[np.uint32]
    right: NDArray[np.uint32]

    def __post_init__(self) -> None:
        height, width = self.core.shape
        edges = self.top, self.bottom, self.left, self.right
        sizes = tuple(edge.size for edge in edges)
        largest = max(int(edge.max(initial=0)) for edge in edges)
        lengths = {self.areas.size, self.first_pixels.size, self.values.size}
        if sizes != (width, width, height, height) or len(lengths) > 1 or largest > self.count:
            raise StoreError(
                f"components of the core at {self.core.start}: edges of {sizes} px, labels up to {largest}, "
                f"{self.count} areas, {self.first_pixels.size} first pixels do not fit {self.core.shape} px; "
                "label the core again"
            )

    @property
    def count(self) -> int:
        """Number of components in this core."""
        return self.areas.size

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All fields as plain arrays, to be stored; the core as (y0, x0, y1, x1)."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "core"}
        return {"core": np.array([*self.core.start, *self.core.stop], np.int64), **fields}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "CoreComponents":
        """The value whose `to_arrays` were stored.

        Raises
        ------
        StoreError
            If an array is missing, or they do not fit each other.
        """
        missing = [name for name in cls.__slots__ if name not in arrays]
        if missing:
            raise StoreError(f"stored components of a core lack {', '.join(missing)}; label the core again")
        y0, x0, y1, x1 = (int(value) for value in arrays["core"])
        fields = {name: arrays[name] for name in cls.__slots__ if name != "core"}
        return cls(core=Box(start=(y0, x0), stop=(y1, x1)), **fields)


def core_components(
    labels: NDArray[np.uint32], count: int, *, core: Box, image_width: int, values: NDArray[Any] | None = None
) -> CoreComponents:
    """Measure the components of one core.

    Parameters
    ----------
    labels, count : (Y, X) uint32, int
        From `label_core`.
    core : Box
        Where the core lies in the image; not empty.
    image_width : int
        Width of the whole image in px.
    values : (Y, X) unsigned integers, optional
        What was labelled, where it was more than a mask.

    Returns
    -------
    CoreComponents

    Raises
    ------
    GeometryError
        If the labels do not fit the core or the count, or the core is empty or not inside the image.

    Examples
    --------
    >>> from unetpipe.labelling import label_core
    >>> labels, count = label_core(np.array([[0, 1], [1, 1]], bool), connectivity=4)
    >>> record = core_components(labels, count, core=Box(start=(2, 4), stop=(4, 6)), image_width=10)
    >>> record.areas.tolist(), record.first_pixels.tolist(), record.top.tolist()
    ([3], [25], [0, 1])
    """
    inside = min(core.start) >= 0 and core.stop[1] <= image_width
    if labels.shape != core.shape or labels.size == 0 or not inside or labels.max() > count:
        raise GeometryError(
            f"labels of {labels.shape} px for the core {core.start} to {core.stop} in an image {image_width} px wide: "
            f"expected the core's shape, inside the image, not empty, and labels up to {count}; use label_core()"
        )
    areas, first = _measured(np.ascontiguousarray(labels), count)
    kinds = np.ones(count, np.uint32) if values is None else values.ravel()[first].astype(np.uint32)
    first_pixels = (first // labels.shape[1] + core.start[0]) * image_width + first % labels.shape[1] + core.start[1]
    edges = {"top": labels[0], "bottom": labels[-1], "left": labels[:, 0], "right": labels[:, -1]}
    copies = {name: edge.copy() for name, edge in edges.items()}
    return CoreComponents(core=core, areas=areas, first_pixels=first_pixels, values=kinds, **copies)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Objects:
    """The objects of a whole image, and how each core finds them.

    Parameters
    ----------
    areas : (N,) int64
        Pixels of each object, by its label less 1.
    values : (N,) uint32
        What its pixels were in what was labelled.
    lookups : one (M,) uint32 per core
        Label in the image of each label in the core; 0 for background and for objects that are too small.
    """

    areas: NDArray[np.int64]
    values: NDArray[np.uint32]
    lookups: tuple[NDArray[np.uint32], ...]

    @property
    def count(self) -> int:
        """Number of objects; labels are 1 to this number."""
        return self.areas.size


def resolve(cores: Sequence[CoreComponents], *, connectivity: Connectivity, min_area_px: int = 0) -> Objects:
    """Join the components that touch across seams, and number the objects of the whole image.

    Parameters
    ----------
    cores : sequence of CoreComponents
        All cores in raster order; they cover the image once, in straight rows and columns of any height and width.
    connectivity : 4 or 8
        As in `label_core`.
    min_area_px : int
        Objects of fewer pixels become background, at least 0.

    Returns
    -------
    Objects

    Raises
    ------
    GeometryError
        If the cores do not cover one rectangle from (0, 0) in raster order.
    ConfigError
        If the connectivity or the smallest area is not legal.

    Notes
    -----
    Objects are numbered 1, 2 ... in raster order of their first pixels, those too small left out. So the labels are
    those of one pass over the whole image, whatever the cores. O(components + seam pixels) in time and memory.

    Examples
    --------
    A bar over two cores is one object:

    >>> from unetpipe.labelling import label_core
    >>> bar = np.ones((1, 2), bool)
    >>> boxes = [Box(start=(0, x), stop=(1, x + 2)) for x in (0, 2)]
    >>> cores = [core_components(*label_core(bar, connectivity=4), core=box, image_width=4) for box in boxes]
    >>> objects = resolve(cores, connectivity=4)
    >>> objects.areas.tolist(), [lookup.tolist() for lookup in objects.lookups]
    ([4], [[0, 1], [0, 1]])
    """
    check_connectivity(connectivity)
    if min_area_px < 0:
        raise ConfigError(f"smallest area of {min_area_px} px: expected 0 or more")
    rows = _rows(cores)
    offsets = np.concatenate([[0], np.cumsum([core.count for core in cores], dtype=np.int64)])
    values = np.concatenate([np.zeros(0, np.uint32), *(core.values for core in cores)])
    touching = _touching(rows, offsets, diagonal=connectivity == 8)
    touching = touching[values[touching[:, 0]] == values[touching[:, 1]]]
    graph = sparse.coo_array((np.ones(len(touching), np.bool_), tuple(touching.T)), shape=(offsets[-1], offsets[-1]))
    n, members = sparse.csgraph.connected_components(graph, directed=False)
    return numbered(cores, members, n, min_area_px)


def numbered(cores: Sequence[CoreComponents], members: NDArray[np.integer], count: int, min_area_px: int) -> Objects:
    """Number the objects of the whole image, of which each component is a part.

    Parameters
    ----------
    cores : sequence of CoreComponents
        M components in all.
    members : (M,) integers
        The object of each component, 0 to count - 1, in any order.
    count : int
        Number of objects.
    min_area_px : int
        Objects of fewer pixels become background.

    Returns
    -------
    Objects
        In raster order of their first pixels.
    """
    offsets = np.concatenate([[0], np.cumsum([core.count for core in cores], dtype=np.int64)])
    areas, values = np.zeros(count, np.int64), np.zeros(count, np.uint32)
    first_pixels = np.full(count, np.iinfo(np.int64).max)
    for core, start in zip(cores, offsets, strict=False):
        own = members[start : start + core.count]
        np.add.at(areas, own, core.areas)
        np.minimum.at(first_pixels, own, core.first_pixels)
        values[own] = core.values
    kept = np.flatnonzero(areas >= min_area_px)
    order = kept[np.argsort(first_pixels[kept])]
    final = np.zeros(count, np.uint32)
    final[order] = np.arange(1, order.size + 1)
    lookups = (np.concatenate([[np.uint32(0)], final[members[a:b]]]) for a, b in pairwise(offsets))
    return Objects(areas=areas[order], values=values[order], lookups=tuple(lookups))


def relabelled(labels: NDArray[np.uint32], count: int, lookup: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The labels of one core in the numbers of the whole image.

    Parameters
    ----------
    labels, count : (Y, X) uint32, int
        From `label_core`.
    lookup : (count + 1,) uint32
        This core's entry in `Objects.lookups`.

    Returns
    -------
    (Y, X) uint32

    Raises
    ------
    StoreError
        If the table is for another number of components: the mask has changed since the first pass.

    Examples
    --------
    >>> relabelled(np.array([[0, 1, 2]], np.uint32), 2, np.array([0, 7, 0], np.uint32)).tolist()
    [[0, 7, 0]]
    """
    if lookup.size != count + 1:
        raise StoreError(
            f"core has {count} components, but its table of objects is for {lookup.size - 1}: "
            "its input changed between the passes; delete the unfinished segmentation and run it again"
        )
    return _looked_up(np.ascontiguousarray(labels), lookup)


def _rows(cores: Sequence[CoreComponents]) -> list[Sequence[CoreComponents]]:
    """Cores in raster order -> rows of equally many, each core meeting its left and upper neighbour."""
    width = max(1, next((k for k, core in enumerate(cores) if core.core.start[0] != 0), len(cores)))
    rows = [cores[at : at + width] for at in range(0, len(cores), width)]
    for r, row in enumerate(rows):
        for c, box in enumerate(core.core for core in row):
            top = rows[r - 1][c].core.stop[0] if r else 0
            left = row[c - 1].core.stop[1] if c else 0
            expected = (top, left), (row[0].core.stop[0], rows[0][c].core.stop[1])
            if (box.start, box.stop) != expected or len(row) != width:
                raise GeometryError(
                    f"core {r * width + c} of {len(cores)} is {box.start} to {box.stop}, in a row of {len(row)}: "
                    f"expected {expected[0]} to {expected[1]}, in rows of {width}; give all cores in raster order"
                )
    return rows


def _touching(rows: list[Sequence[CoreComponents]], offsets: NDArray[np.int64], *, diagonal: bool) -> NDArray[np.int64]:
    """Rows of cores and the components before each core -> (P, 2) components of different cores that touch."""
    pairs = [np.zeros((0, 2), np.int64)]
    starts = iter(offsets)
    above = np.full(rows[0][-1].core.stop[1] if rows else 0, -1)
    for row in rows:
        columns = [(core, next(starts)) for core in row]
        for (west, west_start), (east, east_start) in pairwise(columns):
            pairs.append(_facing(_global(west.right, west_start), _global(east.left, east_start), diagonal=diagonal))
        # Whole rows face each other, so that corners where four cores meet need no rule of their own.
        top = np.concatenate([_global(core.top, start) for core, start in columns])
        pairs.append(_facing(above, top, diagonal=diagonal))
        above = np.concatenate([_global(core.bottom, start) for core, start in columns])
    return np.concatenate(pairs)


def _global(edge: NDArray[np.uint32], start: int) -> NDArray[np.int64]:
    """(L,) labels of a core -> (L,) components of the image counted from 0; -1 is background."""
    return np.where(edge != 0, edge.astype(np.int64) + (start - 1), -1)


def _facing(one: NDArray[np.int64], other: NDArray[np.int64], *, diagonal: bool) -> NDArray[np.int64]:
    """Two (L,) sides of a seam -> (P, 2) different pairs of components that touch across it."""
    corners = [(one[:-1], other[1:]), (one[1:], other[:-1])] if diagonal else []
    pairs = np.concatenate([np.stack(sides, axis=1) for sides in [(one, other), *corners]])
    return np.unique(pairs[(pairs >= 0).all(axis=1)], axis=0)


@njit(cache=True, nogil=True)
def _measured(labels: NDArray[np.uint32], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(Y, X) labels -> (count,) areas, (count,) raster index of the first pixels."""
    areas, first_pixels = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for at, label in enumerate(labels.ravel()):
        if label:
            if areas[label - 1] == 0:
                first_pixels[label - 1] = at
            areas[label - 1] += 1
    return areas, first_pixels


@njit(cache=True, nogil=True)
def _looked_up(labels: NDArray[np.uint32], lookup: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The entry of each label, none of which is out of bounds; several times as fast as `take`."""
    found = np.empty_like(labels)
    flat, names = found.ravel(), labels.ravel()
    for at in range(names.size):
        flat[at] = lookup[names[at]]
    return found

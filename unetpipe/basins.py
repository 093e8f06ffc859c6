"""Objects split where they are narrow: the watershed of a map of heights, core by core, whatever the cores.

First pass, for each core in any order: `core_basins`. In between, once: `resolve_basins` joins what belongs together
across the seams, and basins that are parted by shallow passes only. Second pass, for each core in any order:
`core_basins` again, then `relabelled`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from unetpipe.errors import GeometryError, StoreError
from unetpipe.geometry import Box
from unetpipe.hills import highest_passes, joined_hills, ordered_passes
from unetpipe.instances import CoreComponents, Objects, core_components, numbered
from unetpipe.labelling import Connectivity, check_connectivity

__all__ = ["REACH", "STEPS", "CoreBasins", "core_basins", "distance_heights", "resolve_basins"]

REACH = 128
"""Distances are measured up to this, in px."""
STEPS = 256
"""Steps of height per px of distance."""


def distance_heights(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Distance of each pixel to the nearest one outside a mask, as heights.

    Parameters
    ----------
    mask : (Y, X) bool
        Pixels of a class. Where it is a part of an image, heights are those of the image from `REACH` px on inside.

    Returns
    -------
    (Y, X) int32
        Distance between the centres of pixels in steps of 1/256 px, cut at `REACH`; 0 outside the mask. The image's
        border is no end of an object.

    Examples
    --------
    >>> distance_heights(np.array([[0, 1, 1]], bool)).tolist()
    [[0, 256, 512]]
    """
    if mask.all():
        return np.full(mask.shape, REACH * STEPS, np.int32)
    distances: NDArray[np.float64] = ndimage.distance_transform_edt(mask)
    heights: NDArray[np.int32] = np.rint(np.minimum(distances, REACH) * STEPS).astype(np.int32)
    return heights


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CoreBasins:
    """What the rest of the image must know of the basins of one core; places are raster indices of the whole image.

    Parameters
    ----------
    components : CoreComponents
        The basins as components; their values are the labels of the objects that they are parts of.
    heights : (N,) int32
        Height of each basin's highest pixel in the core.
    tops : (N,) int64
        Its place.
    leaks : (L, 2) int64
        Basins whose highest pixel leads up to one outside the core, and that one's place.
    contacts : (P, 4) int64
        Neighbouring basins a < b: a, b, the height of the highest pass between them, and the pass's number.
    links : (Q, 4) int64
        Passes to pixels outside the core: basin, place of the pixel, height, number.
    """

    components: CoreComponents
    heights: NDArray[np.int32]
    tops: NDArray[np.int64]
    leaks: NDArray[np.int64]
    contacts: NDArray[np.int64]
    links: NDArray[np.int64]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All fields as plain arrays, to be stored; those of the components among them."""
        own = {name: getattr(self, name) for name in self.__slots__ if name != "components"}
        return self.components.to_arrays() | own

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "CoreBasins":
        """The value whose `to_arrays` were stored.

        Raises
        ------
        StoreError
            If an array of the components is missing, or they do not fit each other.
        """
        fields = {name: arrays[name] for name in cls.__slots__ if name != "components"}
        return cls(components=CoreComponents.from_arrays(arrays), **fields)


def core_basins(
    labels: NDArray[np.uint32],
    heights: NDArray[np.int32],
    *,
    core: Box,
    image_width: int,
    connectivity: Connectivity,
    depth: int,
) -> tuple[NDArray[np.uint32], CoreBasins]:
    """Find the basins of all objects in one core, those joined that surely belong together.

    Parameters
    ----------
    labels : (Y + 2, X + 2) uint32
        Objects of the whole image in the core and one pixel around it; 0 is background, and outside the image.
    heights : (Y + 2, X + 2) int32
        Of the same pixels.
    core : Box
        Where the core lies in the image.
    image_width : int
        Width of the image in px.
    connectivity : 4 or 8
        Neighbours of a pixel, as for the objects.
    depth : int
        As for `resolve_basins`.

    Returns
    -------
    (Y, X) uint32, CoreBasins
        Basins of this core, 1 to their number in raster order of their first pixels, 0 is background.

    Raises
    ------
    GeometryError
        If the shapes do not fit the core.

    Notes
    -----
    A pixel leads up to the highest of itself and its neighbours in the same object; of equally high ones, to the last
    in raster order. All that lead up to one pixel that leads nowhere are a basin, which is connected.

    What `resolve_basins` would join is joined here, where nothing outside the core could change it; so what is kept of
    a core is some ten numbers per hill and pixel of its rim, however rough the heights are.

    References
    ----------
    Bieniek, Moga 2000, doi:10.1016/S0031-3203(99)00154-5.

    Examples
    --------
    Two hills; the pass between them belongs to the second, which is higher:

    >>> labels, heights = np.ones((1, 5), np.uint32), np.array([[1, 3, 2, 5, 4]], np.int32)
    >>> core = Box(start=(0, 0), stop=(1, 5))
    >>> keys = {"core": core, "image_width": 5, "connectivity": 4, "depth": 1}
    >>> found, record = core_basins(np.pad(labels, 1), np.pad(heights, 1), **keys)
    >>> found.tolist(), record.heights.tolist(), record.contacts.tolist()
    ([[1, 1, 2, 2, 2]], [3, 5], [[1, 2, 2, 4]])
    """
    check_connectivity(connectivity)
    framed = (core.shape[0] + 2, core.shape[1] + 2)
    if labels.shape != framed or heights.shape != framed:
        raise GeometryError(
            f"labels of {labels.shape} and heights of {heights.shape} px for a core of {core.shape} px; expected "
            f"{framed}: one pixel more on each side"
        )
    arrays = np.ascontiguousarray(labels), np.ascontiguousarray(heights)
    where = *core.start, image_width, connectivity
    found, ends = np.zeros(core.shape, np.uint32), np.zeros((0, 4), np.int64)
    # Most cores of many slides are empty.
    if labels.any():
        found, ends = _uphill(*arrays, *where)
    passes = np.empty((_passes(found, *arrays, *where, np.empty((0, 5), np.int64)), 5), np.int64)
    _passes(found, *arrays, *where, passes)
    inside = passes[:, 1] > 0
    contacts, links = ordered_passes(passes[inside, :4]), passes[~inside][:, [0, 4, 2, 3]]
    names, ends = _joined(contacts, ends, depth)
    found = names[found]
    contacts[:, :2], links[:, 0] = names[contacts[:, :2]], names[links[:, 0]]
    contacts, leaking = highest_passes(contacts[contacts[:, 0] != contacts[:, 1]]), np.flatnonzero(ends[:, 2] >= 0)
    values = labels[1:-1, 1:-1]
    record = CoreBasins(
        components=core_components(found, len(ends), core=core, image_width=image_width, values=values),
        heights=ends[:, 0].astype(np.int32),
        tops=ends[:, 1],
        leaks=np.stack([leaking + 1, ends[leaking, 2]], axis=1),
        contacts=contacts,
        links=links,
    )
    return found, record


def resolve_basins(cores: Sequence[CoreBasins], *, depth: int, min_area_px: int = 0) -> Objects:
    """Join what belongs together, and number the parts of the objects of the whole image.

    Parameters
    ----------
    cores : sequence of CoreBasins
        All cores of an image in raster order.
    depth : int
        How much lower than both its hills a pass must be to part them, in steps of height, at least 1.
    min_area_px : int
        Parts of fewer pixels become background, at least 0.

    Returns
    -------
    Objects
        Connected parts, numbered in raster order of their first pixels; their values are the labels of the objects.

    Raises
    ------
    StoreError
        If a core leads to a pixel that is in no basin: the cores are not of one image.

    Notes
    -----
    From the highest pass to the lowest, two hills are joined if the lower one rises less than `depth` above the pass;
    the joined hill is as high as the higher one. Of equally high hills, the one whose top comes first in raster order
    counts as the higher one; of equally high passes, the first in raster order comes first. So the result is that of
    one piece. O(B log B) time for B basins and passes.

    References
    ----------
    Chazal, Guibas, Oudot, Skraba 2013: Persistence-based clustering in Riemannian manifolds, doi:10.1145/2535927.

    Examples
    --------
    Hills of 3 and 5 steps whose pass is at 2 steps:

    >>> labels, heights = np.ones((1, 5), np.uint32), np.array([[1, 3, 2, 5, 4]], np.int32)
    >>> keys = {"core": Box(start=(0, 0), stop=(1, 5)), "image_width": 5, "connectivity": 4}
    >>> _, record = core_basins(np.pad(labels, 1), np.pad(heights, 1), depth=1, **keys)
    >>> [resolve_basins([record], depth=depth).areas.tolist() for depth in (1, 2)]
    [[2, 3], [5]]
    """
    parts = [core.components for core in cores]
    offsets = np.concatenate([[0], np.cumsum([part.count for part in parts], dtype=np.int64)])
    rim = _rim(parts, offsets)

    leaks = _gathered([core.leaks for core in cores], offsets, [1, 0])
    links = _gathered([core.links for core in cores], offsets, [1, 0, 0, 0])
    contacts = _gathered([core.contacts for core in cores], offsets, [1, 1, 0, 0])
    links[:, 1] = _found(rim, links[:, 1])
    uphill = np.arange(offsets[-1])
    uphill[leaks[:, 0]] = _found(rim, leaks[:, 1])
    while not np.array_equal(further := uphill[uphill], uphill):
        uphill = further
    tops = np.concatenate([np.zeros(0, np.int64), *(core.tops for core in cores)])
    heights = np.concatenate([np.zeros(0, np.int32), *(core.heights for core in cores)])
    peaks = np.flatnonzero(uphill == np.arange(len(uphill)))
    basin = np.zeros(len(uphill), np.int64)
    basin[peaks] = np.arange(len(peaks))
    basin = basin[uphill]
    passes = np.concatenate([contacts, links])
    passes[:, :2] = basin[passes[:, :2]]
    passes = ordered_passes(highest_passes(passes[passes[:, 0] != passes[:, 1]]))
    known = np.zeros(len(peaks), np.bool_)
    hills = joined_hills(passes, heights[peaks].astype(np.int64), tops[peaks], known, depth)
    names, hills = np.unique(hills, return_inverse=True)
    return numbered(parts, hills[basin], len(names), min_area_px)


def _gathered(rows: Sequence[NDArray[np.int64]], offsets: NDArray[np.int64], counted: list[int]) -> NDArray[np.int64]:
    """Rows of all cores, those columns that are basins of a core counted over all of them, from 0 on."""
    moved = [own + (start - 1) * np.array(counted) for own, start in zip(rows, offsets, strict=False)]
    return np.concatenate([np.zeros((0, len(counted)), np.int64), *moved])


def _rim(parts: Sequence[CoreComponents], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """(R, 2) place and component, counted over all cores, of all pixels along the edges of the cores, sorted."""
    width = parts[-1].core.stop[1] if parts else 0
    found = [np.zeros((0, 2), np.int64)]
    for part, start in zip(parts, offsets, strict=False):
        (y0, x0), (y1, x1) = part.core.start, part.core.stop
        across, down = np.arange(x0, x1), np.arange(y0, y1) * width
        places = y0 * width + across, (y1 - 1) * width + across, down + x0, down + x1 - 1
        for at, edge in zip(places, (part.top, part.bottom, part.left, part.right), strict=True):
            own = edge > 0
            found.append(np.stack([at[own], edge[own] + (start - 1)], axis=1))
    rim = np.concatenate(found)
    return rim[np.argsort(rim[:, 0], kind="stable")]


def _found(rim: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The components of pixels along edges."""
    at = np.searchsorted(rim[:, 0], places)
    if len(places) and (at.max() >= len(rim) or not np.array_equal(rim[at, 0], places)):
        raise StoreError(
            "a core leads up to a pixel of no basin: its input changed; delete the segmentation and run again"
        )
    found: NDArray[np.int64] = rim[at, 1] if len(places) else places
    return found


def _joined(
    contacts: NDArray[np.int64], ends: NDArray[np.int64], depth: int
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """(P, 4) ordered passes, (N, 4) ends of a core's basins -> (N + 1,) hills in raster order, (H, 4) their ends."""
    passes = contacts - np.array([1, 1, 0, 0])
    hills = joined_hills(passes, ends[:, 0].copy(), ends[:, 1].copy(), ends[:, 3] > 0, depth)
    # Basins are in raster order, so that a hill's first pixel is that of its first basin.
    roots, firsts = np.unique(hills, return_index=True)
    roots = roots[np.argsort(firsts)]
    names = np.zeros(len(ends) + 1, np.uint32)
    names[roots + 1] = np.arange(1, len(roots) + 1)
    names[1:] = names[hills + 1]
    return names, ends[roots]


@njit(cache=True, nogil=True)
def _uphill(
    labels: NDArray[np.uint32], heights: NDArray[np.int32], top: int, left: int, image_width: int, connectivity: int
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """(Y + 2, X + 2) labels and heights -> (Y, X) basins; (N, 4) height, place of ends, whereto, open or not."""
    height, width = labels.shape[0] - 2, labels.shape[1] - 2
    ahead = np.empty(height * width, np.int64)
    leak = np.zeros(height * width, np.int64)
    rim = np.zeros(height * width, np.bool_)
    for y in range(1, height + 1):
        for x in range(1, width + 1):
            if labels[y, x] == 0:
                continue
            at = (y - 1) * width + x - 1
            by, bx = y, x
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    if connectivity == 4 and dy != 0 and dx != 0:
                        continue
                    ny, nx = y + dy, x + dx
                    if labels[ny, nx] == labels[y, x] and not (1 <= ny <= height and 1 <= nx <= width):
                        rim[at] = True
                    # Raster order: of equally high pixels the last one wins.
                    if labels[ny, nx] == labels[y, x] and (
                        heights[ny, nx] > heights[by, bx]
                        or (heights[ny, nx] == heights[by, bx] and (ny > by or (ny == by and nx > bx)))
                    ):
                        by, bx = ny, nx
            inside = 1 <= by <= height and 1 <= bx <= width
            ahead[at] = (by - 1) * width + bx - 1 if inside else at
            leak[at] = -1 if inside else (top + by - 1) * image_width + left + bx - 1
    basins = np.zeros((height, width), np.uint32)
    flat, names = basins.ravel(), np.zeros(height * width, np.uint32)
    count = 0
    for at in range(height * width):
        if labels[at // width + 1, at % width + 1] == 0:
            continue
        end = at
        while ahead[end] != end:
            end = ahead[end]
        on = at
        while ahead[on] != end:
            ahead[on], on = end, ahead[on]
        if names[end] == 0:
            count += 1
            names[end] = count
        flat[at] = names[end]
    ends = np.zeros((count, 4), np.int64)
    for at in range(height * width):
        if rim[at]:
            ends[flat[at] - 1, 3] = 1
        if names[at]:
            y, x = at // width, at % width
            end = ends[names[at] - 1]
            end[0], end[1], end[2] = heights[y + 1, x + 1], (top + y) * image_width + left + x, leak[at]
    return basins, ends


@njit(cache=True, nogil=True)
def _passes(
    basins: NDArray[np.uint32],
    labels: NDArray[np.uint32],
    heights: NDArray[np.int32],
    top: int,
    left: int,
    image_width: int,
    connectivity: int,
    rows: NDArray[np.int64],
) -> int:
    """Fill in (P, 5) pairs of neighbours in different basins: these (0 outside), height, number, place; how many."""
    height, width = basins.shape
    count = 0
    for y in range(height):
        for x in range(width):
            for step in range(4 if connectivity == 8 else 2):
                # Right, down, and down along both diagonals: each pair once.
                ny, nx = y + (step > 0), x + (step == 0) + (step == 2) - (step == 3)
                if basins[y, x] == 0 or labels[ny + 1, nx + 1] != labels[y + 1, x + 1]:
                    continue
                inside = ny < height and 0 <= nx < width
                if inside and basins[ny, nx] == basins[y, x]:
                    continue
                if len(rows):
                    row, place = rows[count], (top + y) * image_width + left + x
                    row[0], row[1] = basins[y, x], basins[ny, nx] if inside else 0
                    row[2] = min(heights[y + 1, x + 1], heights[ny + 1, nx + 1])
                    row[3], row[4] = 4 * place + step, (top + ny) * image_width + left + nx
                count += 1
    return count

"""Outlines of objects along the sides of their pixels, traced block by block and joined exactly.

For each block in any order: `trace`, which gives closed rings, and runs that go on in another block. Then, once:
`joined`. Coordinates are corners of pixels: (0, 0) is the outer corner of the first pixel.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from unetpipe.errors import GeometryError
from unetpipe.geometry import Box

__all__ = ["Contours", "joined", "pieces", "trace"]

# Columns of a run: the object and part; which side it begins with and which one follows it, as numbers of the whole
# image; its vertices; which of them is the first in raster order, that vertex's number, and whether a hole begins
# there; where its vertices begin, among those of all blocks.
OBJECT, PART, BEGIN, NEXT, LENGTH, LOWEST, VERTEX, HOLE, OFFSET = range(9)
_NOWHERE = np.iinfo(np.int64).max


def trace(
    labels: NDArray[np.uint32], parts: NDArray[np.uint32], *, box: Box, image_width: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Follow the outlines of all parts in a block.

    Parameters
    ----------
    labels : (Y + 2, X + 2) uint32
        Objects of the whole image in the block and one pixel around it; 0 is background, and outside the image.
    parts : (Y + 2, X + 2) uint32
        The 4-connected parts of these objects, likewise numbered over the whole image; the labels themselves where
        objects are 4-connected.
    box : Box
        Where the block lies in the image.
    image_width : int
        Width of the image in px.

    Returns
    -------
    (V, 2) int32, (R, 9) int64
        Corners (y, x) at which outlines turn, run behind run. The runs: object, part, first side, side that follows,
        number of vertices, index of the first in raster order, its number, hole or not, first vertex.

    Raises
    ------
    GeometryError
        If the shapes do not fit the box.

    Notes
    -----
    Sides of pixels are followed with the part on the right, as seen in the image. Where two pixels of a part touch
    over a corner, and its other two pixels do not belong to it, the outline passes from one to the other: it turns
    around the pixel outside. As parts are 4-connected, no ring comes to a corner twice; rings may touch each other in
    corners, which simple features allow. Each side of a pixel belongs to the block of the pixel, each corner to the
    side before it: no vertex is found twice, and none is where an outline goes straight on.

    Examples
    --------
    One pixel at (4, 7), which has a closed ring of four vertices:

    >>> labels = np.pad([[1]], 1).astype(np.uint32)
    >>> vertices, runs = trace(labels, labels, box=Box(start=(4, 7), stop=(5, 8)), image_width=10)
    >>> vertices.tolist(), runs[0, [LENGTH, LOWEST, HOLE]].tolist()
    ([[4, 7], [4, 8], [5, 8], [5, 7]], [4, 0, 0])
    """
    framed = (box.shape[0] + 2, box.shape[1] + 2)
    if labels.shape != framed or parts.shape != framed:
        raise GeometryError(
            f"labels of {labels.shape} and parts of {parts.shape} px for a block of {box.shape} px; expected {framed}: "
            "one pixel more on each side"
        )
    arrays = np.ascontiguousarray(labels), np.ascontiguousarray(parts)
    sides, rim = _count_sides(arrays[1]), 2 * sum(box.shape)
    # A closed ring has at least four sides; a run that comes in from outside begins at the rim.
    vertices, runs = np.empty((sides, 2), np.int32), np.empty((min(sides, sides // 4 + 4 * rim), 9), np.int64)
    n_vertices, n_runs = _trace(*arrays, *box.start, image_width + 1, vertices, runs)
    return vertices[:n_vertices].copy(), runs[:n_runs].copy()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contours:
    """The closed outlines of all objects, in the order of object, part, outer ring and holes, and first vertex.

    Parameters
    ----------
    members : (R,) int64
        Runs of each ring, in the order in which they follow each other; first the one with its first vertex.
    starts, stops : (Q,) int64
        Where the members of each ring begin and end.
    parts : (Q,) uint32
        The part that each ring belongs to.
    holes : (Q,) bool
        Whether it is a hole.
    bounds : (N + 1,) int64
        Where the rings of each object begin, and the last one's end.
    """

    members: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    parts: NDArray[np.uint32]
    holes: NDArray[np.bool_]
    bounds: NDArray[np.int64]

    def runs(self, ring: int) -> NDArray[np.int64]:
        """(M,) the runs of a ring, which is counted from 0."""
        return self.members[self.starts[ring] : self.stops[ring]]


def pieces(runs: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Where the vertices of a ring lie among those of all blocks, from its first in raster order on.

    Parameters
    ----------
    runs : (M, 9) int64
        Those of the ring, as `Contours.runs` has them; the first vertex of each counted over all blocks.

    Returns
    -------
    list of (int, int)
        First vertex and number of vertices.
    """
    offset, length, lowest = (int(runs[0, k]) for k in (OFFSET, LENGTH, LOWEST))
    between = [(int(run[OFFSET]), int(run[LENGTH])) for run in runs[1:]]
    spans = [(offset + lowest, length - lowest), *between, (offset, lowest)]
    return [span for span in spans if span[1]]


def joined(column: Callable[[int], NDArray[np.int64]]) -> Contours:
    """Close the outlines over all blocks.

    Parameters
    ----------
    column : callable
        Gives a column of the runs of all blocks, (R,) int64, in any order, but the same each time.

    Returns
    -------
    Contours
        The same vertices in the same order, whatever the blocks.

    Raises
    ------
    GeometryError
        If a run is not continued: the blocks do not cover the image, or are not of one image.

    Notes
    -----
    O(R log R) time; some 80 bytes per run, half of which remain. Neither the vertices nor all columns are needed at
    once, so they may lie on the disk.

    Examples
    --------
    A bar over two blocks has one ring; its vertices lie in three pieces:

    >>> whole = np.pad([[1, 1]], 1).astype(np.uint32)
    >>> found = [trace(whole[:, x : x + 3], whole[:, x : x + 3], box=Box(start=(0, x), stop=(1, x + 1)), image_width=2)
    ...     for x in (0, 1)]
    >>> found[1][1][:, OFFSET] += len(found[0][0])
    >>> vertices, runs = (np.concatenate(arrays) for arrays in zip(*found))
    >>> ring = runs[joined(lambda k: runs[:, k]).runs(0)]
    >>> np.concatenate([vertices[a : a + n] for a, n in pieces(ring)]).tolist()
    [[0, 0], [0, 2], [1, 2], [1, 0]]
    """
    is_closed = (begins := column(BEGIN)) == (follow := column(NEXT))
    closed, left = np.flatnonzero(is_closed), np.flatnonzero(~is_closed)
    begins, follow = begins[left], follow[left]
    order = np.argsort(begins)
    at = np.minimum(np.searchsorted(begins, follow, sorter=order), max(len(left) - 1, 0))
    if not np.array_equal(begins[order[at]], follow):
        raise GeometryError("an outline is not continued in its neighbour; trace all blocks of one image")
    cycles, starts = _cycles(order[at], column(VERTEX)[left])
    members = np.concatenate([closed, left[cycles]])
    starts = np.concatenate([np.arange(len(closed)), starts + len(closed)])
    del closed, is_closed
    heads = members[starts]
    objects, parts = (column(k)[heads].astype(np.uint32) for k in (OBJECT, PART))
    holes, vertices = column(HOLE)[heads] > 0, column(VERTEX)[heads]
    del heads
    ranks = np.lexsort([vertices, holes, parts, objects])
    del vertices
    stops = np.append(starts[1:], len(members))[: len(starts)]
    objects = objects[ranks]
    new = np.flatnonzero(objects[1:] != objects[:-1]) + 1
    bounds = np.concatenate([np.zeros(1, np.int64), new, np.full(int(len(objects) > 0), len(objects))])
    places = {"starts": starts[ranks], "stops": stops[ranks]}
    return Contours(members=members, **places, parts=parts[ranks], holes=holes[ranks], bounds=bounds)


@njit(cache=True, nogil=True)
def _cycles(follower: NDArray[np.int64], vertex: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(R,) run behind each run -> (R,) runs cycle behind cycle, each from its lowest vertex on; (Q,) starts."""
    members, starts = np.empty_like(follower), np.empty_like(follower)
    seen = np.zeros(follower.size, np.bool_)
    used = rings = 0
    for run in range(follower.size):
        if seen[run]:
            continue
        head, at = run, run
        while not seen[at]:
            seen[at] = True
            if vertex[at] < vertex[head]:
                head = at
            at = follower[at]
        starts[rings] = used
        rings += 1
        at = head
        while True:
            members[used] = at
            used += 1
            at = follower[at]
            if at == head:
                break
    return members, starts[:rings]


@njit(cache=True, nogil=True)
def _count_sides(parts: NDArray[np.uint32]) -> int:
    """Sides of pixels in the block that are outlines."""
    sides = 0
    for y in range(1, parts.shape[0] - 1):
        for x in range(1, parts.shape[1] - 1):
            part = parts[y, x]
            if part:
                sides += (parts[y - 1, x] != part) + (parts[y, x + 1] != part)
                sides += (parts[y + 1, x] != part) + (parts[y, x - 1] != part)
    return sides


@njit(cache=True, nogil=True)
def _heading(d: int) -> tuple[int, int]:
    """Step (y, x) of a direction: 0 right, 1 down, 2 left, 3 up."""
    d %= 4
    return (d == 1) - (d == 3), (d == 0) - (d == 2)


@njit(cache=True, nogil=True)
def _corner(y: int, x: int, d: int) -> tuple[int, int]:
    """Where the side of pixel (y, x) that is followed in a direction begins."""
    return y + (d == 2 or d == 3), x + (d == 1 or d == 2)


@njit(cache=True, nogil=True)
def _comes_from(parts: NDArray[np.uint32], y: int, x: int, d: int) -> tuple[int, int]:
    """The pixel whose side comes before that of pixel (y, x)."""
    (fy, fx), (ly, lx) = _heading(d), _heading(d - 1)
    if parts[y - fy + ly, x - fx + lx] == parts[y, x]:
        return y - fy + ly, x - fx + lx
    if parts[y - fy, x - fx] == parts[y, x]:
        return y - fy, x - fx
    return y, x


@njit(cache=True, nogil=True)
def _goes_to(parts: NDArray[np.uint32], y: int, x: int, d: int) -> tuple[int, int, int]:
    """The pixel and direction of the side behind that of pixel (y, x)."""
    (fy, fx), (ly, lx) = _heading(d), _heading(d - 1)
    if parts[y + fy + ly, x + fx + lx] == parts[y, x]:
        return y + fy + ly, x + fx + lx, (d - 1) % 4
    if parts[y + fy, x + fx] == parts[y, x]:
        return y + fy, x + fx, d
    return y, x, (d + 1) % 4


@njit(cache=True, nogil=True)
def _turn(ring: NDArray[np.int32], lowest: int) -> None:
    """Let the (N, 2) vertices of a closed ring begin with another one, in place."""
    before = ring[:lowest].copy()
    rest = len(ring) - lowest
    for i in range(rest):
        ring[i] = ring[i + lowest]
    ring[rest:] = before


@njit(cache=True, nogil=True)
def _trace(
    labels: NDArray[np.uint32],
    parts: NDArray[np.uint32],
    top: int,
    left: int,
    corners: int,
    vertices: NDArray[np.int32],
    runs: NDArray[np.int64],
) -> tuple[int, int]:
    """Fill in vertices and runs of the block at (top, left), in an image of so many corners per row; how many."""
    height, width = parts.shape[0] - 2, parts.shape[1] - 2
    seen = np.zeros(parts.shape, np.uint8)
    used = count = 0
    for closed in (False, True):
        for y0 in range(1, height + 1):
            for x0 in range(1, width + 1):
                inner = 1 < y0 < height and 1 < x0 < width
                if parts[y0, x0] == 0 or (inner and not closed):
                    continue
                # Every closed ring has a side that is followed to the right.
                for d0 in range(1 if closed else 4):
                    ly, lx = _heading(d0 - 1)
                    if parts[y0 + ly, x0 + lx] == parts[y0, x0] or seen[y0, x0] >> d0 & 1:
                        continue
                    if not closed:
                        py, px = _comes_from(parts, y0, x0, d0)
                        if 1 <= py <= height and 1 <= px <= width:
                            continue
                    run = runs[count]
                    count += 1
                    run[OBJECT], run[PART], run[OFFSET] = labels[y0, x0], parts[y0, x0], used
                    run[LOWEST], run[VERTEX], run[HOLE] = 0, _NOWHERE, 0
                    cy, cx = _corner(y0, x0, d0)
                    run[BEGIN] = ((cy + top - 1) * corners + cx + left - 1) * 4 + d0
                    y, x, d = y0, x0, d0
                    while True:
                        seen[y, x] |= 1 << d
                        y, x, after = _goes_to(parts, y, x, d)
                        cy, cx = _corner(y, x, after)
                        cy, cx = cy + top - 1, cx + left - 1
                        if after != d:
                            if cy * corners + cx < run[VERTEX]:
                                run[LOWEST], run[VERTEX] = used - run[OFFSET], cy * corners + cx
                                run[HOLE] = after != 0
                            vertices[used, 0], vertices[used, 1] = cy, cx
                            used += 1
                        d = after
                        inside = 1 <= y <= height and 1 <= x <= width
                        if not inside or (y == y0 and x == x0 and d == d0):
                            break
                    if inside:
                        _turn(vertices[run[OFFSET] : used], run[LOWEST])
                        run[LOWEST] = 0
                    run[NEXT], run[LENGTH] = (cy * corners + cx) * 4 + d, used - run[OFFSET]
    return used, count

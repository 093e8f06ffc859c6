"""Outlines to pixels: polygons with holes, painted box by box by one rule.

Coordinates are continuous: (0, 0) is the outer corner of the first pixel, so that the pixel at row y and column x has
its centre at (y + 0.5, x + 0.5). A pixel belongs to a polygon if its centre lies inside.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from unetpipe.errors import AnnotationError
from unetpipe.geometry import Box

__all__ = ["Polygons", "Rings", "area_of", "ellipse", "paint", "polygons_of", "rectangles"]

Rings: TypeAlias = tuple[NDArray[np.float64], NDArray[np.int64]]
"""One polygon: the (V, 2) vertices (y, x) of its rings, one ring behind the other, and the (R,) vertices of each."""

_LARGEST = 2.0**31


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Polygons:
    """Many polygons in three arrays.

    Parameters
    ----------
    vertices : (V, 2) float64
        Corners (y, x) in px. A ring is closed: its last vertex is joined with its first.
    rings : (R + 1,) int64
        First vertex of each ring; the last entry is V. No ring is empty.
    parts : (P + 1,) int64
        First ring of each polygon; the last entry is R. No polygon is empty.
    bounds : (P, 4) float64
        Smallest y and x, largest y and x of each polygon.
    """

    vertices: NDArray[np.float64]
    rings: NDArray[np.int64]
    parts: NDArray[np.int64]
    bounds: NDArray[np.float64]

    @property
    def count(self) -> int:
        """Number of polygons."""
        return self.parts.size - 1


def polygons_of(parts: Sequence[Rings]) -> Polygons:
    """Put polygons into one value.

    Parameters
    ----------
    parts : sequence of Rings
        The polygons, each with one ring or more of one vertex or more.

    Returns
    -------
    Polygons
        In the same order.

    Raises
    ------
    AnnotationError
        If a coordinate is not finite, or beyond 2^31 px.

    Notes
    -----
    16 bytes per vertex, 8 per ring and 40 per polygon.

    Examples
    --------
    >>> polygons_of([rectangles(np.array([[1.0, 2.0, 4.0, 6.0]]))]).bounds.tolist()
    [[1.0, 2.0, 4.0, 6.0]]
    """
    if not parts:
        none = np.zeros(1, np.int64)
        return Polygons(vertices=np.zeros((0, 2)), rings=none, parts=none, bounds=np.zeros((0, 4)))
    vertices = np.concatenate([vertices for vertices, _ in parts])
    if not (np.abs(vertices) <= _LARGEST).all():
        raise AnnotationError(
            f"an outline has a coordinate that is not finite or beyond {_LARGEST:.0f} px; correct or delete it"
        )
    rings = _starts(np.concatenate([lengths for _, lengths in parts]))
    firsts = _starts(np.array([lengths.size for _, lengths in parts], np.int64))
    begins = rings[firsts[:-1]]
    bounds = [limit.reduceat(vertices, begins, axis=0) for limit in (np.minimum, np.maximum)]
    return Polygons(vertices=vertices, rings=rings, parts=firsts, bounds=np.concatenate(bounds, axis=1))


def rectangles(boxes: NDArray[Any]) -> Rings:
    """One polygon of rectangles that do not overlap.

    Parameters
    ----------
    boxes : (N, 4) numbers
        Top, left, bottom and right side of each, in px; N at least 1.

    Returns
    -------
    Rings
        One ring per rectangle.

    Examples
    --------
    >>> vertices, lengths = rectangles(np.array([[0, 0, 1, 2]]))
    >>> vertices.tolist(), lengths.tolist()
    ([[0.0, 0.0], [0.0, 2.0], [1.0, 2.0], [1.0, 0.0]], [4])
    """
    corners = np.asarray(boxes, np.float64)[:, [0, 1, 0, 3, 2, 3, 2, 1]]
    return corners.reshape(-1, 2), np.full(len(boxes), 4, np.int64)


def ellipse(top: float, left: float, bottom: float, right: float) -> Rings:
    """The pixels whose centres lie inside the ellipse that fills a rectangle.

    Parameters
    ----------
    top, left, bottom, right : float
        Sides of the rectangle in px; top < bottom, left < right.

    Returns
    -------
    Rings
        One rectangle of 1 px height per row of pixels, as wide as the ellipse is at the row's middle: exact, where a
        polygon of some corners would not be. One empty rectangle if no row's middle lies inside.

    Notes
    -----
    At the height v = y + 0.5, with the middle (m, n) and the half axes a (vertical) and b, the ellipse reaches from
    n - w to n + w, w = b sqrt(1 - ((v - m) / a)^2).

    Examples
    --------
    The circle of diameter 4 covers 2, 4, 4 and 2 px of its rows:

    >>> vertices, lengths = ellipse(0, 0, 4, 4)
    >>> [round(float(x), 3) for x in vertices[1::4, 1] - vertices[::4, 1]]
    [2.646, 3.873, 3.873, 2.646]
    """
    rows = np.arange(math.ceil(top - 0.5), math.ceil(bottom - 0.5), dtype=np.float64)
    middle, across, a, b = (top + bottom) / 2, (left + right) / 2, (bottom - top) / 2, (right - left) / 2
    half = b * np.sqrt(np.maximum(1 - ((rows + 0.5 - middle) / a) ** 2, 0))
    boxes = np.stack([rows, across - half, rows + 1, across + half], axis=1)
    return rectangles(boxes if rows.size else np.array([[top, left, top, left]]))


def area_of(part: Rings, *, holes: bool) -> float:
    """Area of a polygon.

    Parameters
    ----------
    part : Rings
        The polygon.
    holes : bool
        Whether all rings behind the first are holes; else areas count by the sense in which their rings turn.

    Returns
    -------
    float
        In px, at least 0 for outlines that do not cross themselves.

    Notes
    -----
    A ring has the area 1/2 |sum of y_i x_(i+1) - y_(i+1) x_i|.

    Examples
    --------
    >>> area_of(rectangles(np.array([[0, 0, 4, 4], [1, 1, 2, 2]])), holes=True)
    15.0
    """
    vertices, lengths = part
    stops = np.cumsum(lengths)
    after = np.arange(1, len(vertices) + 1)
    after[stops - 1] = stops - lengths
    # Counted from the first vertex: products of large coordinates would lose the digits that make up the area.
    local = vertices - vertices[0]
    terms = local[:, 0] * local[after, 1] - local[after, 0] * local[:, 1]
    areas = np.add.reduceat(terms, stops - lengths) / 2
    return float(2 * abs(areas[0]) - np.abs(areas).sum()) if holes else float(abs(areas.sum()))


def paint(
    canvas: NDArray[np.uint32],
    polygons: Polygons,
    *,
    box: Box,
    order: NDArray[np.int64],
    values: NDArray[np.uint32],
) -> NDArray[np.bool_]:
    """Paint the pixels of polygons in a box; later polygons cover earlier ones.

    Parameters
    ----------
    canvas : (Y, X) uint32
        The pixels of the box, changed in place.
    polygons : Polygons
        What is painted.
    box : Box
        Where the canvas lies.
    order : (N,) int64
        Which polygons, in the order of painting.
    values : (P,) uint32
        What the pixels of each polygon get.

    Returns
    -------
    (P,) bool
        Polygons with a ring that runs around a pixel of the box more than once, or around one pixel in each sense: an
        outline that crosses itself, by so much that it matters.

    Raises
    ------
    AnnotationError
        If the canvas does not have the shape of the box.

    Notes
    -----
    The rule. The middle line of pixel row y, at the height v = y + 0.5, is crossed by the edge from (y0, x0) to
    (y1, x1), where y0 < y1, if y0 <= v < y1, at

        u = x0 + (v - y0) (x1 - x0) / (y1 - y0)

    The pixel in column x belongs to the polygon if an odd number of crossings has u <= x + 0.5: even-odd over all rings
    of the polygon, so rings inside others are holes. The edges are half-open: a centre on a left or upper edge is
    inside, one on a right or lower edge is not. An edge that two polygons share is computed in one sense for both, so
    they share no pixel and leave none out. The result does not depend on the box.

    Time O(edges + area of each polygon's bounding box inside the box), memory one bounding box.

    Examples
    --------
    A triangle of three pixels; three further centres lie on its slope, a right edge:

    >>> ring = np.array([[0.0, 0.0], [0.0, 3.0], [3.0, 0.0]]), np.array([3])
    >>> canvas = np.zeros((3, 3), np.uint32)
    >>> box, one = Box(start=(0, 0), stop=(3, 3)), np.ones(1, np.uint32)
    >>> paint(canvas, polygons_of([ring]), box=box, order=np.arange(1), values=one).any()
    np.False_
    >>> canvas.tolist()
    [[1, 1, 0], [1, 0, 0], [0, 0, 0]]
    """
    if canvas.shape != box.shape:
        raise AnnotationError(f"canvas of {canvas.shape} px for a box of {box.shape} px; make it of the box's shape")
    crossing = np.zeros(polygons.count, np.bool_)
    (top, left), (bottom, right), (y0, x0, y1, x1) = box.start, box.stop, polygons.bounds.T
    met = (y0 < bottom) & (y1 > top) & (x0 < right) & (x1 > left)
    chosen = np.ascontiguousarray(order[met[order]], np.int64)
    fields = polygons.vertices, polygons.rings, polygons.parts
    _paint(canvas, top, left, *fields, chosen, np.ascontiguousarray(values, np.uint32), crossing)
    return crossing


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) lengths -> (N + 1,) starts and the end."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


@njit(cache=True, nogil=True)
def _first(edge: float) -> int:
    """The first pixel whose centre is not before an edge."""
    return math.ceil(edge - 0.5)


@njit(cache=True, nogil=True)
def _span(values: NDArray[np.float64], start: int, length: int) -> tuple[int, int]:
    """(V,) coordinates of rings -> the first pixel and the one behind the last that they can hold, in a window."""
    low, high = values[0], values[0]
    for value in values:
        low, high = min(low, value), max(high, value)
    return max(_first(low) - start, 0), min(_first(high) - start, length)


@njit(cache=True, nogil=True)
def _paint(
    canvas: NDArray[np.uint32],
    top: int,
    left: int,
    vertices: NDArray[np.float64],
    rings: NDArray[np.int64],
    parts: NDArray[np.int64],
    order: NDArray[np.int64],
    values: NDArray[np.uint32],
    crossing: NDArray[np.bool_],
) -> None:
    """Paint polygons on the (Y, X) canvas at (top, left), and mark the (P,) ones that cross themselves."""
    height, width = canvas.shape
    for part in order:
        points = vertices[rings[parts[part]] : rings[parts[part + 1]]]
        y0, y1 = _span(points[:, 0], top, height)
        x0, x1 = _span(points[:, 1], left, width)
        if y0 >= y1 or x0 >= x1:
            continue
        inside = np.zeros((y1 - y0, x1 - x0), np.bool_)
        for ring in range(parts[part], parts[part + 1]):
            if _toggle(inside, top + y0, left + x0, vertices[rings[ring] : rings[ring + 1]]):
                crossing[part] = True
        for y in range(y1 - y0):
            for x in range(x1 - x0):
                if inside[y, x]:
                    canvas[y0 + y, x0 + x] = values[part]


@njit(cache=True, nogil=True)
def _toggle(inside: NDArray[np.bool_], top: int, left: int, points: NDArray[np.float64]) -> bool:
    """Toggle the pixels inside a ring of (V, 2) points; whether it runs around one of them more than once."""
    y0, y1 = _span(points[:, 0], top, inside.shape[0])
    x0, x1 = _span(points[:, 1], left, inside.shape[1])
    if y0 >= y1 or x0 >= x1:
        return False
    # By how much the number of turns around a pixel differs from that of the pixel before it.
    turns = np.zeros((y1 - y0, x1 - x0 + 1), np.int32)
    previous = points.shape[0] - 1
    for i in range(points.shape[0]):
        rises = points[previous, 0] < points[i, 0]
        low, high = (previous, i) if rises else (i, previous)
        ya, xa, yb, xb = points[low, 0], points[low, 1], points[high, 0], points[high, 1]
        for y in range(max(_first(ya) - top, y0), min(_first(yb) - top, y1)):
            u = xa + (top + y + 0.5 - ya) * (xb - xa) / (yb - ya)
            x = min(max(_first(u) - left, x0), x1)
            turns[y - y0, x - x0] += 1 if rises else -1
        previous = i
    lowest = highest = 0
    for y in range(y1 - y0):
        turn = 0
        for x in range(x1 - x0):
            turn += turns[y, x]
            lowest, highest = min(lowest, turn), max(highest, turn)
            if turn & 1:
                inside[y0 + y, x0 + x] = not inside[y0 + y, x0 + x]
    return highest - lowest > 1

"""Polygons against pixels worked out by hand, a slow exact reference, and partitions of the plane."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import Delaunay

from unetpipe.errors import AnnotationError
from unetpipe.geometry import Box
from unetpipe.polygons import Rings, area_of, ellipse, paint, polygons_of, rectangles

QUARTERS = st.integers(-20, 60).map(lambda n: n / 4)
RINGS = st.lists(st.lists(st.tuples(QUARTERS, QUARTERS), min_size=3, max_size=9), min_size=1, max_size=3)


def part_of(*rings: list[tuple[float, float]]) -> Rings:
    """A polygon of rings of (y, x)."""
    return np.concatenate([np.array(r, np.float64) for r in rings]), np.array([len(r) for r in rings], np.int64)


def painted(*parts: Rings, shape: tuple[int, int], start: tuple[int, int] = (0, 0)) -> tuple[np.ndarray, list[bool]]:
    """Polygons 1, 2 ... painted in this order, and which of them cross themselves."""
    canvas = np.zeros(shape, np.uint32)
    box = Box(start=start, stop=(start[0] + shape[0], start[1] + shape[1]))
    n = len(parts)
    values = np.arange(1, n + 1, dtype=np.uint32)
    crossing = paint(canvas, polygons_of(parts), box=box, order=np.arange(n), values=values)
    return canvas, crossing.tolist()


def is_inside(rings: list[list[tuple[float, float]]], y: int, x: int) -> bool:
    """The documented rule for one pixel, in exact numbers."""
    v, centre, crossings = Fraction(2 * y + 1, 2), Fraction(2 * x + 1, 2), 0
    for ring in rings:
        for start, stop in zip(ring, ring[1:] + ring[:1], strict=True):
            (y0, x0), (y1, x1) = sorted([tuple(map(Fraction, start)), tuple(map(Fraction, stop))])
            if y0 <= v < y1 and x0 + (v - y0) * (x1 - x0) / (y1 - y0) <= centre:
                crossings += 1
    return crossings % 2 == 1


def test_a_square_covers_its_pixels() -> None:
    canvas, _ = painted(part_of([(1, 1), (1, 3), (3, 3), (3, 1)]), shape=(4, 5))
    assert canvas.tolist() == [[0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]


def test_only_the_centre_of_a_pixel_counts() -> None:
    below, above = 0.5 - 1e-9, 0.5 + 1e-9
    assert painted(part_of([(0, 0), (0, below), (1, below), (1, 0)]), shape=(1, 1))[0].item() == 0
    assert painted(part_of([(0, 0), (0, above), (1, above), (1, 0)]), shape=(1, 1))[0].item() == 1
    assert painted(part_of([(above, 0), (above, 1), (1, 1), (1, 0)]), shape=(1, 1))[0].item() == 0


def test_left_and_upper_edges_belong_to_the_polygon() -> None:
    canvas, _ = painted(part_of([(0.5, 0.5), (0.5, 2.5), (2.5, 2.5), (2.5, 0.5)]), shape=(4, 4))
    assert canvas.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_a_triangle_by_hand() -> None:
    # Row y is crossed at x = 1.5 (y + 0.5): 0.75, 2.25, 3.75, 5.25.
    canvas, _ = painted(part_of([(0, 0), (4, 6), (4, 0)]), shape=(4, 6))
    assert canvas.tolist() == [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]]


def test_rings_inside_others_are_holes_whatever_their_sense() -> None:
    outer, hole = [(0, 0), (0, 4), (4, 4), (4, 0)], [(1, 1), (1, 3), (3, 3), (3, 1)]
    expected = [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    for ring in (hole, hole[::-1]):
        canvas, crossing = painted(part_of(outer, ring), shape=(4, 4))
        assert (canvas.tolist(), crossing) == (expected, [False])


def test_later_polygons_cover_earlier_ones() -> None:
    one, two = rectangles(np.array([[0, 0, 1, 3]])), rectangles(np.array([[0, 1, 1, 4]]))
    assert painted(one, two, shape=(1, 5))[0].tolist() == [[1, 2, 2, 2, 0]]


def test_an_outline_that_crosses_itself_is_even_odd_and_marked() -> None:
    bow_tie = part_of([(0, 0), (4, 4), (4, 0), (0, 4)])
    twice = part_of([(0, 0), (0, 4), (4, 4), (4, 0), (0, 0), (0, 2), (2, 2), (2, 0)])
    assert painted(bow_tie, shape=(4, 4))[1] == [True]
    canvas, crossing = painted(twice, shape=(4, 4))
    assert canvas.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert crossing == [True]


def test_a_crossing_between_the_centres_of_pixels_does_not_matter() -> None:
    loop = part_of([(0, 0), (0, 4), (4, 4), (4, 0.2), (3.9, -0.2), (4, -0.2), (3.9, 0.2)])
    assert painted(loop, shape=(4, 4))[1] == [False]


@given(rings=RINGS)
def test_painting_is_the_rule_of_each_pixel(rings: list[list[tuple[float, float]]]) -> None:
    canvas, _ = painted(part_of(*rings), shape=(20, 20), start=(-5, -5))
    expected = [[is_inside(rings, y, x) for x in range(-5, 15)] for y in range(-5, 15)]
    assert np.array_equal(canvas != 0, expected)


@given(rings=RINGS, cut=st.tuples(st.integers(-5, 15), st.integers(-5, 15)))
def test_boxes_do_not_tell(rings: list[list[tuple[float, float]]], cut: tuple[int, int]) -> None:
    whole, crossing = painted(part_of(*rings), shape=(20, 20), start=(-5, -5))
    (y, x), marked = cut, False
    for rows in ((-5, y), (y, 15)):
        for columns in ((-5, x), (x, 15)):
            shape = (rows[1] - rows[0], columns[1] - columns[0])
            block, own = painted(part_of(*rings), shape=shape, start=(rows[0], columns[0]))
            assert np.array_equal(block, whole[rows[0] + 5 : rows[1] + 5, columns[0] + 5 : columns[1] + 5])
            marked |= own[0]
    # A ring is marked by one box only where the pixels that tell lie in one box.
    assert marked <= crossing[0]


@pytest.mark.parametrize("seed", range(5))
def test_a_triangulation_covers_each_pixel_once(seed: int) -> None:
    """Triangles that share all edges with others or with the frame, each in a random sense."""
    rng = np.random.default_rng(seed)
    points = np.concatenate([rng.integers(0, 161, (60, 2)) / 8, [[0, 0], [0, 20], [20, 0], [20, 20]]])
    points = np.unique(points, axis=0)
    count = np.zeros((20, 20), np.int64)
    for corners in Delaunay(points).simplices:
        ring = points[corners if rng.integers(2) else corners[::-1]]
        count += painted((ring, np.array([3])), shape=(20, 20))[0]
    assert (count == 1).all()


@pytest.mark.parametrize("side", [1, 2, 3, 7, 10, 31])
def test_an_ellipse_is_its_equation(side: int) -> None:
    canvas, _ = painted(ellipse(2, 1, 2 + side, 1 + 2 * side), shape=(side + 4, 2 * side + 4))
    y, x = np.mgrid[: side + 4, : 2 * side + 4] + 0.5
    expected = ((y - 2 - side / 2) / (side / 2)) ** 2 + ((x - 1 - side) / side) ** 2 < 1
    assert np.array_equal(canvas != 0, expected)


def test_areas() -> None:
    outer, hole = [(0, 0), (0, 4), (4, 4), (4, 0)], [(1, 1), (1, 3), (3, 3), (3, 1)]
    assert area_of(part_of(outer), holes=True) == 16
    assert area_of(part_of(outer, hole), holes=True) == area_of(part_of(outer, hole[::-1]), holes=True) == 12
    assert area_of(part_of(outer, hole), holes=False) == 20
    far = [(y + 2.0**30, x + 2.0**30) for y, x in outer]
    assert area_of(part_of(far), holes=True) == 16


def test_many_polygons_are_found_in_any_box() -> None:
    rng = np.random.default_rng(0)
    tops = rng.integers(0, 300, (500, 2))
    parts = [rectangles(np.array([[y, x, y + 7, x + 5]])) for y, x in tops]
    expected = np.zeros((310, 310), np.uint32)
    for value, (y, x) in enumerate(tops, start=1):
        expected[y : y + 7, x : x + 5] = value
    assert np.array_equal(painted(*parts, shape=(310, 310))[0], expected)
    assert np.array_equal(painted(*parts, shape=(60, 50), start=(100, 200))[0], expected[100:160, 200:250])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300, -3e9])
def test_coordinates_out_of_this_world(value: float) -> None:
    with pytest.raises(AnnotationError, match="not finite or beyond"):
        polygons_of([part_of([(0, 0), (0, value), (1, 1)])])


def test_no_polygons() -> None:
    assert painted(shape=(2, 2)) == (pytest.approx(np.zeros((2, 2))), [])

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.measure import label

from unetpipe.errors import GeometryError
from unetpipe.geometry import Box
from unetpipe.outlines import HOLE, OBJECT, OFFSET, PART, joined, pieces, trace
from unetpipe.polygons import paint, polygons_of

Labels = NDArray[np.uint32]
Ring = tuple[int, int, int, tuple[tuple[int, int], ...]]


def parts_of(labels: Labels) -> Labels:
    """4-connected parts of equal label."""
    return label(labels, background=0, connectivity=1).astype(np.uint32)


def outlines(labels: Labels, ys: list[int], xs: list[int], order: int = 1) -> list[Ring]:
    """Object, part, hole and vertices of each ring, traced in blocks that end at these positions."""
    framed, parts = np.pad(labels, 1), np.pad(parts_of(labels), 1)
    boxes = [Box(start=(y0, x0), stop=(y1, x1)) for y0, y1 in pairwise([0, *ys]) for x0, x1 in pairwise([0, *xs])]
    vertices, runs, count = [np.zeros((0, 2), np.int32)], [np.zeros((0, 9), np.int64)], 0
    for box in boxes[::order]:
        window = box.grown(1).relative_to((-1, -1)).slices
        found, its_runs = trace(framed[window], parts[window], box=box, image_width=labels.shape[1])
        its_runs[:, OFFSET] += count
        count += len(found)
        vertices.append(found)
        runs.append(its_runs)
    table, all_runs = np.concatenate(vertices), np.concatenate(runs)
    contours = joined(lambda column: all_runs[:, column])
    rings = []
    for first, stop in pairwise(contours.bounds):
        for number in range(first, stop):
            own = all_runs[contours.runs(number)]
            points = np.concatenate([table[start : start + length] for start, length in pieces(own)])
            assert own[0, [PART, HOLE]].tolist() == [contours.parts[number], contours.holes[number]]
            assert own[0, OBJECT] == all_runs[contours.runs(first)[0], OBJECT]
            rings.append((*(int(own[0, k]) for k in (OBJECT, PART, HOLE)), tuple(map(tuple, points.tolist()))))
    assert len(contours.bounds) == len({ring[0] for ring in rings}) + 1
    return rings


def twice_area(points: tuple[tuple[int, int], ...]) -> int:
    """Twice the area of a ring, positive where it runs counter-clockwise for y upwards."""
    return sum(x0 * y1 - x1 * y0 for (y0, x0), (y1, x1) in pairwise([*points, points[0]]))


def check(labels: Labels, rings: list[Ring]) -> None:
    """Rings are simple, turn at each vertex, begin with the first, lie in order, and enclose just the labels."""
    assert [ring[:3] + ring[3][:1] for ring in rings] == sorted(ring[:3] + ring[3][:1] for ring in rings)
    parts: dict[int, list[NDArray[np.float64]]] = {}
    for _, part, hole, points in rings:
        assert len(set(points)) == len(points) >= 4 and points[0] == min(points)
        steps = [(y1 - y0, x1 - x0) for (y0, x0), (y1, x1) in pairwise([*points, points[0]])]
        assert all((one[0] == 0) != (other[0] == 0) for one, other in pairwise([*steps, steps[0]]))
        assert (twice_area(points) < 0) == bool(hole) == bool(parts.get(part))
        parts.setdefault(part, []).append(np.array(points, float))
    areas = {part: sum(twice_area(ring[3]) for ring in rings if ring[1] == part) // 2 for part in parts}
    whole = parts_of(labels)
    assert areas == {part: int(n) for part, n in enumerate(np.bincount(whole.ravel())) if part and n}
    polygons = polygons_of([(np.concatenate(r), np.array([len(ring) for ring in r])) for r in parts.values()])
    canvas, objects = np.zeros(labels.shape, np.uint32), {ring[1]: ring[0] for ring in rings}
    values = np.array([objects[part] for part in parts], np.uint32)
    box = Box(start=(0, 0), stop=labels.shape)
    assert not paint(canvas, polygons, box=box, order=np.arange(polygons.count), values=values).any()
    assert np.array_equal(canvas, labels)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 9999),
    shape=st.tuples(st.integers(1, 18), st.integers(1, 18)),
    values=st.integers(1, 3),
    density=st.sampled_from([0.3, 0.6, 0.8, 1.0]),
    data=st.data(),
)
def test_outlines_enclose_the_labels_whatever_the_blocks(
    seed: int, shape: tuple[int, int], values: int, density: float, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.integers(1, values + 1, shape) * (rng.random(shape) < density)).astype(np.uint32)
    whole = outlines(labels, *([n] for n in shape))
    check(labels, whole)
    for order in (1, -1):
        ys, xs = ([*sorted(data.draw(st.sets(st.integers(1, max(n - 1, 1)), max_size=5)) - {n}), n] for n in shape)
        assert outlines(labels, ys, xs, order) == whole


def test_a_ring_that_closes_over_a_corner_has_a_hole_that_touches_it() -> None:
    labels = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.uint32)
    outer, hole = outlines(labels, [1, 2, 3], [1, 2, 3])
    assert outer[2:] == (0, ((0, 0), (0, 3), (2, 3), (2, 2), (3, 2), (3, 0)))
    assert hole[2:] == (1, ((1, 1), (2, 1), (2, 2), (1, 2)))


def test_pixels_that_touch_over_a_corner_are_two_parts() -> None:
    rings = outlines(np.eye(2, dtype=np.uint32), [1, 2], [2])
    assert [(ring[1], ring[3]) for ring in rings] == [
        (1, ((0, 0), (0, 1), (1, 1), (1, 0))),
        (2, ((1, 1), (1, 2), (2, 2), (2, 1))),
    ]


def test_a_hole_and_what_lies_in_it() -> None:
    labels = np.full((5, 5), 1, np.uint32)
    labels[1:4, 1:4] = 0
    labels[2, 2] = 2
    found = [(ring[0], ring[2], twice_area(ring[3]) // 2) for ring in outlines(labels, [2, 5], [3, 5])]
    assert found == [(1, 0, 25), (1, 1, -9), (2, 0, 1)]


def test_an_arm_of_a_thousand_turns_is_one_ring() -> None:
    labels = np.zeros((200, 99), np.uint32)
    labels[::2] = 1
    labels[1::4, -1] = labels[3::4, 0] = 1
    cut = list(range(7, 99, 7))
    (ring,) = outlines(labels, [*range(5, 200, 5), 200], [*cut, 99])
    assert [ring] == outlines(labels, [200], [99])
    assert twice_area(ring[3]) == 2 * labels.sum()


def test_an_empty_image_has_no_rings() -> None:
    assert outlines(np.zeros((3, 4), np.uint32), [3], [4]) == []


def test_what_does_not_fit_is_refused() -> None:
    box, window = Box(start=(0, 0), stop=(2, 2)), np.ones((4, 4), np.uint32)
    for wrong in ((window[1:], window), (window, window[:, 1:])):
        with pytest.raises(GeometryError, match="one pixel more"):
            trace(*wrong, box=box, image_width=2)
    _, runs = trace(window, window, box=Box(start=(2, 2), stop=(4, 4)), image_width=9)
    assert len(runs) == 0
    window[0] = 0
    _, runs = trace(window, window, box=Box(start=(2, 2), stop=(4, 4)), image_width=9)
    with pytest.raises(GeometryError, match="not continued"):
        joined(lambda column: runs[:, column])

"""Pictures from literal arrays, and against slow references."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unetpipe.geometry import Box
from unetpipe.pictures import (
    area_layer,
    chart,
    crowded_box,
    enlarged,
    grey_to_rgb,
    heat,
    outline_layer,
    outlines,
    ticks,
)

LABELS = hnp.arrays(np.uint32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 3))


def test_one_channel_is_grey_between_its_limits() -> None:
    rgb = grey_to_rgb(np.array([[[5, 10, 20, 99]]], np.uint16), [(10.0, 20.0)])
    assert rgb.dtype == np.uint8
    assert rgb[0].tolist() == [[0, 0, 0], [0, 0, 0], [255, 255, 255], [255, 255, 255]]


def test_a_constant_channel_is_black() -> None:
    assert not grey_to_rgb(np.full((1, 2, 2), 7, np.uint8), [(7.0, 7.0)]).any()


def test_two_channels_are_magenta_and_green_and_add_up_to_white() -> None:
    image = np.array([[[1, 0, 1]], [[0, 1, 1]]], np.float32)
    assert grey_to_rgb(image, [(0.0, 1.0)] * 2)[0].tolist() == [[255, 0, 255], [0, 255, 0], [255, 255, 255]]


def test_three_channels_keep_their_hue() -> None:
    image = np.array([[[200]], [[100]], [[0]]], np.uint8)
    assert grey_to_rgb(image, [(0.0, 200.0), (50.0, 100.0), (0.0, 10.0)])[0, 0].tolist() == [255, 128, 0]


def test_more_channels_than_colours_are_drawn() -> None:
    image = np.zeros((9, 1, 1), np.uint8)
    image[7] = 1
    assert grey_to_rgb(image, [(0.0, 1.0)] * 9)[0, 0].tolist() == [255, 0, 0]


def test_outlines_of_touching_objects() -> None:
    labels = np.array(
        [
            [1, 1, 1, 2, 2],
            [1, 1, 1, 2, 2],
            [1, 1, 1, 2, 2],
            [0, 0, 0, 0, 2],
        ]
    )
    assert outlines(labels).astype(int).tolist() == [
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 0],
        [1, 1, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]


@given(LABELS)
def test_outlines_equal_a_loop_over_neighbours(labels: np.ndarray) -> None:
    expected = np.zeros(labels.shape, bool)
    for y, x in np.argwhere(labels > 0):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= v < labels.shape[0] and 0 <= u < labels.shape[1]:
                expected[y, x] |= labels[v, u] != labels[y, x]
    assert np.array_equal(outlines(labels), expected)


def test_an_enlarged_outline_has_a_dark_seam() -> None:
    labels = np.zeros((3, 3), np.uint32)
    labels[1, 1] = 4
    layer = outline_layer(labels, (10, 20, 30), factor=2)
    assert layer.shape == (6, 6, 4)
    assert (layer[2:4, 2:4] == (10, 20, 30, 255)).all()
    seam = (layer[..., 3] > 0) & (layer[..., 3] < 255)
    assert seam.sum() == 8
    assert not layer[seam, :3].any()
    assert (outline_layer(labels, (10, 20, 30))[..., 3] > 0).sum() == 1


def test_areas_are_filled() -> None:
    layer = area_layer(np.array([[0, 3], [3, 9]]), (1, 2, 3), alpha=50)
    assert layer.tolist() == [[[0, 0, 0, 0], [1, 2, 3, 50]], [[1, 2, 3, 50], [1, 2, 3, 50]]]


def test_heat_becomes_brighter_and_never_leaves_the_range() -> None:
    rgb = heat(np.linspace(0, 10, 101)[None], 10.0)[0].astype(float)
    # Perceived brightness as the colour map's author defines it.
    brightness = rgb @ (0.30, 0.59, 0.11)
    assert (np.diff(brightness) > 0).all()
    assert brightness == pytest.approx(np.linspace(0, 255, 101), abs=3)


def test_enlarging_repeats_pixels() -> None:
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    big = enlarged(picture, 3)
    assert big.shape == (6, 6, 3)
    assert np.array_equal(big[::3, ::3], picture)
    assert np.array_equal(big[2::3, 1::3], picture)


def test_crowded_box_finds_the_crowd() -> None:
    labels = np.zeros((64, 96), np.uint32)
    labels[5, 5] = 1
    for number, x in enumerate(range(70, 90, 4), start=2):
        labels[40:43, x : x + 3] = number
    box = crowded_box(labels, 32)
    assert box.shape == (32, 32)
    assert set(np.unique(labels[box.slices])) == {0, 2, 3, 4, 5, 6}


@pytest.mark.parametrize("labels", [np.zeros((9, 9), np.uint32), np.ones((9, 9), np.uint32)])
def test_without_whole_objects_the_middle_is_taken(labels: np.ndarray) -> None:
    assert crowded_box(labels, 3).start == (3, 3)


@given(LABELS, st.integers(1, 12))
def test_crowded_box_is_inside_and_of_its_size(labels: np.ndarray, side: int) -> None:
    box = crowded_box(labels, side)
    assert box.clipped(labels.shape) == box
    assert box.shape == tuple(min(side, n) for n in labels.shape)


def test_a_small_image_is_taken_whole() -> None:
    assert crowded_box(np.ones((3, 5), np.uint32), 8) == Box(start=(0, 0), stop=(3, 5))


@given(st.floats(-10, 10), st.floats(1e-6, 1e9))
def test_ticks_are_few_even_and_inside(start: float, span: float) -> None:
    low, high = start * span, (start + 1) * span
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    slack = 1e-6 * span
    assert low - slack <= found[0] and found[-1] <= high + slack
    assert np.ptp(np.diff(found)) <= slack


def test_logarithmic_ticks() -> None:
    assert ticks(0.09, 1.1, is_log=True) == [0.1, 0.2, 0.5, 1.0]
    assert ticks(0.5, 2000.0, is_log=True) == [1.0, 10.0, 100.0, 1000.0]


def test_a_chart_of_values_far_apart_is_logarithmic() -> None:
    laid = chart({"a": [(10, 100.0), (20, 1.0)], "b": [(20, 10.0)]})
    assert laid.is_log
    assert laid.last == 20
    (x0, high), (x1, low) = laid.lines["a"]
    assert (x0, x1) == (0.5, 1.0)
    assert laid.lines["b"][0][1] == pytest.approx((high + low) / 2)
    assert laid.y_ticks[0][1] == "1" and laid.y_ticks[-1][1] == "100"


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [2.0], [1.0, 3.0], [0.0, 50.0]])
def test_other_charts_begin_at_zero(values: list[float]) -> None:
    laid = chart({"loss": [(step, value) for step, value in enumerate(values, start=1)]})
    assert not laid.is_log
    assert laid.y_ticks[0] == (0.0, "0")
    assert all(0 <= y <= 1 for _, y in laid.lines["loss"])

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from unetpipe.errors import ConfigError, GeometryError
from unetpipe.geometry import Box
from unetpipe.phantoms import phantom_image, phantom_labels

SHAPE = (700, 900)
WHOLE = Box(start=(0, 0), stop=SHAPE)
SEED = 11


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return phantom_image(WHOLE, shape=SHAPE, seed=SEED)


@pytest.fixture(scope="module")
def labels() -> NDArray[np.uint32]:
    return phantom_labels(WHOLE, shape=SHAPE, seed=SEED)


@pytest.fixture(scope="module")
def many() -> NDArray[np.uint32]:
    """Some 10,000 cells of 12 px."""
    return phantom_labels(Box(start=(0, 0), stop=(1500, 1500)), shape=(1500, 1500), seed=3, diameter_px=12.0)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    y, x = draw(st.integers(0, SHAPE[0] - 1)), draw(st.integers(0, SHAPE[1] - 1))
    height, width = draw(st.integers(1, SHAPE[0] - y)), draw(st.integers(1, SHAPE[1] - x))
    return Box(start=(y, x), stop=(y + height, x + width))


def touching_pairs(labels: NDArray[np.uint32]) -> set[tuple[int, int]]:
    """Pairs of instances that share a pixel edge."""
    pairs: set[tuple[int, int]] = set()
    for a, b in ((labels[:-1], labels[1:]), (labels[:, :-1], labels[:, 1:])):
        meet = (a != b) & (a > 0) & (b > 0)
        pairs |= {(min(p), max(p)) for p in zip(a[meet].tolist(), b[meet].tolist(), strict=True)}
    return pairs


@given(boxes())
def test_a_box_equals_that_box_of_the_whole(image: NDArray[np.uint8], labels: NDArray[np.uint32], box: Box) -> None:
    assert np.array_equal(phantom_image(box, shape=SHAPE, seed=SEED), image[box.slices])
    assert np.array_equal(phantom_labels(box, shape=SHAPE, seed=SEED), labels[box.slices])


@pytest.mark.parametrize("diameter_px", [8.0, 23.7, 300.0])
def test_a_box_equals_that_box_of_the_whole_for_other_diameters(diameter_px: float) -> None:
    part = Box(start=(37, 101), stop=(250, 333))
    for phantom in (phantom_image, phantom_labels):
        whole = phantom(WHOLE, shape=SHAPE, seed=5, diameter_px=diameter_px)
        assert np.array_equal(phantom(part, shape=SHAPE, seed=5, diameter_px=diameter_px), whole[part.slices])


def test_boxes_far_from_the_origin_agree() -> None:
    shape, corner = (2**31 - 1, 1000), (2**31 - 150, 800)
    whole = Box(start=corner, stop=(corner[0] + 140, corner[1] + 140))
    part = Box(start=(corner[0] + 31, corner[1] + 57), stop=(corner[0] + 90, corner[1] + 140))
    for phantom in (phantom_image, phantom_labels):
        drawn = phantom(whole, shape=shape, seed=5, diameter_px=30.0)
        inside = part.relative_to(corner).slices
        assert np.array_equal(phantom(part, shape=shape, seed=5, diameter_px=30.0), drawn[inside])
        assert len(np.unique(drawn)) > 3


def test_the_shape_moves_nothing(image: NDArray[np.uint8], labels: NDArray[np.uint32]) -> None:
    box, small = Box(start=(100, 50), stop=(300, 350)), (300, 350)
    assert np.array_equal(phantom_image(box, shape=small, seed=SEED), image[box.slices])
    renamed, named = phantom_labels(box, shape=small, seed=SEED), labels[box.slices]
    pairs = np.unique(np.stack([renamed.ravel(), named.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


def test_seeds_differ_and_repeat(image: NDArray[np.uint8]) -> None:
    box = Box(start=(0, 0), stop=(64, 64))
    assert np.array_equal(phantom_image(box, shape=SHAPE, seed=SEED), image[:64, :64])
    for seed in (0, SEED + 1, 2**64 - 1):
        assert not np.array_equal(phantom_image(box, shape=SHAPE, seed=seed), image[:64, :64])


def test_every_cell_is_one_piece(many: NDArray[np.uint32]) -> None:
    broken = []
    for number, place in enumerate(ndimage.find_objects(many), 1):
        if place is None or any(s.start == 0 or s.stop == n for s, n in zip(place, many.shape, strict=True)):
            continue
        if ndimage.label(many[place] == number)[1] != 1:
            broken.append(number)
    assert broken == []


def test_no_cell_inside_is_a_sliver(many: NDArray[np.uint32]) -> None:
    areas = np.bincount(many.ravel())
    rim = np.concatenate([many[0], many[-1], many[:, 0], many[:, -1]])
    inside = np.setdiff1d(np.unique(many), rim)
    assert len(inside) > 8000
    assert areas[inside].min() > 0.1 * areas[inside].mean()


@pytest.mark.parametrize(("diameter_px", "side"), [(12.0, 1500), (40.0, 2000)])
def test_cells_have_the_mean_diameter_and_cover_about_half(diameter_px: float, side: int) -> None:
    box = Box(start=(0, 0), stop=(side, side))
    labels = phantom_labels(box, shape=(side, side), seed=3, diameter_px=diameter_px)
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    inside = np.setdiff1d(np.unique(labels), rim)
    areas = np.bincount(labels.ravel())[inside]
    assert math.sqrt(4 / math.pi * areas.mean()) == pytest.approx(diameter_px, rel=0.05)
    assert 0.4 < (labels > 0).mean() < 0.6


def test_numbers_are_places_in_the_grid(labels: NDArray[np.uint32]) -> None:
    """A cell's number gives back the grid step that its centroid lies in, or the next one."""
    columns = math.ceil(SHAPE[1] / 38) + 4
    numbers = np.unique(labels)[1:]
    centroids = np.array(ndimage.center_of_mass(labels > 0, labels, numbers)) / 38
    places = np.stack(np.divmod(numbers.astype(np.int64) - 1, columns), axis=1) - 2 + 0.5
    assert np.abs(centroids - places).max() < 1.2
    assert labels.dtype == np.uint32


def test_many_cells_touch(labels: NDArray[np.uint32]) -> None:
    cells = len(np.unique(labels)) - 1
    assert cells > 150
    assert len(touching_pairs(labels)) > cells


def test_greys_are_not_saturated_and_show_the_cells(image: NDArray[np.uint8], labels: NDArray[np.uint32]) -> None:
    assert ((image == 0) | (image == 255)).mean() < 0.01
    cell, background = image[labels > 0], image[labels == 0]
    assert background.mean() < 60 < 100 < cell.mean() < 180
    assert cell.std() > 15


def test_shared_membranes_are_darker_than_cells(image: NDArray[np.uint8], labels: NDArray[np.uint32]) -> None:
    across = (labels[:, :-1] != labels[:, 1:]) & (labels[:, :-1] > 0) & (labels[:, 1:] > 0)
    membrane = image[:, :-1][across].mean()
    inside = ndimage.minimum_filter(labels, 9) == ndimage.maximum_filter(labels, 9)
    assert membrane < 0.9 * image[inside & (labels > 0)].mean()
    assert membrane > 1.5 * image[labels == 0].mean()


def test_background_noise_is_that_of_photons_and_reading() -> None:
    """Differences of neighbours far from cells have twice the variance mean / 2 + 2^2 + 1 / 12."""
    shape = (1000, 1000)
    box = Box(start=(0, 0), stop=shape)
    image = phantom_image(box, shape=shape, seed=2).astype(float)
    empty = ndimage.binary_erosion(phantom_labels(box, shape=shape, seed=2) == 0, iterations=8)
    both = empty[:, :-1] & empty[:, 1:]
    variance = (np.diff(image, axis=1)[both] ** 2).mean() / 2
    assert both.sum() > 50_000
    assert variance == pytest.approx(image[empty].mean() / 2 + 4 + 1 / 12, rel=0.05)


@pytest.mark.parametrize("phantom", [phantom_image, phantom_labels])
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"diameter_px": 7.9}, ConfigError),
        ({"diameter_px": math.nan}, ConfigError),
        ({"seed": -1}, ConfigError),
        ({"seed": 2**64}, ConfigError),
        ({"shape": (9, 10)}, GeometryError),
        ({"shape": (0, 0)}, GeometryError),
        ({"shape": (2**31, 10)}, GeometryError),
        ({"shape": (2**31 - 1, 2**31 - 1)}, ConfigError),
        ({"box": Box(start=(-1, 0), stop=(10, 10))}, GeometryError),
        ({"box": Box(start=(3, 3), stop=(3, 10))}, GeometryError),
    ],
)
def test_what_cannot_be_drawn_is_refused(phantom, changes, error) -> None:  # type: ignore[no-untyped-def]
    arguments = {"box": Box(start=(0, 0), stop=(10, 10)), "shape": (10, 10), "seed": 1, "diameter_px": 40.0} | changes
    with pytest.raises(error) as refusal:
        phantom(arguments.pop("box"), **arguments)
    assert len(str(refusal.value)) <= 300
    assert "\n" not in str(refusal.value)

"""Border weights against one distance transform per instance and hand-worked numbers; blocks against the whole."""

import math

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage
from scipy.spatial import cKDTree

from unetpipe.errors import AnnotationError, ConfigError
from unetpipe.labels import compact
from unetpipe.weights import border_weights, faded_weights, reach_px

TOLERANCE = 2e-6


def by_transforms(labels, w0=10.0, sigma_px=5.0):
    """The formula with one exact distance transform per instance."""
    values = np.unique(labels[labels > 0])
    if values.size < 2:
        return np.zeros(labels.shape)
    distances = np.stack([ndimage.distance_transform_edt(labels != value) for value in values])
    return w0 * np.exp(-(np.sort(distances, axis=0)[:2].sum(axis=0) ** 2) / (2 * sigma_px**2))


def cells(shape, count, *, radius, seed):
    """Touching and lonely cells of all sizes: pixels within a radius of scattered points, nearest point wins."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 1, (count, 2)) * shape
    radii = rng.uniform(0.3, 1, count) * radius
    distance, nearest = cKDTree(points).query(np.moveaxis(np.indices(shape), 0, -1))
    return np.where(distance < radii[nearest], nearest + 1, 0).astype(np.uint32)


@pytest.fixture(scope="module")
def large():
    """A map that crosses all inner borders of the kernel, with empty and crowded parts."""
    labels = cells((290, 1130), 120, radius=40, seed=3)
    labels[:, 600:700] = 0
    return labels


@pytest.fixture(scope="module")
def large_weights(large):
    return border_weights(large)


@pytest.mark.parametrize(
    ("gap", "weight"), [(1, 9.231163), (2, 8.352702), (3, 7.261490), (4, 6.065307), (6, 3.753111), (10, 0.889216)]
)
def test_a_gap_between_half_planes_has_one_weight(gap, weight):
    labels = np.zeros((5, 80 + gap), dtype=np.uint32)
    labels[:, :40], labels[:, 40 + gap :] = 1, 2
    np.testing.assert_allclose(border_weights(labels)[:, 40 : 40 + gap], weight, rtol=0, atol=1e-6)
    np.testing.assert_allclose(border_weights(labels.T.copy())[40 : 40 + gap], weight, rtol=0, atol=1e-6)


def test_touching_instances_and_the_pixels_behind_their_border():
    labels = np.repeat(np.array([[1, 2]], dtype=np.uint32), 10, axis=1)
    s = np.array([*range(10, 0, -1), *range(1, 11)])
    np.testing.assert_allclose(border_weights(labels)[0], 10 * np.exp(-(s**2) / 50), rtol=1e-6)
    assert border_weights(labels)[0, 9] == np.float32(9.801987)


def test_distances_are_euclidean():
    labels = np.zeros((4, 4), dtype=np.uint32)
    labels[0, 0], labels[3, 3] = 1, 2
    expected = 10 * math.exp(-((1 + math.sqrt(13)) ** 2) / 50)  # from (0, 1): 1 px and (3, 2) px
    assert border_weights(labels)[0, 1] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("value", [0, 7])
def test_fewer_than_two_instances_have_no_border(value):
    labels = np.zeros((40, 50), dtype=np.uint32)
    labels[10:20, 10:20] = value
    assert not border_weights(labels).any()


SCENES = {
    "crowded": (cells((70, 90), 40, radius=30, seed=0), {}),
    "sparse": (cells((100, 130), 12, radius=12, seed=1), {}),
    "single pixels": (cells((60, 60), 60, radius=1.0, seed=2), {}),
    "narrow": (cells((90, 80), 30, radius=20, seed=4), {"sigma_px": 0.8}),
    "wide": (cells((60, 150), 5, radius=20, seed=5), {"w0": 50.0, "sigma_px": 30.0}),
    "weak": (cells((60, 60), 9, radius=20, seed=6), {"w0": 0.01, "sigma_px": 4}),
    "one row": (cells((1, 400), 12, radius=12, seed=7), {}),
    "one column": (cells((400, 1), 12, radius=12, seed=7), {}),
}


@pytest.mark.parametrize(("labels", "parameters"), SCENES.values(), ids=SCENES.keys())
def test_equals_one_transform_per_instance(labels, parameters):
    weights = border_weights(labels, **parameters)
    assert weights.dtype == np.float32 and weights.shape == labels.shape and weights.any()
    np.testing.assert_allclose(weights, by_transforms(labels, **parameters), rtol=0, atol=TOLERANCE)
    assert weights.min() >= 0 and weights.max() <= parameters.get("w0", 10.0)


def test_equals_one_transform_per_instance_across_inner_borders(large, large_weights):
    # A stretch at a time: instances farther away than the reach change nothing beyond the tolerance.
    for start in range(0, large.shape[1], 226):
        stretch = slice(max(start - 29, 0), start + 226 + 29)
        inside = slice(start - stretch.start, start - stretch.start + 226)
        expected = by_transforms(large[:, stretch])[:, inside]
        np.testing.assert_allclose(large_weights[:, start : start + 226], expected, rtol=0, atol=TOLERANCE)


def test_concave_nested_and_split_instances():
    labels = np.zeros((60, 60), dtype=np.uint32)
    labels[5:50, 5:50] = 1
    labels[10:45, 10:50] = 0  # a C
    labels[20:30, 15:25] = 2  # inside the C
    labels[22:24, 30:58] = 1  # a second piece of the C
    labels[35, 35] = 3
    np.testing.assert_allclose(border_weights(labels), by_transforms(labels), rtol=0, atol=TOLERANCE)


@given(
    arrays(np.uint32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 3)),
    st.sampled_from([0.6, 2.0, 5.0]),
)
def test_equals_one_transform_per_instance_on_any_small_map(labels, sigma_px):
    weights = border_weights(labels, sigma_px=sigma_px, threads=1)
    np.testing.assert_allclose(weights, by_transforms(labels, sigma_px=sigma_px), rtol=0, atol=TOLERANCE)


def test_blocks_with_their_reach_around_give_the_bits_of_the_whole(large, large_weights):
    reach = reach_px(w0=10.0, sigma_px=5.0)
    for y in range(0, large.shape[0], 100):
        for x in range(0, large.shape[1], 150):
            top, left = max(y - reach, 0), max(x - reach, 0)
            block = border_weights(large[top : y + 100 + reach, left : x + 150 + reach])
            inside = block[y - top : y - top + 100, x - left : x - left + 150]
            np.testing.assert_array_equal(inside, large_weights[y : y + 100, x : x + 150])


def test_bits_do_not_depend_on_threads_direction_numbers_or_layout(large, large_weights):
    np.testing.assert_array_equal(border_weights(large, threads=1), large_weights)
    np.testing.assert_array_equal(border_weights(large, threads=5), large_weights)
    np.testing.assert_array_equal(border_weights(large.T).T, large_weights)
    np.testing.assert_array_equal(border_weights(large[::-1, ::-1])[::-1, ::-1], large_weights)
    numbers = np.random.default_rng(0).permutation(np.uint32(2**32 - 1) - np.arange(121, dtype=np.uint32))
    numbers[0] = 0
    np.testing.assert_array_equal(border_weights(numbers[large]), large_weights)


def test_labels_may_be_read_only_and_are_left_alone(large, large_weights):
    labels = large.copy()
    np.testing.assert_array_equal(border_weights(labels), large_weights)
    assert labels.flags.writeable
    np.testing.assert_array_equal(labels, large)
    labels.setflags(write=False)
    np.testing.assert_array_equal(border_weights(labels), large_weights)


def test_the_widest_term_still_counts_exactly():
    labels = np.zeros((3, 1400), dtype=np.uint32)
    labels[:, 5], labels[:, 905] = 1, 2
    weights = border_weights(labels, sigma_px=180.0)
    np.testing.assert_allclose(weights[:, 5:906], 10 * math.exp(-(900**2) / (2 * 180**2)), rtol=1e-6)
    np.testing.assert_allclose(weights[1, 915], 10 * math.exp(-((10 + 910) ** 2) / (2 * 180**2)), rtol=1e-6)
    assert not weights[:, 1100:].any()


@pytest.mark.parametrize("shape", [(0, 0), (0, 7), (7, 0), (1, 1)])
def test_images_with_nothing_in_them(shape):
    assert border_weights(np.zeros(shape, dtype=np.uint32)).shape == shape


def test_a_term_without_height_is_zero():
    assert not border_weights(np.array([[1, 2]], dtype=np.uint32), w0=0.0).any()
    assert reach_px(w0=0.0, sigma_px=5.0) == 0


@given(st.floats(1e-3, 1e4), st.floats(0.1, 150), st.floats(1e-9, 1e-4))
def test_reach_is_the_first_whole_distance_with_a_negligible_term(w0, sigma_px, error):
    def term(s):
        return w0 * math.exp(-(s**2) / (2 * sigma_px**2))

    reach = reach_px(w0=w0, sigma_px=sigma_px, error=error)
    assert term(reach) <= error * (1 + 1e-9)
    assert term(reach - 1) > error * (1 - 1e-9)


def test_reach_of_the_defaults():
    assert reach_px(w0=10.0, sigma_px=5.0) == 29
    assert reach_px(w0=10.0, sigma_px=5.0, error=10.0) == 0


def test_the_background_of_2019_fades_with_the_distance():
    objects = np.zeros((9, 80), dtype=bool)
    objects[:, 0] = True
    weights = faded_weights(objects)
    d = np.arange(80)
    np.testing.assert_allclose(weights[4], 0.1 + 0.9 * np.exp(-(d**2) / 200), rtol=0, atol=1e-6)
    assert (weights[:, 53:] == np.float32(0.1)).all()
    assert (faded_weights(np.zeros((3, 4), dtype=bool)) == np.float32(0.1)).all()
    assert faded_weights(np.zeros((0, 4), dtype=bool)).shape == (0, 4)


def test_blocks_of_2019_give_the_bits_of_the_whole(large):
    whole = faded_weights(large > 0)
    for y, x in ((100, 560), (200, 640), (0, 0)):
        top, left = max(y - 53, 0), max(x - 53, 0)
        block = faded_weights(large[top : y + 90 + 53, left : x + 120 + 53] > 0)
        np.testing.assert_array_equal(block[y - top :, x - left :][:90, :120], whole[y : y + 90, x : x + 120])


ONE = np.array([[1, 0, 2]], dtype=np.uint32)
REFUSED = [
    (lambda: border_weights(ONE, sigma_px=0.0), ConfigError, "sigma_px is 0.0"),
    (lambda: border_weights(ONE, sigma_px=math.nan), ConfigError, "sigma_px is nan"),
    (lambda: border_weights(ONE, sigma_px=200.0), ConfigError, "reaches 1136 px"),
    (lambda: border_weights(ONE, w0=-1.0), ConfigError, "w0 is -1.0"),
    (lambda: border_weights(ONE, w0=math.inf), ConfigError, "w0 is inf"),
    (lambda: border_weights(ONE, threads=0), ConfigError, "threads is 0"),
    (lambda: reach_px(w0=1.0, sigma_px=1.0, error=0.0), ConfigError, "error is 0.0"),
    (lambda: border_weights(ONE.astype(np.int64)), AnnotationError, "int64"),
    (lambda: border_weights(ONE[0]), AnnotationError, r"shape \(3,\)"),
]


@pytest.mark.parametrize(("call", "error", "said"), REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(call, error, said):
    with pytest.raises(error, match=said) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 300


def test_real_nuclei_equal_one_transform_per_instance(data_folder):
    paths = sorted((data_folder / "dsb2018" / "labels").glob("*.tif"))
    small = [labels for labels in (tifffile.imread(path) for path in paths[:20]) if labels.size <= 300 * 400][:4]
    if not small:
        pytest.skip("no small dsb2018 labels among the real data")
    for labels in small:
        np.testing.assert_allclose(border_weights(compact(labels)), by_transforms(labels), rtol=0, atol=TOLERANCE)

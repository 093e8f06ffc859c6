"""Numbers about samples, held against brute force and by hand."""

import numpy as np
import pytest
from scipy import ndimage

from unetpipe.examination import (
    EDGE_SIGMA_PX,
    alignment,
    count_parts,
    label_edges,
    picture_digest,
    saturated_share,
    window_variance,
)


def discs(shape: tuple[int, int], seed: int, count: int = 12) -> np.ndarray:
    """(Y, X) labels of discs that may touch."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, dtype=np.uint32)
    for label in range(1, count + 1):
        cy, cx, r = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(4, 8)
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= r * r] = label
    return labels


@pytest.mark.parametrize("seed", range(3))
def test_alignment_is_the_correlation_of_every_shift(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = discs((41, 50), seed, 5)
    image = rng.normal(0, 0.3, (2, 41, 50)) + (labels > 0)
    reach = 4
    g = sum(ndimage.gaussian_gradient_magnitude(channel, EDGE_SIGMA_PX) for channel in image)
    e = label_edges(labels)[reach:-reach, reach:-reach].ravel()
    scores = {}
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            moved = g[reach + dy : 41 - reach + dy, reach + dx : 50 - reach + dx]
            scores[dy, dx] = np.corrcoef(e, moved.ravel())[0, 1]
    found = alignment(image, labels, reach=reach)
    assert found is not None
    assert found.shift == max(scores, key=lambda s: scores[s])
    assert found.best == pytest.approx(max(scores.values()), abs=1e-9)
    assert found.here == pytest.approx(scores[0, 0], abs=1e-9)
    y, x = found.shift
    apart = [score for (dy, dx), score in scores.items() if max(abs(dy - y), abs(dx - x)) > 6]
    assert found.elsewhere == pytest.approx(max(apart, default=-1), abs=1e-9)


@pytest.mark.parametrize("shift", [(0, 0), (3, 0), (-5, 7), (12, -9)])
def test_a_moved_annotation_is_found(shift: tuple[int, int]) -> None:
    labels = discs((120, 130), 1)
    image = np.roll(labels > 0, shift, axis=(0, 1)) * 90.0 + np.random.default_rng(0).normal(0, 9, labels.shape)
    found = alignment(image[None], labels)
    assert found is not None and found.shift == shift


def test_nothing_to_compare() -> None:
    labels, image = discs((60, 60), 0), np.random.default_rng(0).normal(size=(1, 60, 60))
    assert alignment(image, np.zeros_like(labels)) is None
    assert alignment(np.full((1, 60, 60), 7, np.uint8), labels) is None
    assert alignment(image[:, :11], labels[:11]) is None


def test_window_variance_is_that_of_each_window() -> None:
    values = np.random.default_rng(0).normal(size=(7, 9))
    found = window_variance(values, (4, 3))
    assert found.shape == (4, 7)
    for y, x in np.ndindex(found.shape):
        assert found[y, x] == pytest.approx(values[y : y + 4, x : x + 3].var())


def test_digest_knows_an_image_by_all_its_faces() -> None:
    image = np.random.default_rng(0).integers(0, 255, (3, 5, 8), dtype=np.uint8)
    digest = picture_digest(image)
    for turns in range(4):
        turned = np.rot90(image, turns, axes=(1, 2))
        assert picture_digest(turned) == picture_digest(turned[:, ::-1]) == digest
    other = image.copy()
    other[0, 0, 0] ^= 1
    assert picture_digest(other) != digest
    assert picture_digest(image[::-1]) != digest, "channels are not turned"


def test_saturation_is_at_what_a_camera_can_give() -> None:
    image = np.zeros((2, 2, 4), dtype=np.uint16)
    image[0, 0, :2] = image[1, 0, 1] = 4095
    assert saturated_share(image) == 2 / 8
    assert saturated_share(image, np.array([[True, False, False, False], [True, False, False, False]])) == 0.5
    assert saturated_share(image, np.zeros((2, 4), dtype=bool)) == 2 / 8
    image[0, 0, 0] = 4096
    assert saturated_share(image) == 0
    assert saturated_share(np.ones((1, 3, 3), dtype=np.float32)) == 0


def test_parts_are_counted_without_crumbs_and_across_touching() -> None:
    labels = np.zeros((30, 30), dtype=np.uint32)
    labels[2:12, 2:12] = labels[2:12, 15:25] = 1
    assert count_parts(labels) == 2
    labels[28, 28] = 1
    assert count_parts(labels) == 2, "a crumb"
    labels[12:22, 2:12] = 2
    assert count_parts(labels) == 3, "touching"
    assert count_parts(np.zeros_like(labels)) == 0
    assert count_parts(np.array([[1, 2]], dtype=np.uint32)) == 1, "all of it is a border"

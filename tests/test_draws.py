"""Patches drawn from windows against those of the whole image; in memory, from disk, stored or not: the same bits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from unetpipe import draws
from unetpipe.augment import draw_deformation, draw_grey_curve, generator, grey_curve, source_box
from unetpipe.draws import DrawnPatches, Kept, Sample, open_samples
from unetpipe.errors import AnnotationError
from unetpipe.geometry import Box, mirror
from unetpipe.manifests import Manifest
from unetpipe.slides import create_plane
from unetpipe.specs import AugmentSpec
from unetpipe.warp import deformed_patch, source_positions, spline_coefficients

SPEC = AugmentSpec(input_px=40, output_px=24, elastic_sigma_px=3.0)


class Watched(Kept):
    """Pixels in memory that remember the largest box they were asked for."""

    largest = 0

    def read(self, box: Box) -> NDArray[np.generic]:
        Watched.largest = max(Watched.largest, *box.shape)
        return super().read(box)


def sample(shape: tuple[int, int], channels: int = 1) -> Sample:
    """White noise, classes and weights."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (channels, *shape), dtype=np.uint8)
    classes = rng.choice(np.array([0, 1, 255], np.uint8), shape)
    parts = [Watched(part) for part in (image, classes, rng.random((2, *shape), np.float32))]
    limits = [(0.0, 255.0)] * channels
    return Sample(
        name="s", shape=shape, channels=channels, image=parts[0], classes=parts[1], weights=parts[2], limits=limits
    )


@pytest.mark.parametrize(
    ("shape", "channels"), [((300, 280), 1), ((300, 33), 3), ((9, 400), 1), ((5, 7), 2), ((1, 1), 1), ((41, 90), 1)]
)
def test_a_patch_of_a_window_is_that_of_the_whole_image(shape: tuple[int, int], channels: int) -> None:
    source = sample(shape, channels)
    whole = Box(start=(0, 0), stop=shape)
    image = source.image.read(whole).astype(np.float32) / np.float32(255)
    coefficients = spline_coefficients(image)
    for number in range(12):
        (found, classes, weights), redraws = source.draw(number, SPEC)
        rng = generator(SPEC.seed, "s", number)
        deformation = draw_deformation(
            rng, shape=shape, input_px=40, rotate=True, flip=True, elastic_sigma_px=3.0, elastic_nodes=3
        )
        planes = source.classes.read(whole), source.weights.read(whole)
        expected = deformed_patch(image, coefficients, *planes, deformation, input_px=40, output_px=24)
        np.testing.assert_allclose(found, grey_curve(expected[0], draw_grey_curve(rng)), rtol=0, atol=2e-6)
        np.testing.assert_array_equal(classes, expected[1])
        np.testing.assert_allclose(weights, expected[2], rtol=0, atol=1e-5)
        assert redraws == deformation.redraws


def test_only_the_surroundings_of_a_patch_are_read() -> None:
    source = sample((300, 280))
    Watched.largest = 0
    for number in range(30):
        source.draw(number, SPEC)
    # 57 px of a square of 40 px on its corner, 18 px on each side, and some px of displacement.
    assert 60 < Watched.largest < 57 + 36 + 25


@pytest.mark.parametrize("shape", [(300, 280), (50, 44), (20, 300), (3, 2), (1, 9)])
def test_the_window_holds_every_pixel_that_a_patch_shows(shape: tuple[int, int]) -> None:
    for number in range(20):
        deformation = draw_deformation(
            generator(number), shape=shape, input_px=30, rotate=True, flip=True, elastic_sigma_px=4.0
        )
        box = source_box(deformation, shape=shape, input_px=30)
        assert box == box.clipped(shape)
        around = np.rint(source_positions(deformation, input_px=30)).astype(int)
        for axis in (0, 1):
            shown = {mirror(int(place), shape[axis]) for place in np.unique(around[axis])}
            assert box.start[axis] <= min(shown) and max(shown) < box.stop[axis]


def stored(folder: Path, shape: tuple[int, int] = (90, 80), weights: tuple[int, int] | None = None) -> list[Manifest]:
    """Manifests of an image, labels and weights on disk."""
    rng = np.random.default_rng(1)
    arrays = {
        ("ingest", "images", "0"): rng.integers(0, 256, (2, *shape), dtype=np.uint8),
        ("annotate", "labels", "classes/0"): rng.integers(0, 2, shape, dtype=np.uint8),
        ("weigh", "weights", "0"): rng.random((1, *(weights or shape)), np.float32),
    }
    manifests = []
    for (stage, kind, name), array in arrays.items():
        path = folder / kind / "a.json"
        plane = create_plane(path.with_suffix(".zarr") / name, shape=array.shape, dtype=array.dtype, shard_side=32)
        for _, box in plane.iter_shards():
            plane.write_shard(box, np.ascontiguousarray(array[(..., *box.slices)]))
        facts = {"percentiles": [(10.0, 200.0), (0.0, 255.0)]}
        keys = {"spec": {}, "code": "", "inputs": {}, "content": "", "objects": {}, "digests": {}}
        manifests.append(Manifest(path=path, stage=stage, facts=facts, **keys))
    return manifests


def test_memory_or_disk_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, labels, weights = stored(tmp_path)
    spec = replace(SPEC, noise=0.1, blur_px=1.0, gamma=2.0)
    kept = open_samples([(image, labels, weights)] * 2, spec)
    assert all(isinstance(one.image, Kept) for one in kept)
    monkeypatch.setattr(draws, "KEPT_BYTES", 90 * 80 * (2 + 1 + 4))
    first, second = open_samples([(image, labels, weights)] * 2, spec)
    assert isinstance(first.weights, Kept) and not isinstance(second.weights, Kept)
    for number in range(3):
        bits = [[part.tobytes() for part in one.draw(number, spec)[0]] for one in (*kept, first, second)]
        assert bits[0] == bits[1] == bits[2] == bits[3]


def test_every_epoch_draws_the_next_patch_of_each_sample() -> None:
    one, two = sample((60, 70)), replace(sample((50, 50)), name="t")
    patches, plain = DrawnPatches((one, two), SPEC, 20, 1), DrawnPatches((one, two), SPEC, 20, None)
    assert len(patches) == 2
    for index, (source, number) in enumerate([(one, 0), (two, 0), (one, 1), (two, 1), (one, 2)]):
        (image, classes, weights), _ = source.draw(number, SPEC)
        found = patches.read(index)
        np.testing.assert_array_equal(found[0], image[:, 10:30, 10:30])
        np.testing.assert_array_equal(found[1], classes)
        np.testing.assert_array_equal(found[2], weights[1])
        assert plain.read(index)[2].shape == weights[1].shape and not plain.read(index)[2].any()


def test_a_disturbance_changes_grey_values_only() -> None:
    source = sample((60, 70))
    plain, _ = source.draw(5, SPEC)
    for change in ({"noise": 0.2}, {"blur_px": 2.0}, {"gamma": 2.0}):
        other, _ = source.draw(5, replace(SPEC, **change))
        assert not np.allclose(plain[0], other[0])
        assert plain[1].tobytes() == other[1].tobytes() and plain[2].tobytes() == other[2].tobytes()


def test_parts_of_different_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"sizes differ.*\(90, 79\).*\(90, 80\)"):
        image, labels, weights = stored(tmp_path, weights=(90, 79))
        open_samples([(image, labels, weights)], SPEC)

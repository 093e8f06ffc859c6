"""Grey values to network input."""

import numpy as np
import pytest

from unetpipe.intensity import intensity_range, normalise, percentiles


@pytest.mark.parametrize(("dtype", "top"), [("uint8", 255.0), ("uint16", 65535.0), ("float32", 1.0)])
def test_range_is_that_of_the_type(dtype: str, top: float) -> None:
    assert intensity_range("range", np.dtype(dtype), [(3.0, 9.0)] * 2) == [(0.0, top)] * 2


def test_percentiles_are_the_images_own() -> None:
    assert intensity_range("percentile", np.dtype("uint8"), [(3.0, 9.0)]) == [(3.0, 9.0)]


def test_low_becomes_0_and_high_becomes_1() -> None:
    image = np.array([[[10, 30, 20]], [[5, 5, 6]]], np.uint8)
    found = normalise(image, [(10.0, 30.0), (5.0, 5.0)])
    assert found.dtype == np.float32
    assert found.tolist() == [[[0.0, 1.0, 0.5]], [[0.0, 0.0, 1.0]]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (37, 53)])
def test_percentiles_are_those_of_numpy(dtype: type, shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).gamma(2.0, 20.0, shape).clip(0, 255).astype(dtype)
    shares = (0.0, 1.0, 33.3, 50.0, 99.8, 100.0)
    assert percentiles(values, shares) == pytest.approx(np.percentile(values, shares).tolist(), rel=1e-6, abs=1e-9)
    assert percentiles(np.full(shape, 7, dtype), [99.8]) == [7.0]

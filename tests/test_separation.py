"""Squares of 16 and of 32 bits give the same weights, up to the last reach that 16 bits hold."""

from typing import Any

import numpy as np
import pytest

from unetpipe.separation import BAND, kind_of_squares, weigh_band
from unetpipe.weights import reach_px

LAST_OF_16_BITS = 39


def weighed(labels: np.ndarray, sigma_px: float, kind: Any) -> np.ndarray:
    """Weights of a whole map with squares of one type."""
    reach = reach_px(w0=10.0, sigma_px=sigma_px)
    profile = 10.0 * np.exp(np.arange(reach**2 + 1) / (-2.0 * sigma_px**2))
    profile[-1] = 0.0
    out = np.zeros(labels.shape, np.float32)
    for start in range(0, labels.shape[0], BAND):
        weigh_band(labels, start, reach, np.empty(0, kind), profile, 10.0, sigma_px, out)
    return out


@pytest.mark.parametrize("reach", [1, 2, 3, 4, 5, 8, 13, 16, 29, 31, 32, 33, LAST_OF_16_BITS])
@pytest.mark.parametrize("share", [0.0005, 0.01, 0.3])
def test_both_types_give_the_same_bits(reach: int, share: float) -> None:
    # Points as far apart as the reach, some alone in their column: the largest squares and offsets that there are.
    rng = np.random.default_rng(reach)
    labels = (rng.integers(1, 2**31, (150, 1100)) * (rng.random((150, 1100)) < share)).astype(np.int32)
    labels.setflags(write=False)
    sigma_px = reach / np.sqrt(2 * np.log(1e7)) * (1 - 1e-9)
    assert reach_px(w0=10.0, sigma_px=sigma_px) == reach
    small, large = (weighed(labels, sigma_px, kind) for kind in (np.uint16, np.int32))
    assert reach < 8 or share == 0.3 or small.any()
    np.testing.assert_array_equal(small, large)


def test_the_smaller_type_is_taken_as_far_as_it_goes() -> None:
    assert [kind_of_squares(reach) for reach in range(1, LAST_OF_16_BITS + 1)] == [np.uint16] * LAST_OF_16_BITS
    assert kind_of_squares(LAST_OF_16_BITS + 1) == np.int32

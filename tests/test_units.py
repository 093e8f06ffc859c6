"""Pixel sizes: hand-worked numbers."""

import pytest

from unetpipe.errors import ModelError
from unetpipe.units import agree, common_pixel_size, shrink_factor


@pytest.mark.parametrize("reference", [0.25, 0.5, 0.2275, 1.0])
def test_two_percent_agree_and_more_does_not(reference: float) -> None:
    assert agree(1.02 * reference, reference) and agree(0.98 * reference, reference)
    assert not agree(1.021 * reference, reference) and not agree(0.979 * reference, reference)


def test_factor_is_one_within_the_tolerance() -> None:
    assert [shrink_factor(0.25, target) for target in (0.254, 0.246, 0.5, 0.125)] == [1.0, 1.0, 2.0, 0.5]


def test_a_network_learns_from_one_pixel_size() -> None:
    assert common_pixel_size({}) is None
    assert common_pixel_size({"a": None, "b": None}) is None
    assert common_pixel_size({"a": None, "b": 0.25, "c": 0.2549}) == 0.25
    with pytest.raises(ModelError, match=r"0\.25 um \(b\) and 0\.5 um \(d\); set ingest\.pixel_size_um"):
        common_pixel_size({"a": None, "b": 0.25, "c": 0.25, "d": 0.5})

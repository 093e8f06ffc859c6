import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from unetpipe.randomfields import add_value_noise, camera_image, hash_of, site_hash, uniform

KEY = np.uint64(0x1234)
MASK = 2**64 - 1


def splitmix64(state: int) -> int:
    """The generator's step in plain integers."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@given(st.integers(0, MASK), st.integers(0, MASK))
def test_hash_is_splitmix64(key: int, counter: int) -> None:
    state = (key + counter * 0x9E3779B97F4A7C15) & MASK
    assert int(hash_of(np.uint64(key), np.uint64(counter))) == splitmix64(state)


def test_sites_have_hashes_of_their_own() -> None:
    seen = {int(site_hash(KEY, y, x)) for y in range(-40, 40) for x in range(-40, 40)}
    assert len(seen) == 6400


def test_uniform_is_below_one() -> None:
    assert uniform(np.uint64(MASK)) == 1 - 2.0**-53
    assert uniform(np.uint64(0)) == 0.0


def value_noise(y: int, x: int, wavelength: float) -> float:
    """Slow reference of one pixel of noise of amplitude 1."""

    def knot(row: int, column: int) -> float:
        return 2 * uniform(np.uint64(site_hash(KEY, row, column))) - 1

    v, u = (y + 0.5) / wavelength, (x + 0.5) / wavelength
    i, j = int(np.floor(v)), int(np.floor(u))
    s, t = (3 * a**2 - 2 * a**3 for a in (v - i, u - j))
    upper = knot(i, j) + t * (knot(i, j + 1) - knot(i, j))
    lower = knot(i + 1, j) + t * (knot(i + 1, j + 1) - knot(i + 1, j))
    return float(upper + s * (lower - upper))


@given(st.integers(-1000, 1000), st.integers(-1000, 1000), st.floats(0.3, 50))
def test_value_noise_is_the_slow_one_at_any_place(y: int, x: int, wavelength: float) -> None:
    out = np.zeros((3, 4), np.float32)
    add_value_noise(out, y, x, wavelength, 2.0, KEY)
    expected = [[2 * value_noise(y + i, x + j, wavelength) for j in range(4)] for i in range(3)]
    assert out == pytest.approx(np.array(expected), abs=1e-5)


@pytest.mark.parametrize("wavelength", [6.0, 40.0])
def test_slopes_of_value_noise_are_bounded(wavelength: float) -> None:
    out = np.zeros((400, 400), np.float32)
    add_value_noise(out, 0, 0, wavelength, 1.0, KEY)
    slope = np.hypot(np.diff(out, axis=0)[:, :-1], np.diff(out, axis=1)[:-1])
    assert slope.max() <= 3 / wavelength
    assert np.abs(out).max() <= 1


@pytest.mark.parametrize("grey", [0.5, 20.0, 100.0, 200.0])
def test_camera_noise_has_the_distribution_it_names(grey: float) -> None:
    """Counts of the recorded values against those of independent Poisson and normal draws, by Kolmogorov's test."""
    recorded = camera_image(np.full((300, 300), grey, np.float32), (7, -3), KEY)
    rng = np.random.default_rng(1)
    drawn = np.clip(np.floor(rng.poisson(2 * grey, 90_000) / 2 + rng.normal(0, 2, 90_000) + 0.5), 0, 255)
    assert stats.ks_2samp(recorded.ravel(), drawn).pvalue > 1e-3


def test_camera_sees_each_pixel_for_itself() -> None:
    grey = np.random.default_rng(0).uniform(0, 300, (60, 70)).astype(np.float32)
    whole = camera_image(grey, (100, 200), KEY)
    part = camera_image(np.ascontiguousarray(grey[11:40, 5:66]), (111, 205), KEY)
    assert np.array_equal(part, whole[11:40, 5:66])


def test_camera_noise_is_not_correlated() -> None:
    noise = camera_image(np.full((400, 400), 100, np.float32), (0, 0), KEY) - 100.0
    for shifted in (
        noise[1:, :-1] * noise[:-1, :-1],
        noise[:-1, 1:] * noise[:-1, :-1],
        noise[1:, 1:] * noise[:-1, :-1],
    ):
        assert abs(shifted.mean()) / noise.var() < 4 / 400

"""Draws: keyed generators, fields that do not fold, centres that cover the image, grey curves."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unetpipe.augment import (
    Disturbance,
    GreyCurve,
    disturbed,
    draw_deformation,
    draw_disturbance,
    draw_grey_curve,
    generator,
    grey_curve,
)
from unetpipe.errors import ConfigError, GeometryError
from unetpipe.warp import Deformation, deformed_patch, source_positions, spline_coefficients

IDENTITY = ((1.0, 0.0), (0.0, 1.0))
STILL = np.zeros((2, 3, 3))
Sample = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]


def sample(shape: tuple[int, int], channels: int = 1, seed: int = 0) -> Sample:
    """White noise with its coefficients, classes {0, 1, 2, 255} and weights: nothing is smooth by chance."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(channels, *shape)).astype(np.float32)
    classes = rng.choice(np.array([0, 1, 2, 255], np.uint8), shape)
    return image, spline_coefficients(image), classes, rng.random(shape, np.float32)


def draw(shape: tuple[int, int], input_px: int, *key: int | str, sigma_px: float = 4.0) -> Deformation:
    """A rotated, flipped, shifted and elastic deformation."""
    rng = generator(*key)
    return draw_deformation(
        rng, shape=shape, input_px=input_px, rotate=True, flip=True, elastic_sigma_px=sigma_px, elastic_nodes=3
    )


class TestGenerator:
    def test_stream_is_pinned(self) -> None:
        # SHA-256 of [1,"a",0], its first 16 bytes as Philox key: any platform, any numpy that keeps Philox.
        raw = generator(1, "a", 0).bit_generator.random_raw(2)
        expected = np.random.Philox(key=0xE0098FCAF21903EF3CEB0C0A97BEDA9E).random_raw(2)
        assert raw.tolist() == expected.tolist()

    def test_keys_do_not_collide(self) -> None:
        keys: list[tuple[int | str, ...]] = [
            (),
            (1,),
            ("1",),
            (1, 2),
            (12,),
            ("1", "2"),
            ("12",),
            ("1,2",),
            (2, 1),
            (-1,),
        ]
        assert len({int(generator(*key).integers(2**63)) for key in keys}) == len(keys)

    def test_draws_do_not_depend_on_other_draws(self) -> None:
        image, coefficients, classes, weights = sample((40, 50))

        def patch(number: int) -> bytes:
            drawn = draw((40, 50), 24, 7, "tissue", number)
            arrays = deformed_patch(image, coefficients, classes, weights, drawn, input_px=24, output_px=8)
            return b"".join(array.tobytes() for array in arrays)

        forward = [patch(number) for number in range(4)]
        assert [patch(number) for number in reversed(range(4))] == forward[::-1]
        assert len(set(forward)) == 4


class TestDraw:
    @pytest.mark.parametrize(("input_px", "sigma_px", "nodes"), [(64, 10.0, 3), (128, 10.0, 3), (40, 10.0, 9)])
    def test_field_does_not_fold(self, input_px: int, sigma_px: float, nodes: int) -> None:
        redraws = []
        for number in range(12):
            drawn = draw_deformation(
                generator(number),
                shape=(500, 500),
                input_px=input_px,
                rotate=True,
                flip=True,
                elastic_sigma_px=sigma_px,
                elastic_nodes=nodes,
            )
            down, across = (np.gradient(source_positions(drawn, input_px=input_px), axis=axis) for axis in (1, 2))
            area = (down[0] * across[1] - down[1] * across[0]) / np.linalg.det(drawn.matrix)
            assert area[1:-1, 1:-1].min() > 0
            redraws.append(drawn.redraws)
        if input_px == 64:
            assert 0 < sum(redraws) < 12 * 16, "the guard is used, and drawing again is enough"
        if nodes == 9:
            assert min(redraws) > 16, "a field that always folds is halved"

    def test_displacements_have_the_given_deviation(self) -> None:
        drawn = [
            draw_deformation(generator(k), shape=(9, 9), input_px=572, rotate=False, flip=False) for k in range(100)
        ]
        nodes = np.stack([d.nodes for d in drawn])
        assert sum(d.redraws for d in drawn) == 0
        # 1800 normal numbers: the deviation's own standard error is 10 / sqrt(3600) = 0.17.
        assert abs(nodes.std() - 10) < 0.7
        assert abs(nodes.mean()) < 1.0

    def test_flags_change_only_what_they_name(self) -> None:
        drawn = [
            draw_deformation(generator(4), shape=(90, 70), input_px=188, rotate=rotate, flip=flip)
            for rotate in (False, True)
            for flip in (False, True)
        ]
        assert len({d.centre for d in drawn}) == 1
        assert all(np.array_equal(d.nodes, drawn[0].nodes) for d in drawn)
        assert drawn[0].matrix == IDENTITY
        for d in drawn:
            np.testing.assert_allclose(np.array(d.matrix) @ np.array(d.matrix).T, np.eye(2), atol=1e-15)
        turn, both = np.array(drawn[2].matrix), np.array(drawn[3].matrix)
        np.testing.assert_array_equal(turn @ np.array(drawn[1].matrix), both)

    def test_flips_and_angles_are_uniform(self) -> None:
        size = {"shape": (9, 9), "input_px": 188}
        flips = Counter(draw_deformation(generator(k), rotate=False, flip=True, **size).matrix for k in range(400))
        assert len(flips) == 4
        assert min(flips.values()) > 70, "100 expected, standard deviation 8.7"
        turns = [draw_deformation(generator(k), rotate=True, flip=False, **size).matrix for k in range(400)]
        quadrants = Counter(math.floor(math.atan2(m[1][0], m[0][0]) / (math.pi / 2)) for m in turns)
        assert sorted(quadrants) == [-2, -1, 0, 1]
        assert min(quadrants.values()) > 70

    @pytest.mark.parametrize("output_px", [2, 8, 40])
    def test_every_source_pixel_is_shown_equally_often(self, output_px: int) -> None:
        height, width = 5, 7
        size = {"shape": (height, width), "input_px": output_px + 4, "elastic_sigma_px": 0.0}
        drawn = [draw_deformation(generator(k), rotate=False, flip=False, **size) for k in range(400)]
        unique = {d.centre: d for d in drawn}
        assert set(unique) == {(y + 0.5, x + 0.5) for y in range(height - 1) for x in range(width - 1)}
        number = np.arange(height * width, dtype=np.uint8).reshape(height, width)
        image = number[None].astype(np.float32)
        counts = np.zeros(number.size, np.int64)
        for d in unique.values():
            shown = deformed_patch(image, image, number, image[0], d, input_px=output_px + 4, output_px=output_px)[1]
            counts += np.bincount(shown.ravel(), minlength=number.size)
        edge_y, edge_x = (np.where(np.isin(np.arange(n), [0, n - 1]), 1, 2) for n in (height, width))
        np.testing.assert_array_equal(counts.reshape(height, width), output_px**2 * np.outer(edge_y, edge_x) / 4)

    @pytest.mark.parametrize(("shape", "input_px", "nodes"), [((0, 5), 8, 3), ((5, 5), 1, 3), ((5, 5), 8, 1)])
    def test_impossible_draws_are_refused(self, shape: tuple[int, int], input_px: int, nodes: int) -> None:
        with pytest.raises(GeometryError, match="cannot draw"):
            draw_deformation(generator(1), shape=shape, input_px=input_px, rotate=True, flip=True, elastic_nodes=nodes)

    def test_deformations_are_checked_and_frozen(self) -> None:
        with pytest.raises(GeometryError, match="shape"):
            Deformation(centre=(0, 0), matrix=IDENTITY, nodes=np.zeros((2, 3, 4)))
        with pytest.raises(GeometryError, match="finite"):
            Deformation(centre=(math.nan, 0), matrix=IDENTITY, nodes=STILL)
        with pytest.raises(GeometryError, match="singular"):
            Deformation(centre=(0, 0), matrix=((1, 1), (1, 1)), nodes=STILL)
        mine = np.zeros((2, 3, 3))
        kept = Deformation(centre=(0, 0), matrix=IDENTITY, nodes=mine)
        mine += 1
        assert not kept.nodes.any()
        assert not kept.nodes.flags.writeable


class TestGreyCurve:
    values = np.concatenate([np.linspace(-3, 4, 1401), [1e-30, 1e6, -1e6, 70000.3]]).astype(np.float32)[None]

    def test_identity_is_bit_exact(self) -> None:
        np.testing.assert_array_equal(grey_curve(self.values, GreyCurve()), self.values)
        assert grey_curve(self.values, GreyCurve()).dtype == np.float32

    @settings(deadline=None, max_examples=50)
    @given(black=st.floats(-0.4, 0.4), white=st.floats(0.6, 1.4), slope=st.floats(0.1, 1.9))
    def test_fixed_points_slopes_and_order(self, black: float, white: float, slope: float) -> None:
        curve = GreyCurve(black=black, white=white, slope=slope)
        step = 1 / 256
        at = np.array([[0, 0.5, 1, 0.5 - step, 0.5 + step, -1, -2, 2, 3]], np.float32)
        zero, half, one, below, above, *outer = grey_curve(at, curve)[0].astype(np.float64)
        span = white - black
        assert zero == pytest.approx(black, abs=1e-6)
        assert half == pytest.approx((black + white) / 2, abs=1e-6)
        assert one == pytest.approx(white, abs=1e-6)
        # The curve bends by 2 (1 - slope) u |u| around its middle: exactly this far one step away.
        bend = 2 * (1 - slope) * step
        assert (above - below) / (2 * step) == pytest.approx(span * (slope + bend), abs=1e-4)
        assert (outer[0] - outer[1], outer[3] - outer[2]) == pytest.approx([span * (2 - slope)] * 2, abs=2e-6)
        rising = grey_curve(np.linspace(-1, 2, 1000, dtype=np.float32)[None], curve)
        assert (np.diff(rising) > 0).all()

    def test_draws_stay_within_their_limits(self) -> None:
        drawn = [draw_grey_curve(generator(k)) for k in range(300)]
        for name, middle, limit in (("black", 0.0, 0.05), ("white", 1.0, 0.05), ("slope", 1.0, 0.2)):
            offsets = np.array([getattr(curve, name) for curve in drawn]) - middle
            assert np.abs(offsets).max() <= limit
            assert offsets.min() < -0.9 * limit
            assert offsets.max() > 0.9 * limit

    @pytest.mark.parametrize(("black", "white", "slope"), [(0.5, 0.5, 1), (0, 1, 0), (0, 1, 2), (0, math.nan, 1)])
    def test_curves_that_do_not_increase_are_refused(self, black: float, white: float, slope: float) -> None:
        with pytest.raises(ConfigError, match="does not increase"):
            GreyCurve(black=black, white=white, slope=slope)


class TestDisturbance:
    def test_none_is_the_image_itself(self) -> None:
        image = sample((20, 30))[0]
        assert disturbed(image, Disturbance(), generator(1)) is image

    def test_noise_has_its_deviation_and_is_new_for_every_pixel_and_channel(self) -> None:
        image = np.full((2, 200, 200), 0.25, np.float32)
        noise = disturbed(image, Disturbance(noise=0.1), generator(1)) - image
        # 80,000 normal numbers: the deviation's own standard error is 0.1 / 400.
        assert abs(noise.std() - 0.1) < 0.0015
        assert abs(noise.mean()) < 0.002
        assert abs(np.corrcoef(noise.reshape(2, -1))[0, 1]) < 0.02
        again = disturbed(image, Disturbance(noise=0.1), generator(1)) - image
        np.testing.assert_array_equal(noise, again)

    def test_blur_spreads_a_point_as_a_gaussian_and_keeps_sums(self) -> None:
        image = np.zeros((2, 41, 41), np.float32)
        image[0, 20, 20] = 1
        found = disturbed(image, Disturbance(blur_px=2.0), generator(1))
        y, x = np.indices((41, 41)) - 20
        kernel = np.exp(-(y**2 + x**2) / 8)
        np.testing.assert_allclose(found[0], kernel / kernel.sum(), atol=2e-5)
        assert not found[1].any(), "channels do not mix"
        flat = np.full((1, 9, 9), 0.3, np.float32)
        np.testing.assert_allclose(disturbed(flat, Disturbance(blur_px=3.0), generator(1)), flat, rtol=1e-6)

    def test_gamma_is_odd_keeps_order_and_is_undone_by_its_inverse(self) -> None:
        values = np.linspace(-2, 2, 401, dtype=np.float32).reshape(1, 1, -1)
        found = disturbed(values, Disturbance(gamma=1.7), generator(1))
        np.testing.assert_allclose(found, np.sign(values) * np.abs(values) ** 1.7, rtol=1e-5, atol=1e-7)
        assert (np.diff(found) > 0).all()
        np.testing.assert_allclose(disturbed(found, Disturbance(gamma=1 / 1.7), generator(1)), values, atol=1e-5)

    def test_draws_stay_within_their_limits_and_do_not_depend_on_each_other(self) -> None:
        drawn = [draw_disturbance(generator(k), blur_px=2.0, noise=0.1, gamma=1.5) for k in range(300)]
        for values, low, high in (
            ([d.blur_px for d in drawn], 0.0, 2.0),
            ([d.noise for d in drawn], 0.0, 0.1),
            ([math.log(d.gamma) for d in drawn], -math.log(1.5), math.log(1.5)),
        ):
            assert low <= min(values) < low + 0.1 * (high - low)
            assert high >= max(values) > high - 0.1 * (high - low)
            assert abs(np.mean(values) - (low + high) / 2) < 0.05 * (high - low)
        alone = [draw_disturbance(generator(k), gamma=1.5) for k in range(5)]
        assert [d.gamma for d in alone] == [d.gamma for d in drawn[:5]]
        assert all(d.noise == d.blur_px == 0 for d in alone)

    @pytest.mark.parametrize("keys", [{"blur_px": -1.0}, {"noise": math.nan}, {"gamma": 0.0}, {"gamma": math.inf}])
    def test_what_is_out_of_range_is_refused(self, keys: dict[str, float]) -> None:
        with pytest.raises(ConfigError, match="expected"):
            Disturbance(**keys)

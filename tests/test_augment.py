"""Patches against exact copies, against scipy, and against the geometry of the draw."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from unetpipe.augment import (
    Deformation,
    GreyCurve,
    deformed_patch,
    draw_deformation,
    draw_grey_curve,
    generator,
    grey_curve,
    source_positions,
    spline_coefficients,
)
from unetpipe.errors import AnnotationError, ConfigError, GeometryError, SourceError

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


def copied(
    plane: NDArray[np.generic], start: tuple[int, int], side: int, turns: int, flip: bool
) -> NDArray[np.generic]:
    """Whole pixels of the mirrored plane, the patch flipped upside down first and then turned."""
    pad = side + max(map(abs, start))
    # numpy refuses to reflect an axis of one pixel by more than nothing; there every pixel is the same.
    padded = np.pad(plane, pad, mode="reflect") if min(plane.shape) > 1 else np.pad(plane, pad, mode="edge")
    window = padded[start[0] + pad :, start[1] + pad :][:side, :side]
    turned = np.rot90(window, turns)
    return turned[::-1] if flip else turned


# Patch pixel (i, j) of np.rot90(window) is window pixel (j, side - 1 - i): (y, x) = (qx, -qy).
QUARTER = np.array([[0.0, 1.0], [-1.0, 0.0]])


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


class TestSplineCoefficients:
    @pytest.mark.parametrize("shape", [(30, 41), (1, 9), (9, 1), (1, 1), (2, 3)])
    def test_b_spline_of_the_coefficients_is_the_image(self, shape: tuple[int, int]) -> None:
        image = sample(shape, channels=2)[0]
        coefficients = spline_coefficients(image).astype(np.float64)
        kernel = [1 / 6, 2 / 3, 1 / 6]
        for axis in (1, 2):
            coefficients = ndimage.correlate1d(coefficients, kernel, axis=axis, mode="mirror")
        np.testing.assert_allclose(coefficients, image, atol=1e-6)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_values_that_are_not_finite_are_refused(self, bad: float) -> None:
        image = np.zeros((1, 4, 4), np.float32)
        image[0, 1, 1] = bad
        with pytest.raises(SourceError, match="not finite"):
            spline_coefficients(image)

    @pytest.mark.parametrize("shape", [(4, 4), (1, 0, 4), (0, 4, 4)])
    def test_shapes_are_checked(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(SourceError, match="expected"):
            spline_coefficients(np.zeros(shape, np.float32))


class TestWholePixels:
    """Wherever positions are whole, the patch is a copy, bit for bit."""

    @pytest.mark.parametrize("side", [14, 15])
    @pytest.mark.parametrize("shape", [(33, 21), (5, 4), (2, 9), (1, 1)])
    @pytest.mark.parametrize("flip", [False, True])
    @pytest.mark.parametrize("turns", range(4))
    def test_turns_and_flips_copy(self, turns: int, flip: bool, shape: tuple[int, int], side: int) -> None:
        image, coefficients, classes, weights = sample(shape, channels=2)
        matrix = np.linalg.matrix_power(QUARTER, turns) @ (np.diag([-1.0, 1.0]) if flip else np.eye(2))
        start = (-6, 3)
        centre = (start[0] + (side - 1) / 2, start[1] + (side - 1) / 2)
        (a, b), (c, d) = matrix.tolist()
        still = Deformation(centre=centre, matrix=((a, b), (c, d)), nodes=STILL)
        out = deformed_patch(image, coefficients, classes, weights, still, input_px=side, output_px=side - 4)
        for channel, plane in zip(out[0], image, strict=True):
            np.testing.assert_array_equal(channel, copied(plane, start, side, turns, flip))
        for target, plane in ((out[1], classes), (out[2], weights)):
            np.testing.assert_array_equal(target, copied(plane, start, side, turns, flip)[2:-2, 2:-2])
        assert [array.dtype for array in out] == [np.float32, np.uint8, np.float32]

    @pytest.mark.parametrize("nodes", [2, 3, 7])
    def test_translation_field_is_an_exact_shift(self, nodes: int) -> None:
        planes = sample((40, 50))
        field = np.broadcast_to(np.array([3.0, -5.0])[:, None, None], (2, nodes, nodes))
        moved = Deformation(centre=(19.5, 25.5), matrix=IDENTITY, nodes=field)
        still = Deformation(centre=(22.5, 20.5), matrix=IDENTITY, nodes=STILL)
        for ours, copy in zip(
            *(deformed_patch(*planes, d, input_px=20, output_px=8) for d in (moved, still)), strict=True
        ):
            np.testing.assert_array_equal(ours, copy)
        np.testing.assert_array_equal(
            deformed_patch(*planes, moved, input_px=20, output_px=8)[0], planes[0][:, 13:33, 11:31]
        )


class TestAgainstScipy:
    @pytest.mark.parametrize("shape", [(70, 61), (60, 5), (3, 2), (1, 8), (1, 1)])
    @pytest.mark.parametrize("number", range(3))
    def test_all_three_interpolations(self, shape: tuple[int, int], number: int) -> None:
        image, coefficients, classes, weights = sample(shape, channels=2, seed=number)
        drawn = draw(shape, 44, 1, number)
        ours = deformed_patch(image, coefficients, classes, weights, drawn, input_px=44, output_px=20)
        at = source_positions(drawn, input_px=44)
        for channel, plane in zip(ours[0], image, strict=True):
            cubic = ndimage.map_coordinates(plane.astype(np.float64), at, order=3, mode="mirror")
            assert np.abs(channel - cubic).max() <= 1e-6 * max(float(np.ptp(plane)), 1.0)
        inner = at[:, 12:-12, 12:-12]
        np.testing.assert_array_equal(ours[1], ndimage.map_coordinates(classes, inner, order=0, mode="mirror"))
        linear = ndimage.map_coordinates(weights.astype(np.float64), inner, order=1, mode="mirror")
        np.testing.assert_allclose(ours[2], linear, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("nodes", [2, 3, 6])
    def test_field_is_the_mirrored_spline_of_its_nodes(self, nodes: int) -> None:
        grid = np.random.default_rng(nodes).normal(0, 10, (2, nodes, nodes))
        at = source_positions(Deformation(centre=(0, 0), matrix=IDENTITY, nodes=grid), input_px=33)
        pixels = np.indices((33, 33)) - 16.0
        where = np.indices((33, 33)) * (nodes - 1) / 32
        dense = [ndimage.map_coordinates(plane, where, order=3, mode="mirror") for plane in grid]
        np.testing.assert_allclose(at - pixels, dense, atol=1e-11)

    def test_whole_pixel_with_a_fraction_along_the_other_axis(self) -> None:
        planes = sample((30, 30))
        half = Deformation(centre=(14.5, 15.0), matrix=IDENTITY, nodes=STILL)
        ours = deformed_patch(*planes, half, input_px=40, output_px=40)[0][0]
        at = source_positions(half, input_px=40)
        cubic = ndimage.map_coordinates(planes[0][0].astype(np.float64), at, order=3, mode="mirror")
        np.testing.assert_allclose(ours, cubic, atol=1e-6)

    def test_ties_go_to_the_next_pixel(self) -> None:
        image, coefficients, _, weights = sample((1, 8))
        classes = np.arange(8, dtype=np.uint8)[None]
        half = Deformation(centre=(0.0, 4.0), matrix=IDENTITY, nodes=STILL)
        ours = deformed_patch(image, coefficients, classes, weights, half, input_px=4, output_px=4)[1]
        assert ours[0].tolist() == [3, 4, 5, 6]


class TestWindow:
    def test_classes_and_weights_show_the_positions_of_the_image(self) -> None:
        # The image holds its own coordinates, which cubic splines reproduce away from the mirrored borders.
        y, x = np.indices((250, 250), dtype=np.float32)
        image = np.stack([y, x])
        rotated = draw((1, 1), 60, 3, sigma_px=3.0)
        drawn = Deformation(centre=(120.5, 130.5), matrix=rotated.matrix, nodes=rotated.nodes)
        rows, columns = (
            deformed_patch(
                image, spline_coefficients(image), plane.astype(np.uint8), plane, drawn, input_px=60, output_px=28
            )
            for plane in (y, x)
        )
        inner = rows[0][:, 16:-16, 16:-16].astype(np.float64)
        np.testing.assert_allclose([rows[2], columns[2]], inner, atol=1e-4)
        np.testing.assert_allclose([rows[1], columns[1]], inner, atol=0.5 + 1e-4)
        np.testing.assert_allclose(inner, source_positions(drawn, input_px=60)[:, 16:-16, 16:-16], atol=1e-4)

    def test_classes_stay_in_their_set(self) -> None:
        planes = sample((50, 50))
        for number in range(10):
            classes = deformed_patch(*planes, draw((50, 50), 48, number), input_px=48, output_px=24)[1]
            assert set(np.unique(classes)) <= {0, 1, 2, 255}

    def test_strided_and_read_only_planes_are_taken(self) -> None:
        image, _, classes, weights = sample((60, 40), channels=2)
        planes = [image[:, ::2], spline_coefficients(image[:, ::2]), classes[::2], weights[::2]]
        copies = [plane.copy() for plane in planes]
        for plane in planes:
            plane.flags.writeable = False
        drawn = draw((30, 40), 24, 5)
        for ours, other in zip(
            *(deformed_patch(*p, drawn, input_px=24, output_px=8) for p in (planes, copies)), strict=True
        ):
            np.testing.assert_array_equal(ours, other)

    @pytest.mark.parametrize(("input_px", "output_px"), [(20, 13), (20, 22), (20, 0), (1, 1)])
    def test_sizes_are_checked(self, input_px: int, output_px: int) -> None:
        still = Deformation(centre=(0, 0), matrix=IDENTITY, nodes=STILL)
        with pytest.raises(GeometryError, match="even difference"):
            deformed_patch(*sample((9, 9)), still, input_px=input_px, output_px=output_px)

    @pytest.mark.parametrize("wrong", range(4))
    def test_planes_that_do_not_belong_together_are_refused(self, wrong: int) -> None:
        still = Deformation(centre=(0, 0), matrix=IDENTITY, nodes=STILL)
        for change in (lambda plane: plane[..., 1:], lambda plane: plane.astype(np.int32)):
            planes = [change(plane) if number == wrong else plane for number, plane in enumerate(sample((9, 9)))]
            with pytest.raises(AnnotationError, match="do not fit the image"):
                deformed_patch(*planes, still, input_px=8, output_px=4)  # type: ignore[arg-type]


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

"""Deformed patches against exact copies, against scipy, and against the geometry of the window."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from unetpipe.augment import draw_deformation, generator
from unetpipe.errors import AnnotationError, GeometryError, SourceError
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
        # Several maps are looked up as each is alone.
        maps = np.stack([weights, 1 - weights, weights**2])
        several = deformed_patch(image, coefficients, classes, maps, drawn, input_px=44, output_px=20)
        for found, one in zip(several[2], maps, strict=True):
            alone = deformed_patch(image, coefficients, classes, one, drawn, input_px=44, output_px=20)
            np.testing.assert_array_equal(found, alone[2])
        np.testing.assert_array_equal(several[1], ours[1])

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

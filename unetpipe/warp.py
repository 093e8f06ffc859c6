"""One smooth deformation applied to an image, its classes and its weights, in a single pass.

Pixels of a patch are looked up in the source, so every patch pixel has exactly one source position, and each array is
interpolated once: the image by cubic B-splines, the weights linearly, the classes by the nearest pixel.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import spline_filter1d

from unetpipe.errors import AnnotationError, GeometryError, SourceError
from unetpipe.geometry import mirror

__all__ = ["Deformation", "deformed_patch", "folds", "source_positions", "spline_coefficients"]

_mirror = njit(cache=True, nogil=True)(mirror)
_U, _F = np.uint64, np.float32

Bytes: TypeAlias = NDArray[np.uint8]
Counts: TypeAlias = NDArray[np.int32]
Floats: TypeAlias = NDArray[np.float64]
Pixels: TypeAlias = NDArray[np.float32]
Planes: TypeAlias = tuple[NDArray[Any], ...]
Field: TypeAlias = tuple[Floats, Floats, Floats, Floats, Floats]
"""Rows (2, n, G), basis (G, n), offset (2,), centre (2,) and matrix (2, 2) of a patch."""


def spline_coefficients(image: Pixels) -> Pixels:
    """Cubic B-spline coefficients of an image, needed once per image and not per patch.

    Parameters
    ----------
    image : (C, Y, X) float32
        Finite intensities; axes may have length 1.

    Returns
    -------
    (C, Y, X) float32
        c such that the sum of c[k] B3(p - k) over the mirrored lattice (no edge repeat) equals the image at its pixels.

    Raises
    ------
    SourceError
        If the image has another number of axes, no pixel, or a value that is not finite.

    Notes
    -----
    Filtered along x and y in float64, rounded once at the end. Time and memory are proportional to the image.

    References
    ----------
    Unser 1999, doi:10.1109/79.799930.

    Examples
    --------
    A constant is its own coefficient:

    >>> spline_coefficients(np.full((1, 1, 3), 2, np.float32)).round(6).tolist()
    [[[2.0, 2.0, 2.0]]]
    """
    if image.ndim != 3 or image.size == 0:
        raise SourceError(f"image of shape {image.shape}: expected (channels, y, x) with at least one pixel")
    if not np.isfinite(image).all():
        raise SourceError("image has values that are not finite (NaN or infinite): replace them before augmenting")
    coefficients = np.empty(image.shape, np.float32)
    for channel, target in zip(image, coefficients, strict=True):
        rows = spline_filter1d(channel, 3, axis=1, output=np.float64, mode="mirror")
        target[...] = spline_filter1d(rows, 3, axis=0, output=np.float64, mode="mirror")
    return coefficients


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Deformation:
    """Where each pixel of a patch comes from: position = centre + matrix (q + d(q)), q counted from the patch's centre.

    Parameters
    ----------
    centre : (float, float)
        Source position (y, x) px of the patch's centre; of half-integer px if the patch's side is even.
    matrix : ((float, float), (float, float))
        Rotation and reflection of (y, x); with entries 0, 1 and -1 it is exact.
    nodes : (2, G, G) float64
        Displacements (y, x) px at G x G nodes, the outer ones on the patch's outermost pixels; G at least 2.
    redraws : int
        Folded displacement fields that were rejected before this one, including halvings.

    Raises
    ------
    GeometryError
        If a number is not finite, the matrix is singular, or the nodes are no square grid.

    Notes
    -----
    Displacements between the nodes are the interpolating cubic spline with mirror boundary (no edge repeat): slope
    zero across the patch's rim, equal to `scipy.ndimage.map_coordinates` of order 3 with mode "mirror" on the nodes.
    "Bicubic" alone does not say which of several cubic rules is meant; they differ by up to 3 px.
    """

    centre: tuple[float, float]
    matrix: tuple[tuple[float, float], tuple[float, float]]
    nodes: Floats
    redraws: int = 0

    def __post_init__(self) -> None:
        nodes = np.array(self.nodes, np.float64)
        if nodes.ndim != 3 or nodes.shape[0] != 2 or nodes.shape[1] != nodes.shape[2] or nodes.shape[1] < 2:
            raise GeometryError(f"displacement nodes of shape {nodes.shape}: expected (2, G, G) with G at least 2")
        if not np.isfinite([*self.centre, *self.matrix[0], *self.matrix[1], *nodes.ravel()]).all():
            raise GeometryError("deformation has a centre, matrix or node that is not finite: draw it again")
        (a, b), (c, d) = self.matrix
        if a * d == b * c:
            raise GeometryError(f"deformation matrix {self.matrix} is singular: expected a rotation or reflection")
        nodes.flags.writeable = False
        object.__setattr__(self, "nodes", nodes)


@lru_cache(maxsize=32)
def _node_basis(input_px: int, count: int, order: int) -> Floats:
    """(G, n) share (order 0) or derivative per px (order 1) of each of G nodes at each of n pixels."""
    # The mirrored spline is even about its outer nodes and twice differentiable, hence clamped: slope zero there.
    spline = CubicSpline(np.linspace(0, input_px - 1, count), np.eye(count), bc_type="clamped")
    basis: Floats = np.ascontiguousarray(spline(np.arange(input_px, dtype=np.float64), order).T)
    basis.flags.writeable = False
    return basis


def _along_y(basis: Floats, nodes: Floats) -> Floats:
    """(2, n, G) rows of the field at the node columns, from shares or slopes (G, n) and nodes (2, G, G)."""
    # Unlike BLAS, einsum adds in one order on every machine and with any number of threads.
    return np.ascontiguousarray(np.einsum("ai,cab->cib", basis, nodes))


def folds(nodes: Floats, input_px: int) -> bool:
    """Whether det(1 + grad d) is not positive at some pixel of the patch, for displacements (2, G, G)."""
    flat, slope = (_node_basis(input_px, nodes.shape[1], order) for order in (0, 1))
    return bool(_smallest_determinant(_along_y(slope, nodes), _along_y(flat, nodes), flat, slope) <= 0)


@njit(cache=True, nogil=True)
def _smallest_determinant(down: Floats, level: Floats, flat: Floats, slope: Floats) -> float:
    """Smallest det(1 + grad d) from slopes and values (2, n, G) along y and shares and slopes (G, n) along x."""
    smallest = np.inf
    for i in range(flat.shape[1]):
        for j in range(flat.shape[1]):
            yy, xy, yx, xx = 1.0, 0.0, 0.0, 1.0
            for k in range(flat.shape[0]):
                yy += down[0, i, k] * flat[k, j]
                xy += down[1, i, k] * flat[k, j]
                yx += level[0, i, k] * slope[k, j]
                xx += level[1, i, k] * slope[k, j]
            smallest = min(smallest, yy * xx - yx * xy)
    return smallest


@njit(cache=True, nogil=True)
def _row_positions(i: int, field: Field, at: Floats) -> None:
    """Fill (2, n) source positions of patch row i."""
    rows, basis, offset, centre, matrix = field
    n = basis.shape[1]
    for axis in range(2):
        at[axis] = offset[axis]
        for k in range(basis.shape[0]):
            for j in range(n):
                at[axis, j] += rows[axis, i, k] * basis[k, j]
    for j in range(n):
        qy, qx = i - (n - 1) / 2 + at[0, j], j - (n - 1) / 2 + at[1, j]
        at[0, j] = centre[0] + matrix[0, 0] * qy + matrix[0, 1] * qx
        at[1, j] = centre[1] + matrix[1, 0] * qy + matrix[1, 1] * qx


@njit(cache=True, nogil=True)
def _fold_row(at: Floats, side: int) -> None:
    """Replace (n,) positions by those within [0, side - 1] that show the same value in the mirrored image."""
    last = side - 1.0
    outside = False
    for j in range(at.size):
        at[j] = last - abs(last - abs(at[j]))
        outside |= at[j] < 0
    # The remainder is a hundred times slower than one reflection, so only images smaller than the patch pay for it.
    if last == 0:
        at[:] = 0
    elif outside:
        for j in range(at.size):
            at[j] = last - abs(last - at[j] % (2 * last))


@njit(cache=True, nogil=True)
def _row_shares(at: Floats, whole: Counts, nearest: Counts, rest: Pixels, shares: Pixels) -> None:
    """Fill the whole part, nearest pixel and rest, (2, n), of positions, and the shares (2, 4, n) of -1, 0, 1, 2."""
    one, two, half, sixth, middle = _F(1), _F(2), _F(0.5), _F(1 / 6), _F(2 / 3)
    for axis in range(2):
        for j in range(at.shape[1]):
            whole[axis, j] = np.int32(at[axis, j])
            nearest[axis, j] = np.int32(at[axis, j] + 0.5)
            f = _F(at[axis, j] - whole[axis, j])
            g = one - f
            rest[axis, j] = f
            shares[axis, 0, j] = g * g * g * sixth
            shares[axis, 1, j] = middle - f * f * (two - f) * half
            shares[axis, 2, j] = middle - g * g * (two - g) * half
            shares[axis, 3, j] = f * f * f * sixth


@njit(cache=True, nogil=True)
def _sample_image(pixels: Pixels, plane: Pixels, at: Floats, whole: Counts, shares: Pixels, out: Pixels) -> None:
    """Fill (n,) values of one channel from its (Y, X) coefficients; at whole pixels, from its pixels."""
    height, width = plane.shape
    flat, down = plane.reshape(-1), _U(width)
    for j in range(out.size):
        y, x = whole[0, j], whole[1, j]
        if at[0, j] == y and at[1, j] == x:
            out[j] = pixels[y, x]
            continue
        a, b, c, d = shares[1, 0, j], shares[1, 1, j], shares[1, 2, j], shares[1, 3, j]
        if 1 <= y < height - 2 and 1 <= x < width - 2:
            # Unsigned indices spare numba the test for negative ones: a third of the time.
            k = _U((y - 1) * width + x - 1)
            total = _F(0)
            for i in range(4):
                total += shares[0, i, j] * _four(flat, k + _U(i) * down, a, b, c, d)
        else:
            x0, x2, x3 = _mirror(x - 1, width), _mirror(x + 1, width), _mirror(x + 2, width)
            total = _F(0)
            for i in range(4):
                row = plane[_mirror(y - 1 + i, height)]
                total += shares[0, i, j] * (a * row[x0] + b * row[x] + c * row[x2] + d * row[x3])
        out[j] = total


@njit(cache=True, nogil=True)
def _four(flat: Pixels, k: np.uint64, a: np.float32, b: np.float32, c: np.float32, d: np.float32) -> Any:
    """Weighted sum of four values one behind the other."""
    return a * flat[k] + b * flat[k + _U(1)] + c * flat[k + _U(2)] + d * flat[k + _U(3)]


@njit(cache=True, nogil=True)
def _sample_targets(
    classes: Bytes, weights: Pixels, whole: Counts, nearest: Counts, rest: Pixels, out_classes: Bytes, out: Pixels
) -> None:
    """Fill (m,) nearest classes and linear weights of (Y, X) planes at (2, m) folded positions."""
    height, width = classes.shape
    flat, labels = weights.reshape(-1), classes.reshape(-1)
    for j in range(out.size):
        y, x = whole[0, j], whole[1, j]
        k, down, right = y * width + x, width * min(1, height - 1 - y), min(1, width - 1 - x)
        upper, lower = flat[_U(k)], flat[_U(k + down)]
        upper += rest[1, j] * (flat[_U(k + right)] - upper)
        lower += rest[1, j] * (flat[_U(k + down + right)] - lower)
        out[j] = upper + rest[0, j] * (lower - upper)
        out_classes[j] = labels[_U(nearest[0, j] * width + nearest[1, j])]


@njit(cache=True, nogil=True)
def _sample(sources: Planes, field: Field, outs: Planes) -> None:
    """Fill the patch row by row: image (C, n, n), classes (m, m) and weights (F, m, m) around the same centre."""
    (image, coefficients, classes, weights), (out, out_classes, out_weights) = sources, outs
    n, m = out.shape[1], out_classes.shape[0]
    margin = (n - m) // 2
    at, rest, shares = np.empty((2, n)), np.empty((2, n), np.float32), np.empty((2, 4, n), np.float32)
    whole, nearest = np.empty((2, n), np.int32), np.empty((2, n), np.int32)
    inner = slice(margin, margin + m)
    for i in range(n):
        _row_positions(i, field, at)
        _fold_row(at[0], classes.shape[0])
        _fold_row(at[1], classes.shape[1])
        _row_shares(at, whole, nearest, rest, shares)
        for channel in range(out.shape[0]):
            _sample_image(image[channel], coefficients[channel], at, whole, shares, out[channel, i])
        if 0 <= i - margin < m:
            k, places = i - margin, (whole[:, inner], nearest[:, inner], rest[:, inner])
            for form in range(out_weights.shape[0]):
                _sample_targets(classes, weights[form], *places, out_classes[k], out_weights[form, k])


def _field(deformation: Deformation, input_px: int) -> Field:
    """What `_row_positions` needs of a deformation."""
    offset = deformation.nodes[:, 0, 0].copy()
    basis = _node_basis(input_px, deformation.nodes.shape[1], 0)
    # Counted from one node, equal nodes are an exact shift.
    rows = _along_y(basis, deformation.nodes - offset[:, None, None])
    return rows, basis, offset, np.array(deformation.centre, float), np.array(deformation.matrix, float)


def source_positions(deformation: Deformation, *, input_px: int) -> Floats:
    """Source position of every pixel of a patch.

    Parameters
    ----------
    deformation : Deformation
        What is done to the patch.
    input_px : int
        Side n of the patch, px, at least 2.

    Returns
    -------
    (2, n, n) float64
        (y, x) px, counted from the source's first pixel; may lie outside it.

    Examples
    --------
    >>> still = Deformation(centre=(5.5, 0.5), matrix=((1, 0), (0, 1)), nodes=np.zeros((2, 3, 3)))
    >>> source_positions(still, input_px=2)[0].tolist()
    [[5.0, 5.0], [6.0, 6.0]]
    """
    positions = np.empty((2, input_px, input_px))
    field, row = _field(deformation, input_px), np.empty((2, input_px))
    for i in range(input_px):
        _row_positions(i, field, row)
        positions[:, i] = row
    return positions


def _check_planes(image: NDArray[Any], **others: NDArray[Any]) -> None:
    """Raise AnnotationError unless an image (C, Y, X) and what belongs to it have the expected shapes and types."""
    if image.ndim != 3 or image.size == 0:
        raise AnnotationError(f"image of shape {image.shape}: expected (channels, y, x) with at least one pixel")
    for name, array in {"image": image, **others}.items():
        leading = array.shape[:-2] if name == "weights" else image.shape[: name in ("image", "coefficients")]
        shape = (*leading, *image.shape[1:])
        dtype = np.uint8 if name == "classes" else np.float32
        if array.shape != shape or array.dtype != dtype:
            raise AnnotationError(
                f"{name} of shape {array.shape} and type {array.dtype} do not fit the image: "
                f"expected {shape} and {np.dtype(dtype)}"
            )


def deformed_patch(
    image: Pixels,
    coefficients: Pixels,
    classes: Bytes,
    weights: Pixels,
    deformation: Deformation,
    *,
    input_px: int,
    output_px: int,
) -> tuple[Pixels, Bytes, Pixels]:
    """One training patch: image, classes and weights looked up through the same deformation.

    Parameters
    ----------
    image, coefficients : (C, Y, X) float32
        Intensities and their `spline_coefficients`.
    classes : (Y, X) uint8
        Class of each pixel, 255 = ignore.
    weights : (Y, X) or (F, Y, X) float32
        Finite loss weights, one map or more.
    deformation : Deformation
        What is done to the patch.
    input_px, output_px : int
        Sides n and m of the network's input and output, px; n - m even, n at least 2.

    Returns
    -------
    image : (C, n, n) float32
        Cubic B-spline; bit-exact copies at whole pixels.
    classes : (m, m) uint8
        Nearest, of the centre of the image's window: pixel floor(p + 1/2) for a position p mirrored into the source.
    weights : (m, m) or (F, m, m) float32
        Linear, of the same window.

    Raises
    ------
    GeometryError
        If the output cannot be centred in the input.
    AnnotationError
        If coefficients, classes or weights have another shape or type than the image asks for.

    Notes
    -----
    Positions are float64, what is looked up there float32; outside the source it is mirrored without repeating its
    edge, as often as needed. One pass over the patch, one thread, without the lock of the interpreter.

    Examples
    --------
    >>> image = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    >>> half_turn = Deformation(centre=(1.5, 1.5), matrix=((-1, 0), (0, -1)), nodes=np.zeros((2, 3, 3)))
    >>> zero = np.zeros((4, 4), np.uint8)
    >>> patch = deformed_patch(image, image, zero, image[0], half_turn, input_px=4, output_px=2)
    >>> patch[0][0, 0].tolist(), patch[2].tolist()
    ([15.0, 14.0, 13.0, 12.0], [[10.0, 9.0], [6.0, 5.0]])
    """
    if not 1 <= output_px <= input_px or (input_px - output_px) % 2 or input_px < 2:
        raise GeometryError(
            f"an output of {output_px} px cannot be centred in an input of {input_px} px: expected an even difference, "
            f"such as an output of {max(input_px - 2, 1 + (input_px + 1) % 2)} px"
        )
    _check_planes(image, coefficients=coefficients, classes=classes, weights=weights)
    small, large = (output_px, output_px), (image.shape[0], input_px, input_px)
    maps = weights.reshape(-1, *classes.shape)
    outs = np.empty(large, np.float32), np.empty(small, np.uint8), np.empty((len(maps), *small), np.float32)
    sources = tuple(np.ascontiguousarray(one) for one in (image, coefficients, classes, maps))
    _sample(sources, _field(deformation, input_px), outs)
    return outs[0], outs[1], outs[2].reshape(*weights.shape[:-2], *small)

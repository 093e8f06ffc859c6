"""Random training patches: where they lie, how they are deformed, and how their grey values change.

A patch is drawn from a whole annotated image: the image over the network's input size, the classes and the
weights over its output size, which is the centre of the same window.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from unetpipe.errors import ConfigError, GeometryError
from unetpipe.geometry import Box
from unetpipe.warp import Deformation, folds, source_positions

__all__ = [
    "Disturbance",
    "GreyCurve",
    "disturbed",
    "draw_deformation",
    "draw_disturbance",
    "draw_grey_curve",
    "generator",
    "grey_curve",
    "source_box",
]

MAX_REDRAWS = 16
"""Folded displacement fields that are thrown away before the next one is halved until it unfolds."""

# A pixel's weight in the coefficients falls to 0.268 of itself per px: below 1e-9 behind 16 px; 2 px for the spline.
_SPLINE_MARGIN = 18

Floats: TypeAlias = NDArray[np.float64]
Pixels: TypeAlias = NDArray[np.float32]


def generator(*key: int | str) -> np.random.Generator:
    """Random generator that depends on its key only, never on what was drawn before or elsewhere.

    Parameters
    ----------
    *key : int or str
        What the draws belong to, such as seed, sample and patch. 1 and "1" are different.

    Returns
    -------
    numpy.random.Generator
        Philox (counter-based), keyed by the first 128 bits, little-endian, of the SHA-256 of the key as compact
        ASCII JSON.

    References
    ----------
    Salmon et al. 2011, doi:10.1145/2063384.2063405.

    Examples
    --------
    >>> int(generator(1, "a", 0).integers(1000)), int(generator(1, "a", 0).integers(1000))
    (51, 51)
    """
    text = json.dumps(key, ensure_ascii=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode("ascii")).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def draw_deformation(
    rng: np.random.Generator,
    *,
    shape: tuple[int, int],
    input_px: int,
    rotate: bool,
    flip: bool,
    elastic_sigma_px: float = 10.0,
    elastic_nodes: int = 3,
) -> Deformation:
    """Random shift, rotation, reflection and elastic displacement that does not fold.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all draws.
    shape : (int, int)
        Height and width of the source image, px.
    input_px : int
        Side of the patch, px, at least 2.
    rotate : bool
        Rotate by an angle uniform in [0, 2 pi).
    flip : bool
        Reverse y and x, each with probability 1/2.
    elastic_sigma_px : float
        Standard deviation of the displacement of each node along each axis, px; 0 for none.
    elastic_nodes : int
        Nodes per side, at least 2.

    Returns
    -------
    Deformation
        With det J > 0 for the displacement at every pixel of the patch.

    Raises
    ------
    GeometryError
        If the image is empty or the patch or the grid of nodes has fewer than 2 px or nodes per side.

    Notes
    -----
    The centre is uniform over the positions inside the image at which an undeformed patch lies on whole pixels. So
    windows of every output size reach the image's borders, and those of even side show each source pixel equally often
    (outermost rows and columns half as often): centres and their mirror images fill one period of the mirrored image.
    Centre, angle and reflection are drawn first and always: switching one off leaves the others as they were.
    A field that folds is drawn again, at most 16 times; then the last one is halved until it unfolds.

    References
    ----------
    Ronneberger, Fischer, Brox 2015, doi:10.1007/978-3-319-24574-4_28.

    Examples
    --------
    >>> drawn = draw_deformation(generator(1), shape=(1, 1), input_px=4, rotate=False, flip=False, elastic_sigma_px=0)
    >>> drawn.centre, drawn.matrix, drawn.redraws
    ((0.5, 0.5), ((1.0, 0.0), (0.0, 1.0)), 0)
    """
    if min(shape) < 1 or input_px < 2 or elastic_nodes < 2:
        raise GeometryError(
            f"cannot draw a patch of {input_px} px with {elastic_nodes} nodes per side from an image of {shape} px: "
            "expected at least 2 px, 2 nodes and one image pixel"
        )
    half = input_px % 2 == 0
    cy, cx = (int(rng.integers(max(side - half, 1))) + half / 2 for side in shape)
    angle = float(rng.uniform(0.0, 2.0 * math.pi))
    signs = 1.0 - 2.0 * rng.integers(2, size=2)
    cos, sin = (math.cos(angle), math.sin(angle)) if rotate else (1.0, 0.0)
    sy, sx = (float(signs[0]), float(signs[1])) if flip else (1.0, 1.0)
    nodes, redraws = _draw_nodes(rng, input_px, elastic_sigma_px, elastic_nodes)
    # Adding or subtracting from zero turns -0.0 into 0.0.
    matrix = ((cos * sy, 0.0 - sin * sx), (0.0 + sin * sy, cos * sx))
    return Deformation(centre=(cy, cx), matrix=matrix, nodes=nodes, redraws=redraws)


def _draw_nodes(rng: np.random.Generator, input_px: int, sigma_px: float, count: int) -> tuple[Floats, int]:
    """(2, G, G) displacements whose field does not fold, and the number of rejected ones."""
    for redraws in range(MAX_REDRAWS + 1):
        nodes = rng.normal(0.0, sigma_px, (2, count, count))
        if not folds(nodes, input_px):
            return nodes, redraws
    redraws = MAX_REDRAWS
    while folds(nodes, input_px):
        nodes, redraws = nodes / 2, redraws + 1
    return nodes, redraws


def source_box(deformation: Deformation, *, shape: tuple[int, int], input_px: int) -> Box:
    """Part of a source image that a patch is made of.

    Parameters
    ----------
    deformation : Deformation
        What is done to the patch.
    shape : (int, int)
        Height and width of the source, px.
    input_px : int
        Side of the patch, px, at least 2.

    Returns
    -------
    Box
        Inside the source. Looked up in this part alone, mirrored at its borders, the patch is that of the whole source
        up to rounding.

    Notes
    -----
    18 px are added on each side, which the spline coefficients of the part need. The part ends where the source ends
    wherever a position lies outside.

    Examples
    --------
    >>> still = Deformation(centre=(49.5, 2.5), matrix=((1, 0), (0, 1)), nodes=np.zeros((2, 3, 3)))
    >>> source_box(still, shape=(100, 100), input_px=10)
    Box(start=(27, 0), stop=(73, 26))
    """
    positions = source_positions(deformation, input_px=input_px)
    spans = [
        _mirrored_span(float(along.min()), float(along.max()), n) for along, n in zip(positions, shape, strict=True)
    ]
    (y0, y1), (x0, x1) = spans
    met = Box(start=(math.floor(y0), math.floor(x0)), stop=(math.ceil(y1) + 1, math.ceil(x1) + 1))
    return met.grown(_SPLINE_MARGIN).clipped(shape)


def _mirrored_span(low: float, high: float, side: int) -> tuple[float, float]:
    """First and last position within [0, side - 1] that positions from `low` to `high` are mirrored to."""
    last = side - 1.0
    start, stop = max(low, 0.0), min(high, last)
    if low < 0:
        stop = max(stop, min(-low, last))
    if high > last:
        start = min(start, max(2 * last - high, 0.0))
    return min(start, last), max(stop, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GreyCurve:
    """A smooth, strictly increasing change of grey values.

    Parameters
    ----------
    black, white : float
        What 0 and 1 become; black below white.
    slope : float
        Slope at 1/2, in units of white - black; above 0 and below 2.

    Raises
    ------
    ConfigError
        If the curve would not increase everywhere.
    """

    black: float = 0.0
    white: float = 1.0
    slope: float = 1.0

    def __post_init__(self) -> None:
        if not (self.black < self.white and 0 < self.slope < 2):
            raise ConfigError(
                f"grey curve with black {self.black}, white {self.white} and slope {self.slope} does not increase: "
                "expected black < white and a slope between 0 and 2"
            )


def draw_grey_curve(
    rng: np.random.Generator, *, black: float = 0.05, white: float = 0.05, slope: float = 0.2
) -> GreyCurve:
    """Random grey curve around the identity.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all draws.
    black, white, slope : float
        Largest change: black is uniform in (-black, black), white in (1 - white, 1 + white), slope likewise.

    Examples
    --------
    >>> draw_grey_curve(generator(1), black=0, white=0, slope=0)
    GreyCurve(black=0.0, white=1.0, slope=1.0)
    """
    b, w, s = (float(u) for u in rng.uniform(-1.0, 1.0, 3))
    return GreyCurve(black=0.0 + b * black, white=1.0 + w * white, slope=1.0 + s * slope)


def grey_curve(image: Pixels, curve: GreyCurve) -> Pixels:
    """Grey values after a curve.

    Parameters
    ----------
    image : (..., Y, X) float32
        Intensities around [0, 1]; values outside are allowed.
    curve : GreyCurve
        The change.

    Returns
    -------
    (..., Y, X) float32
        New array; equal to the image for the identity curve.

    Notes
    -----
    f(v) = black + (white - black) (v + (slope - 1) h(v - 1/2)) with h(u) = u (1 - 2|u|) for |u| <= 1/2, and beyond
    it h's straight continuation. f is odd about 1/2 and has one continuous derivative, which falls or rises linearly
    from slope at 1/2 to 2 - slope at 0 and 1 (times white - black) and stays there outside.

    Examples
    --------
    Slope 1.2 moves a quarter by 0.2 * (-0.25) * (1 - 0.5) = -0.025:

    >>> grey_curve(np.array([[0, 0.25, 0.5, 2]], np.float32), GreyCurve(slope=1.2)).round(4).tolist()
    [[0.0, 0.22499999403953552, 0.5, 1.7999999523162842]]
    """
    u = image - np.float32(0.5)
    inside = np.clip(u, -0.5, 0.5)
    bend = inside * (1 - 2 * np.abs(inside)) - (u - inside)
    changed: Pixels = curve.black + (curve.white - curve.black) * (image + (curve.slope - 1) * bend)
    return changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """What a worse microscope would have done to an image.

    Parameters
    ----------
    blur_px : float
        Standard deviation of a Gaussian blur, px; 0 for none.
    noise : float
        Standard deviation of Gaussian noise, in units of the intensity range; 0 for none.
    gamma : float
        Exponent of the grey values, above 0; 1 for none.

    Raises
    ------
    ConfigError
        If a number is out of range.
    """

    blur_px: float = 0.0
    noise: float = 0.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.blur_px < math.inf and 0 <= self.noise < math.inf and 0 < self.gamma < math.inf):
            raise ConfigError(
                f"disturbance with blur_px {self.blur_px}, noise {self.noise} and gamma {self.gamma}: expected "
                "blur_px and noise of at least 0, gamma above 0"
            )


def draw_disturbance(
    rng: np.random.Generator, *, blur_px: float = 0.0, noise: float = 0.0, gamma: float = 1.0
) -> Disturbance:
    """Random disturbance.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all draws; three are made, whatever is switched off.
    blur_px, noise : float
        Largest ones: both are uniform from 0 on.
    gamma : float
        Largest exponent, at least 1: its logarithm is uniform in (-ln gamma, ln gamma).

    Examples
    --------
    >>> draw_disturbance(generator(1))
    Disturbance(blur_px=0.0, noise=0.0, gamma=1.0)
    """
    b, n, g = (float(u) for u in rng.uniform(0.0, 1.0, 3))
    return Disturbance(blur_px=b * blur_px, noise=n * noise, gamma=gamma ** (2 * g - 1))


def disturbed(image: Pixels, disturbance: Disturbance, rng: np.random.Generator) -> Pixels:
    """Grey values after blur, then noise, then gamma: the order of optics, camera and display.

    Parameters
    ----------
    image : (C, Y, X) float32
        Intensities around [0, 1]; values outside are allowed.
    disturbance : Disturbance
        What is done.
    rng : numpy.random.Generator
        Source of the noise; not used without noise.

    Returns
    -------
    (C, Y, X) float32
        The image itself where nothing is done.

    Notes
    -----
    The blur mirrors the image at its border (no edge repeat) and is cut off at 4 standard deviations. Noise is drawn
    for each pixel of each channel. Gamma is odd: v becomes sign(v) |v|^gamma, which keeps the order of all values.

    Examples
    --------
    >>> disturbed(np.array([[[0.25, -0.25]]], np.float32), Disturbance(gamma=0.5), generator(1)).tolist()
    [[[0.5, -0.5]]]
    """
    if disturbance.blur_px > 0:
        sigma = (0.0, disturbance.blur_px, disturbance.blur_px)
        image = gaussian_filter(image, sigma, mode="mirror", truncate=4.0)
    if disturbance.noise > 0:
        image = image + np.float32(disturbance.noise) * rng.standard_normal(image.shape, np.float32)
    if disturbance.gamma != 1:
        image = np.copysign(np.abs(image) ** np.float32(disturbance.gamma), image)
    return image

"""Integer geometry of boxes, networks and tiles: which pixels are read to compute which pixels.

Everything here is exact integer arithmetic. Coordinates are (y, x) pixels of one pyramid level,
counted from the image's first pixel; boxes are half-open.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from unetpipe.errors import GeometryError

__all__ = [
    "Box",
    "NetGeometry",
    "Tile",
    "TileGrid",
    "dilated_geometry",
    "mirror",
    "padded_geometry",
    "unet_geometry",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A half-open rectangle [start, stop) of pixels.

    Parameters
    ----------
    start, stop : (int, int)
        First pixel inside and first pixel behind, (y, x). May lie outside an image.

    Raises
    ------
    GeometryError
        If a side is negative.

    Examples
    --------
    >>> Box(start=(0, 4), stop=(2, 10)).shape
    (2, 6)
    """

    start: tuple[int, int]
    stop: tuple[int, int]

    def __post_init__(self) -> None:
        if self.stop[0] < self.start[0] or self.stop[1] < self.start[1]:
            raise GeometryError(f"box stops before it starts: start {self.start}, stop {self.stop}")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.stop[0] - self.start[0], self.stop[1] - self.start[1]

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of this box in a (Y, X) array; the box must not start below zero."""
        return slice(self.start[0], self.stop[0]), slice(self.start[1], self.stop[1])

    def grown(self, margin: int) -> "Box":
        """This box with `margin` pixels more on each of its four sides."""
        return Box(
            start=(self.start[0] - margin, self.start[1] - margin),
            stop=(self.stop[0] + margin, self.stop[1] + margin),
        )

    def clipped(self, shape: tuple[int, int]) -> "Box":
        """The part of this box inside an image of `shape`; empty where they do not meet."""
        start = tuple(min(max(a, 0), n) for a, n in zip(self.start, shape, strict=True))
        stop = tuple(min(max(b, 0), n) for b, n in zip(self.stop, shape, strict=True))
        return Box(start=(start[0], start[1]), stop=(stop[0], stop[1]))

    def relative_to(self, origin: tuple[int, int]) -> "Box":
        """This box counted from `origin`."""
        (y0, x0), (y1, x1), (oy, ox) = self.start, self.stop, origin
        return Box(start=(y0 - oy, x0 - ox), stop=(y1 - oy, x1 - ox))


def mirror(index: int, size: int) -> int:
    """Pixel of an image axis that stands at `index` when the axis is mirrored without repeating its edge.

    Parameters
    ----------
    index : int
        Any position, also far outside the image: the reflection is iterated.
    size : int
        Length of the axis, at least 1. An axis of one pixel is constant.

    Examples
    --------
    >>> [mirror(i, 4) for i in range(-4, 9)]
    [2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2]
    """
    if size == 1:
        return 0
    period = 2 * (size - 1)
    index %= period
    return index if index < size else period - index


@dataclass(frozen=True, slots=True, kw_only=True)
class NetGeometry:
    """Which input sizes a network takes, and which input pixels each output pixel depends on.

    Parameters
    ----------
    stride : int
        Shift in px under which the network is equivariant: 2^depth.
    context : int
        Input px that a window has on each side of a core so that the core's output does not depend on what lies
        beyond. For padded networks: the rim that padding reaches, on the side where it is wider, rounded up to
        the stride.
    shrink : int
        Input side minus output side in px; 0 for padded networks.
    residue : int
        Legal input sides are `residue` modulo `stride`.
    minimum : int
        Smallest legal input side in px.
    tileable : bool
        Whether tiles can reproduce the one-pass result at all.
    fits : bool
        Whether the network takes every side from the minimum on, since it fits its maps to each other itself.
        Windows of tiles keep to `residue` modulo `stride` all the same.
    """

    stride: int
    context: int
    shrink: int
    residue: int
    minimum: int
    tileable: bool = True
    fits: bool = False

    def is_legal(self, side: int) -> bool:
        """Whether the network takes an input of this side in px."""
        return side >= self.minimum and (self.fits or side % self.stride == self.residue)

    def output_side(self, side: int) -> int:
        """Output side in px of a legal input side.

        Raises
        ------
        GeometryError
            If the side is not legal; the message names the nearest legal ones.
        """
        if not self.is_legal(side):
            below = max(side - (side - self.residue) % self.stride, self.minimum)
            above = self.input_side(max(side - self.shrink, 1))
            nearest = f"{below} or {above}" if below < side else f"{self.minimum}"
            rule = "" if self.fits else f"{self.residue} modulo {self.stride}, "
            raise GeometryError(
                f"input side of {side} px is not legal for this network: expected {rule}at least {self.minimum}; "
                f"use {nearest}"
            )
        return side - self.shrink

    def side_within(self, side: int) -> int:
        """Largest legal input side in px that fits into `side`, with equal margins.

        Raises
        ------
        GeometryError
            If there is none.

        Examples
        --------
        >>> unet_geometry(4).side_within(580)
        572
        """
        if self.is_legal(side):
            return side
        legal = side - (side - self.residue) % self.stride
        if legal < self.minimum or (side - legal) % 2:
            self.output_side(side)
        return legal

    def input_side(self, output: int) -> int:
        """Smallest input side in px, of `residue` modulo `stride`, whose output holds `output` px.

        Examples
        --------
        >>> unet_geometry(4).input_side(512)
        700
        """
        side = max(output + self.shrink, self.minimum)
        return side + (self.residue - side) % self.stride


def unet_geometry(depth: int) -> NetGeometry:
    """Geometry of the U-Net with two valid 3x3 convolutions per level and 2x2 pooling.

    Parameters
    ----------
    depth : int
        Number of poolings, at least 1.

    Notes
    -----
    Legal input n = 2^d b + 4 (2^d - 1), output n - (12 * 2^d - 8), context per side 6 * 2^d - 4.

    References
    ----------
    Ronneberger, Fischer, Brox 2015, doi:10.1007/978-3-319-24574-4_28.

    Examples
    --------
    >>> unet_geometry(4).output_side(572)
    388
    >>> unet_geometry(4).context, unet_geometry(4).minimum
    (92, 188)
    """
    stride = 2**depth
    shrink = 12 * stride - 8
    residue = 4 * (stride - 1) % stride
    smallest = shrink + 1
    return NetGeometry(
        stride=stride,
        context=shrink // 2,
        shrink=shrink,
        residue=residue,
        minimum=smallest + (residue - smallest) % stride,
    )


def padded_geometry(
    depth: int, *, reach: int = 2, spread: int = 0, head: int = 0, fits: bool = False, tileable: bool = True
) -> NetGeometry:
    """Geometry of a U-Net whose convolutions are padded: the output is as large as the input.

    Parameters
    ----------
    depth : int
        Number of 2x2 poolings, at least 1.
    reach : int
        Px on each side that the convolutions of an encoder level see: 2 for two 3x3 convolutions.
    spread : int
        Px by which an up-sampling and its own convolution widen the rim: 0 for a 2x2 transposed convolution, 1 for
        bilinear interpolation, and for nearest interpolation with a 2x2 convolution.
    head : int
        Px on each side that the head sees.
    fits, tileable : bool
        As in `NetGeometry`; a network that fits odd sizes takes every side from 2^depth on.

    Notes
    -----
    The rim r of pixels that the padding reaches is followed through the layers: r + reach in an encoder level, r / 2
    rounded up in a pooling, 2 r + spread in an up-sampling, r + 2 in a bottleneck or a decoder level. For depth 4 and
    a transposed convolution that is 94, and the context is 96, the next multiple of 16: with it, the pooling grid of
    all windows begins at the image's first pixel.

    Examples
    --------
    >>> padded_geometry(4).context, padded_geometry(4, spread=1).context
    (96, 112)
    """
    rim = 0
    for _ in range(depth):
        rim = -(-(rim + reach) // 2)
    # The rim of a skip is never wider than that of what comes from below.
    rim += 2
    for _ in range(depth):
        rim = 2 * rim + spread + 2
    stride = 2**depth
    context = -(-(rim + head) // stride) * stride
    return NetGeometry(
        stride=stride, context=context, shrink=0, residue=0, minimum=stride, tileable=tileable, fits=fits
    )


def dilated_geometry(depth: int, *, form: str) -> NetGeometry:
    """Geometry of the U-Net with two 3x3 convolutions of dilation 2 per encoder level and skips behind the poolings.

    Parameters
    ----------
    depth : int
        Number of 2x2 poolings, at least 1.
    form : str
        "aligned": padded. "valid": not padded; legal input n = 2^d b + 8 (2^d - 1), output n - (16 * 2^d - 12).
        "printed": not padded, and stretched to the input; every n from 15 * 2^d - 7 on (21 for depth 1).

    Notes
    -----
    Printed, an output pixel depends on the size of the input, so that there is neither a context nor a stride.

    Examples
    --------
    >>> dilated_geometry(4, form="valid").output_side(584), dilated_geometry(4, form="printed").minimum
    (340, 233)
    """
    stride = 2**depth
    if form == "aligned":
        aligned = padded_geometry(depth, reach=4, fits=True)
        return replace(aligned, minimum=1)
    if form == "printed":
        minimum = 15 * stride - 7 if depth > 1 else 21
        return NetGeometry(stride=1, context=0, shrink=0, residue=0, minimum=minimum, tileable=False, fits=True)
    shrink = 16 * stride - 12
    residue = 8 * (stride - 1) % stride
    smallest = shrink + 1
    minimum = smallest + (residue - smallest) % stride
    return NetGeometry(stride=stride, context=shrink // 2, shrink=shrink, residue=residue, minimum=minimum)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One piece of overlap-tile inference.

    Parameters
    ----------
    core : Box
        What the tile writes, in image coordinates.
    window : Box
        What the tile reads, in image coordinates; reaches outside the image, where it is mirrored.
    crop : Box
        The core inside the network's output for this window.
    """

    core: Box
    window: Box
    crop: Box


@dataclass(frozen=True, slots=True, kw_only=True)
class TileGrid:
    """Cores that cover an image once, anchored at its first pixel, with the window each one needs.

    Windows start at multiples of the stride from one origin, so every tile pools in the same phase and
    the result equals that of one pass over the whole mirrored image, whatever the core size.

    Parameters
    ----------
    shape : (int, int)
        Image height and width in px.
    core_side : int
        Side of a core in px, a multiple of the network's stride; cores at the far edges are cut.
    geometry : NetGeometry
        The network's.

    Raises
    ------
    GeometryError
        If the image is empty, the network cannot be tiled, or the core is no multiple of the stride.

    Examples
    --------
    >>> grid = TileGrid(shape=(600, 512), core_side=512, geometry=unet_geometry(4))
    >>> len(grid), grid.tile(1).core.shape, grid.tile(1).window.start
    (2, (88, 512), (420, -92))
    """

    shape: tuple[int, int]
    core_side: int
    geometry: NetGeometry

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise GeometryError(f"image of {self.shape[0]} x {self.shape[1]} px has no pixel to compute")
        stride = self.geometry.stride
        if self.core_side < stride or self.core_side % stride:
            below = max(self.core_side // stride, 1) * stride
            raise GeometryError(
                f"core of {self.core_side} px is no multiple of the network's stride of {stride} px; "
                f"use {below} or {below + stride}"
            )
        if not self.geometry.tileable and (self.core_side < self.shape[0] or self.core_side < self.shape[1]):
            raise GeometryError(
                "this network's result depends on the tile, so it cannot be tiled; set predict.core_px to "
                f"{max(self.shape)} or more, or take another network (form: aligned, or align_corners: false)"
            )

    @property
    def counts(self) -> tuple[int, int]:
        """Number of cores along y and x."""
        return -(-self.shape[0] // self.core_side), -(-self.shape[1] // self.core_side)

    def __len__(self) -> int:
        return self.counts[0] * self.counts[1]

    def tile(self, index: int) -> Tile:
        """The tile at `index` in raster order."""
        row, column = divmod(index, self.counts[1])
        y, x = row * self.core_side, column * self.core_side
        side = self.core_side
        core = Box(start=(y, x), stop=(y + side, x + side)).clipped(self.shape)
        return self.tile_of(core)

    def tile_of(self, core: Box) -> Tile:
        """The tile whose core is `core`; its start must be a multiple of the stride."""
        net = self.geometry
        start = (core.start[0] - net.context, core.start[1] - net.context)
        margin = net.context - net.shrink // 2
        # A padded network's output has a rim that the padding has reached: both margins are cut off.
        sides = tuple(net.input_side(n + 2 * margin) for n in core.shape)
        window = Box(start=start, stop=(start[0] + sides[0], start[1] + sides[1]))
        crop = Box(start=(margin, margin), stop=(margin + core.shape[0], margin + core.shape[1]))
        return Tile(core=core, window=window, crop=crop)

    def __iter__(self) -> Iterator[Tile]:
        return (self.tile(index) for index in range(len(self)))

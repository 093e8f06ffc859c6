"""Integer geometry of boxes, networks and tiles: which pixels are read to compute which pixels.

Everything here is exact integer arithmetic. Coordinates are (y, x) pixels of one pyramid level,
counted from the image's first pixel; boxes are half-open.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from unetpipe.errors import GeometryError

__all__ = ["Box", "NetGeometry", "Tile", "TileGrid", "mirror", "unet_geometry"]


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
        Input px on each side of an output px that may change it.
    shrink : int
        Input side minus output side in px; 0 for padded networks.
    residue : int
        Legal input sides are `residue` modulo `stride`.
    minimum : int
        Smallest legal input side in px.
    tileable : bool
        Whether tiles can reproduce the one-pass result at all.
    """

    stride: int
    context: int
    shrink: int
    residue: int
    minimum: int
    tileable: bool = True

    def is_legal(self, side: int) -> bool:
        """Whether the network takes an input of this side in px."""
        return side >= self.minimum and side % self.stride == self.residue

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
            raise GeometryError(
                f"input side of {side} px is not legal for this network: expected {self.residue} modulo "
                f"{self.stride}, at least {self.minimum}; use {nearest}"
            )
        return side - self.shrink

    def input_side(self, output: int) -> int:
        """Smallest legal input side in px whose output holds `output` px.

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
                "this network's result depends on the tile, so it cannot be tiled; "
                "choose a core as large as the image, or another network"
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

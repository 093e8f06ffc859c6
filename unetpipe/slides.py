"""OME-Zarr 0.5 on disk: sharded, checksummed pyramids of images, labels and probabilities.

Every array is written shard by shard, so that no two writers share an object; a shard's content is summed up by the
digest of its decoded pixels.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from unetpipe.errors import StoreError
from unetpipe.geometry import Box

__all__ = [
    "Plane",
    "area_mean",
    "coarser_block",
    "create_plane",
    "default_shard_side",
    "digest_of",
    "level_shapes",
    "nearest",
    "open_plane",
    "shard_boxes",
    "write_multiscale",
]

AXES = {"c": {"name": "c", "type": "channel"}, "y": {"name": "y", "type": "space"}, "x": {"name": "x", "type": "space"}}
CHUNK = 256
SHARD = 1024
CHANNEL_COLOURS = ("FF0000", "00FF00", "0000FF", "FFFFFF", "FF00FF", "00FFFF", "FFFF00")
# Of Okabe and Ito, told apart by nearly everyone.
CLASS_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


@dataclass(frozen=True, slots=True)
class Plane:
    """One array (Y, X) or (C, Y, X) of a store, read in boxes and written in shards.

    Parameters
    ----------
    array : zarr.Array
        The array; the last two axes are y and x.
    folder : Path
        The array's folder on disk.
    """

    array: Any
    folder: Path

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in px."""
        height, width = self.array.shape[-2:]
        return int(height), int(width)

    @property
    def channels(self) -> int:
        """Number of channels; 1 for an array without that axis."""
        return int(self.array.shape[0]) if self.array.ndim == 3 else 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of a pixel."""
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype

    @property
    def shard_side(self) -> int:
        """Side of a shard in px."""
        return int(self.array.shards[-1])

    def iter_shards(self) -> Iterator[tuple[str, Box]]:
        """Name (``level/y/x``) and box of every shard, in raster order."""
        return shard_boxes(self.folder.name, self.shape, self.shard_side)

    def read_whole(self) -> NDArray[Any]:
        """Read all pixels; for images that are known to be small."""
        return self.read(Box(start=(0, 0), stop=self.shape))

    def read(self, box: Box) -> NDArray[Any]:
        """Read the pixels of a box inside the image.

        Raises
        ------
        StoreError
            If a chunk's checksum does not fit, or a chunk cannot be decoded.
        """
        try:
            block: NDArray[Any] = np.asarray(self.array[(..., *box.slices)])
        except (ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise StoreError(
                f"{self.folder}: damaged at {box.start} ({reason}); delete the store and its .json and run again"
            ) from None
        return block

    def write_shard(self, box: Box, block: NDArray[Any]) -> str:
        """Write one whole shard durably.

        Parameters
        ----------
        box : Box
            The shard's box, as given by `iter_shards`.
        block : (Y, X) or (C, Y, X) array
            Its pixels, of the array's dtype.

        Returns
        -------
        str
            SHA-256 of the pixels in C order, little-endian.
        """
        side = self.shard_side
        start, stop = box.start, box.stop
        assert all(a % side == 0 and b == min(a + side, n) for a, b, n in zip(start, stop, self.shape, strict=True))
        assert block.dtype == self.dtype
        self.array[(..., *box.slices)] = block
        parts = ["c", *(["0"] if self.array.ndim == 3 else []), str(start[0] // side), str(start[1] // side)]
        descriptor = os.open(self.folder.joinpath(*parts), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return digest_of(block)


def shard_boxes(name: str, shape: tuple[int, int], side: int | None = None) -> Iterator[tuple[str, Box]]:
    """Name (``name/y/x``) and box of every shard of an image, in raster order.

    Parameters
    ----------
    name : str
        Of the array.
    shape : (int, int)
        Height and width in px.
    side : int, optional
        Side of a shard in px; by default the one that `create_plane` takes.
    """
    step = side or default_shard_side(shape)
    for y in range(0, shape[0], step):
        for x in range(0, shape[1], step):
            yield f"{name}/{y // step}/{x // step}", Box(start=(y, x), stop=(y + step, x + step)).clipped(shape)


def default_shard_side(shape: tuple[int, ...]) -> int:
    """Side of a shard in px: whole chunks that hold the image, at most 1024 px.

    Examples
    --------
    >>> default_shard_side((300, 200)), default_shard_side((5000, 9000))
    (512, 1024)
    """
    return min(SHARD, -(-max(shape[-2:]) // CHUNK) * CHUNK)


def digest_of(block: NDArray[Any]) -> str:
    """SHA-256 of an array's content in C order, little-endian."""
    plain = np.ascontiguousarray(block, dtype=block.dtype.newbyteorder("<"))
    return hashlib.sha256(plain.data.cast("B")).hexdigest()


def create_plane(
    folder: Path, *, shape: tuple[int, ...], dtype: Any, shard_side: int | None = None, axes: str | None = None
) -> Plane:
    """Create an array, or open the one that an interrupted run of the same work has created.

    Parameters
    ----------
    folder : Path
        The array's folder.
    shape : tuple of int
        (Y, X) or (C, Y, X) in px.
    dtype : numpy dtype
        A plain numeric type.
    shard_side : int, optional
        Side of a shard in px; chunks are its largest even parts of at most 512 px.
    axes : str, optional
        Names of the axes; ``"cyx"`` or ``"yx"`` by the number of axes.
    """
    if not (folder / "zarr.json").is_file():
        side = shard_side or default_shard_side(shape)
        chunk = (
            CHUNK
            if side % CHUNK == 0
            else next(side // n for n in range(1, side + 1) if side % n == 0 and side // n <= 512)
        )
        leading = tuple(shape[:-2])
        zarr.create_array(
            store=str(folder),
            shape=shape,
            dtype=np.dtype(dtype),
            chunks=(*leading, chunk, chunk),
            shards=(*leading, side, side),
            compressors=[ZstdCodec(level=1), Crc32cCodec()],
            dimension_names=list(axes or "cyx"[-len(shape) :]),
            fill_value=0,
            config={"write_empty_chunks": True},
        )
    return open_plane(folder, writable=True)


def open_plane(folder: Path, *, writable: bool = False) -> Plane:
    """Open an array of a store.

    Raises
    ------
    StoreError
        If there is no such array.
    """
    try:
        array = zarr.open_array(store=str(folder), mode="r+" if writable else "r")
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(
            f"{folder}: no readable array ({type(error).__name__}); delete the store and its .json and run again"
        ) from None
    return Plane(array.with_config({"write_empty_chunks": True}), folder)


def coarser_block(finer: Plane, box: Box, reduce: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """The pixels of `box` in the next coarser level, made of the finer one by `area_mean` or `nearest`."""
    start, stop = (box.start[0] * 2, box.start[1] * 2), (box.stop[0] * 2, box.stop[1] * 2)
    return np.ascontiguousarray(reduce(finer.read(Box(start=start, stop=stop).clipped(finer.shape))))


def level_shapes(shape: tuple[int, int], *, smallest: int = 256) -> list[tuple[int, int]]:
    """Heights and widths of a pyramid that halves until a level fits into `smallest` px.

    Examples
    --------
    >>> level_shapes((1000, 600))
    [(1000, 600), (500, 300), (250, 150)]
    """
    shapes = [shape]
    while max(shapes[-1]) > smallest:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def area_mean(block: NDArray[Any]) -> NDArray[Any]:
    """Half the size of (..., Y, X) by the mean of 2 x 2 px; an odd last row or column is averaged over what is there.

    Integers are rounded half up.
    """
    padded = np.pad(block, [(0, 0)] * (block.ndim - 2) + [(0, n % 2) for n in block.shape[-2:]], mode="edge")
    wide: NDArray[Any] = padded.astype(np.uint32 if padded.dtype.kind == "u" else np.float64)
    total = wide[..., ::2, ::2] + wide[..., 1::2, ::2] + wide[..., ::2, 1::2] + wide[..., 1::2, 1::2]
    mean = (total + 2) // 4 if padded.dtype.kind == "u" else total / 4
    result: NDArray[Any] = mean.astype(block.dtype)
    return result


def nearest(block: NDArray[Any]) -> NDArray[Any]:
    """Half the size of (..., Y, X) by the first of each 2 x 2 px: labels are never averaged."""
    return np.ascontiguousarray(block[..., ::2, ::2])


def _label_colours(count: int) -> dict[str, Any]:
    """The part `image-label` of a label image with this many classes; nothing for instances."""
    if not count:
        return {}
    rgba = {0: (0, 0, 0, 0)} | {v: (*CLASS_COLOURS[(v - 1) % len(CLASS_COLOURS)], 255) for v in range(1, count)}
    rgba[255] = (128, 128, 128, 255)
    return {"colors": [{"label-value": value, "rgba": list(colour)} for value, colour in rgba.items()]}


def _channels(
    windows: Sequence[tuple[float, float]], names: Sequence[str], full: tuple[float, float] | None
) -> list[dict[str, Any]]:
    """The channels of the part `omero`: colour, range and name of each."""
    colours = CHANNEL_COLOURS if len(windows) > 1 else ("FFFFFF",)
    described: list[dict[str, Any]] = []
    if len(windows) == 3 and not names:
        # A colour picture: one range keeps its colours.
        windows = [(min(low for low, _ in windows), max(high for _, high in windows))] * 3
    for i, (low, high) in enumerate(windows):
        least, most = full or (low, high)
        window = {"min": least, "max": most, "start": low, "end": high}
        label = {"label": names[i]} if names else {}
        described.append({"active": True, "color": colours[i % len(colours)], "window": window, **label})
    return described


def write_multiscale(
    group: Path,
    *,
    name: str,
    shapes: Sequence[tuple[int, ...]],
    pixel_size_um: float | None,
    centred: bool,
    factor: float = 1.0,
    label: bool = False,
    classes: int = 0,
    windows: Sequence[tuple[float, float]] | None = None,
    names: Sequence[str] = (),
    full: tuple[float, float] | None = None,
) -> None:
    """Write the OME-Zarr 0.5 metadata of a pyramid whose arrays are named 0, 1, 2 ...

    Parameters
    ----------
    group : Path
        The pyramid's folder.
    name : str
        Name shown by viewers.
    shapes : sequence of tuple
        Shape of each level, finest first.
    pixel_size_um : float or None
        Pixel size of level 0; the unit is left out where it is not known.
    centred : bool
        Whether a coarse pixel stands for the centre of its 2 x 2 px (mean) or for the first of them (nearest).
    factor : float
        Side of a pixel of level 0 in px of the source that it was resampled from: coordinates are counted from the
        centre of the source's first pixel.
    label : bool
        Whether this is a label image.
    classes : int
        How many of its values, from 0 on, are classes with a colour each (0 is clear, 255 is grey); 0 for instances,
        which viewers colour at random.
    windows : sequence of (float, float), optional
        Display range of each channel.
    names : sequence of str, optional
        Name of each channel, where they have some.
    full : (float, float), optional
        Range of the data type; without it, the display range is all there is to choose from.

    References
    ----------
    OME-Zarr 0.5, doi:10.1007/s00418-023-02209-1.
    """
    unit = {"unit": "micrometer"} if pixel_size_um else {}
    axes = [AXES[a] | (unit if a != "c" else {}) for a in "cyx"[-len(shapes[0]) :]]
    size, leading = pixel_size_um or 1.0, len(shapes[0]) - 2
    datasets = []
    for level in range(len(shapes)):
        shift = size * ((1 - 1 / factor) + (2**level - 1 if centred else 0)) / 2
        scale = [1.0] * leading + [size * 2**level] * 2
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        transforms.append({"type": "translation", "translation": [0.0] * leading + [shift] * 2})
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    kind = "mean" if centred else "nearest"
    ome: dict[str, Any] = {
        "version": "0.5",
        "multiscales": [{"name": name, "axes": axes, "datasets": datasets, "type": kind, "metadata": {"step": 2}}],
    }
    if label:
        ome["image-label"] = _label_colours(classes)
    if windows is not None:
        ome["omero"] = {"channels": _channels(windows, names, full)}
    group.mkdir(parents=True, exist_ok=True)
    document = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
    (group / "zarr.json").write_text(json.dumps(document, indent=1, sort_keys=True), encoding="utf-8")

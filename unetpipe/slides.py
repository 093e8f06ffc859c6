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

from unetpipe.errors import StoreError
from unetpipe.geometry import Box
from unetpipe.pyramids import area_mean, level_shapes, nearest
from unetpipe.shards import COMPRESSORS, FAULTS, ShardTable, encoded_shard, in_threads

__all__ = [
    "Plane",
    "area_mean",
    "coarser_block",
    "create_plane",
    "level_shapes",
    "nearest",
    "open_plane",
    "write_multiscale",
]

AXES = {"c": {"name": "c", "type": "channel"}, "y": {"name": "y", "type": "space"}, "x": {"name": "x", "type": "space"}}
CHUNK = 256
SHARD = 1024


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

    @property
    def chunk_side(self) -> int:
        """Side of a chunk in px."""
        return int(self.array.chunks[-1])

    def iter_shards(self) -> Iterator[tuple[str, Box]]:
        """Name (``level/y/x``) and box of every shard, in raster order."""
        side = self.shard_side
        for y in range(0, self.shape[0], side):
            for x in range(0, self.shape[1], side):
                box = Box(start=(y, x), stop=(y + side, x + side)).clipped(self.shape)
                yield f"{self.folder.name}/{y // side}/{x // side}", box

    def read_whole(self) -> NDArray[Any]:
        """Read all pixels; for images that are known to be small."""
        return self.read(Box(start=(0, 0), stop=self.shape))

    def read(self, box: Box) -> NDArray[Any]:
        """Read the pixels of a box inside the image.

        Raises
        ------
        StoreError
            If a chunk's checksum does not fit, or a chunk cannot be decoded or was never written.
        """
        out = np.empty((*self.array.shape[:-2], *box.shape), self.dtype)
        side, chunk = self.shard_side, self.chunk_side
        tables: dict[tuple[int, int], ShardTable] = {}

        def decode(at: tuple[int, int]) -> None:
            """Copy what a chunk, counted over the whole array, has of the box."""
            (row, y), (column, x) = (divmod(i, side // chunk) for i in at)
            place = y * (side // chunk) + x
            values = tables[row, column].chunk(place, (*self.array.shape[:-2], chunk, chunk), self.dtype)
            origin = (at[0] * chunk, at[1] * chunk)
            met = box.relative_to(origin).clipped((chunk, chunk))
            into = met.relative_to((box.start[0] - origin[0], box.start[1] - origin[1]))
            out[(..., *into.slices)] = values[(..., *met.slices)]

        try:
            for at in met_by(box, side):
                tables[at] = ShardTable.of(self.shard_path(at), (side // chunk) ** 2)
            in_threads(decode, met_by(box, chunk))
        except FAULTS as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise StoreError(
                f"{self.folder}: damaged at {box.start} ({reason}); delete the store and run again"
            ) from None
        return out

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
        path = self.shard_path((start[0] // side, start[1] // side))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.writelines(encoded_shard(self.chunks_of(block)))
            file.flush()
            os.fsync(file.fileno())
        return digest_of(block)

    def shard_path(self, at: tuple[int, int]) -> Path:
        """File of the shard in a row and column of shards."""
        leading = ["0"] * (self.array.ndim - 2)
        return self.folder.joinpath("c", *leading, str(at[0]), str(at[1]))

    def chunks_of(self, block: NDArray[Any]) -> list[NDArray[Any] | None]:
        """The chunks of a shard, those cut by the image's border filled up with 0, those outside None."""
        side, chunk = self.shard_side, self.chunk_side
        found: list[NDArray[Any] | None] = []
        for y in range(0, side, chunk):
            for x in range(0, side, chunk):
                part = block[..., y : y + chunk, x : x + chunk]
                missing = (chunk - part.shape[-2], chunk - part.shape[-1])
                if any(missing) and part.size:
                    part = np.pad(part, [(0, 0)] * (part.ndim - 2) + [(0, n) for n in missing])
                found.append(part if part.size else None)
        return found


def met_by(box: Box, side: int) -> list[tuple[int, int]]:
    """Rows and columns of the squares of a side in px that meet a box."""
    rows, columns = (range(a // side, -(-b // side)) for a, b in zip(box.start, box.stop, strict=True))
    return [(row, column) for row in rows for column in columns] if min(box.shape) else []


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
        side = shard_side or min(SHARD, -(-max(shape[-2:]) // CHUNK) * CHUNK)
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
            compressors=COMPRESSORS,
            dimension_names=list(axes or "cyx"[-len(shape) :]),
            fill_value=0,
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
            f"{folder}: no readable array ({type(error).__name__}); delete the store and run again"
        ) from None
    inner = getattr(array.metadata.codecs[0], "codecs", ())  # type: ignore[union-attr]
    if [codec.to_dict()["name"] for codec in inner] != ["bytes", "zstd", "crc32c"]:
        raise StoreError(f"{folder}: no array that unetpipe has written; delete the store and run again")
    return Plane(array, folder)


def coarser_block(finer: Plane, box: Box, reduce: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """The pixels of `box` in the next coarser level, made of the finer one by `area_mean` or `nearest`."""
    start, stop = (box.start[0] * 2, box.start[1] * 2), (box.stop[0] * 2, box.stop[1] * 2)
    return np.ascontiguousarray(reduce(finer.read(Box(start=start, stop=stop).clipped(finer.shape))))


def write_multiscale(
    group: Path,
    *,
    name: str,
    shapes: Sequence[tuple[int, ...]],
    pixel_size_um: float | None,
    centred: bool,
    factor: float = 1.0,
    label: bool = False,
    windows: list[tuple[float, float]] | None = None,
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
    windows : list of (float, float), optional
        Display range of each channel.

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
        ome["image-label"] = {}
    if windows is not None:
        colours = (
            ["FFFFFF"] if len(windows) == 1 else ["FF0000", "00FF00", "0000FF", "FFFFFF", "FF00FF", "00FFFF", "FFFF00"]
        )
        ome["omero"] = {
            "channels": [
                {"color": colours[i % len(colours)], "window": {"min": lo, "max": hi, "start": lo, "end": hi}}
                for i, (lo, hi) in enumerate(windows)
            ]
        }
    group.mkdir(parents=True, exist_ok=True)
    document = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
    (group / "zarr.json").write_text(json.dumps(document, indent=1, sort_keys=True), encoding="utf-8")

"""Arrays on disk: sharded, checksummed planes of images, labels and probabilities.

Every array is written shard by shard, so that no two writers share an object; a shard's content is summed up by the
digest of its decoded pixels.
"""

import errno
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, ShardingCodec

from unetpipe.errors import StoreError
from unetpipe.geometry import Box
from unetpipe.shards import COMPRESSORS, FAULTS, ShardTable, encoded_shard, in_threads

__all__ = [
    "Plane",
    "create_plane",
    "default_shard_side",
    "digest_of",
    "open_plane",
    "shard_boxes",
]

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
    is_own : bool
        Whether its shards are as `encoded_shard` makes them; others, which are used in place, are read by zarr.
    """

    array: Any
    folder: Path
    is_own: bool = True

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
        """Side of a shard in px; of an array used in place, that of the units which its ledger counts."""
        return int(self.array.shards[-1]) if self.is_own else default_shard_side(self.shape)

    @property
    def chunk_side(self) -> int:
        """Side of a chunk in px."""
        return int(self.array.chunks[-1])

    @property
    def chunk_shape(self) -> tuple[int, int]:
        """Height and width of a chunk in px."""
        height, width = self.array.chunks[-2:]
        return int(height), int(width)

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
            If a chunk's checksum does not fit, or a chunk cannot be decoded or was never written.
        """
        if not self.is_own:
            return self.read_by_zarr(box)
        out = np.empty((*self.array.shape[:-2], *box.shape), self.dtype)
        chunk = self.chunk_side
        tables: dict[tuple[int, int], ShardTable] = {}

        def decode(at: tuple[int, int]) -> None:
            """Copy what a chunk, counted over the whole array, has of the box."""
            values = self.new_chunk()
            self.read_chunk(at, tables, values)
            origin = (at[0] * chunk, at[1] * chunk)
            met = box.relative_to(origin).clipped((chunk, chunk))
            into = met.relative_to((box.start[0] - origin[0], box.start[1] - origin[1]))
            out[(..., *into.slices)] = values[(..., *met.slices)]

        try:
            in_threads(decode, met_by(box, chunk))
        except FAULTS as error:
            raise self.damage(box, error) from None
        return out

    def new_chunk(self) -> NDArray[Any]:
        """Memory for a chunk."""
        return np.empty((*self.array.shape[:-2], *self.chunk_shape), self.dtype.newbyteorder("<"))

    def read_chunk(self, at: tuple[int, int], tables: dict[tuple[int, int], ShardTable], out: NDArray[Any]) -> None:
        """Decode a chunk of an array that is laid out as ours; one of `FAULTS` if it is damaged.

        Parameters
        ----------
        at : (int, int)
            Its row and column over the whole array.
        tables : dict
            Tables of the shards read so far, by row and column; that of the chunk is put there.
        out : array
            One of `new_chunk`; what is decoded.
        """
        per_shard = self.shard_side // self.chunk_side
        (row, y), (column, x) = (divmod(i, per_shard) for i in at)
        if (row, column) not in tables:
            tables[row, column] = ShardTable.of(self.shard_path((row, column)), per_shard**2)
        tables[row, column].read(y * per_shard + x, out)

    def read_by_zarr(self, box: Box) -> NDArray[Any]:
        """Pixels of a box, whatever the array's codecs."""
        try:
            return np.asarray(self.array[(..., *box.slices)])
        except FAULTS as error:
            raise self.damage(box, error) from None

    def damage(self, box: Box, error: Exception) -> StoreError:
        """What to say of a box that cannot be read."""
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        fault = StoreError(
            f"{self.folder}: damaged at {box.start} ({reason}); run `python -m unetpipe verify --mend`, then the same "
            "command again"
        )
        # A disk that fails or has too many files open may read them next time; a file that is too short is damaged.
        is_lasting = not isinstance(error, OSError) or error.errno in (errno.ENOENT, errno.EINVAL)
        if self.is_own and is_lasting:
            fault.files = [self.shard_path(at) for at in met_by(box, self.shard_side)]
        return fault

    def write_shard(self, box: Box, block: NDArray[Any], *, draft: str = "") -> str:
        """Write one whole shard durably, or none: to a temporary name, then under its own.

        Parameters
        ----------
        box : Box
            The shard's box, as given by `iter_shards`.
        block : (Y, X) or (C, Y, X) array
            Its pixels, of the array's dtype.
        draft : str
            Mark of whoever writes, where it is another process that gives the shard its name by `take_draft`.

        Returns
        -------
        str
            SHA-256 of the pixels in C order, little-endian.
        """
        side = self.shard_side
        start, stop = box.start, box.stop
        assert all(a % side == 0 and b == min(a + side, n) for a, b, n in zip(start, stop, self.shape, strict=True))
        assert block.dtype == self.dtype
        path = draft_path(self.shard_path((start[0] // side, start[1] // side)), draft)
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = encoded_shard(self.chunks_of(block))
        try:
            with path.open("wb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            # Writing does not say where.
            error.filename = error.filename or str(path)
            raise
        if not draft:
            self.take_draft(box, draft)
        return digest_of(block)

    def take_draft(self, box: Box, draft: str) -> None:
        """Give a shard that was written as a draft its place.

        The folder is not synced: what a power cut takes back is missed by the ledger, or in the manifest's list.
        """
        path = self.shard_path((box.start[0] // self.shard_side, box.start[1] // self.shard_side))
        draft_path(path, draft).replace(path)

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


def draft_path(path: Path, draft: str) -> Path:
    """Name of a file before it has its own; what is left of it is removed when a result is finished."""
    return path.with_name(f".{path.name}.{draft}.partial")


def met_by(box: Box, side: int) -> list[tuple[int, int]]:
    """Rows and columns of the squares of a side in px that meet a box."""
    rows, columns = (range(a // side, -(-b // side)) for a, b in zip(box.start, box.stop, strict=True))
    return [(row, column) for row in rows for column in columns] if min(box.shape) else []


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
    rows, columns = ([(start, min(start + step, n)) for start in range(0, n, step)] for n in shape)
    for row, (y0, y1) in enumerate(rows):
        for column, (x0, x1) in enumerate(columns):
            yield f"{name}/{row}/{column}", Box(start=(y0, x0), stop=(y1, x1))


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
            f"{folder}: no readable array ({type(error).__name__}); delete the store and its .json and run again"
        ) from None
    return Plane(array, folder, is_own=_is_own(array))


def _is_own(array: Any) -> bool:
    """Whether an array is laid out as `create_plane` lays it out: square shards of square chunks of all channels."""
    chunks, shards, metadata = array.chunks, array.shards, array.metadata
    if shards is None or chunks[:-2] != array.shape[:-2] or chunks[-1] != chunks[-2] or shards[-1] != shards[-2]:
        return False
    whole = BytesCodec(endian=None if array.dtype.itemsize == 1 else "little")
    as_written = ShardingCodec(chunk_shape=chunks, codecs=(whole, *COMPRESSORS)).to_dict()
    keys = {"name": "default", "configuration": {"separator": "/"}}
    return bool(metadata.codecs[0].to_dict() == as_written and metadata.chunk_key_encoding.to_dict() == keys)

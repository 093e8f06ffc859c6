"""Training patches on disk: three arrays per sample, written in blocks, read one patch at a time."""

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import imagecodecs
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from unetpipe.errors import StoreError
from unetpipe.slides import digest_of

__all__ = ["PatchStore", "PatchStores", "create_patches", "open_patches"]

BLOCK = 8
# What the table of a shard says of a chunk that is not there.
MISSING = 2**64 - 1

Patch = tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class PatchStore:
    """The patches of one sample.

    Parameters
    ----------
    image : zarr.Array
        (N, C, n, n) float32, normalised.
    classes : zarr.Array
        (N, m, m) uint8, 255 = ignored.
    weights : zarr.Array
        (N, m, m) float32, the separation term.
    """

    image: Any
    classes: Any
    weights: Any

    def __len__(self) -> int:
        return int(self.image.shape[0])

    def iter_blocks(self) -> Iterator[tuple[str, range]]:
        """Name and patch numbers of every block; a block is one shard of each array."""
        for start in range(0, len(self), BLOCK):
            yield f"{start // BLOCK}", range(start, min(start + BLOCK, len(self)))

    def write_block(self, numbers: range, patches: Sequence[Patch]) -> str:
        """Write a whole block; returns the digest of its content."""
        digests = []
        for array, parts in zip((self.image, self.classes, self.weights), zip(*patches, strict=True), strict=True):
            block = np.stack(parts)
            array[numbers.start : numbers.stop] = block
            digests.append(digest_of(block))
        return "-".join(digests)

    def read(self, index: int) -> Patch:
        """Read one patch.

        Raises
        ------
        StoreError
            If a chunk's checksum does not fit.
        """
        try:
            image, classes, weights = (read_one(array, index) for array in (self.image, self.classes, self.weights))
        except (ValueError, RuntimeError, OSError, struct.error) as error:
            raise StoreError(
                f"{self.image.store}: patch {index} is damaged ({error}); delete the store and its .json and run again"
            ) from None
        return image, classes, weights


def read_one(array: Any, index: int) -> NDArray[Any]:
    """One patch of an array (N, ...) of `create_patches`, straight from its shard.

    Hardly more than the decoding itself; zarr's own way takes twice that, for it hands each array through several
    threads. A shard ends with a table of the chunks' places and sizes, and its checksum; a chunk is zstd with its own.
    """
    per_shard = array.shards[0]
    block, place = divmod(index, per_shard)
    shape = array.shape[1:]
    with Path(array.store.root, "c", str(block), *"0" * len(shape)).open("rb") as file:
        file.seek(-(16 * per_shard + 4), os.SEEK_END)
        start, size = struct.unpack_from("<QQ", checked(file.read()), 16 * place)
        if size == MISSING:
            raise ValueError("it was never written")
        file.seek(start)
        chunk = checked(file.read(size))
    patch = np.empty(shape, array.dtype)
    imagecodecs.zstd_decode(chunk, out=patch.reshape(-1).view(np.uint8).data)
    return patch


def checked(content: bytes) -> bytes:
    """What stands in front of a checksum of its own."""
    body, checksum = content[:-4], int.from_bytes(content[-4:], "little")
    if google_crc32c.value(body) != checksum:
        raise ValueError("the checksum does not fit")
    return body


@dataclass(frozen=True, slots=True)
class PatchStores:
    """The patches of all training samples, numbered through in the order of the samples.

    Parameters
    ----------
    stores : tuple of PatchStore
        One per sample.
    side : int
        Side in px of what a network sees in the middle of each image.
    """

    stores: tuple[PatchStore, ...]
    side: int

    def __len__(self) -> int:
        return sum(len(store) for store in self.stores)

    def read(self, index: int) -> Patch:
        """Read one patch by its number over all samples, its image cut to what the network sees."""
        for store in self.stores:
            if index < len(store):
                image, classes, weights = store.read(index)
                margin = (image.shape[-1] - self.side) // 2
                seen = slice(margin, margin + self.side)
                return image[:, seen, seen], classes, weights
            index -= len(store)
        raise IndexError(index)


def create_patches(folder: Path, *, count: int, channels: int, input_px: int, output_px: int) -> PatchStore:
    """Create the arrays of one sample, or open what an interrupted run has created.

    Parameters
    ----------
    folder : Path
        The sample's store.
    count : int
        Number of patches.
    channels : int
        Channels of the image.
    input_px, output_px : int
        Sides of a patch's image, and of its classes and weights.
    """
    shapes = {
        "image": ((count, channels, input_px, input_px), np.float32),
        "classes": ((count, output_px, output_px), np.uint8),
        "weights": ((count, output_px, output_px), np.float32),
    }
    for name, (shape, dtype) in shapes.items():
        if not (folder / name / "zarr.json").is_file():
            zarr.create_array(
                store=str(folder / name),
                shape=shape,
                dtype=dtype,
                chunks=(1, *shape[1:]),
                shards=(BLOCK, *shape[1:]),
                compressors=[ZstdCodec(level=1), Crc32cCodec()],
                fill_value=0,
                config={"write_empty_chunks": True},
            )
    return open_patches(folder, writable=True)


def open_patches(folder: Path, *, writable: bool = False) -> PatchStore:
    """Open the patches of one sample.

    Raises
    ------
    StoreError
        If an array is missing.
    """
    mode = "r+" if writable else "r"
    try:
        arrays = [zarr.open_array(store=str(folder / name), mode=mode) for name in ("image", "classes", "weights")]
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(
            f"{folder}: no readable patches ({type(error).__name__}); delete them and their .json and run again"
        ) from None
    return PatchStore(*(array.with_config({"write_empty_chunks": True}) for array in arrays))

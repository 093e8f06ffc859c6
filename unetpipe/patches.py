"""Training patches on disk: three arrays per sample, written in blocks, read one patch at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from unetpipe.errors import StoreError
from unetpipe.shards import COMPRESSORS, FAULTS, ShardTable
from unetpipe.slides import digest_of

__all__ = ["Patch", "PatchStore", "PatchStores", "as_trained", "create_patches", "open_patches", "patch_bytes"]

BLOCK = 8

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
        (N, F, m, m) float32, the maps of `weigh`.
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
        except FAULTS as error:
            raise StoreError(
                f"{self.image.store}: patch {index} is damaged ({error}); delete the store and its .json and run again"
            ) from None
        return image, classes, weights


def read_one(array: Any, index: int) -> NDArray[Any]:
    """One patch of an array (N, ...) of `create_patches`, straight from its shard."""
    block, place = divmod(index, array.shards[0])
    shape = array.shape[1:]
    path = Path(array.store.root, "c", str(block), *"0" * len(shape))
    patch = np.empty(shape, array.dtype.newbyteorder("<"))
    ShardTable.of(path, array.shards[0]).read(place, patch)
    return patch


@dataclass(frozen=True, slots=True)
class PatchStores:
    """The patches of all training samples, numbered through in the order of the samples.

    Parameters
    ----------
    stores : tuple of PatchStore
        One per sample.
    side : int
        Side in px of what a network sees in the middle of each image.
    form : int or None
        Which map of weights counts; None: 0 everywhere.
    """

    stores: tuple[PatchStore, ...]
    side: int
    form: int | None

    def __len__(self) -> int:
        return sum(len(store) for store in self.stores)

    def read(self, index: int) -> Patch:
        """Read one patch by its number over all samples, its image cut to what the network sees; weights (m, m)."""
        for store in self.stores:
            if index < len(store):
                return as_trained(store.read(index), self.side, self.form)
            index -= len(store)
        raise IndexError(index)


def as_trained(patch: Patch, side: int, form: int | None) -> Patch:
    """The middle (C, side, side) of a patch's image, its classes (m, m), and one of its maps of weights, (m, m)."""
    image, classes, weights = patch
    return middle(image, side), classes, np.zeros_like(weights[0]) if form is None else weights[form]


def middle(image: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """The centred (C, side, side) part of an image, (C, n, n)."""
    margin = (image.shape[-1] - side) // 2
    return image[:, margin : margin + side, margin : margin + side]


def patch_bytes(*, channels: int, input_px: int, output_px: int, forms: int = 1) -> int:
    """Bytes of a patch: what it takes in memory, and at most on disk.

    Examples
    --------
    4 * 572^2 for a grey image, (1 + 4) * 388^2 for its classes and one map of weights:

    >>> patch_bytes(channels=1, input_px=572, output_px=388)
    2061456
    """
    return 4 * channels * input_px**2 + (1 + 4 * forms) * output_px**2


def create_patches(
    folder: Path, *, count: int, channels: int, input_px: int, output_px: int, forms: int = 1
) -> PatchStore:
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
    forms : int
        Maps of weights.
    """
    shapes = {
        "image": ((count, channels, input_px, input_px), np.float32),
        "classes": ((count, output_px, output_px), np.uint8),
        "weights": ((count, forms, output_px, output_px), np.float32),
    }
    for name, (shape, dtype) in shapes.items():
        if not (folder / name / "zarr.json").is_file():
            zarr.create_array(
                store=str(folder / name),
                shape=shape,
                dtype=dtype,
                chunks=(1, *shape[1:]),
                shards=(BLOCK, *shape[1:]),
                compressors=COMPRESSORS,
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

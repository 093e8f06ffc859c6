"""Writing probabilities shard by shard, against zarr-python's default pipeline at equal codecs and layout.

Run: python benchmarks/writing.py [--side 4096] [--classes 2] [--runs 3]

In MB of pixels per second of wall time, best of the runs, which take turns: two uint16 planes whose shards of 1,024 px
hold 16 chunks of zstd 1 with checksums; ours in blocks of 64 KiB. Zarr gets whole shards, too, or strips of whole rows
of them, so that it never reads what it writes. `Plane.write_shard` waits until a shard is durable and sums up its
pixels; so each is held against its like: both with a digest and the wait for the disk, both without. Target: 1.7 times
zarr's default, whole shards.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from scipy import ndimage

from unetpipe.geometry import Box
from unetpipe.shards import encoded_shard
from unetpipe.slides import Plane, create_plane, digest_of

Image = NDArray[np.uint16]


def probabilities(classes: int, side: int) -> Image:
    """Soft borders of objects, as networks leave them: mostly near 0 or 1, with noise in the last digits."""
    rng = np.random.default_rng(1)
    tile = min(side, 1024)
    field = ndimage.gaussian_filter(rng.standard_normal((tile, tile)), 8, mode="wrap")
    logits = 12 * field / field.std() + rng.normal(0, 0.3, field.shape)
    first = (65535 / (1 + np.exp(-logits))).astype(np.uint16)
    planes = np.stack([first, *[65535 - first] * (classes - 1)])
    return np.tile(planes, (1, -(-side // tile), -(-side // tile)))[:, :side, :side]


def ours(plane: Plane, image: Image) -> None:
    """Write each shard."""
    for _, box in plane.iter_shards():
        plane.write_shard(box, image[(..., *box.slices)])


def ours_alone(plane: Plane, image: Image) -> None:
    """Encode and write each shard, and neither sum it up nor wait for the disk: what zarr does."""
    side = plane.shard_side
    for _, box in plane.iter_shards():
        path = plane.shard_path((box.start[0] // side, box.start[1] // side))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.writelines(encoded_shard(plane.chunks_of(image[(..., *box.slices)])))


def zarrs_shards(plane: Plane, image: Image) -> None:
    """Give zarr each shard."""
    for _, box in plane.iter_shards():
        plane.array[(..., *box.slices)] = image[(..., *box.slices)]


def zarrs_strips(plane: Plane, image: Image) -> None:
    """Give zarr each row of shards."""
    for y in range(0, plane.shape[0], plane.shard_side):
        plane.array[..., y : y + plane.shard_side, :] = image[..., y : y + plane.shard_side, :]


def zarrs_alike(plane: Plane, image: Image) -> None:
    """Give zarr each shard, sum up its pixels, and wait until it is durable."""
    side = plane.shard_side
    for _, box in plane.iter_shards():
        block = image[(..., *box.slices)]
        plane.array[(..., *box.slices)] = block
        digest_of(block)
        descriptor = os.open(plane.shard_path((box.start[0] // side, box.start[1] // side)), os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    image = probabilities(options.classes, options.side)
    ways: dict[str, Callable[[Plane, Image], None]] = {
        "ours, durable and summed up": ours,
        "zarr, durable and summed up": zarrs_alike,
        "ours, neither": ours_alone,
        "zarr, neither, by shards": zarrs_shards,
        "zarr, neither, by strips": zarrs_strips,
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(options.runs):
        for name, write in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                plane = create_plane(Path(folder) / "0", shape=image.shape, dtype=image.dtype)
                begun = time.perf_counter()
                write(plane, image)
                taken[name].append(time.perf_counter() - begun)
                if run == 0:
                    corner = Box(start=(0, 0), stop=(300, 300))
                    assert np.array_equal(plane.read(corner), image[(..., *corner.slices)])
                    stored = sum(path.stat().st_size for path in Path(folder).rglob("c/*/*/*"))
                    print(f"{name}: {image.nbytes / stored:.2f} times smaller on disk")
    rates = {name: image.nbytes / 1e6 / min(seconds) for name, seconds in taken.items()}
    print(f"zarr {zarr.__version__}, {image.nbytes / 1e6:.0f} MB, {os.cpu_count()} processors")
    for name, rate in rates.items():
        like = rates["ours, neither" if "neither" in name else "ours, durable and summed up"]
        print(f"{name}: {rate:.0f} MB/s" + (f", ours {like / rate:.2f} times that" if name.startswith("zarr") else ""))


if __name__ == "__main__":
    main()

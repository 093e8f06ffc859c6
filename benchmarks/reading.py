"""Reading a slide window by window with context, against whole rows without it and dask's map_overlap.

Run: python benchmarks/reading.py [--side 8192] [--core 1024] [--depth 4]

In MB of useful pixels per second of processor time, best of the runs, on the same RGB slide of noise in four grey
values, which compresses to a third; and how often each chunk is decoded. Also how long it takes to list the work of
100,000 cores.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dask.array
import numpy as np
import torch
from torch import nn

from unetpipe.geometry import Box, NetGeometry, TileGrid, unet_geometry
from unetpipe.inference import Forward, source_boxes
from unetpipe.mirroring import source_box
from unetpipe.planning import CACHE_BYTES
from unetpipe.reading import SharedReader
from unetpipe.slides import Plane, create_plane, shard_boxes


def best(calls: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Least processor time of some runs of each call, by turns: other work may run beside."""
    taken = dict.fromkeys(calls, math.inf)
    for _ in range(runs):
        for what, call in calls.items():
            start = time.process_time()
            call()
            taken[what] = min(taken[what], time.process_time() - start)
    return taken


def with_context(plane: Plane, grid: TileGrid, most_bytes: int) -> SharedReader:
    """Read all windows, mirrored at the border."""
    shared = SharedReader(plane, [source_box(t.window, plane.shape) for t in grid], most_bytes=most_bytes)
    for tile in grid:
        shared.read(tile.window)
    return shared


def whole_rows(plane: Plane, core: int) -> None:
    """Read bands of whole rows."""
    height, width = plane.shape
    for y in range(0, height, core):
        plane.read(Box(start=(y, 0), stop=(min(y + core, height), width)))


def by_dask(plane: Plane, core: int, context: int) -> None:
    """Read all windows by map_overlap, and use one pixel of each."""
    array = dask.array.from_zarr(plane.array, chunks=(3, core, core))
    depth = {0: 0, 1: context, 2: context}
    array.map_overlap(
        lambda block: block[:, context : context + 1, context : context + 1],
        depth=depth, boundary="reflect", trim=False, dtype=np.uint8,
        chunks=(3, (1,) * array.numblocks[1], (1,) * array.numblocks[2]),
    ).compute(num_workers=2)  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--core", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    side, core, geometry = options.side, options.core, unet_geometry(options.depth)
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as name:
        plane = create_plane(Path(name) / "0", shape=(3, side, side), dtype=np.uint8)
        for _, box in plane.iter_shards():
            plane.write_shard(box, rng.integers(0, 4, (3, *box.shape), np.uint8))
        grid = TileGrid(shape=(side, side), core_side=core, geometry=geometry)
        shared = with_context(plane, grid, CACHE_BYTES)
        again = with_context(plane, grid, 0)
        print(f"chunks {shared.uses.size}, decoded {shared.decoded}, without memory for them {again.decoded}")
        megabytes = 3 * side**2 / 1e6
        calls: dict[str, Callable[[], object]] = {
            "whole rows": lambda: whole_rows(plane, core),
            "windows": lambda: with_context(plane, grid, CACHE_BYTES),
            "windows, chunks decoded again": lambda: with_context(plane, grid, 0),
            "map_overlap": lambda: by_dask(plane, core, geometry.context),
        }
        taken = best(calls, options.runs)
        for what, seconds in taken.items():
            print(f"{what}: {megabytes / seconds:.0f} MB/s")
        print(f"windows / whole rows {taken['whole rows'] / taken['windows']:.2f}")
        print(f"windows / map_overlap {taken['map_overlap'] / taken['windows']:.2f}")
    taken = best({"listing": lambda: listed(geometry)}, options.runs)
    print(f"work of 100,000 cores listed in {taken['listing']:.2f} s")


def listed(geometry: NetGeometry) -> None:
    """What `predict` does before the first of 100,000 cores: the cores, their windows, and the tasks."""
    grid = TileGrid(shape=(320_000, 320_000), core_side=1024, geometry=geometry)
    cores = [core for _, core in shard_boxes("", grid.shape, grid.core_side)]
    boxes = list(source_boxes(Forward(members=[(nn.Identity(), grid)], device=torch.device("cpu")), cores))
    assert len({f"core-{number}": (listed,) for number in range(len(boxes))}) > 97_000


if __name__ == "__main__":
    main()

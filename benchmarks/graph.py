"""Building the graph of tiled inference, against that of dask's map_overlap.

Run: python benchmarks/graph.py [--cores 100489] [--overlap-cores 2500]

The engine lays its cores, builds its graph and hands it to dask, which then runs nothing of it; both parts are timed.
dask's graph is built and made ready for its scheduler for fewer cores, and its seconds per core are extrapolated.
Target: a graph in less than a second for 100,000 cores. The ratio counts the laying of the cores, too.
"""

import argparse
import math
from time import perf_counter
from typing import Any
from unittest import mock

import dask
import dask.array as da
import numpy as np
import torch

from unetpipe.geometry import TileGrid
from unetpipe.inference import Forward, predict_tiles
from unetpipe.networks import build_network
from unetpipe.specs import UnetSpec

SPEC = UnetSpec(depth=2, base_width=2)
CORE = 256


def unused(*_: Any) -> Any:
    """No core is read or written, as no task is run."""


def engine(side: int) -> tuple[float, float, int]:
    """Seconds to lay the cores, seconds until the engine hands over its graph, and its tasks."""
    built: list[tuple[float, int]] = []

    def stop(graph: Any, *_: Any, **__: Any) -> None:
        built.append((perf_counter() - begun, len(graph)))

    network = build_network(SPEC, seed=1).eval()
    begun = perf_counter()
    with mock.patch("dask.threaded.get", stop):
        grid = TileGrid(shape=(side * CORE, side * CORE), core_side=CORE, geometry=SPEC.geometry)
        forward = Forward(members=[(network, grid)], device=torch.device("cpu"))
        cores = [tile.core for tile in grid]
        laid, begun = perf_counter() - begun, perf_counter()
        predict_tiles(forward, cores, read=unused, write=unused)
    return laid, *built[0]


def overlap(side: int) -> tuple[float, int]:
    """Seconds in which dask builds and optimises the graph of its overlap, and its tasks."""
    begun = perf_counter()
    image = da.zeros((side * CORE, side * CORE), chunks=CORE, dtype=np.uint8)
    array = image.map_overlap(lambda block: block, depth=SPEC.geometry.context, boundary="reflect", dtype=np.uint8)
    graph = dict(dask.optimize(array)[0].__dask_graph__())
    return perf_counter() - begun, len(graph)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cores", type=int, default=317**2)
    parser.add_argument("--overlap-cores", type=int, default=2500)
    given = parser.parse_args()
    ours, theirs = math.ceil(math.sqrt(given.cores)), math.ceil(math.sqrt(given.overlap_cores))
    laid, built, tasks = engine(ours)
    seconds = laid + built
    print(f"engine: {ours**2} cores, {tasks} tasks; cores laid in {laid:.2f} s, graph built in {built:.2f} s")
    slow, many = overlap(theirs)
    told = slow / theirs**2 * ours**2
    print(
        f"map_overlap: {theirs**2} cores, {many} tasks, {slow:.2f} s; for {ours**2} cores {told:.0f} s (extrapolated)"
    )
    print(f"map_overlap / engine {told / seconds:.0f}")


if __name__ == "__main__":
    main()

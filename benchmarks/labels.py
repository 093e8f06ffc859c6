"""Objects of a slide: labelling core by core against labelling in one piece, and the memory of the whole stage.

Run: python benchmarks/labels.py [--side 20000] [--dask-side 5000] [--objects 100000] [--core 1024] [--chunkings 20]
    [--sides 4096 16384]
Peers, left out where they are not installed: pip install connected-components-3d dask-image

The mask is made up: as many discs as wanted, and a comb whose teeth span the slide. Labels are held against scipy's,
up to renaming, for cores of one size and for random chunkings. Wall times are the best of three turns behind the
compilation; that of dask-image is of one turn on a smaller slide (--dask-side), for it takes minutes on the large one.
The stage runs in a process of its own, on probabilities that say what the mask says; its peak memory is what the kernel
counted.
"""

import argparse
import importlib
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from unetpipe.geometry import Box
from unetpipe.instances import core_components, relabelled, resolve
from unetpipe.labelling import label_core
from unetpipe.ledgers import open_ledger
from unetpipe.manifests import read_manifest
from unetpipe.slides import create_plane
from unetpipe.specs import IngestSpec, PredictSpec

Labels = NDArray[np.uint32]


@njit(cache=True, nogil=True)
def made_up(top: int, left: int, height: int, width: int, side: int, pitch: float) -> Any:
    """(height, width) mask at (top, left) of a square slide: discs on a grid, and a comb of teeth of 3 px."""
    mask = np.zeros((height, width), np.bool_)
    tooth = max(side // 16, 8)
    for j in range(height):
        for i in range(width):
            y, x = top + j, left + i
            dy, dx = (y / pitch) % 1 - 0.5, (x / pitch) % 1 - 0.5
            disc = dy * dy + dx * dx < 0.04 + 0.08 * ((int(y / pitch) * 7 + int(x / pitch) * 13) % 11) / 11
            mask[j, i] = disc or y % tooth < 3 or x < 3
    return mask


def core_by_core(mask: NDArray[np.bool_], ys: list[int], xs: list[int]) -> Labels:
    """Labels of the mask in cores that end at these positions."""
    labels = np.empty(mask.shape, np.uint32)
    boxes = [Box(start=(y0, x0), stop=(y1, x1)) for y0, y1 in pairwise([0, *ys]) for x0, x1 in pairwise([0, *xs])]
    cores = [
        core_components(*label_core(mask[box.slices], connectivity=4), core=box, image_width=mask.shape[1])
        for box in boxes
    ]
    objects = resolve(cores, connectivity=4)
    for box, lookup in zip(boxes, objects.lookups, strict=True):
        labels[box.slices] = relabelled(*label_core(mask[box.slices], connectivity=4), lookup)
    return labels


def same(one: Labels, other: Labels) -> bool:
    """Whether labels are the same up to renaming."""
    count = int(other.max())
    names = np.zeros(count + 1, np.uint32)
    names[other.ravel()] = one.ravel()
    return bool(np.array_equal(names[other], one)) and len(np.unique(names)) == count + 1


def seconds(call: Callable[[], Any], turns: int = 3) -> float:
    """Shortest wall time of some calls."""
    taken = []
    for _ in range(turns):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def compared(side: int, objects: int, core: int, with_dask: bool) -> NDArray[np.bool_]:
    """Label a mask of a side by cores, by one peer after another where it is installed, and print; the mask."""
    mask = made_up(0, 0, side, side, side, side / math.sqrt(objects))
    ends = [*range(core, side, core), side]
    ours = seconds(lambda: core_by_core(mask, ends, ends))
    print(f"{side} x {side} px, {core_by_core(mask, ends, ends).max()} objects: core by core {ours:.2f} s", flush=True)
    calls: dict[str, Callable[[], Any]] = {} if with_dask else {"scipy": lambda: ndimage.label(mask)}
    module = "dask_image.ndmeasure" if with_dask else "cc3d"
    try:
        peer: Any = importlib.import_module(module)
    except ImportError:
        print(f"{module}: not installed")
    else:
        if with_dask:
            array = importlib.import_module("dask.array").from_array(mask, chunks=core)
            calls["dask-image"] = lambda: peer.label(array)[0].compute()
        else:
            calls["cc3d"] = lambda: peer.connected_components(mask, connectivity=4)
    for name, call in calls.items():
        taken = seconds(call, turns=1 if with_dask else 3)
        print(f"{name}, {side} px: {taken:.2f} s; core by core takes {ours / taken:.2f} times that", flush=True)
    return mask


def stored(folder: Path, side: int, pitch: float, core: int) -> list[str]:
    """An empty image and the mask as probabilities, on disk; their manifests."""
    size = {"pixel_size_um": 0.5, "factor": 1.0}
    about = {"channels": 1, "channel_names": [], "dtype": "uint8", "percentiles": [[0.0, 1.0]]}
    paths = [folder / "images" / "s.json", folder / "probabilities" / "m" / "s.json"]
    for path, stage, spec, channels, dtype, facts in (
        (paths[0], "ingest", IngestSpec(), 1, np.uint8, about | size | {"source_shape": [side, side]}),
        (paths[1], "predict", PredictSpec(core_px=core), 2, np.uint16, size | {"scale": 65535, "classes": 2}),
    ):
        inputs = [read_manifest(paths[0])] if stage == "predict" else []
        with open_ledger(path, stage=stage, spec=spec, code="made-up@0", inputs=inputs) as ledger:
            plane = create_plane(ledger.store / "0", shape=(channels, side, side), dtype=dtype, shard_side=core)
            for unit, box in plane.iter_shards():
                block = np.zeros((channels, *box.shape), dtype)
                if stage == "predict":
                    block[1] = 65535 * made_up(*box.start, *box.shape, side, pitch).astype(np.uint16)
                    block[0] = 65535 - block[1]
                ledger.append(unit, plane.write_shard(box, block))
            ledger.publish(facts)
    return [str(path) for path in reversed(paths)]


def run_stage(folder: Path, inputs: list[str]) -> tuple[float, float, Path]:
    """Seconds and peak MB of `segment`, and its manifest."""
    output, start = folder / "segmentations" / "m" / "s.json", time.perf_counter()
    command = [sys.executable, "-m", "unetpipe", "segment", *inputs, "--output", str(output)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"unetpipe segment ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024, output


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=20000)
    parser.add_argument("--dask-side", type=int, default=5000, help="side of dask-image's slide, 0 for none")
    parser.add_argument("--objects", type=int, default=100000)
    parser.add_argument("--core", type=int, default=1024)
    parser.add_argument("--chunkings", type=int, default=20)
    parser.add_argument("--sides", type=int, nargs="*", default=[4096, 16384])
    options = parser.parse_args()
    side, pitch, rng = options.side, options.side / math.sqrt(options.objects), np.random.default_rng(1)
    core_by_core(made_up(0, 0, 64, 64, 64, 8.0), [64], [64])
    if options.dask_side:
        # As many objects for each pixel.
        fewer = max(1, round(options.objects * (options.dask_side / side) ** 2))
        compared(options.dask_side, fewer, options.core, with_dask=True)
    mask = compared(side, options.objects, options.core, with_dask=False)
    expected = ndimage.label(mask)[0].astype(np.uint32)
    for number in range(options.chunkings):
        ys, xs = ([*sorted({*rng.integers(1, side, 8 + number).tolist()}), side] for _ in "yx")
        if not same(core_by_core(mask, ys, xs), expected):
            raise SystemExit(f"chunking {number} of {options.chunkings} gives other labels: {ys}, {xs}")
    print(f"equal to one piece up to renaming for {options.chunkings} random chunkings")
    for side in options.sides:
        with tempfile.TemporaryDirectory() as name:
            taken, peak, output = run_stage(Path(name), stored(Path(name), side, pitch, options.core))
            made = read_manifest(output)
            sizes = {kind: made.objects[f"objects.{kind}"] / 1e6 for kind in ("csv", "geojson.gz")}
            told = ", ".join(f"{kind} {size:.1f} MB" for kind, size in sizes.items())
            print(f"segment, {side} px: {made.facts['n_instances']} objects, {taken:.0f} s, peak {peak:.0f} MB, {told}")


if __name__ == "__main__":
    main()

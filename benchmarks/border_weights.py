"""Time of the border weights against the usual ways to compute them, on label maps made up on the spot.

Run: python benchmarks/border_weights.py [--side 8192] [--cells 20000] [--threads 2] [--peers DIR]

Two kinds of map: dense (Voronoi cells some 2 px apart) and sparse (ellipses, more than half background). Three peers:
one distance transform per cell over the whole image, all kept and sorted, as most public code does, in full at 512 px
and from its first 8 cells at 2,048 px, where all would not fit into memory; and one per cell over its box grown by the
reach, by scipy and, if it is installed (pip install --target DIR opencv-python-headless), by OpenCV's exact transform,
which is the best that libraries can do. Wall times are medians of three turns after compilation, the peers' are of one
turn; CPU seconds, summed over the threads, tell more where the machine is busy with other things.
"""

import argparse
import importlib
import importlib.util
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from unetpipe.weights import border_weights, reach_px

W0, SIGMA_PX = 10.0, 5.0
FEW = 8
Peer = Callable[[NDArray[np.uint32]], NDArray[np.float64]]
Transform = Callable[[NDArray[np.bool_]], NDArray[Any]]


def made_up_labels(side: int, cells: int, *, dense: bool, seed: int = 1) -> NDArray[np.uint32]:
    """(side, side) instances: at least `cells` cells around the points of a jittered grid."""
    across = math.ceil(math.sqrt(cells))
    pitch = side / across
    rng = np.random.default_rng(seed)
    points = (np.indices((across, across)) + rng.uniform(0.15, 0.85, (2, across, across))) * pitch
    angle = rng.uniform(0, math.pi, (across, across))
    shapes = np.stack([np.cos(angle), np.sin(angle), *rng.uniform(0.3, 0.5, (2, across, across)) * pitch])
    labels = np.zeros((side, side), dtype=np.uint32)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda y: _draw(labels, y, min(y + 128, side), points, shapes, dense), range(0, side, 128)))
    return labels


@njit(cache=True, nogil=True)
def _draw(labels: Any, start: int, stop: int, points: Any, shapes: Any, dense: bool) -> None:
    """Give the pixels of rows [start, stop) to their nearest point, unless the next one is less than 2 px farther."""
    across = points.shape[1]
    pitch = labels.shape[1] / across
    for y in range(start, stop):
        for x in range(labels.shape[1]):
            first, second, row, column = np.inf, np.inf, 0, 0
            for j in range(max(0, int(y / pitch) - 1), min(across, int(y / pitch) + 2)):
                for i in range(max(0, int(x / pitch) - 1), min(across, int(x / pitch) + 2)):
                    square = (y - points[0, j, i]) ** 2 + (x - points[1, j, i]) ** 2
                    if square < first:
                        first, second, row, column = square, first, j, i
                    elif square < second:
                        second = square
            dy, dx = y - points[0, row, column], x - points[1, row, column]
            cos, sin = shapes[0, row, column], shapes[1, row, column]
            u, v = (cos * dy + sin * dx) / shapes[2, row, column], (cos * dx - sin * dy) / shapes[3, row, column]
            if (dense or u * u + v * v < 1) and math.sqrt(second) - math.sqrt(first) >= 2:
                labels[y, x] = row * across + column + 1


def by_whole_transforms(labels: NDArray[np.uint32]) -> NDArray[np.float64]:
    """One transform per cell over the whole image; all are kept and sorted."""
    distances = [ndimage.distance_transform_edt(labels != value) for value in np.unique(labels) if value]
    nearest = np.sort(np.stack(distances), axis=0)[:2]
    return np.asarray(W0 * np.exp(-(nearest.sum(axis=0) ** 2) / (2 * SIGMA_PX**2)))


def by_boxes(labels: NDArray[np.uint32], transform: Transform = ndimage.distance_transform_edt) -> NDArray[np.float64]:
    """One transform per cell over its box grown by the reach; the two smallest distances are kept."""
    reach = reach_px(w0=W0, sigma_px=SIGMA_PX)
    first, second = np.full(labels.shape, np.inf, np.float32), np.full(labels.shape, np.inf, np.float32)
    for value, box in enumerate(ndimage.find_objects(labels.astype(np.int32)), start=1):
        if box is not None:
            grown = tuple(slice(max(side.start - reach, 0), side.stop + reach) for side in box)
            distance = transform(labels[grown] != value)
            np.minimum(second[grown], np.maximum(first[grown], distance), out=second[grown])
            np.minimum(first[grown], distance, out=first[grown])
    return np.asarray(W0 * np.exp(-((first + second).astype(np.float64) ** 2) / (2 * SIGMA_PX**2)))


def opencv_transform(outside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Exact distance to the nearest pixel that is not outside."""
    cv2: Any = importlib.import_module("cv2")
    cv2.setNumThreads(1)
    return np.asarray(cv2.distanceTransform(outside.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE))


def by_opencv_boxes(labels: NDArray[np.uint32]) -> NDArray[np.float64]:
    """The same by OpenCV."""
    return by_boxes(labels, opencv_transform)


def timed(call: Callable[[], NDArray[Any]], repeats: int) -> tuple[float, float, NDArray[Any]]:
    """Median wall and CPU time in s, and the last result."""
    times = []
    for _ in range(repeats):
        start, spent = time.perf_counter(), time.process_time()
        result = call()
        times.append((time.perf_counter() - start, time.process_time() - spent))
    wall, cpu = (statistics.median(taken) for taken in zip(*times, strict=True))
    return wall, cpu, result


def peak_mb(call: Callable[[], object]) -> str:
    """Largest memory in MB that a call takes beyond what was held before it, result included; Linux only."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return "-"

    def held(field: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field))

    reset.write_text("5")  # the peak starts from here
    before = held("VmRSS")
    call()
    return f"{(held('VmHWM') - before) / 1024:.0f}"


def compare(title: str, side: int, cells: int, peer: Peer, threads: int) -> None:
    """Print, for both kinds of map, our time, the peer's, their ratio and the largest difference."""
    for kind in ("dense", "sparse"):
        labels = made_up_labels(side, cells, dense=kind == "dense")
        ours, cpu, weights = timed(lambda labels=labels: border_weights(labels, threads=threads), 3)  # type: ignore[misc]
        theirs, their_cpu, expected = timed(lambda labels=labels: peer(labels), 1)  # type: ignore[misc]
        show(title, labels, kind, (ours, theirs), (cpu, their_cpu), f"{np.abs(weights - expected).max():.1e}")


def extrapolate(side: int, cells: int, threads: int) -> None:
    """Print the same for one transform per cell, from the time of a few cells."""
    for kind in ("dense", "sparse"):
        labels = made_up_labels(side, cells, dense=kind == "dense")
        ours, cpu, _ = timed(lambda labels=labels: border_weights(labels, threads=threads), 3)  # type: ignore[misc]
        few = labels * (labels <= np.unique(labels)[FEW])
        theirs, their_cpu, _ = timed(lambda few=few: by_whole_transforms(few), 1)  # type: ignore[misc]
        found = np.unique(labels).size - 1
        show(
            "transform per cell", labels, kind, (ours, theirs * found / FEW), (cpu, their_cpu * found / FEW), "not made"
        )


def show(
    title: str, labels: NDArray[np.uint32], kind: str, wall: tuple[float, float], cpu: tuple[float, float], error: str
) -> None:
    """Print a row; ours stand first."""
    ratios = f"{wall[1] / wall[0]:8.1f}{cpu[1] / cpu[0]:8.1f}"
    print(
        f"{title:24}{labels.shape[0]:6}{labels.max():8}{kind:>8}{wall[0]:9.4f}{wall[1]:11.3f}{ratios}{error:>10}",
        flush=True,
    )


def time_alone(side: int, cells: int, threads: int) -> None:
    """Print time and memory on large maps."""
    for kind in ("dense", "sparse"):
        labels = made_up_labels(side, cells, dense=kind == "dense")
        memory = peak_mb(lambda labels=labels: border_weights(labels, threads=threads))  # type: ignore[misc]
        ours, spent, _ = timed(lambda labels=labels: border_weights(labels, threads=threads), 3)  # type: ignore[misc]
        background = np.count_nonzero(labels == 0) / labels.size
        rate = labels.size / ours / 1e6
        print(
            f"{side:6}{labels.max():8}{kind:>8}{background:12.0%}{ours:9.3f}{spent:9.3f}{rate:9.0f}{memory:>14}",
            flush=True,
        )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="Time the border weights against other ways to compute them.")
    parser.add_argument("--side", type=int, default=8192, help="side of the large maps in px")
    parser.add_argument("--cells", type=int, default=20000, help="cells in the large maps")
    parser.add_argument("--threads", type=int, default=2, help="threads of border_weights")
    parser.add_argument("--peers", default="", help="folder that OpenCV was installed into")
    options = parser.parse_args()
    sys.path.append(options.peers)
    print(f"{os.cpu_count()} cores, {options.threads} threads; w0 = {W0:g}, sigma = {SIGMA_PX:g} px")
    border_weights(np.eye(64, dtype=np.uint32), threads=1)
    titles = f"{'side':>6}{'cells':>8}{'map':>8}"
    print(f"{'peer, one thread':24}{titles}{'ours s':>9}{'peer s':>11}{'ratio':>8}{'of CPU':>8}{'error':>10}")
    compare("transform per cell", 512, 50, by_whole_transforms, options.threads)
    extrapolate(2048, 1000, options.threads)
    compare("box, scipy", 2048, 1000, by_boxes, options.threads)
    if importlib.util.find_spec("cv2") is None:
        print("OpenCV is not installed: pip install --target DIR opencv-python-headless, then --peers DIR")
    else:
        compare("box, OpenCV", 2048, 1000, by_opencv_boxes, options.threads)
        compare("box, OpenCV", options.side, options.cells, by_opencv_boxes, options.threads)
    print(f"{titles}{'background':>12}{'ours s':>9}{'CPU s':>9}{'Mpx/s':>9}{'extra RSS MB':>14}")
    time_alone(options.side, options.cells, options.threads)


if __name__ == "__main__":
    main()

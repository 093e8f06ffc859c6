"""Objects as tables and outlines: time, size and peak memory of 10^5 and of 10^6 of them.

Run: python benchmarks/outlines.py [--objects 100000 1000000] [--pitch 20]

Made-up discs, one in each square of a grid, are traced in blocks, measured and written as CSV, Parquet, GeoJSON. Each
number of objects runs in a process of its own; its peak memory is what the kernel counted. What grows with the number
are the sums, 136 bytes per object, and what joins the outlines; neither polygons nor text wait in memory. Ends with 1
if memory grows by more than 300 bytes per object between the last two numbers.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.features import OutlineFile, iter_geometries, iter_texts, write_geojson, write_parquet, write_table
from unetpipe.geometry import Box
from unetpipe.measures import add_block, no_sums, properties
from unetpipe.outlines import trace
from unetpipe.resampling import Resampling
from unetpipe.slides import shard_boxes

ROWS = 2**12
MOST_BYTES = 300


def discs(box: Box, columns: int, pitch: int) -> NDArray[np.uint32]:
    """Labels of a box, one disc in each square of a grid, numbered in the order of the squares."""
    y, x = (np.arange(a, b) for a, b in zip(box.start, box.stop, strict=True))
    number = (y // pitch)[:, None] * columns + x // pitch
    radius = pitch * (0.2 + 0.25 * (number * 7919 % 97) / 97)
    squares = ((y % pitch - pitch / 2) ** 2)[:, None] + (x % pitch - pitch / 2) ** 2
    return np.where(squares < radius**2, number + 1, 0).astype(np.uint32)


def written(folder: Path, count: int, pitch: int) -> dict[str, int]:
    """Write that many objects; sizes of the files."""
    columns = math.isqrt(count)
    shape = (columns * pitch, columns * pitch)
    sums = no_sums(columns * columns, 1)

    def tables() -> Iterator[dict[str, NDArray[Any]]]:
        for start in range(0, len(sums), ROWS):
            some = sums[start : start + ROWS]
            numbers = np.arange(start + 1, start + len(some) + 1)
            yield {"id": numbers, "class": np.full(len(some), "cell"), **properties(some, full=65535, channels=["0"])}

    with OutlineFile(folder) as outlines:
        for _, box in shard_boxes("", shape):
            # One pixel more on each side; none of it lies in a disc.
            labels = discs(box.grown(1), columns, pitch)
            ones = np.ones((1, *box.shape), np.int64)
            add_block(sums, labels, ones[0].astype(np.uint16), ones, box=box)
            outlines.add(*trace(labels, labels, box=box, image_width=shape[1]))
        geometries = iter_geometries(outlines, Resampling(shape=shape, factor=1.0))
        colours = {"cell": (230, 159, 0)}
        write_geojson(folder / "objects.geojson.gz", geometries, iter_texts(tables()), colours=colours)
    write_table(folder / "objects.csv", iter_texts(tables()))
    write_parquet(folder / "objects.parquet", tables())
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, nargs="*", default=[1000, 100000, 1000000])
    parser.add_argument("--pitch", type=int, default=20)
    parser.add_argument("--one", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        with tempfile.TemporaryDirectory() as name:
            sizes = written(Path(name), options.one, options.pitch)
            print(", ".join(f"{file} {size / 1e6:.1f} MB" for file, size in sizes.items()))
        return
    peaks: list[float] = []
    for count in options.objects:
        start = time.perf_counter()
        command = [sys.executable, __file__, "--one", str(count), "--pitch", str(options.pitch)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        said, usage = process.stdout.read().strip() if process.stdout else "", os.wait4(process.pid, 0)[2]
        peaks.append(usage.ru_maxrss / 1024)
        print(f"{count} objects: {time.perf_counter() - start:.0f} s, peak {peaks[-1]:.0f} MB; {said}", flush=True)
    if peaks[1:]:
        growth = (peaks[-1] - peaks[-2]) * 2**20 / (options.objects[-1] - options.objects[-2])
        told = f"{growth:.0f} bytes per object, allowed {MOST_BYTES}"
        if growth > MOST_BYTES:
            raise SystemExit(f"MISSED: memory grows by {told}")
        print(f"ok: memory grows by {told}")


if __name__ == "__main__":
    main()

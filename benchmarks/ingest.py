"""Time and memory of ingest against ome-zarr-py's writer, on the same JPEG-compressed RGB TIFF.

Run: python benchmarks/ingest.py [--side 20480] [--larger 2] [--turns 1] [--peers DIR] [--folder DIR]

A tiled TIFF (JPEG, quality 85, tiles of 512 px) is made up on the spot and turned into OME-Zarr with a pyramid, each
way in a process of its own: by `unetpipe ingest`, which also checks every pixel, sums up what it has written and brings
it to the disk, and by `ome_zarr.writer.write_image` with its defaults and chunks of 512 px, fed by dask and tifffile.
Both take turns, since a shared machine is slower at one time than at another; the ratio is the median of the turns.
Peak memory is what the kernel counted. Then ours once more on an image `--larger` times as high and wide (0: not at
all). Where the machine is busy with other things, CPU seconds tell more than the clock.
For the peer: pip install --target DIR ome-zarr
"""

import argparse
import importlib
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from unetpipe.geometry import Box
from unetpipe.phantoms import phantom_image

TILE, BLOCK = 512, 4096


def stained_cells() -> NDArray[np.uint8]:
    """(4096, 4096, 3) cells, as if stained in blue on a rose ground."""
    grey = phantom_image(Box(start=(0, 0), stop=(BLOCK, BLOCK)), shape=(BLOCK, BLOCK), seed=1, diameter_px=40.0)
    light, dark = np.array([240, 205, 225]), np.array([90, 60, 150])
    steps = np.arange(256)[:, None] / 255
    return (light + steps * (dark - light)).astype(np.uint8)[grey]


def iter_tiles(side: int) -> Iterator[NDArray[np.uint8]]:
    """Tiles of an image in the order of the file, from parts of one that are turned differently."""
    cells = stained_cells()
    across = -(-side // TILE)
    for number in range(across * across):
        y, x = divmod(number, across)
        top, left = y * TILE % BLOCK, x * TILE % BLOCK
        tile = cells[top : top + TILE, left : left + TILE]
        turns = (y * TILE // BLOCK) * 3 + x * TILE // BLOCK
        yield np.ascontiguousarray(np.rot90(tile, turns))


def write_source(path: Path, side: int) -> None:
    """Write the TIFF."""
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(
            iter_tiles(side),
            shape=(side, side, 3),
            dtype=np.uint8,
            tile=(TILE, TILE),
            photometric="rgb",
            compression="jpeg",
            compressionargs={"level": 85},
            resolution=(40000, 40000),
            resolutionunit="CENTIMETER",
            maxworkers=1,
        )


def write_by_peer(source: Path, target: Path) -> None:
    """Convert with ome-zarr-py."""
    array, writer = importlib.import_module("dask.array"), importlib.import_module("ome_zarr.writer")
    zarr: Any = importlib.import_module("zarr")
    pixels = array.from_zarr(zarr.open(tifffile.imread(source, aszarr=True), mode="r"))
    writer.write_image(
        array.moveaxis(pixels, 2, 0), str(target), axes="cyx", storage_options={"chunks": (1, TILE, TILE)}
    )


def run(*words: str) -> tuple[float, float, float]:
    """Wall and CPU seconds and peak MB of a command of Python."""
    # What was written before would share the disk with what is measured.
    os.sync()
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}: {said[-2000:]}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def measure(name: str, side: int, command: tuple[str, ...]) -> tuple[float, float, float]:
    """Print and return wall and CPU seconds and the peak MB of a command."""
    seconds, cpu, peak = run(*command)
    print(
        f"{name:>12}{side:>8}{seconds:>10.1f}{cpu:>10.1f}{3 * side**2 / seconds / 1e6:>8.0f}{peak:>10.0f}", flush=True
    )
    return seconds, cpu, peak


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20480)
    parser.add_argument("--larger", type=int, default=2)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--peers", default="", help="folder that the peer was installed into")
    parser.add_argument("--folder", default=None, help="where to write; needs some GB")
    parser.add_argument("--convert", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    # Behind everything else, so that both sides have the same numpy and zarr.
    sys.path.append(options.peers)
    if options.convert:
        write_by_peer(*options.convert)
        return
    print(f"{os.cpu_count()} processors")
    print(f"{'':>12}{'side':>8}{'wall s':>10}{'CPU s':>10}{'MB/s':>8}{'peak MB':>10}")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        source = folder / "small.tif"
        write_source(source, options.side)

        def ours(turn: int) -> tuple[str, ...]:
            return "-m", "unetpipe", "ingest", str(source), "--output", str(folder / f"images/{source.stem}{turn}.json")

        def theirs(turn: int) -> tuple[str, ...]:
            convert = ("--convert", str(source), str(folder / f"peer{turn}.zarr"))
            return str(Path(__file__).resolve()), "--peers", options.peers, *convert

        has_peer = importlib.util.find_spec("ome_zarr") is not None
        mine, others = [], []
        for turn in range(options.turns):
            mine.append(measure("unetpipe", options.side, ours(turn)))
            if has_peer:
                others.append(measure("ome-zarr-py", options.side, theirs(turn)))
        if has_peer:
            wall, cpu = (statistics.median(b[i] / a[i] for a, b in zip(mine, others, strict=True)) for i in (0, 1))
            print(f"ome-zarr-py / unetpipe: {wall:.1f} by the clock, {cpu:.1f} in CPU time")
        else:
            print("ome-zarr-py is not installed: pip install --target DIR ome-zarr, then --peers DIR")
        if options.larger:
            source.unlink()
            source = folder / "large.tif"
            write_source(source, options.side * options.larger)
            _, _, larger_peak = measure("unetpipe", options.side * options.larger, ours(0))
            peak = max(one[2] for one in mine)
            print(f"peak, larger / smaller: {larger_peak / peak:.2f}")


if __name__ == "__main__":
    main()

"""Peak memory and speed of drawing simulated images of growing size into TIFF files.

Run: python benchmarks/simulate_memory.py [--side 4096 32768] [--image-only] [--folder FOLDER]

Each size is drawn in a process of its own, after a small image has loaded the compiled code, and its files are
removed. The peak is that of the whole process; where memory does not grow with the image, the ratio to that of
an image of one tile stays near 1. The copy is what a writer of the whole array would have to hold. CPU seconds tell
more than wall seconds where the machine is busy. 32,768 needs some 1 GB of disk, 100,000 some 10 GB.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from unetpipe.steps.simulate import simulate

BASE_SIDE = 512
# Linux counts the peak in KiB, macOS in bytes.
PEAK_UNIT = 1 if sys.platform == "darwin" else 1024


def draw_once(folder: Path, side: int, *, labelled: bool) -> tuple[float, float]:
    """Wall and CPU seconds of one image, with its labels if `labelled`."""
    wall, cpu = time.perf_counter(), time.process_time()
    simulate(
        folder / "image.tif",
        folder / "labels.tif" if labelled else None,
        shape=(side, side),
        seed=1,
        diameter_px=40.0,
        pixel_size_um=0.5,
    )
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(folder: Path, side: int, *, labelled: bool) -> None:
    """Print wall s, CPU s, peak bytes and bytes on the disk for one size, for the process that asked."""
    draw_once(folder, BASE_SIDE, labelled=labelled)
    wall, cpu = draw_once(folder, side, labelled=labelled)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * PEAK_UNIT
    print(wall, cpu, peak, sum(path.stat().st_size for path in folder.iterdir()))


def measured(parent: Path | None, side: int, *, labelled: bool) -> tuple[float, ...]:
    """What `measure` prints, from a fresh process."""
    folder = Path(tempfile.mkdtemp(prefix="simulate-", dir=parent))
    try:
        command = [sys.executable, __file__, "--measure", str(side), "--folder", str(folder)]
        command += [] if labelled else ["--image-only"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    finally:
        shutil.rmtree(folder)
    return tuple(float(word) for word in done.stdout.split())


def main() -> None:
    """Measure and print one line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, nargs="+", default=[4096, 32768], help="sides in px")
    parser.add_argument("--image-only", action="store_true", help="draw no labels")
    parser.add_argument("--folder", type=Path, help="folder for the files; default: the system's temporary one")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    labelled = not arguments.image_only
    if arguments.measure is not None:
        measure(arguments.folder, arguments.measure, labelled=labelled)
        return
    base = measured(arguments.folder, BASE_SIDE, labelled=labelled)[2]
    print("    side   peak MB  to one tile  whole MB  wall s   CPU s  Mpx/s (wall)  Mpx/s (CPU)  disk MB")
    for side in arguments.side:
        wall, cpu, peak, disk = measured(arguments.folder, side, labelled=labelled)
        whole = side * side * (5 if labelled else 1)
        px = side * side / 1e6
        print(
            f"{side:8d} {peak / 1e6:9.0f} {peak / base:12.2f} {whole / 1e6:9.0f} {wall:7.1f} {cpu:7.1f} "
            f"{px / wall:13.1f} {px / cpu:12.1f} {disk / 1e6:8.0f}"
        )


if __name__ == "__main__":
    main()

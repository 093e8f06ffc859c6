"""Broken and hostile image files through `unetpipe ingest`, each in a process of its own.

Run: python benchmarks/malformed.py [--folder DIR] [--made 200]

DIR holds files from elsewhere, such as Pillow's broken TIFFs; the others are made: those of the tests, and sound files
of which bytes were changed, removed or doubled, from a fixed seed. Targets for every file: an image, or one line and
exit code 2; under 10 s and 1 GB; of what is refused, no manifest and no store. What has not ended after 30 s is killed
and counted. Exit code 1 where a target is missed.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "sources")]

from test_hostile_files import faults  # noqa: E402

MOST_S, MOST_MB, KILL_S = 10.0, 1000.0, 30.0
GOOD = {"read", "refused in one line"}


def sound_files(folder: Path) -> list[Path]:
    """TIFFs of some layouts, a PNG and a JPEG."""
    pixels = np.random.default_rng(0).integers(0, 255, (90, 120), np.uint8)
    layouts = [{}, {"compression": "zlib"}, {"compression": "lzw", "tile": (32, 32)}, {"bigtiff": True}]
    for number, keys in enumerate(layouts):
        tifffile.imwrite(folder / f"{number}.tif", pixels, **keys)
    for suffix in ("png", "jpg"):
        imagecodecs.imwrite(folder / f"sound.{suffix}", pixels)
    return sorted(folder.iterdir())


def made_files(folder: Path, count: int) -> list[Path]:
    """The tests' files, and as many others as are missing to a number."""
    paths = []
    for number, (name, (content, _)) in enumerate(faults().items()):
        path = folder / f"test{number}{Path(name).suffix if '.' in name[-4:] else '.tif'}"
        path.write_bytes(content)
        paths.append(path)
    draws = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        sound = [(path.suffix, path.read_bytes()) for path in sound_files(Path(name))]
    for number in range(count - len(paths)):
        suffix, whole = sound[number % len(sound)]
        content, kind = bytearray(whole), number // len(sound) % 4
        place = draws.randrange(len(content))
        if kind == 0:
            content[place] ^= 1 << draws.randrange(8)
        elif kind == 1:
            del content[place:]
        elif kind == 2:
            # Where headers and directories lie: lengths and offsets.
            place = draws.randrange(4, 200)
            content[place : place + 4] = draws.randbytes(4)
        else:
            content[place:place] = content[place : place + draws.randrange(1, 5000)]
        path = folder / f"made{number}{suffix}"
        path.write_bytes(content)
        paths.append(path)
    return paths[:count]


def outcome(path: Path, folder: Path) -> tuple[str, float, float]:
    """What came of a file, seconds and peak MB."""
    output, start = folder / "images" / "x.json", time.perf_counter()
    words = [sys.executable, "-m", "unetpipe", "ingest", str(path), "--output", str(output)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(words, stderr=said)
        watch = threading.Timer(KILL_S, os.kill, (process.pid, signal.SIGKILL))
        watch.start()
        # Unlike Popen.wait, this tells the peak of this process alone.
        _, status, usage = os.wait4(process.pid, 0)
        watch.cancel()
        said.seek(0)
        lines = said.read().decode(errors="replace").splitlines()
    seconds, code = time.perf_counter() - start, os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL and seconds >= KILL_S:
        what = f"killed after {KILL_S:g} s"
    elif code == 0 and output.exists():
        what = "read"
    elif code == 2 and len(lines) == 1 and len(lines[0]) <= 300:
        what = "written in part" if output.exists() or output.with_suffix(".zarr").exists() else "refused in one line"
    else:
        what = f"exit code {code}, {len(lines)} lines"
    return what, seconds, usage.ru_maxrss / 1024


def main() -> int:
    """Print a table of outcomes, then the slowest and the largest, and what missed a target; 1 where anything did."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--made", type=int, default=200)
    given, missed = parser.parse_args(), 0
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "made").mkdir()
        sets = {"from elsewhere": sorted(given.folder.iterdir()) if given.folder else []}
        sets["made"] = made_files(place / "made", given.made)
        for kind, paths in sets.items():
            found = []
            for number, path in enumerate(paths):
                found.append((*outcome(path, place / f"{kind} {number}"), path.name))
            counts = ", ".join(f"{count} {what}" for what, count in sorted(Counter(f[0] for f in found).items()))
            print(f"{len(paths)} files {kind}: {counts}")
            if found:
                slow, large = max(found, key=lambda f: f[1]), max(found, key=lambda f: f[2])
                print(f"slowest {slow[1]:.1f} s of {MOST_S:g} ({slow[3]})")
                print(f"largest {large[2]:.0f} MB of {MOST_MB:g} ({large[3]})", flush=True)
            for what, seconds, mb, file in found:
                if what not in GOOD or seconds > MOST_S or mb > MOST_MB:
                    missed += 1
                    print(f"missed: {file}: {what}, {seconds:.1f} s, {mb:.0f} MB", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())

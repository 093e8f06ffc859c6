"""Stages that are killed at random moments: do they end with the bytes of one that was not, and what is computed twice?

Run: python benchmarks/kills.py [--kills 50] [--side 2048] [--core 128] [--seed 1]

`predict` and `segment` (without and with `split`) of a simulated slide, by a narrow network of random parameters, with
many small cores. Each run is a process of its own; SIGKILL comes at a random moment between its first core and its end,
then the same command is given again. A run that ended before its kill does not count. Held against the undisturbed run:
manifest, and all files of the store. What computes a core is counted in both processes, by wrappers around the
functions named in `KERNELS`; the calls beyond those of the undisturbed run are the cores that were computed twice:
those in flight, of which `predict` has three (one that is computed, one that waits, one that is written), `segment`
one. Ends with 1 if other bytes come out, or more is computed twice.
"""

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

# What is called once for each core in each turn over them, as its caller sees it.
KERNELS = {
    "predict": ["unetpipe.inference:Forward.finished"],
    "segment": [
        "unetpipe.steps.segment:decided",
        "unetpipe.steps.segment:trace",
        "unetpipe.stitching:core_components",
        "unetpipe.stitching:core_basins",
        "unetpipe.stitching:relabelled",
    ],
}
IN_FLIGHT = {"predict": 3, "segment": 1}


def counting(stage: str, path: str) -> None:
    """Let each call of a stage's kernels add a line to a file, which outlives a kill."""
    file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    for kernel in KERNELS[stage]:
        module, _, place = kernel.partition(":")
        owner: Any = importlib.import_module(module)
        *outer, name = place.split(".")
        for part in outer:
            owner = getattr(owner, part)

        setattr(owner, name, noted(getattr(owner, name), f"{kernel}\n".encode(), file))


def noted(call: Callable[..., Any], line: bytes, file: int) -> Callable[..., Any]:
    """The same function, which first writes a line."""

    @wraps(call)
    def noting(*args: Any, **keys: Any) -> Any:
        os.write(file, line)
        return call(*args, **keys)

    return noting


class Stage:
    """One command, whose result can be removed and made again."""

    def __init__(self, words: list[str], output: Path) -> None:
        self.verb, self.output, self.calls = words[0], output, output.with_suffix(".calls")
        output.parent.mkdir(parents=True)
        self.command = [sys.executable, __file__, "--count", str(self.calls), *words, "--output", str(output)]

    def start(self) -> "subprocess.Popen[bytes]":
        """Begin with the command, and come back when it computes its first core, or has ended."""
        self.calls.unlink(missing_ok=True)
        process = subprocess.Popen(self.command, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (self.calls.exists() and self.calls.stat().st_size):
            time.sleep(0.002)
        return process

    def counted(self) -> Counter[str]:
        """Calls of each kernel in the last run."""
        return Counter(self.calls.read_text().split() if self.calls.exists() else [])

    def bytes(self) -> dict[str, bytes]:
        """The manifest, and all files of the store."""
        store = self.output.with_suffix(".zarr")
        files = {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
        return files | {"": self.output.read_bytes()}

    def remove(self) -> None:
        """As if it had never run."""
        self.output.unlink(missing_ok=True)
        self.output.with_suffix(".ledger").unlink(missing_ok=True)
        shutil.rmtree(self.output.with_suffix(".zarr"), ignore_errors=True)


def finished(process: "subprocess.Popen[bytes]") -> None:
    """Wait for the end, which must be a good one."""
    if process.wait():
        raise SystemExit(f"FAILED: {process.args} ended with {process.returncode}")


def killed(name: str, stage: Stage, kills: int, draw: random.Random) -> bool:
    """Kill a stage that often and tell how it went; whether all was well."""
    finished(stage.start())
    stage.remove()
    process, begun = stage.start(), time.monotonic()
    finished(process)
    seconds, expected, needed = time.monotonic() - begun, stage.bytes(), stage.counted()
    equal = done = most = 0
    while done < kills:
        stage.remove()
        with stage.start() as process:
            try:
                process.wait(draw.uniform(0, seconds))
                continue
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        calls = stage.counted()
        finished(stage.start())
        calls += stage.counted()
        done += 1
        equal += stage.bytes() == expected
        most = max(most, *(calls[kernel] - needed[kernel] for kernel in needed))
    well = equal == kills and most <= IN_FLIGHT[stage.verb]
    print(
        f"{'ok' if well else 'MISSED'}: {name}: {equal} of {kills} kills end with the same manifest and store; at most "
        f"{most} cores computed twice, allowed {IN_FLIGHT[stage.verb]} ({max(needed.values())} cores, {seconds:.1f} s)",
        flush=True,
    )
    return well


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--count"]:
        counting(sys.argv[3], sys.argv[2])
        del sys.argv[1:3]
        importlib.import_module("unetpipe.cli").main()
        return
    # Not needed by the runs, and torch takes its time.
    from memory import model

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of each stage")
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--core", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw, core = random.Random(options.seed), json.dumps({"core_px": options.core})
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        trained, image = model(folder / "models" / "m.json"), folder / "images" / "s.json"
        for words in (
            ["simulate", folder / "s.tif", "--annotation", folder / "t.tif", "--spec", f'{{"side": {options.side}}}'],
            ["ingest", folder / "s.tif", "--output", image],
        ):
            subprocess.run([sys.executable, "-m", "unetpipe", *map(str, words)], check=True, stderr=subprocess.DEVNULL)
        probabilities = folder / "probabilities" / "m" / "s.json"
        words = ["predict", str(image), str(trained), "--threads", "1", "--spec", core]
        well = [killed("predict", Stage(words, probabilities), options.kills, draw)]
        for split in ("none", "distance"):
            words = ["segment", str(probabilities), str(image), "--spec", json.dumps({"split": split})]
            output = folder / f"segmentations-{split}" / "m" / "s.json"
            well.append(killed(f"segment, split {split}", Stage(words, output), options.kills, draw))
    if not all(well):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

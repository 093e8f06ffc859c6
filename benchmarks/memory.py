"""Peak memory of the stages that read slides, on a small one and on a large one: it must not grow with the slide.

Run: python benchmarks/memory.py [--sides 4096 16384] [--empty 65536] [--core 1024] [--folder DIR]

Each stage runs in a process of its own, as in the workflow; its peak resident memory is what the kernel counted. The
network is narrow (depth 2, base width 4, random parameters), so that the large slide takes minutes. All have cores of
one size, which would otherwise be planned for each slide, and so many of them that reading, network and writing overlap
in the small one, too. A slide that is empty but for 2048 x 2048 px shows that memory does not grow with what is
skipped. Ends with 1 if a peak is above 2 GB.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from unetpipe.checkpoints import write_weights
from unetpipe.ledgers import open_ledger
from unetpipe.networks import build_network
from unetpipe.slides import create_plane
from unetpipe.specs import IngestSpec, TrainSpec, UnetSpec

NETWORK = UnetSpec(depth=2, base_width=4)
# 2 GB, in the MB of 2^20 bytes that are printed.
MOST_MB = 2e9 / 2**20


def stage(*words: str) -> tuple[float, float]:
    """Seconds and peak MB of one command of unetpipe."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "unetpipe", *words], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"unetpipe {' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def model(path: Path, spec: UnetSpec = NETWORK) -> Path:
    """A model of random parameters, with its manifest."""
    with open_ledger(path, stage="train", spec=TrainSpec(network=spec), code="train@0") as ledger:
        state = build_network(spec, seed=1).state_dict()
        digest = write_weights(ledger.store / "weights.safetensors", state)
        ledger.append("weights", digest)
        network = {name: getattr(spec, name) for name in spec.__slots__}
        facts = {"network": network, "intensity": "range", "pixel_size_um": None, "weights": digest}
        ledger.publish(facts)
    return path


def empty_slide(path: Path, side: int) -> Path:
    """An ingested image of zeros whose tissue mask holds a square in the middle; all shards are one file."""
    with open_ledger(path, stage="ingest", spec=IngestSpec(), code="ingest@0") as ledger:
        plane = create_plane(ledger.store / "0", shape=(1, side, side), dtype=np.uint8, shard_side=1024)
        (_, first), *others = plane.iter_shards()
        digest = plane.write_shard(first, np.zeros((1, 1024, 1024), np.uint8))
        for _, box in others:
            link = plane.shard_path((box.start[0] // 1024, box.start[1] // 1024))
            link.parent.mkdir(parents=True, exist_ok=True)
            link.hardlink_to(plane.shard_path((0, 0)))
        ledger.append("0", digest)
        tissue = np.zeros((side // 32, side // 32), np.uint8)
        tissue[side // 64 - 32 : side // 64 + 32, side // 64 - 32 : side // 64 + 32] = 1
        mask = create_plane(ledger.store / "tissue" / "0", shape=tissue.shape, dtype=np.uint8)
        for _, box in mask.iter_shards():
            mask.write_shard(box, tissue[box.slices])
        facts = {"channels": 1, "shape": [side, side], "percentiles": [[0, 255]], "nominal_um": None}
        facts |= {"channel_names": ["0"], "dtype": "uint8", "source_shape": [side, side]}
        ledger.publish(facts | {"pixel_size_um": None, "factor": 1.0, "tissue": {"level": 5}})
    return path


def segmentation(probabilities: Path, image: Path) -> tuple[str, ...]:
    """Words of the command that segments what was predicted."""
    output = image.parent.parent / "segmentations" / "m" / image.name
    return "segment", str(probabilities), str(image), "--output", str(output), "--spec", '{"split": "distance"}'


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="*", default=[4096, 16384])
    parser.add_argument("--empty", type=int, nargs="*", default=[65536], help="multiples of 4096")
    parser.add_argument("--core", type=int, default=1024, help="side of a core in px")
    parser.add_argument("--folder", default=None)
    options = parser.parse_args()
    print(f"{os.cpu_count()} processors, torch {torch.__version__}")
    print(f"{'side':>8} {'stage':>8} {'seconds':>8} {'Mpx/s':>6} {'peak MB':>8}")
    peaks: dict[str, list[float]] = {"ingest": [], "annotate": [], "weigh": [], "predict": [], "segment": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        trained = model(folder / "models" / "m.json")
        for side in options.sides:
            source, truth = folder / f"{side}.tif", folder / f"{side}-truth.tif"
            image, labels, weights = (folder / kind / f"{side}.json" for kind in ("images", "labels", "weights"))
            probabilities = folder / "probabilities" / "m" / f"{side}.json"
            stage("simulate", str(source), "--annotation", str(truth), "--spec", f'{{"side": {side}}}')
            runs = {
                "ingest": ("ingest", str(source), "--output", str(image)),
                "annotate": ("annotate", str(truth), str(image), "--output", str(labels)),
                "weigh": ("weigh", str(labels), "--output", str(weights)),
                "predict": (
                    "predict",
                    str(image),
                    str(trained),
                    "--threads",
                    str(os.cpu_count()),
                    "--output",
                    str(probabilities),
                    "--spec",
                    f'{{"core_px": {options.core}}}',
                ),
                "segment": segmentation(probabilities, image),
            }
            for verb, words in runs.items():
                seconds, peak = stage(*words)
                peaks[verb].append(peak)
                print(f"{side:>8} {verb:>8} {seconds:>8.1f} {side**2 / seconds / 1e6:>6.1f} {peak:>8.0f}", flush=True)
        for side in options.empty:
            image = empty_slide(folder / "images" / f"empty{side}.json", side)
            output, spec = folder / f"probabilities/m/empty{side}.json", '{"tissue_only": true, "core_px": %s}'
            words = ("predict", str(image), str(trained), "--output", str(output), "--threads", str(os.cpu_count()))
            seconds, peak = stage(*words, "--spec", spec % options.core)
            peaks["predict"].append(peak)
            print(f"{side:>8} {'empty':>8} {seconds:>8.1f} {side**2 / seconds / 1e6:>6.1f} {peak:>8.0f}", flush=True)
            seconds, peak = stage(*segmentation(output, image))
            peaks["segment"].append(peak)
            print(f"{side:>8} {'segment':>8} {seconds:>8.1f} {side**2 / seconds / 1e6:>6.1f} {peak:>8.0f}", flush=True)
        for path in sorted((folder / "costs" / "predict" / "m").glob("*.json")):
            cost = json.loads(path.read_text())
            print(f"predict {path.stem}: planned {cost['planned_mb']} MB, took {cost['peak_mb']} MB")
    for verb, values in ((verb, values) for verb, values in peaks.items() if values):
        print(f"{verb}: largest / smallest peak {max(values) / min(values):.3f}")
    largest = max(peak for values in peaks.values() for peak in values)
    if largest > MOST_MB:
        raise SystemExit(f"MISSED: a peak of {largest:.0f} MB, allowed {MOST_MB:.0f}")
    print(f"ok: no peak above {largest:.0f} MB, allowed {MOST_MB:.0f}")


if __name__ == "__main__":
    main()

"""The whole stage of prediction, disk included, against sliding windows of others in memory, and the bare network.

Run: python benchmarks/tiles_speed.py [--side 2048] [--base-width 16] [--device cuda] [--peers FOLDER ...]
The slide of the targets takes a quarter of an hour: --side 8192 --runs 1

The folders hold MONAI (pip install --no-deps --target FOLDER monai) and nnU-Net (likewise: nnunetv2 acvl-utils
batchgenerators batchgeneratorsv2 dynamic-network-architectures SimpleITK nibabel blosc2 einops timm requests tqdm
connected-components-3d fft-conv-pytorch future graphviz threadpoolctl numexpr ndindex httpx).

Both slide a window of 512 px with Gaussian weights over the padded network of the same width, MONAI with overlaps of
0.25 and 0.5, nnU-Net's predictor with 0.5, as it does by itself, but without its mirroring, which would take four times
as long. They begin with a normalised image in memory and end with probabilities there; the stage reads a stored image,
applies the network of 2015 to the tiles that are planned, and stores what it finds. Targets: at most 0.60, 0.32 and
0.32 of their times; and the bare network, on windows that are where it is, at least 0.90 of the stage's time on a
processor and 0.85 on a GPU. On a processor one thread each, in seconds of processor time, because other work may run
beside; on a GPU in seconds until it is done. Best of the runs.
"""

import argparse
import importlib.util
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from memory import model
from torch import nn

from unetpipe.devices import DTYPES, set_tensorfloat32
from unetpipe.geometry import TileGrid
from unetpipe.heap import keep_freed_memory, use_one_heap
from unetpipe.ledgers import open_ledger
from unetpipe.netspecs import PaddedUnetSpec, UnetSpec
from unetpipe.networks import build_network
from unetpipe.planning import plan_tiles
from unetpipe.slides import create_plane
from unetpipe.specs import IngestSpec, PredictSpec
from unetpipe.steps.predict import predict

TARGETS = {"MONAI, overlap 0.25": 0.60, "MONAI, overlap 0.5": 0.32, "nnU-Net, overlap 0.5": 0.32}
BARE = {"cpu": 0.90, "cuda": 0.85}


def seconds(call: Callable[[], object], runs: int, device: torch.device) -> float:
    """Least time of some runs: of the processor for this process, or until a GPU is done."""
    clock, best = time.perf_counter if device.type == "cuda" else time.process_time, float("inf")
    for _ in range(runs):
        start = clock()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, clock() - start)
    return best


def ready(spec: UnetSpec | PaddedUnetSpec, device: torch.device) -> nn.Module:
    """A network of random parameters."""
    return build_network(spec, seed=1).eval().to(device).to(memory_format=torch.channels_last)


def slide(folder: Path, pixels: np.ndarray) -> Path:
    """An ingested image."""
    path = folder / "images" / "s.json"
    with open_ledger(path, stage="ingest", spec=IngestSpec(), code="ingest@0") as ledger:
        plane = create_plane(ledger.store / "0", shape=pixels.shape, dtype=pixels.dtype)
        for unit, box in plane.iter_shards():
            ledger.append(unit, plane.write_shard(box, pixels[(slice(None), *box.slices)]))
        facts = {"channels": len(pixels), "shape": list(plane.shape), "percentiles": [[0, 255]] * len(pixels)}
        facts |= {"dtype": "uint8", "nominal_um": None, "pixel_size_um": None, "factor": 1.0, "tissue": None}
        ledger.publish(facts)
    return path


def sliding_windows(network: nn.Module, image: np.ndarray, runs: int, device: torch.device) -> dict[str, float]:
    """Seconds of those peers that are there, by their names; `image` is (C, Y, X)."""
    taken = {}
    if importlib.util.find_spec("monai"):
        from monai.inferers import sliding_window_inference

        batch = torch.from_numpy(image)[None].to(device).contiguous(memory_format=torch.channels_last)
        for overlap in (0.25, 0.5):
            slide = partial(sliding_window_inference, batch, 512, 1, network, overlap=overlap, mode="gaussian")
            with torch.inference_mode():
                taken[f"MONAI, overlap {overlap}"] = seconds(lambda slide=slide: slide().softmax(1), runs, device)
    if importlib.util.find_spec("nnunetv2"):
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(use_mirroring=False, device=device, allow_tqdm=False)
        predictor.network = network
        predictor.configuration_manager = SimpleNamespace(patch_size=(512, 512))
        predictor.label_manager = SimpleNamespace(num_segmentation_heads=2)
        planes = torch.from_numpy(image)[:, None]
        taken["nnU-Net, overlap 0.5"] = seconds(
            lambda: predictor.predict_sliding_window_return_logits(planes).float().softmax(0), runs, device
        )
    return taken


def bare_network(spec: UnetSpec, keys: PredictSpec, shape: tuple[int, int], runs: int, device: torch.device) -> float:
    """Seconds of the network alone, over as many windows of the same sizes as the stage's."""
    core = plan_tiles([spec], keys, shape=shape).core_px
    sides = [tile.window.shape for tile in TileGrid(shape=shape, core_side=core, geometry=spec.geometry)]
    windows = {
        side: torch.rand(1, spec.channels, *side, device=device).contiguous(memory_format=torch.channels_last)
        for side in set(sides)
    }
    network, dtype = ready(spec, device), DTYPES.get(keys.precision)
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
        # The first pass takes memory from the system, and chooses algorithms on a GPU.
        network(windows[sides[0]])
        return seconds(lambda: [network(windows[side]) for side in sides], runs, device)


def whole_stage(
    spec: UnetSpec, keys: PredictSpec, pixels: np.ndarray, runs: int, device: torch.device
) -> tuple[float, float]:
    """Seconds of the stage, and the share of the last run for which it kept the device busy."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, trained, outputs = slide(folder, pixels), model(folder / "models" / "m.json", spec), iter(range(runs))
        taken = seconds(
            lambda: predict(
                source,
                [trained],
                output=folder / f"probabilities/m/{next(outputs)}.json",
                spec=keys,
                code="predict@0",
                threads=1,
            ),
            runs,
            device,
        )
        cost = json.loads((folder / f"costs/predict/m/{runs - 1}.json").read_text())
    return taken, cost["busy"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--base-width", type=int, default=16)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--memory-gb", type=float, default=4.0)
    parser.add_argument("--gpu-memory-gb", type=float, default=None)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--peers", nargs="*", default=[], metavar="FOLDER")
    options = parser.parse_args()
    if options.device == "cpu":
        # The stage takes a GPU where it finds one.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    use_one_heap()
    torch.set_num_threads(1)
    logging.getLogger("unetpipe").setLevel(logging.ERROR)
    side, width, device, runs = options.side, options.base_width, torch.device(options.device), options.runs
    spec = UnetSpec(base_width=width, channels=3)
    keys = PredictSpec(memory_gb=options.memory_gb, gpu_memory_gb=options.gpu_memory_gb, precision=options.precision)
    plan = plan_tiles([spec], keys, shape=(side, side))
    pixels = np.random.default_rng(1).integers(0, 255, (3, side, side), np.uint8)
    print(
        f"RGB {side} x {side}, width {width}, torch {torch.__version__}, {options.device}, cores of {plan.core_px} px"
    )

    sys.path += options.peers
    padded = PaddedUnetSpec(features=tuple(width * 2**n for n in range(4)), channels=3)
    dtype = DTYPES.get(options.precision)
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        sliding = sliding_windows(ready(padded, device), pixels.astype(np.float32) / 255, runs, device)
    keep_freed_memory()
    set_tensorfloat32(False)
    torch.backends.cudnn.deterministic = True
    bare = bare_network(spec, keys, (side, side), runs, device)
    stage, busy = whole_stage(spec, keys, pixels, runs, device)
    speed, flops = side**2 / stage / 1e6, plan.flops_per_px * side**2 / stage / 1e12
    print(f"stage: {stage:.2f} s, {speed:.3f} Mpx/s, {flops:.3f} TFLOP/s, device busy {100 * busy:.0f} %")
    print(f"bare network: {bare:.2f} s, of the stage's {bare / stage:.3f}, at least {BARE[options.device]:.2f} wanted")
    for name, taken in sliding.items():
        print(f"{name}: {taken:.2f} s; stage / it {stage / taken:.2f}, at most {TARGETS[name]:.2f} wanted")


if __name__ == "__main__":
    main()

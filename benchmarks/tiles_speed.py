"""Tiled inference in CPU time against sliding windows of others, and the whole stage against the bare network.

Run: python benchmarks/tiles_speed.py [--side 2048] [--base-width 16] [--peers FOLDER ...]

The folders hold MONAI (pip install --no-deps --target FOLDER monai) and nnU-Net (likewise: nnunetv2 acvl-utils
batchgenerators batchgeneratorsv2 dynamic-network-architectures SimpleITK nibabel blosc2 einops timm requests tqdm
connected-components-3d fft-conv-pytorch future graphviz threadpoolctl numexpr ndindex httpx).

Both slide a window of 512 px with Gaussian weights over the padded network of the same width, MONAI with overlaps of
0.25 and 0.5, nnU-Net's predictor with 0.5, as it does by itself, but without its mirroring, which would take four times
as long. Here the network of 2015 takes the tiles that are planned. One thread each, in seconds of processor time, best
of the runs, because other work may run beside.
"""

import argparse
import importlib.util
import logging
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

from unetpipe.geometry import TileGrid
from unetpipe.heap import keep_freed_memory, use_one_heap
from unetpipe.inference import predict_image
from unetpipe.ledgers import open_ledger
from unetpipe.netspecs import PaddedUnetSpec, UnetSpec
from unetpipe.networks import build_network
from unetpipe.planning import plan_tiles
from unetpipe.slides import create_plane
from unetpipe.specs import IngestSpec, PredictSpec
from unetpipe.steps.predict import predict

CPU = torch.device("cpu")


def seconds(call: Callable[[], object], runs: int) -> float:
    """Least processor time of some runs of this process."""
    best = float("inf")
    for _ in range(runs):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best


def ready(spec: UnetSpec | PaddedUnetSpec) -> nn.Module:
    """A network of random parameters."""
    return build_network(spec, seed=1).eval().to(memory_format=torch.channels_last)


def slide(folder: Path, pixels: np.ndarray) -> Path:
    """An ingested image."""
    path = folder / "images" / "s.json"
    with open_ledger(path, stage="ingest", spec=IngestSpec(), code="ingest@0") as ledger:
        plane = create_plane(ledger.store / "0", shape=pixels.shape, dtype=pixels.dtype)
        for unit, box in plane.iter_shards():
            ledger.append(unit, plane.write_shard(box, pixels[(slice(None), *box.slices)]))
        facts = {"channels": len(pixels), "shape": list(plane.shape), "percentiles": [[0, 255]] * len(pixels)}
        facts |= {"nominal_um": None, "pixel_size_um": None, "factor": 1.0, "tissue": None}
        ledger.publish(facts)
    return path


def sliding_windows(network: nn.Module, image: np.ndarray, runs: int) -> dict[str, float]:
    """Seconds of those peers that are there, by their names; `image` is (C, Y, X)."""
    taken = {}
    if importlib.util.find_spec("monai"):
        from monai.inferers import sliding_window_inference

        batch = torch.from_numpy(image)[None].contiguous(memory_format=torch.channels_last)
        for overlap in (0.25, 0.5):
            slide = partial(sliding_window_inference, batch, 512, 1, network, overlap=overlap, mode="gaussian")
            with torch.inference_mode():
                taken[f"MONAI, overlap {overlap}"] = seconds(lambda slide=slide: slide().softmax(1), runs)
    if importlib.util.find_spec("nnunetv2"):
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(use_mirroring=False, device=CPU, allow_tqdm=False)
        predictor.network = network
        predictor.configuration_manager = SimpleNamespace(patch_size=(512, 512))
        predictor.label_manager = SimpleNamespace(num_segmentation_heads=2)
        planes = torch.from_numpy(image)[:, None]
        taken["nnU-Net, overlap 0.5"] = seconds(
            lambda: predictor.predict_sliding_window_return_logits(planes).float().softmax(0), runs
        )
    return taken


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--base-width", type=int, default=16)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--memory-gb", type=float, default=4.0)
    parser.add_argument("--peers", nargs="*", default=[], metavar="FOLDER")
    options = parser.parse_args()
    use_one_heap()
    torch.set_num_threads(1)
    logging.getLogger("unetpipe").setLevel(logging.ERROR)
    side, width = options.side, options.base_width
    spec = UnetSpec(base_width=width, channels=3)
    pixels = np.random.default_rng(1).integers(0, 255, (3, side, side), np.uint8)
    image = pixels.astype(np.float32) / 255
    plan = plan_tiles([spec], shape=(side, side), memory_gb=options.memory_gb)
    print(f"RGB {side} x {side}, width {width}, torch {torch.__version__}, one thread; cores of {plan.core_px} px")

    sys.path += options.peers
    sliding = sliding_windows(
        ready(PaddedUnetSpec(features=tuple(width * 2**n for n in range(4)), channels=3)), image, options.runs
    )
    for name, taken in sliding.items():
        print(f"{name}: {taken:.1f} s", flush=True)

    keep_freed_memory()
    network = ready(spec)
    tiled = seconds(
        lambda: predict_image(network, image, spec.geometry, core_side=plan.core_px, device=CPU), options.runs
    )
    print(f"tiles: {tiled:.1f} s, {side**2 / tiled / 1e6:.3f} Mpx/s")
    for name, taken in sliding.items():
        print(f"tiles / {name}: {tiled / taken:.2f}")

    grid = TileGrid(shape=(side, side), core_side=plan.core_px, geometry=spec.geometry)
    windows = [torch.rand(1, 3, *tile.window.shape).contiguous(memory_format=torch.channels_last) for tile in grid]
    with torch.inference_mode():
        bare = seconds(lambda: [network(window) for window in windows], options.runs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, trained = slide(folder, pixels), model(folder / "models" / "m.json", spec)
        keys = {"spec": PredictSpec(memory_gb=options.memory_gb), "threads": 1}
        runs = iter(range(options.runs))
        stage = seconds(
            lambda: predict(
                source, [trained], output=folder / f"probabilities/m/{next(runs)}.json", code="predict@0", **keys
            ),
            options.runs,
        )
    print(f"bare network {bare:.1f} s, whole stage {stage:.1f} s: bare / stage {bare / stage:.3f}")


if __name__ == "__main__":
    main()

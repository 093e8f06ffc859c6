"""Planned and measured memory of the whole network of 2015 at a budget, and its arithmetic per output pixel.

Run: python benchmarks/budget.py [--gb 4] [--gpu-gb 16] [--base-width 64] [--channels 1 3] [--cores 2] [--threads 2]

For each number of channels, a row of cores of the planned size is predicted by the stage in a process of its own; its
peak resident memory is what the kernel counted. Parameters are random. Targets: no more memory than the budget, and
work of at most 1.13 of an infinite tile's with 4 GB, of 1.07 with 16 GB. A core of 4 GB takes minutes on a processor,
one for a GPU many more, for which a narrow network will do.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from memory import model, stage

from unetpipe.ledgers import open_ledger
from unetpipe.planning import plan_tiles
from unetpipe.slides import create_plane
from unetpipe.specs import IngestSpec, PredictSpec, UnetSpec, canonical_json


def noise(path: Path, channels: int, shape: tuple[int, int]) -> Path:
    """An ingested image of noise."""
    rng = np.random.default_rng(0)
    with open_ledger(path, stage="ingest", spec=IngestSpec(), code="ingest@0") as ledger:
        plane = create_plane(ledger.store / "0", shape=(channels, *shape), dtype=np.uint8)
        for name, box in plane.iter_shards():
            block = rng.integers(0, 256, (channels, *box.shape), np.uint8)
            ledger.append(name, plane.write_shard(box, block))
        facts = {"channels": channels, "shape": list(shape), "percentiles": [[0, 255]] * channels, "factor": 1.0}
        ledger.publish(facts | {"dtype": "uint8", "nominal_um": None, "pixel_size_um": None})
    return path


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=4.0)
    parser.add_argument("--gpu-gb", type=float, default=None)
    parser.add_argument("--base-width", type=int, default=64)
    parser.add_argument("--channels", type=int, nargs="*", default=[1, 3])
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    for channels in given.channels:
        spec = UnetSpec(base_width=given.base_width, channels=channels)
        keys = PredictSpec(memory_gb=given.gb, gpu_memory_gb=given.gpu_gb)
        plan = plan_tiles([spec], keys)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            trained = model(folder / "models" / "m.json", spec)
            image = noise(folder / "images" / "a.json", channels, (plan.core_px, given.cores * plan.core_px))
            output = folder / "probabilities" / "m" / "a.json"
            words = ("predict", str(image), str(trained), "--output", str(output), "--threads", str(given.threads))
            seconds, peak_mb = stage(*words, "--spec", canonical_json(keys))
        print(
            f"{channels} channel(s), {given.gb:g} GB: core {plan.core_px} px in parts of {plan.part_px} px, work "
            f"{plan.work:.4f} of the limit; planned {plan.host_bytes / 1e6:.0f} MB, took "
            f"{peak_mb * 2**20 / 1e6:.0f} MB; {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()

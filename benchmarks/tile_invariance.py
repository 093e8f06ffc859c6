"""One slide, whatever the tiles: cores, threads, workers and kills change no class and next to no probability.

Run: python benchmarks/tile_invariance.py [--side 4000] [--cores 256 384 512 1024 2048] [--counts 1 2 4] [--triples 200]

Three tables, all of networks with random parameters, float32, on the CPU.

1. Random image and core sizes, images smaller than a tile and remainders of one pixel among them: tiled inference
   against one tile over the whole image.
2. A simulated slide in memory: probabilities by each core and number of threads against those of the first.
3. The same slide by `unetpipe predict`: each core with so many threads of one process, and so many workers of dask's
   LocalCluster, of one thread each, whole and killed (SIGKILL) behind half of its shards and then resumed. For equal
   cores and threads, manifest and store must have equal bytes, however many workers there are. Otherwise, stored
   probabilities may differ by one step of 65535: how libraries share a convolution among threads changes its last bits.

Classes are compared where the two largest probabilities of the reference lie farther apart than the tolerance of 1e-5,
or one step of 65535 in what is stored: closer ones are ties, which are counted. Ends with 1 if anything else differs.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from memory import model
from numpy.typing import NDArray

from unetpipe.inference import predict_image
from unetpipe.manifests import read_manifest
from unetpipe.networks import build_network
from unetpipe.slides import open_plane
from unetpipe.specs import UnetSpec

SPEC = UnetSpec(depth=2, base_width=4, classes=3)
CPU = torch.device("cpu")
TOLERANCE = 1e-5


class Worst:
    """The largest difference of probabilities so far, the pixels whose class differs, and ties."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance, self.difference = tolerance, 0.0
        self.flipped = self.ties = self.pixels = 0

    def hold(self, found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
        """Hold (K, Y, X) probabilities against others."""
        self.difference = max(self.difference, float(np.abs(found - expected).max()))
        *_, second, first = np.sort(expected, axis=0)
        sure = first - second > self.tolerance
        self.flipped += int((found.argmax(0) != expected.argmax(0))[sure].sum())
        self.ties += int((~sure).sum())
        self.pixels += sure.size

    def told(self) -> str:
        """One line; ends the benchmark if the promise is broken."""
        line = f"largest difference {self.difference:.2e}, classes that differ {self.flipped}, ties {self.ties}"
        if self.flipped or self.difference > 1.01 * self.tolerance:
            raise SystemExit(f"FAILED: {line}, allowed {self.tolerance:.2e} and 0")
        return f"{line}, of {self.pixels} px"


def random_images(triples: int, spec: UnetSpec) -> None:
    """Table 1."""
    network, stride = build_network(spec, seed=1).eval(), spec.geometry.stride
    rng, worst = np.random.default_rng(1), Worst(TOLERANCE)
    for number in range(triples):
        height, width = (int(n) for n in rng.integers(1, 14 * stride, 2))
        if number % 10 == 0:
            height = width = 2 * stride + 1
        core = stride * int(rng.integers(3, 12))
        image = rng.random((1, height, width), dtype=np.float32)
        whole = predict_image(network, image, spec.geometry, core_side=16 * stride, device=CPU)
        worst.hold(predict_image(network, image, spec.geometry, core_side=core, device=CPU), whole)
    print(f"{triples} images, depth {spec.depth}: {worst.told()}", flush=True)


def in_memory(image: Path, cores: list[int], counts: list[int]) -> None:
    """Table 2."""
    network = build_network(SPEC, seed=1).eval()
    pixels = open_plane(read_manifest(image).store / "0").read_whole().astype(np.float32) / 255
    first = None
    for core in cores:
        worst = Worst(TOLERANCE)
        for threads in counts:
            torch.set_num_threads(threads)
            found = predict_image(network, pixels, SPEC.geometry, core_side=core, device=CPU)
            first = found if first is None else first
            worst.hold(found, first)
        print(f"core {core:>4}, {counts} threads, float32: {worst.told()}", flush=True)


def predicted(image: Path, trained: Path, output: Path, core: int, threads: int, local: int, is_killed: bool) -> None:
    """Run `predict`, or kill it behind half of its shards and run it again."""
    words = ["predict", image, trained, "--output", output, "--threads", threads, "--code", "p@1"]
    words += ["--spec", json.dumps({"core_px": core}), "--cluster", json.dumps({"local": local} if local else {})]
    command = [sys.executable, "-m", "unetpipe", *map(str, words)]
    if is_killed:
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        ledger = output.with_suffix(".ledger")
        height, width = read_manifest(image).facts["shape"]
        # Shards are as large as cores, but at most 1024 px, or a part of them.
        half = (-(-height // 1024)) * (-(-width // 1024)) // 2
        while process.poll() is None and (not ledger.exists() or ledger.read_bytes().count(b'"unit"') < half):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            raise SystemExit(f"FAILED: {output} was finished before it could be killed")
    process = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if process.returncode:
        raise SystemExit(f"FAILED: {process.stderr}")


def result(output: Path) -> dict[str, bytes]:
    """All bytes of a manifest and its store."""
    found = read_manifest(output)
    return {name: (found.store / name).read_bytes() for name in found.objects} | {"": output.read_bytes()}


def by_the_stage(folder: Path, image: Path, cores: list[int], counts: list[int]) -> None:
    """Table 3."""
    trained, first, runs = model(folder / "models" / "m.json", SPEC), None, 0
    for core in cores:
        worst, begun = Worst(1 / 65535), time.perf_counter()
        expected: dict[int, dict[str, bytes]] = {}
        for is_killed in (False, True):
            for threads, local in [(n, 0) for n in counts] + [(1, n) for n in counts]:
                output = folder / "probabilities" / "m" / "s.json"
                predicted(image, trained, output, core, threads, local, is_killed)
                bytes_ = result(output)
                if threads not in expected:
                    expected[threads] = bytes_
                    found = open_plane(read_manifest(output).store / "0").read_whole().astype(np.float32) / 65535
                    first = found if first is None else first
                    worst.hold(found, first)
                elif bytes_ != expected[threads]:
                    ran = f"{threads} threads, {local} workers, {'killed' if is_killed else 'whole'}"
                    raise SystemExit(f"FAILED: core {core}: {ran}: other bytes")
                shutil.rmtree(output.parent)
                runs += 1
        seconds = time.perf_counter() - begun
        print(f"core {core:>4}, as stored: {worst.told()}; equal bytes for equal threads ({seconds:.0f} s)", flush=True)
    print(f"{runs} runs of predict: {counts} threads, {counts} workers, whole and killed")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=4000)
    parser.add_argument("--cores", type=int, nargs="+", default=[256, 384, 512, 1024, 2048])
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4], help="of threads and of workers")
    parser.add_argument("--triples", type=int, default=200)
    options = parser.parse_args()
    random_images(options.triples, UnetSpec(depth=4, base_width=4))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, image = folder / "s.tif", folder / "images" / "s.json"
        for words in (
            ["simulate", source, "--annotation", folder / "t.tif", "--spec", f'{{"side": {options.side}}}'],
            ["ingest", source, "--output", image],
        ):
            subprocess.run([sys.executable, "-m", "unetpipe", *map(str, words)], check=True, stderr=subprocess.DEVNULL)
        in_memory(image, options.cores, options.counts)
        by_the_stage(folder, image, options.cores, options.counts)


if __name__ == "__main__":
    main()

"""Tiled inference against one pass over the whole mirrored image: largest difference of probabilities.

Run: python benchmarks/tile_invariance.py [--triples 200] [--depth 4] [--base-width 4]

Image size and core size are random, position follows from both; images smaller than a tile and remainders of one pixel
are among them.
"""

import argparse

import numpy as np
import torch

from unetpipe.inference import predict_image
from unetpipe.networks import build_network
from unetpipe.specs import UnetSpec


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--triples", type=int, default=200)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--base-width", type=int, default=4)
    options = parser.parse_args()
    spec = UnetSpec(depth=options.depth, base_width=options.base_width)
    network, stride = build_network(spec, seed=1).eval(), spec.geometry.stride
    rng, cpu = np.random.default_rng(1), torch.device("cpu")
    worst, flipped, pixels = 0.0, 0, 0
    for number in range(options.triples):
        height, width = (int(n) for n in rng.integers(1, 14 * stride, 2))
        if number % 10 == 0:
            height = width = 2 * stride + 1
        core = stride * int(rng.integers(3, 12))
        image = rng.random((1, height, width), dtype=np.float32)
        whole = predict_image(network, image, spec.geometry, core_side=16 * stride, device=cpu)
        tiled = predict_image(network, image, spec.geometry, core_side=core, device=cpu)
        worst = max(worst, float(np.abs(tiled - whole).max()))
        flipped += int((tiled.argmax(0) != whole.argmax(0)).sum())
        pixels += height * width
    print(f"{options.triples} triples, depth {options.depth}, base width {options.base_width}, {pixels} px")
    print(f"largest difference of probabilities {worst:.2e}, classes that differ {flipped}")


if __name__ == "__main__":
    main()

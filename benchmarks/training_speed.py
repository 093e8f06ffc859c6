"""Speed of training against peers measured in the same run.

Run: python benchmarks/training_speed.py [--depth 4] [--base-width 16] [--input-px 572] [--steps 8] [--rounds 5]
[--threads 2]

As in the stage `train`: deterministic algorithms, and on a GPU 32 times as many steps, for so few would be over before
it has begun.

On a processor: GFLOP/s of the forward pass against a product of two 2048 x 2048 float32 matrices; time per step of
`fit` in its first epoch, reading each patch from a store on disk, against a bare loop with the same network on tensors
in memory; share of the time that the network waited for patches. On a GPU also: TFLOP/s of a bfloat16 step, and its
time against its convolutions alone, forward and backward, the same shapes one behind the other.
"""

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unetpipe.devices import choose_device
from unetpipe.losses import cross_entropy
from unetpipe.networks import build_network
from unetpipe.patches import PatchStores, create_patches
from unetpipe.specs import TrainSpec, UnetSpec
from unetpipe.steps.train import prepare
from unetpipe.training import fit
from unetpipe.trainstate import start


def seconds(call: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Duration of a call, until the device is done, and the time of all processors that it took."""
    begun, busy = time.perf_counter(), time.process_time()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun, time.process_time() - busy


def compared(
    first: Callable[[], object], second: Callable[[], object], rounds: int, device: torch.device
) -> list[float]:
    """Medians of both durations, of their ratio, and of that of the processors' times.

    The two take turns, so that a busy machine slows both; what it steals in one of the turns is in no processor's time.
    """
    for call in (first, second):
        call()
    pairs = [(*seconds(first, device), *seconds(second, device)) for _ in range(rounds)]
    rows = [(a, b, a / b, busy_a / busy_b) for a, busy_a, b, busy_b in pairs]
    return [statistics.median(values) for values in zip(*rows, strict=True)]


def filled_store(folder: Path, spec: TrainSpec, input_px: int) -> PatchStores:
    """Patches of noise on disk."""
    side = spec.network.geometry.output_side(input_px)
    store = create_patches(folder, count=spec.steps, channels=spec.network.channels, input_px=input_px, output_px=side)
    rng = np.random.default_rng(0)
    for _, numbers in store.iter_blocks():
        image = rng.random((len(numbers), spec.network.channels, input_px, input_px), dtype=np.float32)
        classes = rng.integers(0, 2, (len(numbers), side, side), dtype=np.uint8)
        weights = rng.random((len(numbers), 1, side, side), dtype=np.float32)
        store.write_block(numbers, list(zip(image, classes, weights, strict=True)))
    return PatchStores((store,), input_px, 0)


def bare_loop(network: nn.Module, spec: TrainSpec, batch: tuple[Tensor, ...]) -> Callable[[], None]:
    """The same steps without anything around them."""
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=spec.momentum)
    image, classes, weights = batch
    dtype = torch.bfloat16 if spec.precision == "bfloat16" else None

    def loop() -> None:
        network.train()
        for _ in range(spec.steps):
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast(image.device.type, dtype, enabled=dtype is not None):
                logits = network(image)
            cross_entropy(logits, classes, weights, reduction="mean").backward()
            optimiser.step()

    return loop


def fitting(spec: TrainSpec, store: PatchStores, device: torch.device, workers: int) -> Callable[[], None]:
    """The steps of `fit`, from the store on disk."""
    state = start(build_network(spec.network, seed=1), spec, device)

    def loop() -> None:
        state.step, state.history = 0, []
        fit(
            state,
            spec,
            store,
            class_weights=[1.0] * spec.network.classes,
            validate=None,
            save=lambda now: None,
            workers=workers,
            device=device,
        )

    return loop


def convolutions_alone(network: nn.Module, image: Tensor) -> Callable[[], None]:
    """All convolutions of a training step in bfloat16, forward and backward, and nothing else."""
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = torch.randn_like(inputs[0], dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
        y = torch.randn_like(output, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
        calls.append((module, x.requires_grad_(len(calls) > 0), y))

    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()
    network.to(torch.bfloat16)

    def loop() -> None:
        for module, x, gradient in calls:
            wanted = [p for p in (x, *module.parameters()) if p.requires_grad]
            torch.autograd.grad(module(x), wanted, gradient)

    return loop


def flops_of(call: Callable[[], object]) -> int:
    """Floating-point operations of the products and convolutions of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (
        ("depth", 4),
        ("base-width", 16),
        ("input-px", 572),
        ("steps", 8),
        ("rounds", 5),
        ("threads", 2),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    device = choose_device()
    # As the stage: deterministic algorithms, and what cuBLAS needs for them.
    prepare(device, options.threads)
    if device.type == "cuda":
        options.steps *= 32
    spec = TrainSpec(
        network=UnetSpec(depth=options.depth, base_width=options.base_width),
        steps=options.steps,
        validate_every=options.steps,
        learning_rate=1e-6,
        checkpoint_s=1e9,
        precision="bfloat16" if device.type == "cuda" else "float32",
    )
    network = build_network(spec.network, seed=1).to(device).to(memory_format=torch.channels_last)
    image = torch.rand(1, 1, options.input_px, options.input_px, device=device).to(memory_format=torch.channels_last)
    print(f"{device}, {options.threads} threads, torch {torch.__version__}; {vars(options)}")

    if device.type == "cpu":
        with torch.no_grad():
            matrix = torch.rand(2048, 2048)
            forward = flops_of(lambda: network.eval()(image))
            passes, products, *_ = compared(lambda: network(image), lambda: matrix @ matrix, options.rounds, device)
        rate, peer = forward / passes / 1e9, 2 * 2048**3 / products / 1e9
        print(
            f"forward {forward / 1e9:.1f} GFLOP, {rate:.0f} GFLOP/s; matrices {peer:.0f} GFLOP/s; "
            f"ratio {rate / peer:.2f}"
        )

    with tempfile.TemporaryDirectory() as folder:
        store = filled_store(Path(folder), spec, options.input_px)
        side = spec.network.geometry.output_side(options.input_px)
        truth = torch.randint(0, 2, (1, side, side), device=device, dtype=torch.uint8)
        bare = bare_loop(network, spec, (image, truth, torch.rand(1, side, side, device=device)))
        whole = fitting(spec, store, device, workers=min(2, options.threads - 1))
        fitted, plain, ratio, busy = compared(whole, bare, options.rounds, device)
        print(
            f"step of fit {1e3 * fitted / spec.steps:.2f} ms, of the bare loop {1e3 * plain / spec.steps:.2f} ms; "
            f"median ratio {ratio:.3f}, of the processors' times {busy:.3f}"
        )
        logging.getLogger("unetpipe").setLevel(logging.INFO)
        whole()

    if device.type == "cuda":
        work = 3 * flops_of(lambda: network.eval()(image))
        print(f"step {work / 1e9:.0f} GFLOP, {work * spec.steps / fitted / 1e12:.0f} TFLOP/s")
        loop = convolutions_alone(
            build_network(spec.network, seed=1).to(device, memory_format=torch.channels_last), image
        )
        loop()
        alone = statistics.median(seconds(loop, device)[0] for _ in range(max(20, options.rounds)))
        print(f"convolutions alone {1e3 * alone:.2f} ms; step / convolutions {fitted / spec.steps / alone:.2f}")


if __name__ == "__main__":
    main()

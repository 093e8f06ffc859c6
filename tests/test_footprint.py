"""What a step is said to need is what it takes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from unetpipe.feed import Feed
from unetpipe.footprint import is_out_of_memory, out_of_memory, step_bytes
from unetpipe.netspecs import DilatedUnetSpec, KerasUnetSpec, PaddedUnetSpec
from unetpipe.networks import build_network
from unetpipe.specs import TrainSpec, UnetSpec
from unetpipe.training import advance, steps_at_once
from unetpipe.trainstate import start

CPU = torch.device("cpu")


class One:
    """A single patch."""

    def __init__(self, spec: TrainSpec, side: int) -> None:
        out = spec.network.geometry.output_side(side)
        self.patch = (
            np.ones((1, side, side), np.float32),
            np.ones((out, out), np.uint8),
            np.ones((out, out), np.float32),
        )

    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.patch


def peak_bytes(spec: TrainSpec, side: int, *, at_once: int = 1) -> int:
    """Most bytes of tensors that were there at once, from the network on over two steps, or two times a few."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        state = start(build_network(spec.network, seed=1), spec, CPU)
        draws = 2 * at_once * spec.accumulate
        with Feed(One(spec, side), seed=1, draws=draws, workers=0, device=CPU, accumulate=spec.accumulate) as feed:
            for _ in range(2):
                advance(state, spec, feed, torch.ones(2), until=state.step + at_once)
    events = record.profiler.kineto_results.events()
    changes = np.array([e.nbytes() for e in events if e.name() == "[memory]"])
    times = [e.start_ns() for e in events if e.name() == "[memory]"]
    for op in (e for e in events if "convolution" in e.name() and e.name().startswith("aten::")):
        drop_scratch(changes, *np.searchsorted(times, [op.start_ns(), op.start_ns() + op.duration_ns()]))
    return int(np.cumsum(changes).max())


def drop_scratch(changes: np.ndarray, first: int, last: int) -> None:
    """Leave out what one call takes and gives back: what libraries take for themselves, other for each processor."""
    taken: list[int] = []
    for i in range(first, last):
        if changes[i] > 0:
            taken.append(i)
        for j in reversed(taken):
            if changes[i] < 0 and changes[j] == -changes[i]:
                changes[[i, j]] = 0
                taken.remove(j)
                break


@pytest.mark.parametrize(
    ("network", "side", "keys"),
    [
        (UnetSpec(depth=2, base_width=8), 188, {}),
        (UnetSpec(depth=4, base_width=4), 284, {"optimiser": "adam", "accumulate": 3}),
        (UnetSpec(depth=4, base_width=32), 188, {"average": 0.9}),
        (UnetSpec(depth=1, base_width=2), 380, {"loss": "cross_entropy_dice"}),
        (PaddedUnetSpec(features=(8, 16, 32)), 160, {"optimiser": "rmsprop", "momentum": 0.9}),
        (PaddedUnetSpec(features=(8, 16, 32), up="bilinear"), 160, {}),
        (DilatedUnetSpec(depth=3, base_width=8, form="printed"), 200, {}),
        (DilatedUnetSpec(depth=3, base_width=8), 160, {"optimiser": "adamw"}),
        (KerasUnetSpec(depth=3, base_width=8), 160, {"loss": "binary_cross_entropy"}),
    ],
)
def test_prediction_is_within_a_fifth_of_what_is_allocated(network: Any, side: int, keys: dict[str, Any]) -> None:
    spec = TrainSpec(network=network, **keys)
    assert step_bytes(spec, side) == pytest.approx(peak_bytes(spec, side), rel=0.2)


@pytest.mark.parametrize("keys", [{}, {"optimiser": "adam", "average": 0.9}])
def test_so_it_is_where_several_steps_are_looked_at_together(keys: dict[str, Any]) -> None:
    spec = TrainSpec(network=UnetSpec(depth=4, base_width=16), **keys)
    alone, together = (step_bytes(spec, 188, copied=copied) for copied in (False, True))
    assert together == pytest.approx(peak_bytes(spec, 188, at_once=3), rel=0.2)
    assert together > 1.25 * alone


def test_a_gpu_is_not_made_wait_at_each_step() -> None:
    """Meta stands for a GPU; with a scaled loss, each step waits anyway."""
    meta = torch.device("meta")
    assert [steps_at_once(TrainSpec(), device) for device in (CPU, meta)] == [1, 32]
    assert steps_at_once(TrainSpec(precision="float16"), meta) == 1


def test_half_precision_halves_the_maps() -> None:
    wide = UnetSpec(depth=2, base_width=16)
    full, half = (step_bytes(TrainSpec(network=wide, precision=p), 572) for p in ("float32", "bfloat16"))
    assert half == pytest.approx(full / 2, rel=0.1)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (TrainSpec(), "had 1.50 of 2.00 GB; .* 572 x 572 px .* lower augment.input_px or network.base_width, or set "),
        (TrainSpec(network=PaddedUnetSpec(), precision="bfloat16"), "or network.features, or run fewer jobs at once$"),
    ],
)
def test_the_line_names_figures_and_keys(spec: TrainSpec, said: str) -> None:
    line = out_of_memory(spec, 572, 1_500_000_000, 2_000_000_000)
    assert len(line) <= 290
    with pytest.raises(MemoryError, match=said):
        raise MemoryError(line)


def test_memory_that_is_used_up_is_known_in_all_forms() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(OSError())
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)

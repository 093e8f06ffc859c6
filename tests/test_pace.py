"""What share of its time a training waits for patches, by a clock that the patches move."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from unetpipe import feed, pace
from unetpipe.training import fit

from .test_training import CPU, SPEC, Noise, fresh


class Clock:
    """Stands still between patches and passes."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(feed, "time", SimpleNamespace(perf_counter=made))
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=made))
    return made


@pytest.mark.parametrize(
    ("kept_bytes", "shares"), [(0, {1: 0.75, 2: 0.75, 3: 0.75}), (10**9, {1: 0.75, 2: 0.0, 3: 0.0})]
)
def test_each_epoch_has_its_share(
    kept_bytes: int,
    shares: dict[int, float],
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Three seconds for each patch that is read, one for each step: 5 patches, 12 steps; what is kept is not read."""
    monkeypatch.setattr(feed, "KEPT_BYTES", kept_bytes)

    class Slow(Noise):
        def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            clock.now += 3
            return super().read(index)

    def step(module: torch.nn.Module, inputs: object) -> None:
        clock.now += 1

    def validate(network: torch.nn.Module) -> dict[str, float]:
        clock.now += 1000
        return {"iou": 0.5}

    spec = replace(SPEC, validate_every=6, checkpoint_s=1e9)
    state = fresh(spec)
    state.network.register_forward_pre_hook(step)
    with caplog.at_level(logging.INFO, logger="unetpipe"):
        measured = fit(state, spec, Slow(), class_weights=[1, 1], validate=validate, save=lambda now: None, device=CPU)
    assert measured.shares() == shares
    read = 12 if not kept_bytes else 5
    assert measured.seconds_per_step == (12 + 3 * read) / 12
    told = [line.rpartition("; ")[2] for line in caplog.messages if line.startswith("step ")]
    assert told == ["waited in epoch 1 75 %", f"waited in epoch 2 {75 if not kept_bytes else 0} %"]


def test_several_epochs_are_told_in_one_line() -> None:
    source = SimpleNamespace(patches=[0] * 2, pixels=0, reads=0, hits=0, waited_s=0.0)
    measured = pace.Pace(source, 1, 0)  # type: ignore[arg-type]
    measured.epochs, measured.step = {1: (4.0, 1.0), 2: (4.0, 2.0), 3: (4.0, 0.0)}, 5
    assert measured.tell().endswith("waited for patches 25 %, had 0 % in memory; waited in epochs 1 to 2 25 to 50 %")
    assert measured.tell().endswith("in memory")
    assert measured.seconds_per_step == 0.0

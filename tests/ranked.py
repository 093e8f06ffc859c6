"""What the tests of several processes run in each of them."""

import copy
import json
import logging
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from unetpipe import feed
from unetpipe.checkpoints import write_weights
from unetpipe.errors import ConfigError, Interrupted
from unetpipe.ranks import any_of, count, is_first
from unetpipe.signals import asked
from unetpipe.specs import TrainSpec
from unetpipe.training import fit
from unetpipe.trainstate import TrainingState, follow_first, restore, snapshot, start

CPU = torch.device("cpu")


class Noise:
    """Seven random patches; the readings of one process from a given one on may be not a number."""

    def __init__(self, blind_from: float = np.inf, readings: int = 4) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.random((7, 1, 18, 18), dtype=np.float32)
        self.classes = rng.integers(0, 2, (7, 2, 2), dtype=np.uint8)
        self.weights = rng.random((7, 2, 2), dtype=np.float32)
        self.blind_from, self.readings, self.read_so_far = blind_from, readings, 0

    def __len__(self) -> int:
        return 7

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.read_so_far += 1
        blind = self.blind_from <= self.read_so_far < self.blind_from + self.readings
        factor = np.float32(np.nan if blind else 1)
        return self.images[index] * factor, self.classes[index], self.weights[index]


class Network(nn.Module):
    """Convolutions, dropout and batch normalisation, whose buffers are state too."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 3, 5, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(3, 2, 7)
        )
        self.pool = nn.AvgPool2d(3, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.pool(self.layers(image))[..., :2, :2]


def fresh(spec: TrainSpec) -> TrainingState:
    """The state before the first step."""
    torch.manual_seed(spec.seed)
    return start(Network(), spec, CPU)


def trained(
    spec: TrainSpec,
    *,
    stop_every: int = 0,
    stop_validations: bool = False,
    blind: Noise | None = None,
    first: bool = True,
    **keys: Any,
) -> TrainingState:
    """Train to the end; in a process that is not the first one, nothing is validated and saved."""
    torch.use_deterministic_algorithms(True)
    saved = [copy.deepcopy(snapshot(fresh(spec)))]

    calls_so_far = 0

    def validate(network: nn.Module) -> dict[str, float]:
        nonlocal calls_so_far
        calls_so_far += 1
        if stop_validations and calls_so_far % 2:
            raise Interrupted
        with torch.no_grad():
            return {"iou": float(network(torch.ones(1, 1, 18, 18)).mean())}

    def save(state: TrainingState) -> None:
        if first:
            saved.append(copy.deepcopy(snapshot(state)))

    def recall(state: TrainingState, step: int) -> None:
        restore(state, *next(s for s in reversed(saved) if s[1]["step"] == step or not first))
        follow_first(state)

    def watch(state: TrainingState, pixels: int) -> None:
        # One of two processes is asked to stop, the one that does not save.
        if stop_every and state.step % stop_every == 0 and not first:
            asked.set()

    patches = blind or Noise()
    while True:
        state = fresh(spec)
        restore(state, *saved[-1])
        follow_first(state)
        try:
            calls: dict[str, Any] = {"save": save, "recall": recall, "watch": watch}
            calls["validate"] = validate if first else None
            fit(state, spec, patches, class_weights=[0.5, 2.0], device=CPU, **calls, **keys)
            return state
        except Interrupted:
            asked.clear()


def write_runs(device: torch.device, folder: Path, cases: Mapping[str, tuple[TrainSpec, dict[str, Any]]]) -> None:
    """Train each case and write what it ends with."""
    # Each patch is read each time, so that readings can be counted.
    feed.KEPT_BYTES = 0
    for name, (spec, keys) in cases.items():
        place = folder / ("first" if is_first() else "second")
        place.mkdir(exist_ok=True)
        options = dict(keys)
        if "blind_from" in options:
            # Only the second process meets blind patches.
            start_at = options.pop("blind_from")
            options["blind"] = Noise() if is_first() else Noise(start_at)
        tensors, plain = snapshot(trained(spec, first=is_first(), **options))
        write_weights(place / f"{name}.safetensors", tensors)
        (place / f"{name}.json").write_text(json.dumps(plain), encoding="utf-8")


def raise_in_second(device: torch.device) -> None:
    """One fails while the other waits for it."""
    if not is_first():
        raise ConfigError("the second one is not well")
    any_of(False)


def kill_second(device: torch.device) -> None:
    """One is killed while the other waits for it."""
    if not is_first():
        os.kill(os.getpid(), signal.SIGKILL)
    any_of(False)


def wait_for_ever(device: torch.device, folder: Path) -> None:
    """Both wait, and say who they are."""
    (folder / str(os.getpid())).touch()
    while not any_of(False):
        time.sleep(0.05)


def speak(device: torch.device) -> None:
    """Each one has something to say."""
    me, log = f"{0 if is_first() else 1} of {count()}", logging.getLogger("unetpipe.steps.train")
    log.info("%s informs", me)
    log.warning("%s warns", me)
    if not is_first():
        log.error("%s has an error", me)

"""Whatever happens to a training, and whenever: the same weights."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import pytest
import torch
from torch import nn

from unetpipe import feed
from unetpipe.errors import Interrupted
from unetpipe.signals import asked
from unetpipe.specs import TrainSpec, UnetSpec
from unetpipe.steps.train import recall, save, take_up
from unetpipe.training import fit
from unetpipe.trainstate import TrainingState, snapshot, start

CPU = torch.device("cpu")
# Patch 4 of 5 is blind, so that steps are skipped; epochs end within steps.
PATCHES, BLIND = 5, 4
SPEC = TrainSpec(
    network=UnetSpec(depth=1, base_width=2, dropout=0.5),
    steps=22,
    accumulate=2,
    loss="cross_entropy_dice",
    optimiser="adamw",
    learning_rate=0.02,
    weight_decay=0.01,
    schedule="plateau",
    warmup_steps=3,
    clip_norm=0.4,
    average=0.8,
    validate_every=2,
    checkpoint_s=1e9,
)


class Killed(BaseException):
    """What no handler catches."""


class Noise:
    """Random patches, one of them not a number."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.random((PATCHES, 1, 18, 18), dtype=np.float32)
        self.images[BLIND] = np.nan
        self.classes = rng.integers(0, 2, (PATCHES, 2, 2), dtype=np.uint8)
        self.weights = rng.random((PATCHES, 2, 2), dtype=np.float32)

    def __len__(self) -> int:
        return PATCHES

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.images[index], self.classes[index], self.weights[index]


class Network(nn.Module):
    """Convolutions, dropout and batch normalisation, whose buffers are state too."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 3, 5), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(3, 2, 7), nn.AvgPool2d(3, 3)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image)[..., :2, :2]


def ledger(folder: Path) -> Any:
    """What saving needs of a ledger."""
    return SimpleNamespace(store=folder / "m", identity={"spec": "s"})


class Disturbed(Noise):
    """From reading 9 on, eight readings are nothing but not a number: four steps in a row of two patches each."""

    def __init__(self) -> None:
        super().__init__()
        self.read_so_far = 0

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image, classes, weights = super().read(index)
        self.read_so_far += 1
        return (image * np.float32(np.nan) if 9 <= self.read_so_far <= 16 else image), classes, weights


def trained(
    folder: Path,
    spec: TrainSpec = SPEC,
    *,
    workers: int = 0,
    watch: Callable[[TrainingState, int], None] | None = None,
    patches: Noise | None = None,
) -> TrainingState:
    """A process of its own, as far as the training can tell: it goes on from what lies in the folder, to the end."""
    torch.use_deterministic_algorithms(True)
    torch.seed()  # what an earlier process left behind must not matter
    state = start(seeded(), spec, CPU)
    take_up(state, ledger(folder))
    events: Any = SimpleNamespace(follow=lambda history: None)

    def validate(network: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return {"iou": float(network(torch.ones(1, 1, 18, 18)).mean())}

    fit(
        state,
        spec,
        patches or Noise(),
        class_weights=[0.5, 2.0],
        validate=validate,
        save=lambda now: save(now, ledger(folder), events),
        recall=lambda now, step: recall(now, step, ledger(folder), spec, CPU),
        watch=watch,
        workers=workers,
        device=CPU,
    )
    return state


def seeded() -> Network:
    """The network before training."""
    torch.manual_seed(1)
    return Network()


def everything(state: TrainingState) -> dict[str, Any]:
    """All that a training ends with, as bytes."""
    tensors, plain = snapshot(state)
    named = tensors | {f"best.{name}": value for name, value in state.best.items()}
    return plain | {name: value.detach().contiguous().numpy().tobytes() for name, value in named.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    state = trained(tmp_path_factory.mktemp("undisturbed"))
    assert state.step == SPEC.steps and state.losses < SPEC.validate_every
    assert np.isfinite([row["iou"] for row in state.history]).all()
    assert len({row["learning_rate"] for row in state.history}) > 2
    return everything(state)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("k", range(1, 21))
def test_interrupted_at_every_kth_step(k: int, workers: int, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    def interrupt(state: TrainingState, pixels: int) -> None:
        if state.step % k == 0:
            asked.set()

    processes = 1
    while True:
        try:
            state = trained(tmp_path, workers=workers, watch=interrupt)
            break
        except Interrupted:
            processes += 1
        finally:
            asked.clear()
    assert processes == 1 + SPEC.steps // k
    assert everything(state) == undisturbed


class Torn:
    """A file whose writing may end in the middle."""

    def __init__(self, file: IO[bytes], tick: Callable[[], None]) -> None:
        self.file, self.tick = file, tick
        self.fileno, self.flush = file.fileno, file.flush

    def __enter__(self) -> "Torn":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        half = len(content) // 2
        self.file.write(content[:half])
        self.file.flush()
        self.tick()
        self.file.write(content[half:])


def with_faults(monkeypatch: pytest.MonkeyPatch, tick: Callable[[], None]) -> None:
    """Call `tick` in the middle of each writing, and before and behind each fsync, rename and removal."""

    def around(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keys: Any) -> Any:
            tick()
            result = real(*arguments, **keys)
            tick()
            return result

        return call

    opened = Path.open
    monkeypatch.setattr(os, "fsync", around(os.fsync))
    monkeypatch.setattr(Path, "replace", around(Path.replace))
    monkeypatch.setattr(Path, "unlink", around(Path.unlink))
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, mode="r", **k: Torn(opened(path, mode), tick) if mode == "wb" else opened(path, mode, **k),
    )


SHORT = replace(SPEC, steps=10)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return everything(trained(tmp_path_factory.mktemp("short"), SHORT))


@pytest.mark.parametrize("fatal", range(1, 77, 2))
def test_killed_at_any_point_of_a_checkpoint(
    fatal: int, short: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = 0

    def tick() -> None:
        nonlocal passed
        passed += 1
        if passed == fatal:
            raise Killed

    reached: list[int] = []
    with monkeypatch.context() as faults:
        with_faults(faults, tick)
        with pytest.raises(Killed):
            trained(tmp_path, SHORT, watch=lambda now, pixels: reached.append(now.step))
    assert_goes_on_behind_the_last_whole_one(tmp_path, reached[-1], short)


def assert_goes_on_behind_the_last_whole_one(folder: Path, reached: int, expected: dict[str, Any]) -> None:
    """A training killed while it saved the step that it had reached: that one counts if it got its name, or the last.

    Every second step is validated and saved, and a card gets its name last.
    """
    saved = (folder / "m" / "checkpoints" / f"step-{reached:09d}.json").is_file()
    behind = reached if saved else reached - SHORT.validate_every
    first: list[int] = []
    state = trained(folder, SHORT, watch=lambda now, pixels: first.append(now.step))
    assert first[:1] == list(range(behind + 1, SHORT.steps + 1))[:1]
    assert everything(state) == expected


# In every run of the tests: tensors and card of the first checkpoint, which none lies before, and two later points.
FEW = (1, 9, 33, 75)


@pytest.mark.parametrize(
    "fatal", [pytest.param(n, marks=[] if n in FEW else [pytest.mark.slow]) for n in range(1, 77, 2)]
)
def test_killed_by_the_kernel_at_any_point_of_a_checkpoint(fatal: int, short: dict[str, Any], tmp_path: Path) -> None:
    """As above, with a process of its own and no chance to tidy up."""
    code = f"from {__name__} import be_killed; be_killed({fatal}, {str(tmp_path)!r})"
    ended = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert_goes_on_behind_the_last_whole_one(tmp_path, int((tmp_path / "reached").read_text()), short)


def be_killed(fatal: int, folder: str) -> None:
    """A training whose process is killed at a tick."""
    passed = 0

    def tick() -> None:
        nonlocal passed
        passed += 1
        if passed == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    reached = os.open(Path(folder, "reached"), os.O_WRONLY | os.O_CREAT)
    with_faults(pytest.MonkeyPatch(), tick)
    trained(Path(folder), SHORT, watch=lambda now, pixels: os.pwrite(reached, b"%9d" % now.step, 0))


@pytest.mark.parametrize("harm", ["flip", "truncate", "empty", "delete", "card", "card digit"])
def test_a_damaged_checkpoint_costs_one_interval(
    harm: str, short: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def stop(state: TrainingState, pixels: int) -> None:
        if state.step == 7:
            asked.set()

    try:
        with pytest.raises(Interrupted):
            trained(tmp_path, SHORT, watch=stop)
    finally:
        asked.clear()
    tensors = tmp_path / "m" / "checkpoints" / "step-000000007.safetensors"
    card, content = tensors.with_suffix(".json"), tensors.read_bytes()
    if harm == "flip":
        tensors.write_bytes(content[:-9] + bytes([content[-9] ^ 16]) + content[-8:])
    elif harm in ("truncate", "empty"):
        tensors.write_bytes(content[: len(content) // 2 if harm == "truncate" else 0])
    elif harm == "delete":
        tensors.unlink()
    else:
        text = card.read_text()
        card.write_text(text[:99] if harm == "card" else text.replace('"step": 7', '"step": 9'))
    first: list[int] = []
    caplog.clear()
    state = trained(tmp_path, SHORT, watch=lambda now, pixels: first.append(now.step))
    assert first[0] == 7, "goes on behind step 6"
    assert len([r for r in caplog.records if "falling back" in r.getMessage()]) == 1
    assert everything(state) == short


def test_a_training_that_went_back_is_resumed_behind_its_fall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "KEPT_BYTES", 0)

    def kill(state: TrainingState, pixels: int) -> None:
        if state.retreats and state.step == last:
            raise Killed

    spec = replace(SHORT, checkpoint_s=1e-9)
    last = 0
    whole = trained(tmp_path / "whole", spec, patches=Disturbed(), watch=kill)
    assert whole.retreats == 1 and whole.step == spec.steps
    for last in range(7, 11):
        with pytest.raises(Killed):
            trained(tmp_path / str(last), spec, patches=Disturbed(), watch=kill)
        assert everything(trained(tmp_path / str(last), spec)) == everything(whole)

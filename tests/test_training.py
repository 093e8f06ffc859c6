"""The training loop is a function of seed, data and spec, wherever it is interrupted."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch

from unetpipe.errors import Interrupted, ModelError
from unetpipe.networks import build_network
from unetpipe.signals import asked
from unetpipe.specs import TrainSpec, UnetSpec
from unetpipe.training import TrainingState, fit, patch_index, start

CPU = torch.device("cpu")
NETWORK = UnetSpec(depth=1, base_width=2)
SPEC = TrainSpec(network=NETWORK, steps=12, validate_every=5, learning_rate=0.01, momentum=0.9)


class Noise:
    """Five random patches."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.random((5, 1, 22, 22), dtype=np.float32)
        self.classes = rng.integers(0, 2, (5, 8, 8), dtype=np.uint8)
        self.weights = rng.random((5, 8, 8), dtype=np.float32)

    def __len__(self) -> int:
        return 5

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.images[index], self.classes[index], self.weights[index]


def trained(state: TrainingState, saved: list[TrainingState], spec: TrainSpec = SPEC) -> TrainingState:
    """Train on noise; every saved state goes onto the list."""
    torch.use_deterministic_algorithms(True)

    def validate(network: torch.nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return {"iou": float(network(torch.ones(1, 1, 22, 22)).mean())}

    fit(
        state,
        spec,
        Noise(),
        class_weights=[0.5, 2.0],
        validate=validate,
        save=lambda now: saved.append(copy.deepcopy(now)),
        device=CPU,
    )
    return state


def fresh(spec: TrainSpec = SPEC) -> TrainingState:
    """The state before the first step."""
    return start(build_network(spec.network, seed=spec.seed), spec, CPU)


def parameters(state: TrainingState) -> bytes:
    """All parameters as bytes."""
    return b"".join(p.detach().contiguous().numpy().tobytes() for p in state.network.parameters())


def test_going_on_from_any_step_gives_the_same_bits() -> None:
    every_step = TrainSpec(**{**{f: getattr(SPEC, f) for f in SPEC.__slots__}, "checkpoint_s": 1e-9})
    saved: list[TrainingState] = []
    whole = trained(fresh(every_step), saved, every_step)
    assert [s.step for s in saved] == list(range(1, 13))
    for state in saved:
        torch.manual_seed(999)
        resumed = trained(copy.deepcopy(state), [], every_step)
        assert parameters(resumed) == parameters(whole)
        assert resumed.history == whole.history
        assert all(torch.equal(resumed.best[k], whole.best[k]) for k in whole.best)


def test_history_has_a_row_per_validation() -> None:
    state = trained(fresh(), [])
    assert [row["step"] for row in state.history] == [5, 10, 12]
    assert all(np.isfinite(list(row.values())).all() for row in state.history)


def test_best_parameters_are_those_of_the_best_validation() -> None:
    saved: list[TrainingState] = []
    state = trained(fresh(), saved)
    best = max(range(3), key=lambda i: (state.history[i]["iou"], -i))
    assert all(torch.equal(state.best[k], v) for k, v in saved[best].network.state_dict().items())


def test_an_epoch_sees_every_patch_once_and_epochs_differ() -> None:
    epochs = [tuple(patch_index(3, step, 7) for step in range(7 * e, 7 * e + 7)) for e in range(6)]
    assert all(Counter(e) == Counter(range(7)) for e in epochs)
    assert len(set(epochs)) > 1


def test_a_request_to_stop_is_heard_behind_a_step_and_saved() -> None:
    saved: list[TrainingState] = []
    asked.set()
    try:
        with pytest.raises(Interrupted):
            trained(fresh(), saved)
    finally:
        asked.clear()
    assert [s.step for s in saved] == [1]


def test_a_loss_that_is_not_finite_is_one_line_and_changes_nothing() -> None:
    wild = TrainSpec(network=NETWORK, steps=50, validate_every=50, learning_rate=1e9, momentum=0.9)
    with pytest.raises(ModelError, match="loss is"):
        trained(fresh(wild), [], wild)


def test_it_learns() -> None:
    """A bright square is found from 60 steps."""

    class Squares(Noise):
        def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            image = np.zeros((1, 22, 22), np.float32)
            y, x = 7 + index % 3, 8 + index // 3
            image[:, y : y + 5, x : x + 4] = 1
            return image, (image[0, 7:15, 7:15] > 0).astype(np.uint8), np.zeros((8, 8), np.float32)

    spec = TrainSpec(
        network=UnetSpec(depth=1, base_width=4, dropout=0.0),
        steps=150,
        validate_every=10,
        learning_rate=0.02,
        momentum=0.9,
    )
    state = fresh(spec)
    fit(state, spec, Squares(), class_weights=[1.0, 1.0], validate=None, save=lambda s: None, device=CPU)
    assert state.history[-1]["loss"] < 0.2 * state.history[0]["loss"]

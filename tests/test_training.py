"""The training loop is a function of seed, data and spec, wherever it is interrupted."""

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from unetpipe import feed
from unetpipe.errors import Interrupted, ModelError
from unetpipe.feed import Feed, patch_index
from unetpipe.losses import loss, pixel_weights
from unetpipe.networks import build_network
from unetpipe.signals import asked
from unetpipe.specs import TrainSpec, UnetSpec
from unetpipe.training import advance, clipped_norm, fit, gradient
from unetpipe.trainstate import TrainingState, restore, snapshot, start

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


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each patch is read each time, so that readings can be counted."""
    monkeypatch.setattr(feed, "KEPT_BYTES", 0)


class Faulty(Noise):
    """Patches of which some readings, counted from 0, come multiplied."""

    def __init__(self, readings: range, factor: float = np.nan) -> None:
        super().__init__()
        self.readings, self.factor, self.read_so_far = readings, np.float32(factor), 0

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image, classes, weights = super().read(index)
        self.read_so_far += 1
        return (image * self.factor if self.read_so_far - 1 in self.readings else image), classes, weights


def activity(network: torch.nn.Module) -> dict[str, float]:
    """Some number that only the parameters decide."""
    with torch.no_grad():
        return {"iou": float(network(torch.ones(1, 1, 22, 22)).mean())}


def trained(
    state: TrainingState, saved: list[TrainingState], spec: TrainSpec = SPEC, patches: Noise | None = None, **keys: Any
) -> TrainingState:
    """Train on noise; every saved state goes onto the list."""
    torch.use_deterministic_algorithms(True)
    call: dict[str, Any] = {"validate": activity, "save": lambda now: saved.append(copy.deepcopy(now))} | keys
    fit(state, spec, patches or Noise(), class_weights=[0.5, 2.0], device=CPU, **call)
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
    assert [s.step for s in saved] == sorted([*range(1, 13), 5, 10, 12]), "before and behind each validation"
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


def test_a_request_to_stop_is_heard_behind_a_step_and_saved() -> None:
    saved: list[TrainingState] = []
    asked.set()
    try:
        with pytest.raises(Interrupted):
            trained(fresh(), saved)
    finally:
        asked.clear()
    assert [s.step for s in saved] == [1]


@pytest.mark.parametrize("at_once", [False, True])
def test_a_request_to_stop_is_heard_before_and_in_a_validation(at_once: bool) -> None:
    """Nothing is validated twice, nor left out, and the bits are those of a training that nobody stopped."""
    saved: list[TrainingState] = []
    validated: list[int] = []

    def interrupt(state: TrainingState, pixels: int) -> None:
        if at_once and state.step in (5, 12):
            asked.set()

    def validate(network: torch.nn.Module) -> dict[str, float]:
        validated.append(saved[-1].step if saved else 0)
        if not at_once and len(validated) % 2:
            raise Interrupted
        return activity(network)

    stops, whole = 0, trained(fresh(), [])
    while True:
        try:
            state = trained(copy.deepcopy(saved[-1]) if saved else fresh(), saved, validate=validate, watch=interrupt)
            break
        except Interrupted:
            stops += 1
            assert [row["step"] for row in saved[-1].history] == [step for step in (5, 10) if step < saved[-1].step]
        finally:
            asked.clear()
    assert (stops, len(validated)) == ((2, 3) if at_once else (3, 6))
    assert parameters(state) == parameters(whole)
    assert state.history == whole.history
    assert all(torch.equal(state.best[name], whole.best[name]) for name in whole.best)


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


# Every part of the engine at work at once.
ALL = replace(
    SPEC,
    steps=14,
    accumulate=2,
    optimiser="adamw",
    weight_decay=0.01,
    schedule="cosine",
    warmup_steps=3,
    clip_norm=0.5,
    average=0.9,
    loss="cross_entropy_dice",
)


@pytest.mark.parametrize(
    "spec",
    [
        ALL,
        replace(ALL, optimiser="rmsprop", schedule="plateau", validate_every=1),
        replace(ALL, precision="bfloat16", loss="focal"),
    ],
)
@pytest.mark.parametrize("keys", [{"workers": 1}, {"workers": 2, "look_every": 3}, {"look_every": 32}])
def test_neither_threads_nor_looks_change_a_bit(spec: TrainSpec, keys: dict[str, Any]) -> None:
    one, other = trained(fresh(spec), [], spec), trained(fresh(spec), [], spec, **keys)
    assert parameters(one) == parameters(other)
    assert one.history == other.history
    assert all(torch.equal(one.best[name], other.best[name]) for name in one.best)


@pytest.mark.parametrize("kind", ["cross_entropy", "dice", "focal"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_accumulated_gradients_are_those_of_a_batch(kind: Any, reduction: Any) -> None:
    network = replace(NETWORK, dropout=0.0)
    spec = replace(SPEC, network=network, accumulate=4, loss=kind, reduction=reduction)
    balance, patches = torch.tensor([0.5, 2.0]), Noise()
    one, other = fresh(spec), fresh(spec)
    with Feed(patches, seed=spec.seed, draws=8, workers=0, device=CPU) as source:
        one.step = 1
        found = gradient(one, spec, source, balance)
    batch = [patches.read(patch_index(spec.seed, draw, 5)) for draw in range(4, 8)]
    images, classes, separation = (torch.from_numpy(np.stack(part)) for part in zip(*batch, strict=True))
    weights = pixel_weights(classes, separation, balance)
    logits = other.network.train()(images)
    expected = loss(logits, classes[:, 1:7, 1:7], weights[:, 1:7, 1:7], kind=kind, reduction=reduction)
    expected.backward()
    torch.testing.assert_close(found[0], expected.detach(), rtol=1e-6, atol=1e-6)
    for p, q in zip(one.network.parameters(), other.network.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-6 * float(q.grad.abs().max()))


def test_clipping_shortens_long_gradients_only() -> None:
    network = torch.nn.Linear(2, 1)

    def clipped(longest: float) -> tuple[float, list[float]]:
        network.weight.grad, network.bias.grad = torch.tensor([[2.0, 3.0]]), torch.tensor([6.0])
        norm = clipped_norm(network, longest).item()
        return norm, [*network.weight.grad[0].tolist(), *network.bias.grad.tolist()]

    assert clipped(0.0) == (7.0, [2.0, 3.0, 6.0])
    assert clipped(8.0) == (7.0, [2.0, 3.0, 6.0])
    assert clipped(0.7)[1] == pytest.approx([0.2, 0.3, 0.6], rel=1e-5)


def test_what_is_validated_and_kept_is_the_average() -> None:
    judged: list[list[torch.Tensor]] = []

    def validate(network: torch.nn.Module) -> dict[str, float]:
        assert not network.training
        judged.append([p.detach().clone() for p in network.parameters()])
        return {"iou": float(len(judged))}

    state = trained(fresh(ALL), [], ALL, validate=validate)
    assert all(torch.equal(p, q) for p, q in zip(judged[-1], state.best.values(), strict=True))
    assert parameters(state) != b"".join(p.numpy().tobytes() for p in judged[-1])


@pytest.mark.parametrize(("best_by", "kept"), [("iou", 2), ("validation_loss", 4)])
def test_patience_ends_the_training_and_the_best_is_kept(best_by: Any, kept: int) -> None:
    rows = iter([(0.1, 5.0), (0.3, 4.0), (0.2, 4.0), (0.2, 3.0), (0.2, 9.0), (0.2, 8.0), (0.9, 0.1)])
    seen: list[bytes] = []

    def validate(network: torch.nn.Module) -> dict[str, float]:
        seen.append(b"".join(p.detach().numpy().tobytes() for p in network.parameters()))
        return dict(zip(("iou", "validation_loss"), next(rows), strict=True))

    spec = replace(SPEC, validate_every=1, patience=2, best_by=best_by)
    state = trained(fresh(spec), [], spec, validate=validate)
    assert len(state.history) == kept + 2
    assert b"".join(p.numpy().tobytes() for p in state.best.values()) == seen[kept - 1]
    assert trained(state, [], spec, validate=validate).step == kept + 2


def normed(spec: TrainSpec) -> TrainingState:
    """A state whose network has buffers."""
    torch.manual_seed(3)
    layers = [torch.nn.Conv2d(1, 3, 3, stride=2), torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 2, 3)]
    return start(torch.nn.Sequential(*layers), spec, CPU)


@pytest.mark.parametrize("factor", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing(factor: float) -> None:
    spec = replace(SPEC, optimiser="adam")
    state, balance = normed(spec), torch.ones(2)
    with Feed(Faulty(range(2, 3), factor), seed=1, draws=12, workers=0, device=CPU) as source:
        advance(state, spec, source, balance, until=2)
        tensors, plain = copy.deepcopy(snapshot(state))
        advance(state, spec, source, balance, until=3)
        after, plain_after = snapshot(state)
        assert plain_after == plain | {"step": 3, "skipped": 1}
        assert all(torch.equal(after[name], tensors[name]) for name in tensors)
        advance(state, spec, source, balance, until=4)
    assert (state.skipped, state.losses) == (0, 3)
    assert all(torch.isfinite(value).all() for value in snapshot(state)[0].values())


def test_spikes_are_skipped_once_the_scale_is_known() -> None:
    """Patch 3 is a million times too bright from its fifth reading on: the training neither stops nor goes astray."""

    class Spiky(Noise):
        reads = 0

        def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            image, classes, weights = super().read(index)
            self.reads += 1
            return image * np.float32(1e6 if index == 3 and self.reads > 20 else 1), classes, weights

    spec = replace(SPEC, steps=60, validate_every=20)
    state = trained(fresh(spec), [], spec, Spiky(), look_every=1)
    assert all(0 < row["loss"] < 3 for row in state.history)


@pytest.mark.parametrize("look_every", [2, 7, 32])
def test_rare_looks_skip_the_same_steps(look_every: int) -> None:
    class Blind(Noise):
        def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            image, classes, weights = super().read(index)
            return (np.full_like(image, np.nan) if index == 3 else image), classes, weights

    spec = replace(ALL, accumulate=1, steps=20)
    one, other = (trained(fresh(spec), [], spec, Blind(), look_every=n) for n in (1, look_every))
    assert parameters(one) == parameters(other)
    assert one.history == other.history


def recalling(spec: TrainSpec, saved: list[TrainingState], steps: list[int]) -> Callable[[TrainingState, int], None]:
    """Puts back the saved state of a step and notes the step."""

    def recall(state: TrainingState, step: int) -> None:
        steps.append(step)
        found = [past for past in saved if past.step == step]
        before = copy.deepcopy(found[-1]) if found else fresh(spec)
        restore(state, *snapshot(before))
        state.best = before.best

    return recall


@pytest.mark.parametrize(("first_fault", "back_to"), [(2, 0), (7, 5)])
def test_more_than_three_in_a_row_go_back_once(
    first_fault: int, back_to: int, caplog: pytest.LogCaptureFixture
) -> None:
    saved: list[TrainingState] = []
    steps: list[int] = []
    faulty = Faulty(range(first_fault, first_fault + 4))
    state = trained(fresh(), saved, SPEC, faulty, recall=recalling(SPEC, saved, steps))
    assert steps == [back_to]
    assert state.step == 12 and state.retreats == 1
    assert "going back" in caplog.text and "\n" not in caplog.messages[0]
    # Validations before the fall keep their rate, those behind it have half of what the schedule says.
    plain = trained(fresh(), [])
    expected = [row["learning_rate"] * (0.5 if row["step"] > back_to else 1) for row in plain.history]
    assert [row["learning_rate"] for row in state.history] == expected
    # Whoever is interrupted behind the fall goes on in the same way.
    behind = next(past for past in saved if past.retreats)
    assert behind.step == back_to
    assert parameters(trained(copy.deepcopy(behind), [])) == parameters(state)


def test_the_second_time_it_ends_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    saved: list[TrainingState] = []
    steps: list[int] = []
    with pytest.raises(ModelError, match="4 steps in a row up to step 9") as caught:
        trained(fresh(), saved, SPEC, Faulty(range(6, 1000)), recall=recalling(SPEC, saved, steps))
    assert steps == [5]
    assert len(caplog.records) == 1
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 300


def test_a_scaled_loss_gives_the_same_training_once_its_scale_fits() -> None:
    """Powers of two scale without rounding, as long as nothing over- or underflows."""
    spec = replace(SPEC, momentum=0.5, reduction="sum", learning_rate=1e-4)
    plain, scaled, mad = fresh(spec), fresh(spec), fresh(spec)
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    mad.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    for state in (plain, scaled, mad):
        trained(state, [], spec)
    assert parameters(scaled) == parameters(plain)
    assert mad.retreats == 0 and mad.scaler.get_scale() < 2.0**127
    saved: list[TrainingState] = []
    again = fresh(spec)
    again.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    trained(again, saved, replace(spec, checkpoint_s=1e-9))
    third = saved[2]
    assert parameters(trained(third, [], spec)) == parameters(mad)


def test_bfloat16_learns_what_float32_learns() -> None:
    network = replace(NETWORK, dropout=0.0)
    losses = []
    for precision in ("float32", "bfloat16"):
        spec = replace(SPEC, network=network, steps=30, validate_every=30, precision=precision)
        losses.append(trained(fresh(spec), [], spec).history[-1]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]


def test_the_log_tells_speed_and_waiting_and_the_history_does_not(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        state = trained(fresh(), [])
    assert all("pixels/s" in message and "waited for patches" in message for message in caplog.messages)
    assert all(set(row) == {"step", "learning_rate", "loss", "iou"} for row in state.history)

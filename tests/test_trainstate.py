"""Optimisers, averages, guard and snapshots against numbers worked by hand."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unetpipe.errors import ConfigError
from unetpipe.specs import TrainSpec, UnetSpec
from unetpipe.trainstate import TrainingState, follow_average, judge, logit_deviation, restore, snapshot, start

CPU = torch.device("cpu")
OPTIMISERS = ["sgd", "adam", "adamw", "rmsprop"]


class Scalar(nn.Module):
    """One parameter, 1 at first."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1, 1, 1, 1))


def normed() -> nn.Sequential:
    """A network with batch normalisation: three buffers, one of them a counter."""
    return nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))


def begun(network: nn.Module | None = None, **keys: Any) -> TrainingState:
    """The state before the first step."""
    spec = TrainSpec(network=UnetSpec(depth=1, base_width=2), **keys)
    return start(network if network is not None else Scalar(), spec, CPU)


def walked(gradients: list[float], **keys: Any) -> list[float]:
    """The parameter behind each of some given gradients."""
    state = begun(**keys)
    (w,) = state.network.parameters()
    found = []
    for gradient in gradients:
        w.grad = torch.full_like(w, gradient)
        state.optimiser.step()
        found.append(w.item())
    return found


def test_sgd_by_hand() -> None:
    assert walked([1, 1, 0], learning_rate=0.1, momentum=0.5) == pytest.approx([0.9, 0.75, 0.675])
    # 1 - 0.1 (0 + 0.5 * 1)
    assert walked([0], learning_rate=0.1, momentum=0.0, weight_decay=0.5) == pytest.approx([0.95])


def test_adam_by_hand() -> None:
    """Corrected for the start, equal gradients of any size make steps of the learning rate."""
    assert walked([3, 3], optimiser="adam", learning_rate=0.1) == pytest.approx([0.9, 0.8])
    # gradient 2 then 0: m = 0.9 * 0.2 / 0.19, v = 0.999 * 0.004 / 0.001999
    second = 0.9 - 0.1 * (0.18 / 0.19) / math.sqrt(0.003996 / 0.001999)
    assert walked([2, 0], optimiser="adam", learning_rate=0.1) == pytest.approx([0.9, second])


def test_weight_decay_goes_through_the_gradient_of_adam_and_beside_that_of_adamw() -> None:
    keys: dict[str, Any] = {"learning_rate": 0.1, "weight_decay": 0.5}
    assert walked([0], optimiser="adam", **keys) == pytest.approx([0.9])
    assert walked([0], optimiser="adamw", **keys) == pytest.approx([1 - 0.1 * 0.5])


def test_rmsprop_by_hand() -> None:
    """v = 0.01 g^2, so the first step is ten times the learning rate; momentum 0.5 adds half the step before."""
    second = 0.5 * 10 + 1 / math.sqrt(0.0199)
    found = walked([3, 3], optimiser="rmsprop", learning_rate=0.01, momentum=0.5)
    assert found == pytest.approx([0.9, 0.9 - 0.01 * second])


def test_the_average_is_its_closed_form() -> None:
    torch.manual_seed(0)
    state, decay, n = begun(normed(), average=0.8), 0.8, 7
    seen: list[dict[str, Tensor]] = []
    for step in range(1, n + 1):
        with torch.no_grad():
            for value in [*state.network.parameters(), *state.network.buffers()]:
                value.copy_(torch.full_like(value, step) if value.dtype == torch.int64 else torch.randn_like(value))
        state.step = step
        follow_average(state, decay)
        seen.append({name: value.clone() for name, value in state.network.state_dict().items()})
    shares = torch.tensor([decay ** (n - k) for k in range(1, n + 1)], dtype=torch.float64)
    assert state.average is not None
    for name, mean in state.average.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert mean.item() == n
            continue
        stack = torch.stack([values[name].double() for values in seen])
        expected = (stack * (shares / shares.sum()).reshape(-1, *[1] * mean.dim())).sum(0)
        torch.testing.assert_close(mean.double(), expected, atol=1e-6, rtol=1e-6)
    assert state.judged is state.average


def test_without_a_decay_there_is_no_average() -> None:
    state = begun(normed())
    follow_average(state, 0.0)
    assert state.average is None
    assert state.judged is state.network


@pytest.mark.parametrize(
    ("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf), (1.0, 1001.0)]
)
def test_an_unusable_step_is_counted_and_leaves_no_trace(loss: float, norm: float) -> None:
    state = begun()
    state.norms, state.loss_sum, state.losses = [1.0] * 40, 5.0, 5
    assert not judge(state, loss, norm)
    assert (state.skipped, state.norms, state.loss_sum, state.losses) == (1, [1.0] * 40, 5.0, 5)
    assert judge(state, 2.0, 9.0)
    assert (state.skipped, state.norms[-1], state.loss_sum, state.losses) == (0, 9.0, 7.0, 6)


@pytest.mark.parametrize(
    ("before", "norm", "usable"),
    [
        ([1.0] * 15, 1e9, True),  # too few to tell
        ([1.0] * 16, 100.0, True),
        ([1.0] * 16, 100.1, False),
        ([1e-6] * 60 + [1.0] * 4, 10.0, True),  # most patches are empty, this one is not
        ([1e-6] * 60 + [1.0] * 4, 10.1, False),
        ([1e-6] * 64, 1e-3, False),
    ],
)
def test_an_outlier_is_far_above_the_median_and_the_longest(before: list[float], norm: float, usable: bool) -> None:
    state = begun()
    state.norms = before
    assert judge(state, 1.0, norm) is usable


def test_the_spread_is_that_of_the_widest_channel() -> None:
    half = torch.stack([torch.zeros(4, 4), torch.eye(4)])[None]
    # A quarter ones: the variance is 1/4 * 3/4.
    assert logit_deviation(half).item() == pytest.approx(math.sqrt(3 / 16))
    assert logit_deviation(torch.tensor([0.5, -0.5])[None, :, None, None].expand(1, 2, 4, 4)) == 0
    assert logit_deviation(torch.zeros(1, 1, 1, 1)) == 0
    assert logit_deviation(torch.eye(4, dtype=torch.bfloat16)[None, None]).dtype == torch.float32


def test_flat_logits_are_counted_in_a_row_of_usable_steps() -> None:
    state = begun()
    counts = []
    for loss, deviation in [(1, 1e-7), (1, 0.0), (math.nan, 1e-7), (math.nan, 1.0), (1, 9e-7), (1, 1.1e-6), (1, 0.0)]:
        judge(state, loss, 1.0, deviation)
        counts.append(state.flat)
    assert counts == [1, 2, 2, 2, 3, 0, 1]


def test_the_window_forgets_and_holds_no_zeros() -> None:
    state = begun()
    for number in range(100):
        judge(state, 1.0, float(1 + number % 2))
        judge(state, 0.0, 0.0)
    assert len(state.norms) == 64
    assert min(state.norms) == 1.0
    assert state.losses == 200


def test_a_scaled_loss_that_overflows_is_not_held_against_the_training() -> None:
    state = begun()
    state.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    assert not judge(state, 1.0, math.inf) and state.skipped == 0
    assert not judge(state, math.nan, math.inf) and state.skipped == 1
    state.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    assert not judge(state, 1.0, math.inf) and state.skipped == 2


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_snapshot_is_the_whole_state(optimiser: str) -> None:
    """What goes on from a snapshot takes the same steps."""

    def stepped(state: TrainingState, steps: int) -> None:
        for _ in range(steps):
            torch.manual_seed(state.step)
            state.optimiser.zero_grad()
            state.network(torch.randn(1, 1, 6, 6)).square().sum().backward()
            state.optimiser.step()
            state.step += 1
            follow_average(state, 0.9)

    torch.manual_seed(1)
    keys: dict[str, Any] = {"optimiser": optimiser, "average": 0.9, "weight_decay": 0.01, "momentum": 0.9}
    state = begun(normed(), **keys)
    stepped(state, 3)
    state.norms, state.history, state.skipped = [1.0, 2.0], [{"step": 3, "iou": 0.5}], 2
    tensors, plain = copy.deepcopy(snapshot(state))
    other = begun(normed(), **keys)
    restore(other, tensors, plain)
    for one in (state, other):
        stepped(one, 4)
    (left, left_plain), (right, right_plain) = snapshot(state), snapshot(other)
    assert left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)
    assert left_plain == right_plain
    assert right_plain["skipped"] == 2


def test_a_snapshot_taken_out_twice_is_the_same_both_times() -> None:
    state = begun(normed(), optimiser="adam")
    state.network(torch.ones(1, 1, 6, 6)).sum().backward()
    state.optimiser.step()
    kept = copy.deepcopy(snapshot(state))
    for _ in range(2):
        restore(state, *kept)
        assert all(torch.equal(value, kept[0][name]) for name, value in snapshot(state)[0].items())
        state.optimiser.step()


@pytest.mark.parametrize("precision", ["float16", "tensorfloat32"])
def test_what_needs_a_gpu_is_refused_without_one(precision: str) -> None:
    with pytest.raises(ConfigError, match=f"train.precision: {precision} needs a GPU"):
        begun(precision=precision)

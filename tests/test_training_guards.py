"""What ends a training, what it falls back to, and how it is judged."""

from dataclasses import replace

import pytest
import torch

from unetpipe.devices import set_tensorfloat32
from unetpipe.errors import ModelError
from unetpipe.netspecs import KerasUnetSpec
from unetpipe.training import scored
from unetpipe.trainstate import TrainingState, start

from .test_training import CPU, SPEC, fresh, parameters, trained

DEAD_STEPS = 100


class Constant(torch.nn.Module):
    """Logits that are the same everywhere but in some steps."""

    def __init__(self, alive: range) -> None:
        super().__init__()
        self.bias, self.alive, self.calls = torch.nn.Parameter(torch.zeros(1, 2, 1, 1)), alive, 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        grain = 1e-5 if self.calls - 1 in self.alive else 0.0
        return self.bias + grain * torch.eye(6)


@pytest.mark.parametrize("look_every", [1, 7])
def test_a_dead_head_ends_the_training_in_one_line(look_every: int) -> None:
    spec = replace(SPEC, steps=500, validate_every=500, network=KerasUnetSpec(depth=1, base_width=2))
    state = start(Constant(range(30, 31)), spec, CPU)
    with pytest.raises(ModelError, match=r"the head is dead .*; set network.head_relu: false, or") as caught:
        trained(state, [], spec, look_every=look_every)
    assert state.flat == DEAD_STEPS and 131 <= state.step < 131 + look_every
    assert len(str(caught.value)) <= 300


def test_the_count_of_flat_steps_is_resumed() -> None:
    spec = replace(SPEC, steps=500, validate_every=60)
    saved: list[TrainingState] = []
    with pytest.raises(ModelError, match=r"by step 100: .* another seed or a lower learning_rate"):
        trained(start(Constant(range(0)), spec, CPU), saved, spec, validate=None)
    assert saved[-1].step == saved[-1].flat == 60
    with pytest.raises(ModelError, match="by step 100"):
        trained(saved[-1], [], spec, validate=None)


@pytest.mark.parametrize("look_every", [1, 7, 32, 70])
def test_whoever_looks_when_the_dead_are_the_same(look_every: int) -> None:
    """A hundred flat steps between two looks count, ninety-nine do not."""
    spec = replace(SPEC, steps=240, validate_every=240)
    with pytest.raises(ModelError, match="in 100 steps in a row"):
        trained(start(Constant(range(100, 240)), spec, CPU), [], spec, validate=None, look_every=look_every)
    lively = start(Constant(range(99, 240)), spec, CPU)
    assert trained(lively, [], spec, validate=None, look_every=look_every).step == 240


def test_what_is_seldom_flat_goes_on() -> None:
    spec = replace(SPEC, steps=150, validate_every=150)
    assert trained(start(Constant(range(60, 61)), spec, CPU), [], spec, validate=None).step == 150


def test_validation_computes_as_prediction_does(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed: list[bool] = []

    def validate(network: torch.nn.Module) -> dict[str, float]:
        allowed.append(torch.backends.cudnn.allow_tf32)
        return {"iou": 0.0}

    state = fresh()
    set_tensorfloat32(True)
    scored(state, replace(SPEC, precision="tensorfloat32"), validate)
    after = torch.backends.cudnn.allow_tf32
    set_tensorfloat32(False)
    assert (allowed, after) == ([False], True)


class Uncompilable(torch.nn.Module):
    """What torch.compile may give: a form that fails when it is first asked."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("\nNo working C++ compiler found\nin many places")


def test_without_a_compiler_training_goes_on_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, **keys: Uncompilable())
    spec = replace(SPEC, compile=True)
    assert parameters(trained(fresh(spec), [], spec)) == parameters(trained(fresh(), []))
    assert [m for m in caplog.messages if m.startswith("compile")] == [
        "compile: going on without: RuntimeError: No working C++ compiler found"
    ]

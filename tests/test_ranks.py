"""Several processes train as one does that takes the same patches one behind the other."""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from unetpipe import ranks
from unetpipe.checkpoints import read_weights
from unetpipe.processes import together
from unetpipe.ranks import add_up, any_of, count, from_first, is_first, is_own
from unetpipe.sources.files import sha256_of_file
from unetpipe.specs import TrainSpec, UnetSpec

CPU = torch.device("cpu")
SPEC = TrainSpec(
    network=UnetSpec(depth=1, base_width=2),
    steps=12,
    accumulate=2,
    learning_rate=0.05,
    momentum=0.9,
    validate_every=4,
    checkpoint_s=1e9,
)
ALL = replace(
    SPEC,
    accumulate=4,
    optimiser="adamw",
    weight_decay=0.01,
    learning_rate=0.01,
    schedule="plateau",
    warmup_steps=3,
    clip_norm=0.5,
    average=0.9,
    validate_every=1,
    loss="cross_entropy_dice",
)
# Training of two processes, and what is told to it.
CASES: dict[str, tuple[TrainSpec, dict[str, Any]]] = {
    "plain": (SPEC, {}),
    "sum": (replace(SPEC, accumulate=6, reduction="sum", learning_rate=0.001), {}),
    "all": (ALL, {}),
    "read ahead": (ALL, {"workers": 2}),
    "rare looks": (ALL, {"look_every": 5, "workers": 1}),
    "stopped": (ALL, {"stop_every": 1}),
    "stopped between looks": (ALL, {"stop_every": 2, "look_every": 5}),
    "stopped in validations": (ALL, {"stop_validations": True}),
    "blind": (SPEC, {"blind_from": 6}),
}


@pytest.fixture(scope="module")
def ranked() -> Any:
    """The module of what the processes do, found by its name in all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        yield importlib.import_module("ranked")


@pytest.fixture(scope="module")
def runs(ranked: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases, trained by two processes."""
    folder = tmp_path_factory.mktemp("runs")
    together(ranked.write_runs, [CPU, CPU], folder, CASES)
    return folder


def read(runs: Path, who: str, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What a process ended with."""
    path = runs / who / f"{name}.safetensors"
    return read_weights(path, digest=sha256_of_file(path)), json.loads(path.with_suffix(".json").read_text())


@pytest.mark.parametrize("name", ["plain", "sum", "all"])
def test_two_processes_train_as_one(name: str, runs: Path, ranked: Any) -> None:
    """Parameters, momenta, averages and batch statistics differ by rounding only."""
    tensors, plain = read(runs, "first", name)
    state = ranked.trained(CASES[name][0])
    expected, expected_plain = ranked.snapshot(state)
    assert tensors.keys() == expected.keys()
    for key, value in expected.items():
        # Absolutely for parameters, which are below 1. Momenta add up a hundred gradients with their rounding errors,
        # and those of summed losses are as long as these are large.
        off = (tensors[key].double() - value.double()).abs().max()
        tolerance = 1e-5 if key.startswith("optimiser.") else 1e-6
        assert off <= tolerance * max(1.0, float(value.abs().max())), key
    assert len(plain["history"]) == len(expected_plain["history"])
    for row, wanted in zip(plain["history"], expected_plain["history"], strict=True):
        assert row == pytest.approx(wanted, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_all_processes_have_the_same_bits(name: str, runs: Path) -> None:
    (one, one_plain), (other, other_plain) = (read(runs, who, name) for who in ("first", "second"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert one_plain == other_plain
    assert one_plain["step"] == 12


@pytest.mark.parametrize(
    "name", ["read ahead", "rare looks", "stopped", "stopped between looks", "stopped in validations"]
)
def test_neither_threads_nor_looks_nor_interruptions_change_a_bit(name: str, runs: Path) -> None:
    (one, one_plain), (other, other_plain) = (read(runs, "first", one) for one in ("all", name))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert one_plain == other_plain


def test_what_one_process_cannot_use_none_uses(runs: Path) -> None:
    """The second one meets four bad patches in a row, steps 5 to 8: both go back to step 4."""
    _, plain = read(runs, "second", "blind")
    assert plain["retreats"] == 1
    assert [row["step"] for row in plain["history"]] == [4, 8, 12]


def test_a_process_by_itself_does_nothing() -> None:
    value, sums = object(), torch.ones(2)
    assert (count(), is_first(), any_of(True), any_of(False)) == (1, True, True, False)
    assert from_first(value) is value
    assert all(is_own(draw, 3) for draw in range(7))
    assert add_up(sums, torch.nn.Linear(1, 1), [], patches=1) is sums


@pytest.mark.parametrize(("processes", "accumulate"), [(2, 2), (2, 6), (3, 3), (4, 8)])
def test_each_step_is_shared_out_in_equal_runs(
    processes: int, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "count", lambda: processes)
    owned = []
    for rank in range(processes):
        monkeypatch.setattr(ranks.dist, "get_rank", lambda rank=rank: rank)
        owned.append([draw for draw in range(5 * accumulate) if is_own(draw, accumulate)])
    length = accumulate // processes
    assert owned[1][:length] == list(range(length, 2 * length))
    assert sorted(draw for draws in owned for draw in draws) == list(range(5 * accumulate))
    for step in range(5):
        parts = [draws[step * length : (step + 1) * length] for draws in owned]
        assert [d for part in parts for d in part] == list(range(step * accumulate, (step + 1) * accumulate))

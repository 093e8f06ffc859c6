"""One training in two processes, through its stage."""

import json
import logging
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unetpipe.checkpoints import read_weights
from unetpipe.errors import ConfigError, Interrupted, ModelError
from unetpipe.manifests import read_manifest
from unetpipe.netspecs import PaddedUnetSpec
from unetpipe.signals import asked
from unetpipe.specs import TrainSpec, canonical_json
from unetpipe.steps import train as stage
from unetpipe.steps.train import train

from .conftest import TRAIN, Chain

INPUTS = ("patches/a", "images/b", "labels/b")
TWO = [torch.device("cpu")] * 2
# Batch norm and its statistics, the average of both, and enough steps to be stopped between.
SHARED = replace(
    TRAIN, network=PaddedUnetSpec(features=(4,)), steps=24, validate_every=8, accumulate=2, average=0.9,
    checkpoint_s=0.01,
)  # fmt: skip


def trained(chain: Chain, output: Path, spec: TrainSpec, devices: list[torch.device]) -> None:
    """Train on the chain's patches."""
    train([chain[name] for name in INPUTS], output=output, spec=spec, code="t@1", threads=len(devices), devices=devices)


@pytest.fixture(scope="module")
def shared(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of a training by two processes."""
    output = tmp_path_factory.mktemp("shared") / "models" / "m.json"
    trained(chain, output, SHARED, TWO)
    return output


def test_two_processes_give_what_one_gives_but_for_rounding(chain: Chain, shared: Path, tmp_path: Path) -> None:
    alone = tmp_path / "models" / "m.json"
    trained(chain, alone, SHARED, TWO[:1])
    left, right = read_manifest(alone), read_manifest(shared)
    weights = [read_weights(m.store / "weights.safetensors", digest=m.facts["weights"]) for m in (left, right)]
    for name, value in weights[0].items():
        off = (weights[1][name].double() - value.double()).abs().max()
        assert off <= 1e-6 * max(1.0, float(value.abs().max())), name
    for row, wanted in zip(right.facts["history"], left.facts["history"], strict=True):
        assert row == pytest.approx(wanted, rel=1e-5)
    cards = [json.loads((m.store / "card.json").read_text())["circumstances"] for m in (left, right)]
    assert [[run["devices"] for run in card] for card in cards] == [[1], [2]]


def test_the_key_knows_nothing_of_the_number_of_processes(chain: Chain, shared: Path) -> None:
    before = shared.read_bytes()
    trained(chain, shared, SHARED, TWO[:1])
    assert shared.read_bytes() == before
    assert json.loads((shared.with_suffix("") / "card.json").read_text())["circumstances"][0]["devices"] == 2


@pytest.mark.slow
def test_stopped_and_resumed_two_processes_give_their_bytes(
    chain: Chain, shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "models" / "m.json"

    def stop() -> None:
        while len(list(output.parent.glob("m/checkpoints/*.json"))) < 2:
            time.sleep(0.001)
        asked.set()

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        with pytest.raises(Interrupted):
            trained(chain, output, SHARED, TWO)
    finally:
        thread.join()
        asked.clear()
    with caplog.at_level(logging.INFO, logger="unetpipe"):
        trained(chain, output, SHARED, TWO)
    assert any(message.startswith("going on behind step") for message in caplog.messages)
    assert output.read_bytes() == shared.read_bytes()


@pytest.mark.parametrize(
    ("accumulate", "devices", "near"), [(1, 2, "use 2,"), (3, 2, "use 2 or 4,"), (8, 3, "use 6 or 9,")]
)
def test_patches_must_be_shared_evenly(accumulate: int, devices: int, near: str, chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"a multiple of the {devices} GPUs.*came {accumulate}; {near}") as caught:
        trained(chain, tmp_path / "models" / "m.json", replace(TRAIN, accumulate=accumulate), TWO[:1] * devices)
    assert len(str(caught.value)) <= 300


def test_gpus_that_are_not_there_are_an_error_with_both_numbers(chain: Chain, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "unetpipe", "train", str(chain[INPUTS[0]]), "--gpus", "98"]
    command += ["--output", str(tmp_path / "models" / "m.json"), "--spec", canonical_json(replace(TRAIN, steps=1))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    said = f"expected 98 GPUs on this machine, found {torch.cuda.device_count()}"
    assert said in ended.stderr and ended.stderr.count("\n") == 1


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 12")])
def test_out_of_memory_is_one_line(
    error: Exception, chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **keys: object) -> None:
        raise error

    monkeypatch.setattr(stage, "fit", refuse)
    with pytest.raises(ModelError, match=r"had \d+\.\d\d of .* 50 x 50 px needs about 0\.00 GB; lower") as caught:
        trained(chain, tmp_path / "models" / "m.json", TRAIN, TWO[:1])
    assert len(str(caught.value)) <= 300


def test_other_faults_are_not_taken_for_it(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **keys: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(stage, "fit", refuse)
    with pytest.raises(RuntimeError, match="shapes differ"):
        trained(chain, tmp_path / "models" / "m.json", TRAIN, TWO[:1])

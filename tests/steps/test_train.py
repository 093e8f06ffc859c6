"""Training through its stage: interrupted anywhere, the same bytes."""

import logging
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unetpipe import trainset
from unetpipe.checkpoints import read_weights
from unetpipe.errors import ConfigError, GeometryError, ModelError
from unetpipe.ledgers import Ledger
from unetpipe.manifests import read_manifest
from unetpipe.netspecs import PaddedUnetSpec, UnetSpec
from unetpipe.specs import TrainSpec, canonical_json
from unetpipe.steps.train import seen_side, train

from .conftest import NETWORK, TRAIN, Chain

INPUTS = ("patches/a", "images/b", "labels/b")


def test_model_has_weights_card_and_history(chain: Chain) -> None:
    model = read_manifest(chain["models/m"], stage="train")
    assert sorted(model.objects) == ["card.json", "history.csv", "weights.safetensors"]
    assert [row["step"] for row in model.facts["history"]] == [6, 12]
    read_weights(model.store / "weights.safetensors", digest=model.facts["weights"])


def test_a_kill_at_any_moment_changes_no_byte(chain: Chain, tmp_path: Path) -> None:
    spec = TrainSpec(
        network=NETWORK, steps=150, validate_every=40, learning_rate=0.005, momentum=0.9, checkpoint_s=0.02
    )
    undisturbed, output = tmp_path / "one" / "models" / "m.json", tmp_path / "two" / "models" / "m.json"
    train([chain[name] for name in INPUTS], output=undisturbed, spec=spec, code="t@1", threads=1)
    command = [
        sys.executable,
        "-m",
        "unetpipe",
        "train",
        *(str(chain[name]) for name in INPUTS),
        "--output",
        str(output),
    ]
    command += ["--spec", canonical_json(spec), "--code", "t@1", "--threads", "1"]
    rng = random.Random(1)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and not list(output.parent.glob("m/checkpoints/*.json")):
                time.sleep(0.01)
            time.sleep(rng.random() * 0.3)
            process.send_signal(number)
            code = process.wait()
        if code not in (0, 75, -number):
            pytest.fail(f"ended with {code}")
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=True, env=os.environ).returncode == 0
    assert output.read_bytes() == undisturbed.read_bytes()
    weights = (path.with_suffix("") / "weights.safetensors" for path in (output, undisturbed))
    assert len({path.read_bytes() for path in weights}) == 1


@pytest.mark.parametrize(
    ("names", "spec", "error", "said"),
    [
        (("images/b", "labels/b"), TRAIN, ConfigError, "no sample of split train"),
        (INPUTS, replace(TRAIN, network=replace(NETWORK, channels=3)), ModelError, r"expected 3 channel\(s\).*came 1"),
        (INPUTS, replace(TRAIN, network=replace(NETWORK, depth=4)), GeometryError, "use 188"),
        (INPUTS[:1], replace(TRAIN, patience=1), ConfigError, "no sample of split val, which patience needs"),
        (INPUTS[:1], replace(TRAIN, schedule="plateau"), ConfigError, "which schedule: plateau needs"),
        (INPUTS, replace(TRAIN, precision="float16"), ConfigError, "float16 needs a GPU"),
    ],
)
def test_data_that_do_not_fit(
    chain: Chain, tmp_path: Path, names: tuple[str, ...], spec: TrainSpec, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        train([chain[name] for name in names], output=tmp_path / "models" / "m.json", spec=spec, code="t@1", threads=1)


def test_validation_has_all_scores_and_chooses_by_the_one_asked_for(chain: Chain, tmp_path: Path) -> None:
    spec = replace(TRAIN, steps=6, validate_every=1, best_by="validation_loss")
    output = tmp_path / "models" / "m.json"
    train([chain[name] for name in INPUTS], output=output, spec=spec, code="t@1", threads=2)
    facts = read_manifest(output).facts
    for row in facts["history"]:
        assert {"validation_loss", "iou", "dice", "pixel_error"} < row.keys()
        # One foreground class: Dice and IoU are functions of each other.
        assert row["dice"] == pytest.approx(2 * row["iou"] / (1 + row["iou"]))
    lowest = min(facts["history"], key=lambda row: row["validation_loss"])
    assert facts["kept_step"] == lowest["step"]


@pytest.mark.parametrize(
    ("network", "input_px", "output_px", "side"),
    [
        (UnetSpec(), 572, 388, 572),
        (UnetSpec(), 572, 196, 380),
        (PaddedUnetSpec(features=(4, 8, 16, 32)), 380, 380, 380),
        (PaddedUnetSpec(features=(4, 8, 16, 32)), 380, 196, 208),
        (PaddedUnetSpec(features=(4, 8, 16, 32)), 381, 196, 381),
        # 8 px would be a single one at the bottom.
        (PaddedUnetSpec(features=(4, 8, 16, 32)), 188, 8, 188),
    ],
)
def test_no_network_sees_more_than_its_labels_need(network: Any, input_px: int, output_px: int, side: int) -> None:
    """With pixels in sight that have no labels, batch norms learn to blank them out, also where they are wanted."""
    facts = {"channels": 1, "input_px": input_px, "output_px": output_px}
    patches: Any = [SimpleNamespace(facts=facts)]
    assert seen_side(patches, replace(TRAIN, network=network)) == side


def test_validation_images_that_no_memory_holds_are_refused_before_training(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without tiles, 90 x 90 px take some more than 0.6 GB, which is the program; a network with tiles is not asked."""
    network = PaddedUnetSpec(features=(4,), up="bilinear", align_corners=True)
    keys = {"output": tmp_path / "models" / "m.json", "code": "t@1", "threads": 1}
    inputs = [chain[name] for name in INPUTS]
    monkeypatch.setattr(trainset, "total_bytes", lambda device: 500_000_000)
    said = r"images/b\.json: 90 x 90 px as a whole.* take 0\.6 GB of memory, expected at most 0\.5 GB"
    with pytest.raises(ConfigError, match=said):
        train(inputs, spec=replace(TRAIN, network=network, steps=1), **keys)
    train(inputs, spec=replace(TRAIN, network=replace(network, align_corners=False), steps=1), **keys)


def test_classes_that_are_not_those_of_the_network_are_one_line(chain: Chain, tmp_path: Path) -> None:
    spec = replace(TRAIN, network=replace(NETWORK, classes=3))
    with pytest.raises(ModelError, match=r"expected 3 classes as the network has, came 2; set network.classes to 2"):
        train([chain[INPUTS[0]]], output=tmp_path / "models" / "m.json", spec=spec, code="t@1", threads=1)
    assert not (tmp_path / "models" / "m.json").exists()


def test_without_validation_images_the_last_parameters_are_kept(chain: Chain, tmp_path: Path) -> None:
    output = tmp_path / "models" / "m.json"
    train([chain[INPUTS[0]]], output=output, spec=TRAIN, code="t@1", threads=1)
    facts = read_manifest(output).facts
    assert facts["kept_step"] == 12
    assert set(facts["history"][-1]) == {"step", "learning_rate", "loss"}


@pytest.mark.parametrize("moment", ["append", "write_line", "publish", "write_manifest"])
def test_a_kill_while_the_result_is_published_costs_no_step(
    chain: Chain, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed in front of each part of the publication; in the end, the manifest has the bytes of the chain's own."""

    class Killed(BaseException): ...

    output = tmp_path / "models" / "m.json"
    call = {"output": output, "spec": TRAIN, "code": "t@1", "threads": 1}
    real = getattr(Ledger, moment)

    def kill(ledger: Ledger, *arguments: object, **facts: object) -> None:
        if moment != "write_line" or "closing" in arguments[0]:
            raise Killed
        real(ledger, *arguments, **facts)

    with monkeypatch.context() as faults:
        faults.setattr(Ledger, moment, kill)
        with pytest.raises(Killed):
            train([chain[name] for name in INPUTS], **call)
    with caplog.at_level(logging.INFO):
        train([chain[name] for name in INPUTS], **call)
    assert "step 12 of 12" not in caplog.text
    assert output.read_bytes() == chain["models/m"].read_bytes()
    assert sorted(p.name for p in output.parent.iterdir()) == ["m", "m.json", "m.ledger"]

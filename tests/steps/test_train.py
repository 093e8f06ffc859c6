"""Training through its stage: interrupted anywhere, the same bytes."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from unetpipe import trainset, validation
from unetpipe.checkpoints import read_weights
from unetpipe.errors import ConfigError, GeometryError, Interrupted, ModelError
from unetpipe.inference import Forward, predict_image
from unetpipe.intensity import intensity_range, normalise
from unetpipe.ledgers import Ledger
from unetpipe.manifests import read_manifest
from unetpipe.metrics.tables import confusion
from unetpipe.netspecs import PaddedUnetSpec, UnetSpec
from unetpipe.networks import build_network
from unetpipe.signals import asked
from unetpipe.slides import open_plane
from unetpipe.specs import TrainSpec, canonical_json
from unetpipe.steps import train as stage
from unetpipe.steps.train import seen_side, train

from .conftest import NETWORK, TRAIN, Chain

INPUTS = ("patches/a", "images/b", "labels/b")


def test_model_has_weights_card_and_history(chain: Chain) -> None:
    model = read_manifest(chain["models/m"], stage="train")
    assert sorted(model.objects) == ["card.json", "history.csv", "weights.safetensors"]
    assert [row["step"] for row in model.facts["history"]] == [6, 12]
    read_weights(model.store / "weights.safetensors", digest=model.facts["weights"])


def test_what_it_took_is_told_epoch_by_epoch(chain: Chain) -> None:
    """Three patches, twelve steps of one each."""
    cost = json.loads((chain.root / "costs" / "m.json").read_text())
    assert list(cost["waited_share_by_epoch"]) == ["1", "2", "3", "4"]
    assert 0 <= cost["waited_share"] <= cost["most_waited_share"] == max(cost["waited_share_by_epoch"].values()) <= 1


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


@pytest.fixture
def validated(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], Path]:
    """A function that trains with validation cores of some side, and gives the model's manifest."""

    def call(core_px: int, name: str) -> Path:
        monkeypatch.setattr(validation, "VALIDATION_CORE", core_px)
        output = tmp_path / name / "models" / "m.json"
        train([chain[name] for name in INPUTS], output=output, spec=TRAIN, code="t@1", threads=1)
        return output

    return call


@pytest.mark.parametrize("core_px", [32, 512])
def test_scores_of_the_history_are_those_of_the_kept_parameters(
    core_px: int, validated: Callable[[int, str], Path], chain: Chain
) -> None:
    """Image b predicted at once by the published weights, and scored by hand."""
    model, image = read_manifest(validated(core_px, "whole")), read_manifest(chain["images/b"])
    network = build_network(NETWORK, seed=0)
    network.load_state_dict(read_weights(model.store / "weights.safetensors", digest=model.facts["weights"]))
    pixels = open_plane(image.store / "0").read_whole()
    seen = normalise(pixels, intensity_range(model.facts["intensity"], pixels.dtype, image.facts["percentiles"]))
    found = predict_image(network.eval(), seen, NETWORK.geometry, core_side=96, device=torch.device("cpu"))
    true = open_plane(read_manifest(chain["labels/b"]).store / "classes" / "0").read_whole().reshape(seen.shape[1:])
    said = found[1] > found[0]
    row = next(row for row in model.facts["history"] if row["step"] == model.facts["kept_step"])
    assert row["iou"] == pytest.approx((said & (true == 1)).sum() / (said | (true == 1)).sum(), rel=1e-12)
    assert row["pixel_error"] == pytest.approx((said != (true == 1)).mean(), rel=1e-12)
    loss = -np.log(np.where(true == 1, found[1], found[0]).astype(np.float64)).mean()
    assert 0 < row["iou"] < 1 and row["validation_loss"] == pytest.approx(loss, rel=1e-5)


def test_validations_that_run_out_of_memory_name_what_helps_a_training(
    validated: Callable[[int, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Forward, "mean", refuse)
    with pytest.raises(ModelError, match=r"^prediction: out of memory with tiles of 2 px.*network\.base_width"):
        validated(32, "refused")


@pytest.mark.parametrize("core", [1, 5, 11])
def test_a_stop_in_the_middle_of_a_validation_loses_nothing(
    core: int, validated: Callable[[int, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for while one of the 9 cores of each of both validations is scored."""
    undisturbed, cores = validated(32, "undisturbed"), 0

    def ask(*arguments: Any) -> Any:
        nonlocal cores
        cores += 1
        if cores == core:
            asked.set()
        return confusion(*arguments)

    monkeypatch.setattr(validation, "confusion", ask)
    try:
        with pytest.raises(Interrupted):
            validated(32, "stopped")
    finally:
        asked.clear()
    assert cores == core
    stopped = validated(32, "stopped")
    assert stopped.read_bytes() == undisturbed.read_bytes()
    assert cores == (core + 18 if core < 9 else core + 9)


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


def test_the_card_tells_of_every_run_that_had_a_part(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped behind the first step, and ended on another processor."""
    call = {"output": tmp_path / "models" / "m.json", "spec": TRAIN, "code": "t@1", "threads": 1}
    for kind in ("old", "new"):
        monkeypatch.setattr(stage, "host_facts", {"instructions": kind}.copy)
        asked.set()
        try:
            with pytest.raises(Interrupted):
                train([chain[name] for name in INPUTS], **call)
        finally:
            asked.clear()
    monkeypatch.setattr(stage, "host_facts", {"instructions": "old"}.copy)
    train([chain[name] for name in INPUTS], **call)
    card = json.loads((tmp_path / "models" / "m" / "card.json").read_text())
    assert [run["instructions"] for run in card["circumstances"]] == ["old", "new"]
    assert {run["compiled"] for run in card["circumstances"]} == {False}
    # What is predicted with these parameters depends on no card.
    assert read_manifest(tmp_path / "models" / "m.json").content == read_manifest(chain["models/m"]).content


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

"""Training through its stage: interrupted anywhere, the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from unetpipe.checkpoints import read_weights
from unetpipe.errors import ConfigError, GeometryError, ModelError
from unetpipe.manifests import read_manifest
from unetpipe.specs import TrainSpec, canonical_json
from unetpipe.steps.train import train

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
        (INPUTS, replace(TRAIN, network=replace(NETWORK, depth=2)), GeometryError, "use 48 or 52"),
    ],
)
def test_data_that_do_not_fit(
    chain: Chain, tmp_path: Path, names: tuple[str, ...], spec: TrainSpec, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        train([chain[name] for name in names], output=tmp_path / "models" / "m.json", spec=spec, code="t@1", threads=1)

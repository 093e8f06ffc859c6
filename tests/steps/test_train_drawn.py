"""Training on patches that are drawn anew in every epoch, and on weights of 2019."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unetpipe.draws import DrawnPatches
from unetpipe.errors import ConfigError, Interrupted
from unetpipe.manifests import Manifest, read_manifest
from unetpipe.patches import PatchStores
from unetpipe.signals import asked
from unetpipe.specs import AugmentSpec, TrainSpec, WeighSpec
from unetpipe.steps.augment import augment
from unetpipe.steps.train import train
from unetpipe.steps.weigh import weigh
from unetpipe.trainset import class_weights, training_patches, validated

from .conftest import AUGMENT, TRAIN, Chain

DRAWN = replace(AUGMENT, copies=0, noise=0.05, gamma=1.3, blur_px=0.8)
PARTS = ("images/a", "labels/a", "weights/a")
VALIDATION = ("images/b", "labels/b")


def without_patches(chain: Chain, folder: Path, spec: AugmentSpec = DRAWN, weights: Path | None = None) -> list[Path]:
    """Inputs of a training that draws for itself."""
    parts = [chain["images/a"], chain["labels/a"], weights or chain["weights/a"]]
    patches = folder / "patches" / "a.json"
    augment(*parts, output=patches, spec=spec, code="g@1")
    return [patches, *parts, *(chain[name] for name in VALIDATION)]


def trained(inputs: list[Path], output: Path, spec: TrainSpec = TRAIN, **keys: Any) -> bytes:
    """Parameters after a training."""
    train(inputs, output=output, spec=spec, code="t@1", threads=1, **keys)
    return (output.with_suffix("") / "weights.safetensors").read_bytes()


def test_workers_and_interruptions_change_no_bit(chain: Chain, tmp_path: Path) -> None:
    inputs = without_patches(chain, tmp_path)
    undisturbed = trained(inputs, tmp_path / "one" / "models" / "m.json")
    assert trained(inputs, tmp_path / "two" / "models" / "m.json", workers=2) == undisturbed
    output = tmp_path / "three" / "models" / "m.json"
    # Asked to stop before it begins, a training does one step.
    for workers in range(4):
        asked.set()
        with pytest.raises(Interrupted):
            trained(inputs, output, workers=workers)
        asked.clear()
    trained(inputs, output)
    assert (output.with_suffix("") / "weights.safetensors").read_bytes() == undisturbed


def test_every_step_sees_a_new_patch(chain: Chain, tmp_path: Path) -> None:
    manifests = [read_manifest(path) for path in without_patches(chain, tmp_path)]
    patches = training_patches(manifests, 50)
    assert isinstance(patches, DrawnPatches)
    assert len({patches.read(number)[0].tobytes() for number in range(12)}) == 12


def test_stored_patches_are_read(chain: Chain) -> None:
    manifests = [read_manifest(chain[name]) for name in ("patches/a", *VALIDATION)]
    assert isinstance(training_patches(manifests, 50), PatchStores)


def test_samples_that_are_trained_on_are_not_validated_on(chain: Chain, tmp_path: Path) -> None:
    manifests = [read_manifest(path) for path in without_patches(chain, tmp_path)]
    assert [m.sample for m in validated(manifests)] == ["b"]
    assert len(manifests) == 6


@pytest.mark.parametrize("lost", PARTS)
def test_what_patches_are_drawn_from_must_be_given(chain: Chain, tmp_path: Path, lost: str) -> None:
    inputs = [path for path in without_patches(chain, tmp_path) if path != chain[lost]]
    stage = {"images/a": "ingest", "labels/a": "annotate", "weights/a": "weigh"}[lost]
    with pytest.raises(ConfigError, match=f"to draw them, train needs the manifests of {stage} of a"):
        trained(inputs, tmp_path / "models" / "m.json")


def test_weights_of_2019_are_used_as_they_are(chain: Chain, tmp_path: Path) -> None:
    weights = tmp_path / "weights" / "a.json"
    weigh(chain["labels/a"], output=weights, spec=WeighSpec(form="falk2019"), code="w@1")
    inputs = without_patches(chain, tmp_path, weights=weights)
    patches: list[Manifest] = [read_manifest(inputs[0])]
    assert class_weights(patches, TRAIN) == [0.0, 0.0]
    assert class_weights([read_manifest(chain["patches/a"])], TRAIN) != [0.0, 0.0]
    _, _, drawn = training_patches([read_manifest(path) for path in inputs], 50).read(0)
    assert 0.09 < drawn.min() < drawn.max() < 12
    bits = trained(inputs, tmp_path / "models" / "m.json")
    assert bits != trained(without_patches(chain, tmp_path / "x"), tmp_path / "x" / "models" / "m.json")
    assert read_manifest(tmp_path / "models" / "m.json").facts["class_weights"] == [0.0, 0.0]

"""Training on patches that are drawn anew in every epoch, and on the weights that each asks for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unetpipe.draws import DrawnPatches
from unetpipe.errors import ConfigError, Interrupted
from unetpipe.losses import loss, pixel_weights
from unetpipe.manifests import read_manifest
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
    patches = training_patches(manifests, TRAIN, 50)
    assert isinstance(patches, DrawnPatches)
    assert len({patches.read(number)[0].tobytes() for number in range(12)}) == 12


def test_stored_patches_are_read(chain: Chain) -> None:
    manifests = [read_manifest(chain[name]) for name in ("patches/a", *VALIDATION)]
    assert isinstance(training_patches(manifests, TRAIN, 50), PatchStores)


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


@pytest.mark.parametrize("copies", [0, 3])
def test_each_training_has_the_weights_that_it_asks_for(chain: Chain, tmp_path: Path, copies: int) -> None:
    """Of one set of patches: those of 2015 are what they are alone, those of 2019 are whole, and none is none."""
    maps = tmp_path / "weights" / "a.json"
    weigh(chain["labels/a"], output=maps, spec=WeighSpec(forms=("falk2019", "unet2015")), code="w@1")
    inputs = without_patches(chain, tmp_path, replace(DRAWN, copies=copies), maps)
    alone = without_patches(chain, tmp_path / "x", replace(DRAWN, copies=copies))
    manifests, before = ([read_manifest(path) for path in paths] for paths in (inputs, alone))
    specs = {form: replace(TRAIN, pixel_weights=form) for form in ("unet2015", "falk2019", "none")}
    read = {form: training_patches(manifests, spec, 50).read(1)[2] for form, spec in specs.items()}
    np.testing.assert_array_equal(read["unet2015"], training_patches(before, TRAIN, 50).read(1)[2])
    assert 0.09 < read["falk2019"].min() < read["falk2019"].max() < 52
    assert not read["none"].any()
    patches = manifests[:1]
    assert [class_weights(patches, spec) == [0.0, 0.0] for spec in specs.values()] == [False, True, False]
    found = {form: trained(inputs, tmp_path / form / "m.json", spec) for form, spec in specs.items()}
    assert found["unet2015"] == trained(alone, tmp_path / "x" / "models" / "m.json")
    assert len({*found.values()}) == 3
    with pytest.raises(ConfigError, match=r"expected falk2019 among the maps of weights.*, came unet2015; name all"):
        training_patches(before, specs["falk2019"], 50)


def test_without_weights_the_loss_is_the_plain_mean(chain: Chain, tmp_path: Path) -> None:
    """Where nothing is balanced, torch's own cross-entropy, ignored pixels costing nothing but counting in the mean."""
    manifests = [read_manifest(path) for path in without_patches(chain, tmp_path)]
    spec = replace(TRAIN, pixel_weights="none", balance=False)
    _, classes, separation = (torch.from_numpy(part)[None] for part in training_patches(manifests, spec, 50).read(0))
    classes = classes.clone()
    classes[0, :9] = 255
    logits = torch.randn(1, 2, *classes.shape[1:], generator=torch.Generator().manual_seed(1))
    weights = pixel_weights(classes, separation, torch.tensor(class_weights(manifests[:1], spec)))
    found = loss(logits, classes, weights, kind=spec.loss, reduction="mean")
    plain = F.cross_entropy(logits, classes.long(), ignore_index=255, reduction="sum") / classes.numel()
    torch.testing.assert_close(found, plain)
    assert not weights[0, :9].any() and (weights[0, 9:] == 1).all()

"""What a training learns from and is validated on: its inputs, looked at together."""

import importlib
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch

from unetpipe.devices import total_bytes
from unetpipe.errors import ConfigError, ModelError
from unetpipe.feed import Patches
from unetpipe.losses import class_balance
from unetpipe.manifests import Manifest
from unetpipe.parsing import spec_from_json
from unetpipe.patches import PatchStores, open_patches
from unetpipe.specs import AugmentSpec, TrainSpec, canonical_json

__all__ = ["check_room", "check_validation", "class_weights", "seen_side", "training_patches", "validated"]


def training_patches(manifests: Sequence[Manifest], spec: TrainSpec, side: int) -> Patches:
    """Open the patches of a training: stored ones, or samples that they are drawn from.

    Parameters
    ----------
    manifests : sequence of Manifest
        All inputs of the training; of `augment` at least one.
    spec : TrainSpec
        Which of their weights count.
    side : int
        Side in px of what the network sees in the middle of each image.

    Returns
    -------
    Patches
        Stored ones; where `augment` was told to store none, one of each sample, with new numbers in every epoch.

    Raises
    ------
    ConfigError
        If a sample lacks what its patches are drawn from.
    """
    patches = [m for m in manifests if m.stage == "augment"]
    if patches[0].facts["count"]:
        return PatchStores(tuple(open_patches(m.store) for m in patches), side, weight_form(patches, spec))
    stages = ("ingest", "annotate", "weigh")
    found = {(m.stage, m.sample): m for m in manifests}
    for one in patches:
        if missing := [stage for stage in stages if (stage, one.sample) not in found]:
            raise ConfigError(
                f"{one.path}: stores no patches (augment.copies: 0); to draw them, train needs the manifests of "
                f"{', '.join(missing)} of {one.sample}, too"
            )
    drawing = spec_from_json(AugmentSpec, canonical_json(patches[0].spec), f"{patches[0].path}: spec")
    # Named at run time, so that changes of its code concern no training on stored patches.
    draws = importlib.import_module("unetpipe.draws")
    samples = draws.open_samples([[found[stage, m.sample] for stage in stages] for m in patches], drawing)
    return cast(Patches, draws.DrawnPatches(samples, drawing, side, weight_form(patches, spec)))


def weight_form(patches: Sequence[Manifest], spec: TrainSpec) -> int | None:
    """Place of the weights that a training asks for among the maps of its patches; None where it asks for none."""
    if spec.pixel_weights == "none":
        return None
    for manifest in patches:
        if manifest.facts["forms"] != patches[0].facts["forms"] or spec.pixel_weights not in manifest.facts["forms"]:
            raise ConfigError(
                f"{manifest.path}: expected {spec.pixel_weights} among the maps of weights, as train.pixel_weights has "
                f"it, came {', '.join(manifest.facts['forms'])}; name all of `forms` in the spec of weigh, and draw "
                "the patches again"
            )
    return int(patches[0].facts["forms"].index(spec.pixel_weights))


def validated(manifests: Sequence[Manifest]) -> list[Manifest]:
    """Labels of the samples that a training is validated on: those without patches.

    Parameters
    ----------
    manifests : sequence of Manifest
        All inputs of the training.

    Returns
    -------
    list of Manifest
        Of `annotate`.
    """
    taught = {m.sample for m in manifests if m.stage == "augment"}
    return [m for m in manifests if m.stage == "annotate" and m.sample not in taught]


def check_validation(manifests: Sequence[Manifest], spec: TrainSpec) -> None:
    """Hold a training against its inputs: what waits for better validations needs images to validate on.

    Parameters
    ----------
    manifests : sequence of Manifest
        All inputs of the training.
    spec : TrainSpec
        Whether it waits.

    Raises
    ------
    ConfigError
        If there are no such images.
    """
    if not validated(manifests) and (spec.patience or spec.schedule == "plateau"):
        raise ConfigError(
            f"samples.tsv: no sample of split val, which {'patience' if spec.patience else 'schedule: plateau'} needs; "
            "mark at least one annotated image as val"
        )


def check_room(manifests: Sequence[Manifest], spec: TrainSpec, device: torch.device) -> None:
    """Refuse validation images that a device cannot see as a whole, if the network cannot be tiled.

    Parameters
    ----------
    manifests : sequence of Manifest
        All inputs of the training.
    spec : TrainSpec
        Its network.
    device : torch.device
        What validates.

    Raises
    ------
    ConfigError
        If its memory is less than what is planned.
    """
    if spec.network.geometry.tileable:
        return
    # Named at run time, so that changes of what is planned change no training.
    planning = importlib.import_module("unetpipe.planning")
    names, there = {m.sample for m in validated(manifests)}, total_bytes(device)
    for image in (m for m in manifests if m.stage == "ingest" and m.sample in names):
        height, width = image.facts["shape"]
        plan = planning.plan_whole(spec.network, (height, width))
        needed = plan.device_bytes if device.type == "cuda" else plan.host_bytes
        if needed > there:
            raise ConfigError(
                f"{image.path}: {height} x {width} px as a whole, as which this network validates since it cannot be "
                f"tiled, take {needed / 1e9:.1f} GB of memory, expected at most {there / 1e9:.1f} GB, which this "
                f"{'GPU' if device.type == 'cuda' else 'machine'} has; crop the image, or take a network that is tiled"
            )


def seen_side(patches: Sequence[Manifest], spec: TrainSpec) -> int:
    """Side of what the network sees in the middle of each patch: no more than its labels need.

    Parameters
    ----------
    patches : sequence of Manifest
        Of `augment`.
    spec : TrainSpec
        With the network.

    Returns
    -------
    int
        In px.

    Raises
    ------
    ConfigError
        If there are no patches.
    ModelError
        If they have another number of channels than the network.
    """
    if not patches:
        raise ConfigError("samples.tsv: no sample of split train; mark at least one annotated image as train")
    for manifest in patches:
        channels = manifest.facts["channels"]
        if channels != spec.network.channels:
            raise ModelError(
                f"{manifest.path}: expected {spec.network.channels} channel(s) as the network has, came {channels}; "
                "set network.channels, or choose channels in the sample sheet"
            )
    geometry, facts = spec.network.geometry, patches[0].facts
    whole, needed = geometry.side_within(facts["input_px"]), geometry.input_side(facts["output_px"])
    # A batch norm counts what nothing is known of, too: networks have learned to answer there with a constant.
    # Nor does one learn from a single value at the bottom.
    return needed if 2 * geometry.stride <= needed < whole and (whole - needed) % 2 == 0 else whole


def class_weights(patches: Sequence[Manifest], spec: TrainSpec) -> list[float]:
    """Balance of the classes over a training set.

    Parameters
    ----------
    patches : sequence of Manifest
        Of `augment`.
    spec : TrainSpec
        Whether to balance, and by which weights pixels count.

    Returns
    -------
    list of float
        w_c of each class, which is added to the weights of the pixels: 0 where these are whole.

    Raises
    ------
    ModelError
        If the patches have another number of classes than the network.
    """
    for manifest in patches:
        classes = len(manifest.facts["class_counts"])
        if classes != spec.network.classes:
            raise ModelError(
                f"{manifest.path}: expected {spec.network.classes} classes as the network has, came {classes}; set "
                f"network.classes to {classes}, or annotate with as many"
            )
    if spec.pixel_weights == "falk2019":
        return [0.0] * spec.network.classes
    counts = np.sum([m.facts["class_counts"] for m in patches], axis=0)
    return class_balance(counts).tolist() if spec.balance else [1.0] * spec.network.classes

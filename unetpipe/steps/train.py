"""train: one network, from patches to parameters, resumable at any step."""

import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from unetpipe.checkpoints import read_latest_checkpoint, write_checkpoint, write_weights
from unetpipe.errors import ConfigError, ModelError
from unetpipe.inference import choose_device, predict_image, usable_threads
from unetpipe.intensity import intensity_range, normalise
from unetpipe.losses import class_balance
from unetpipe.manifests import Ledger, Manifest, open_ledger, read_manifest, write_file
from unetpipe.metrics.pixels import iou
from unetpipe.metrics.tables import confusion
from unetpipe.networks import build_network
from unetpipe.patches import PatchStores, open_patches
from unetpipe.slides import open_plane
from unetpipe.specs import TrainSpec, canonical_json
from unetpipe.training import TrainingState, Validate, fit, start

__all__ = ["train"]

log = logging.getLogger(__name__)

VALIDATION_CORE = 512


def train(inputs: Sequence[Path], *, output: Path, spec: TrainSpec, code: str, threads: int) -> None:
    """Train one network.

    Reads
    -----
    inputs : manifests of `augment`, `ingest` and `annotate`
        Patches of the training samples; images and labels of the validation samples.

    Writes
    ------
    output : manifest
        Beside it a folder with ``weights.safetensors``, its card ``card.json`` and ``history.csv``.
    """
    manifests = [read_manifest(path) for path in inputs]
    with open_ledger(output, stage="train", spec=spec, code=code, inputs=manifests) as ledger:
        if ledger.complete:
            return
        patches = [m for m in manifests if m.stage == "augment"]
        check_patches(patches, spec)
        device = prepared_device(threads)
        state = resumed(start(build_network(spec.network, seed=spec.seed), spec, device), ledger)
        intensity = patches[0].facts["intensity"]
        counts = np.sum([m.facts["class_counts"] for m in patches], axis=0)
        balance = class_balance(counts).tolist() if spec.balance else [1.0] * spec.network.classes
        fit(
            state,
            spec,
            PatchStores(tuple(open_patches(m.store) for m in patches)),
            class_weights=balance,
            validate=validation(manifests, spec, intensity, device),
            save=lambda now: save(now, ledger),
            device=device,
        )
        facts = {
            "network": json.loads(canonical_json(spec.network)),
            "intensity": intensity,
            "pixel_size_um": patches[0].facts["pixel_size_um"],
            "class_weights": balance,
            "steps": state.step,
        }
        publish(
            ledger,
            state,
            facts,
            {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": device.type},
        )


def check_patches(patches: Sequence[Manifest], spec: TrainSpec) -> None:
    """Hold the patches against the network."""
    if not patches:
        raise ConfigError("samples.tsv: no sample of split train; mark at least one annotated image as train")
    for manifest in patches:
        channels, input_px = manifest.facts["channels"], manifest.facts["input_px"]
        if channels != spec.network.channels:
            raise ModelError(
                f"{manifest.path}: expected {spec.network.channels} channel(s) as the network has, came {channels}; "
                "set network.channels, or choose channels in the sample sheet"
            )
        spec.network.geometry.output_side(input_px)


def prepared_device(threads: int) -> torch.device:
    """The device to train on, with everything set that makes equal runs give equal bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory guards code that reads it unwritten; here it would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(usable_threads(threads))
    device = choose_device()
    if device.type == "cpu":
        log.warning("train: no GPU found; using the CPU with %d threads", torch.get_num_threads())
    return device


def validation(manifests: Sequence[Manifest], spec: TrainSpec, intensity: Any, device: torch.device) -> Validate | None:
    """A function that scores a network on the whole validation images; None if there are none."""
    images = {m.sample: m for m in manifests if m.stage == "ingest"}
    truths = [m for m in manifests if m.stage == "annotate"]
    if not truths:
        return None

    def validate(network: nn.Module) -> dict[str, float]:
        table = np.zeros((spec.network.classes,) * 2, dtype=np.int64)
        loss, pixels = 0.0, 0
        for truth in truths:
            image, classes = validation_pair(images[truth.sample], truth, intensity)
            probabilities = predict_image(
                network, image, spec.network.geometry, core_side=VALIDATION_CORE, device=device
            )
            table += confusion(classes, probabilities.argmax(axis=0).astype(np.uint8), spec.network.classes)
            valid = classes != 255
            chosen = np.take_along_axis(probabilities, np.where(valid, classes, 0)[None].astype(np.int64), axis=0)[0]
            loss -= float(np.log(np.maximum(chosen[valid], 1e-7), dtype=np.float64).sum())
            pixels += int(valid.sum())
        foreground = [score.value for score in iou(table)[1:] if score.defined]
        return {"validation_loss": loss / max(pixels, 1), "iou": float(np.mean(foreground)) if foreground else 0.0}

    return validate


def validation_pair(image: Manifest, truth: Manifest, intensity: Any) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Normalised image (C, Y, X) and classes (Y, X) of a validation sample."""
    plane = open_plane(image.store / "0")
    limits = intensity_range(intensity, plane.dtype, image.facts["percentiles"])
    return normalise(plane.read_whole(), limits), open_plane(truth.store / "classes" / "0").read_whole()


def save(state: TrainingState, ledger: Ledger) -> None:
    """Write a checkpoint."""
    tensors = {f"network.{name}": value for name, value in state.network.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in state.best.items()}
    for number, entry in state.optimiser.state_dict()["state"].items():
        tensors[f"momentum.{number}"] = entry["momentum_buffer"]
    plain = {"step": state.step, "loss_sum": state.loss_sum, "history": state.history}
    write_checkpoint(ledger.store / "checkpoints", state.step, tensors, plain)


def resumed(state: TrainingState, ledger: Ledger) -> TrainingState:
    """The state of the last checkpoint, if there is one of this very training."""
    found = read_latest_checkpoint(ledger.store / "checkpoints")
    if found is None:
        return state
    tensors, plain = found
    state.network.load_state_dict(
        {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
    )
    state.best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
    optimiser = state.optimiser.state_dict()
    optimiser["state"] = {
        int(k.removeprefix("momentum.")): {"momentum_buffer": v}
        for k, v in tensors.items()
        if k.startswith("momentum.")
    }
    state.optimiser.load_state_dict(optimiser)
    state.step, state.loss_sum, state.history = plain["step"], plain["loss_sum"], plain["history"]
    log.info("going on behind step %d", state.step)
    return state


def publish(ledger: Ledger, state: TrainingState, facts: dict[str, Any], circumstances: dict[str, Any]) -> None:
    """Write the best parameters, their card and the history, and close the ledger."""
    digest = write_weights(ledger.store / "weights.safetensors", state.best)
    card = {"sha256": digest, **facts, "circumstances": circumstances}
    write_file(ledger.store / "card.json", json.dumps(card, indent=1, sort_keys=True).encode())
    write_file(ledger.store / "history.csv", pd.DataFrame(state.history).to_csv(index=False).encode())
    shutil.rmtree(ledger.store / "checkpoints", ignore_errors=True)
    ledger.append("weights", digest)
    ledger.publish({**facts, "weights": digest, "history": state.history})

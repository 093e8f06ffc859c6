"""train: one network, from patches to parameters, resumable at any step."""

import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from unetpipe.checkpoints import (
    forget_checkpoints,
    read_checkpoint,
    read_latest_checkpoint,
    write_checkpoint,
    write_weights,
)
from unetpipe.devices import host_facts, lease_devices, total_bytes, usable_threads, used_bytes
from unetpipe.errors import ConfigError, ModelError, StoreError
from unetpipe.footprint import is_out_of_memory, out_of_memory
from unetpipe.ledgers import Ledger, open_ledger
from unetpipe.manifests import Manifest, read_manifest, write_file
from unetpipe.networks import build_network
from unetpipe.pace import Pace
from unetpipe.processes import together
from unetpipe.progress import EventFiles, Progress
from unetpipe.ranks import is_first
from unetpipe.schedules import best_row, is_exhausted
from unetpipe.specs import TrainSpec, canonical_json
from unetpipe.training import fit, steps_at_once
from unetpipe.trainset import check_room, check_validation, class_weights, seen_side, training_patches
from unetpipe.trainstate import TrainingState, follow_first, restore, snapshot, start
from unetpipe.units import common_pixel_size
from unetpipe.validation import validation

__all__ = ["train"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a process must know to train.

    Parameters
    ----------
    inputs : tuple of Path
        Manifests.
    output : Path
        The manifest to be written; others lie where it says.
    store : Path
        The result's folder.
    identity : dict
        What the result depends on.
    spec : TrainSpec
        How to train.
    threads : int
        Processors to use, of this process.
    workers : int
        Threads that read patches ahead.
    side : int
        Side in px of what the network sees of each patch.
    devices : int
        How many share the training.
    """

    inputs: tuple[Path, ...]
    output: Path
    store: Path
    identity: dict[str, Any]
    spec: TrainSpec
    threads: int
    workers: int
    side: int
    devices: int


def train(
    inputs: Sequence[Path],
    *,
    output: Path,
    spec: TrainSpec,
    code: str,
    threads: int,
    workers: int | None = None,
    gpus: int = 1,
    devices: Sequence[torch.device] | None = None,
) -> None:
    """Train one network.

    Reads
    -----
    inputs : manifests of `augment`, `ingest`, `annotate` and `weigh`
        Patches of the training samples, and where none are stored their images, labels and weights; images and labels
        of the validation samples.

    Writes
    ------
    output : manifest
        Beside it a folder with ``weights.safetensors``, its card ``card.json`` and ``history.csv``.

    Notes
    -----
    Patches are read ahead by `workers` threads, by default as many as `threads` leaves, at most 2 unless they are
    drawn; their number changes no result. Where tensorboard is installed, event files go to ``events/NAME`` beside
    the folder of the models, and what the training took to ``costs/NAME.json``.

    Several GPUs (or any `devices`) share the patches of each step, one process each, and the processors among them.
    Their number is no part of the key: like that of the threads, it changes the order of additions only. The card
    tells both, of every run that had a part in the result, and whether the network was compiled.
    """
    manifests = [read_manifest(path) for path in inputs]
    with open_ledger(output, stage="train", spec=spec, code=code, inputs=manifests) as ledger:
        if ledger.complete:
            shutil.rmtree(aside_of(ledger), ignore_errors=True)
            return
        patches = [m for m in manifests if m.stage == "augment"]
        side = seen_side(patches, spec)
        check_validation(manifests, spec)
        sizes = {m.sample: m.facts["nominal_um"] for m in manifests if m.stage in ("augment", "ingest")}
        if common_pixel_size(sizes) and None in sizes.values():
            log.warning("train: pixel size not known of every sample; taken for that of the others")
        devices = devices or lease_devices(gpus)
        check_share(spec, len(devices))
        check_room(manifests, spec, devices[0])
        share = max(1, threads // len(devices))
        # A GPU computes while its process reads; a processor does both itself.
        readers = min(2 if patches[0].facts["count"] else share, max(share - 1, int(devices[0].type == "cuda")))
        job = Job(
            inputs=tuple(inputs),
            output=output,
            store=ledger.store,
            identity=ledger.identity,
            spec=spec,
            threads=share,
            workers=readers if workers is None else workers,
            side=side,
            devices=len(devices),
        )
        together(optimise, devices, job)
        publish(ledger, patches, spec)


def check_share(spec: TrainSpec, devices: int) -> None:
    """Each device needs as many patches of a step as the others."""
    below = spec.accumulate // devices * devices
    if spec.accumulate != below:
        near = f"{below} or {below + devices}" if below else f"{devices}"
        raise ConfigError(
            f"train.accumulate: expected a multiple of the {devices} GPUs, which share the patches of each step, came "
            f"{spec.accumulate}; use {near}, or fewer GPUs"
        )


def optimise(device: torch.device, job: Job) -> None:
    """Train on a device to the end, which is the last checkpoint; the first of several processes writes."""
    spec, manifests = job.spec, [read_manifest(path) for path in job.inputs]
    patches = [m for m in manifests if m.stage == "augment"]
    first = is_first()
    prepare(device, job.threads)
    progress = Progress(spec.steps, sys.stderr)
    own = circumstances(device, job)
    events = EventFiles(job.output.parents[1] / "events" / job.output.stem)
    try:
        state = first_state(spec, device)
        if first:
            take_up(state, job)
        follow_first(state)
        pace = fit(
            state,
            spec,
            training_patches(manifests, spec, job.side),
            class_weights=class_weights(patches, spec),
            validate=validation(manifests, spec, patches[0].facts["intensity"], device, progress) if first else None,
            save=lambda now: save(now, job, events),
            recall=lambda now, step: recall(now, step, job, spec, device),
            watch=(lambda now, pixels: show(progress, now, pixels, own)) if first else None,
            workers=job.workers,
            drawn=not patches[0].facts["count"],
            device=device,
        )
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        copied = steps_at_once(spec, device) > 1
        said = out_of_memory(spec, job.side, used_bytes(device), total_bytes(device), copied=copied)
        raise ModelError(said) from None
    finally:
        progress.clear()
        events.close()
    # A run that found all steps done has nothing to tell of them.
    if first and pace.steps:
        write_cost(job.output, pace, device)


def circumstances(device: torch.device, job: Job) -> dict[str, Any]:
    """What the bits of this run depend on, beside settings and data."""
    return {
        "torch": torch.__version__,
        "threads": usable_threads(job.threads),
        "instructions": host_facts()["instructions"],
        "device": device.type,
        "devices": job.devices,
    }


def show(progress: Progress, state: TrainingState, pixels: int, own: dict[str, Any]) -> None:
    """Tell where the training is; the state takes note of what this run's part in it depends on."""
    whole = own | {"compiled": state.compiled is not None}
    if whole not in state.circumstances:
        state.circumstances.append(whole)
    progress.show(state.step, state.loss_sum / max(state.losses, 1), pixels)


def write_cost(output: Path, pace: Pace, device: torch.device) -> None:
    """Write what this run took, outside of the result, for no two runs take the same."""
    seconds, waited, *_ = pace.counts()
    cost = {
        "seconds_per_step": round(pace.seconds_per_step, 4),
        "peak_mb": round(used_bytes(device) / 1e6),
        "device": device.type,
        "waited_share": round(waited / max(seconds, 1e-9), 4),
        "most_waited_share": round(max(pace.shares().values()), 4),
        "waited_share_by_epoch": {epoch: round(share, 4) for epoch, share in pace.shares().items()},
    }
    path = output.parents[1] / "costs" / output.name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(cost | {"host": host_facts()}).encode())


def prepare(device: torch.device, threads: int) -> None:
    """Set everything that makes equal runs on a device give equal bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory guards code that reads it unwritten; here it would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(usable_threads(threads))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        log.warning("train: no GPU to use; using the CPU with %d threads", torch.get_num_threads())


def first_state(spec: TrainSpec, device: torch.device) -> TrainingState:
    """The state before the first step."""
    return start(build_network(spec.network, seed=spec.seed), spec, device)


def save(state: TrainingState, job: Job, events: EventFiles) -> None:
    """Write a checkpoint, by the first of several processes; the one that a lost training goes back to stays."""
    if is_first():
        tensors, plain = snapshot(state)
        tensors |= {f"best.{name}": value for name, value in state.best.items()}
        write_checkpoint(folder_of(job), state.step, tensors, plain, owner=owner_of(job), keep=state.anchor)
        events.follow(state.history)


def recall(state: TrainingState, step: int, job: Job, spec: TrainSpec, device: torch.device) -> None:
    """Put a state back to what was saved behind a step, or to the first one, and forget what came later."""
    if is_first():
        if step:
            put_back(state, *read_checkpoint(folder_of(job), step, owner=owner_of(job)))
        else:
            put_back(state, *snapshot(first_state(spec, device)))
        forget_checkpoints(folder_of(job), behind=step)
    follow_first(state)


def put_back(state: TrainingState, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Put what `save` wrote into a state."""
    restore(state, tensors, plain)
    state.best = {name.removeprefix("best."): value for name, value in tensors.items() if name.startswith("best.")}


def take_up(state: TrainingState, job: Job) -> None:
    """Put a state to the last checkpoint, if there is one of this very training."""
    folder, aside = folder_of(job), aside_of(job)
    if aside.exists() and not folder.exists():
        aside.rename(folder)
    found = read_latest_checkpoint(folder, owner=owner_of(job))
    if found is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    put_back(state, *found)
    forget_checkpoints(folder, behind=state.step)
    log.info("going on behind step %d", state.step)


def folder_of(work: Job | Ledger) -> Path:
    """Where the checkpoints of a training lie."""
    return work.store / "checkpoints"


def aside_of(work: Job | Ledger) -> Path:
    """Where they lie while the result is published, for that lists all that is in the store."""
    return work.store.with_name(f".{work.store.name}.checkpoints")


def owner_of(work: Job | Ledger) -> str:
    """Digest of what is trained, how, by which code, and on what."""
    return hashlib.sha256(canonical_json(work.identity).encode()).hexdigest()


def publish(ledger: Ledger, patches: Sequence[Manifest], spec: TrainSpec) -> None:
    """Write the best parameters, their card and the history, all from the last checkpoint, and close the ledger."""
    found = read_latest_checkpoint(folder_of(ledger), owner=owner_of(ledger))
    tensors, plain = found if found is not None else ({}, {"step": 0, "history": []})
    best = {name.removeprefix("best."): value for name, value in tensors.items() if name.startswith("best.")}
    step, history = plain["step"], plain["history"]
    if step < spec.steps and not is_exhausted(spec, history):
        raise StoreError(
            f"{folder_of(ledger)}: the last checkpoint is damaged; the same command goes on from step {step}"
        )
    facts = {
        "network": json.loads(canonical_json(spec.network)),
        "intensity": patches[0].facts["intensity"],
        "pixel_size_um": common_pixel_size({m.sample: m.facts["nominal_um"] for m in patches}),
        "class_weights": class_weights(patches, spec),
        "parameters": sum(p.numel() for p in build_network(spec.network, seed=spec.seed).parameters()),
        "steps": step,
        "kept_step": int(history[best_row(history, spec.best_by)]["step"]),
        "retreats": plain["retreats"],
    }
    digest = write_weights(ledger.store / "weights.safetensors", best)
    card = {"sha256": digest, **facts, "circumstances": plain["circumstances"]}
    write_file(ledger.store / "card.json", json.dumps(card, indent=1, sort_keys=True).encode())
    write_file(ledger.store / "history.csv", pd.DataFrame(history).to_csv(index=False).encode())
    ledger.append("weights", digest)
    shutil.rmtree(aside_of(ledger), ignore_errors=True)
    folder_of(ledger).rename(aside_of(ledger))
    ledger.publish({**facts, "weights": digest, "history": history})
    shutil.rmtree(aside_of(ledger), ignore_errors=True)

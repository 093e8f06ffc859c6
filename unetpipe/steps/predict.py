"""predict: class probabilities of a whole image or slide by overlap-tile inference."""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unetpipe.checkpoints import read_weights
from unetpipe.devices import keep_freed_memory, lease_device, set_tensorfloat32, usable_threads, used_bytes
from unetpipe.errors import ConfigError, ModelError
from unetpipe.geometry import Box, TileGrid
from unetpipe.inference import Forward, predict_tiles, source_boxes
from unetpipe.intensity import intensity_range, normalise
from unetpipe.manifests import Ledger, Manifest, open_ledger, read_manifest, write_file
from unetpipe.multiscales import write_multiscale
from unetpipe.netspecs import NetworkSpec, network_spec
from unetpipe.networks import build_network
from unetpipe.planning import CACHE_BYTES, Plan, plan_tiles
from unetpipe.progress import TileProgress
from unetpipe.reading import SharedReader
from unetpipe.slides import Plane, create_plane, open_plane, shard_boxes
from unetpipe.specs import PredictSpec
from unetpipe.symmetries import GROUPS
from unetpipe.tissue import mask_block
from unetpipe.units import agree

__all__ = ["SCALE", "predict"]

log = logging.getLogger(__name__)

# Probabilities are stored as round(p * SCALE) in uint16: off by at most 7.7e-6.
SCALE = 65535


def predict(image: Path, models: Sequence[Path], *, output: Path, spec: PredictSpec, code: str, threads: int) -> None:
    """Apply a network, or several whose probabilities are averaged, to an image, core by core.

    Reads
    -----
    image : manifest of `ingest`
    models : manifests of `train`

    Writes
    ------
    output : manifest
        Beside it a store with the array ``0`` (K, Y, X), probability times 65535 as uint16. With `spec.tissue_only`,
        pixels outside the tissue mask are the first class with probability 1, whatever the cores; ``skipped_cores``
        counts those without tissue, which are not computed. What the run took stands in a folder ``costs``.
    """
    source = read_manifest(image, stage="ingest")
    trained = [read_manifest(model, stage="train") for model in models]
    with open_ledger(output, stage="predict", spec=spec, code=code, inputs=[source, *trained]) as ledger:
        if ledger.complete:
            return
        check_fit(source, trained)
        pixels, nets = open_plane(source.store / "0"), [network_spec(model.facts["network"]) for model in trained]
        forms = GROUPS[spec.symmetries]
        plan = plan_tiles(nets, shape=pixels.shape, memory_gb=spec.memory_gb, core_px=spec.core_px, forms=len(forms))
        device = prepare(threads)
        grids = [TileGrid(shape=pixels.shape, core_side=plan.core_px, geometry=net.geometry) for net in nets]
        networks = [loaded(net, model, device) for net, model in zip(nets, trained, strict=True)]
        forward = Forward(members=list(zip(networks, grids, strict=True)), device=device, symmetries=forms)
        shape = (nets[0].classes, *pixels.shape)
        result = create_plane(ledger.store / "0", shape=shape, dtype=np.uint16, shard_side=plan.shard_px)
        tissue = read_tissue(source) if spec.tissue_only else None
        todo, skipped = cores_left(grids[0], result, ledger, tissue)
        progress = TileProgress(len(grids[0]), sys.stderr, done=len(grids[0]) - len(todo))

        def write(core: Box, quantised: NDArray[np.uint16]) -> None:
            if tissue is not None:
                quantised[:, ~tissue(core)] = SCALE * np.eye(shape[0], 1, dtype=np.uint16)
            write_core(result, core, quantised, ledger)

        def watch(core: Box, seconds: float) -> None:
            progress.show(core.shape[0] * core.shape[1], seconds)

        try:
            for core in skipped:
                write(core, np.zeros((shape[0], *core.shape), np.uint16))
            read = reader(source, trained[0], pixels, forward, todo)
            predict_tiles(forward, todo, read=read, write=write, finish=quantised_once, watch=watch)
        finally:
            progress.clear()
        frame = {name: source.facts[name] for name in ("pixel_size_um", "factor")}
        name = output.name.removesuffix(".json")
        write_multiscale(ledger.store, name=name, shapes=[shape], centred=True, **frame)
        empty = sum(not tissue(tile.core).any() for tile in grids[0]) if tissue is not None else 0
        facts = {"shape": list(pixels.shape), "classes": shape[0], "scale": SCALE, "skipped_cores": empty}
        ledger.publish(facts | frame)
        write_cost(output, plan, progress, device)


def prepare(threads: int) -> torch.device:
    """Set what makes computing fast, and equal on equal machines."""
    torch.set_num_threads(usable_threads(threads))
    device = lease_device()
    set_tensorfloat32(False)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        keep_freed_memory()
        log.warning("predict: no GPU to use; using the CPU with %d threads", torch.get_num_threads())
    return device


def cores_left(
    grid: TileGrid, result: Plane, ledger: Ledger, tissue: Callable[[Box], NDArray[np.bool_]] | None
) -> tuple[list[Box], list[Box]]:
    """Cores that are not yet written whole: those to be computed, and those without tissue."""
    cores = (core for _, core in shard_boxes("", grid.shape, grid.core_side))
    left = [core for core in cores if any(name not in ledger for name, _ in shards_in(result, core))]
    empty = {core.start for core in left if tissue is not None and not tissue(core).any()}
    return [c for c in left if c.start not in empty], [c for c in left if c.start in empty]


def shards_in(result: Plane, core: Box) -> list[tuple[str, Box]]:
    """Names and boxes of the shards of a core."""
    side = result.shard_side
    inside = shard_boxes("", core.shape, side)
    (y0, x0) = core.start
    boxes = [Box(start=(y0 + b.start[0], x0 + b.start[1]), stop=(y0 + b.stop[0], x0 + b.stop[1])) for _, b in inside]
    return [(f"{result.folder.name}/{b.start[0] // side}/{b.start[1] // side}", b) for b in boxes]


def write_core(result: Plane, core: Box, quantised: NDArray[np.uint16], ledger: Ledger) -> None:
    """Write the shards of a core that are not there yet."""
    for name, box in shards_in(result, core):
        if name not in ledger:
            block = quantised[(slice(None), *box.relative_to(core.start).slices)]
            ledger.append(name, result.write_shard(box, block))


def quantised_once(probabilities: torch.Tensor) -> torch.Tensor:
    """Probabilities as they are stored."""
    return probabilities.mul_(SCALE).round_().to(torch.uint16)


def reader(
    image: Manifest, model: Manifest, pixels: Plane, forward: Forward, cores: Sequence[Box]
) -> Callable[[Box], NDArray[np.float32]]:
    """A function that gives normalised pixels, and decodes each chunk once."""
    limits = intensity_range(model.facts["intensity"], pixels.dtype, image.facts["percentiles"])
    shared = SharedReader(pixels, source_boxes(forward, cores), most_bytes=CACHE_BYTES)
    return lambda box: normalise(shared.read(box), limits)


def write_cost(output: Path, plan: Plan, progress: TileProgress, device: torch.device) -> None:
    """Write what this run took beside what was planned, outside of the result, for no two runs take the same."""
    planned = plan.device_bytes if device.type == "cuda" else plan.host_bytes
    cost = {
        "device": device.type,
        "core_px": plan.core_px,
        "planned_mb": round(planned / 1e6),
        "peak_mb": round(used_bytes(device) / 1e6),
        "planned_work": round(plan.work, 4),
        "mpx_per_s": round(progress.rate / 1e6, 4),
        "busy": round(progress.busy, 3),
    }
    path = output.parent.parent.parent / "costs" / "predict" / output.parent.name / output.name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(cost).encode())


def read_tissue(image: Manifest) -> Callable[[Box], NDArray[np.bool_]]:
    """A function that gives the tissue mask over a box of the image."""
    facts = image.facts["tissue"]
    if facts is None:
        raise ConfigError(f"{image.path}: expected a tissue mask, which predict.tissue_only needs; set ingest.tissue")
    mask = open_plane(image.store / "tissue" / "0").read_whole() > 0
    return lambda box: mask_block(mask, box, level=0, mask_level=facts["level"])


def check_fit(image: Manifest, models: Sequence[Manifest]) -> None:
    """Hold the image against what the models were trained on, and the models against each other."""
    for model in models:
        expected, came = model.facts["network"]["channels"], image.facts["channels"]
        if came != expected:
            raise ModelError(
                f"{image.path}: expected {expected} channel(s) as model {model.sample} has, came {came}; "
                "choose channels in the sample sheet"
            )
        check_pixel_size(image, model)
        for what, first, other in (
            ("classes", models[0].facts["network"]["classes"], model.facts["network"]["classes"]),
            ("intensity", models[0].facts["intensity"], model.facts["intensity"]),
        ):
            if first != other:
                raise ModelError(
                    f"{model.path}: expected {what} {first} as model {models[0].sample} has, came {other}; "
                    "an ensemble needs models that agree"
                )


def check_pixel_size(image: Manifest, model: Manifest) -> None:
    """Hold the image's pixel size against that of the images that a model was trained on."""
    trained, found = model.facts["pixel_size_um"], image.facts["nominal_um"]
    if trained and found and not agree(found, trained):
        raise ModelError(
            f"{image.path}: expected pixels of {trained:.4g} um as model {model.sample} was trained on, came "
            f"{found:.4g} um; set ingest.pixel_size_um: {trained:.4g}, to which images are resampled"
        )
    if trained and not found:
        log.warning(
            "%s: pixel size not known, model %s was trained on %.4g um; fill in the column pixel_size_um of the "
            "sample sheet",
            image.sample, model.sample, trained,
        )  # fmt: skip


def loaded(spec: NetworkSpec, model: Manifest, device: torch.device) -> nn.Module:
    """The trained network, ready to predict."""
    network = build_network(spec, seed=0)
    network.load_state_dict(read_weights(model.store / "weights.safetensors", digest=model.facts["weights"]))
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()

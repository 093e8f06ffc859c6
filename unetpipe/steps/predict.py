"""predict: class probabilities of a whole image or slide by overlap-tile inference."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unetpipe.checkpoints import read_weights
from unetpipe.devices import choose_device, set_tensorfloat32, usable_threads
from unetpipe.errors import ConfigError, ModelError
from unetpipe.geometry import Box, TileGrid
from unetpipe.inference import predict_tiles
from unetpipe.intensity import intensity_range, normalise
from unetpipe.manifests import Manifest, open_ledger, read_manifest
from unetpipe.multiscales import write_multiscale
from unetpipe.netspecs import NetworkSpec, network_spec
from unetpipe.networks import build_network
from unetpipe.slides import create_plane, open_plane
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
        counts those without tissue, which are not computed.
    """
    source = read_manifest(image, stage="ingest")
    trained = [read_manifest(model, stage="train") for model in models]
    with open_ledger(output, stage="predict", spec=spec, code=code, inputs=[source, *trained]) as ledger:
        if ledger.complete:
            return
        check_fit(source, trained)
        torch.set_num_threads(usable_threads(threads))
        device = choose_device()
        set_tensorfloat32(False)
        if device.type == "cpu":
            log.warning("predict: no GPU to use; using the CPU with %d threads", torch.get_num_threads())
        pixels = open_plane(source.store / "0")
        limits = intensity_range(trained[0].facts["intensity"], pixels.dtype, source.facts["percentiles"])
        nets = [network_spec(model.facts["network"]) for model in trained]
        grids = [TileGrid(shape=pixels.shape, core_side=spec.core_px, geometry=net.geometry) for net in nets]
        members = [(loaded(net, model, device), grid) for net, model, grid in zip(nets, trained, grids, strict=True)]
        shape = (nets[0].classes, *pixels.shape)
        result = create_plane(ledger.store / "0", shape=shape, dtype=np.uint16, shard_side=spec.core_px)
        names = {box: unit for unit, box in result.iter_shards()}
        tissue = read_tissue(source) if spec.tissue_only else None

        def read(box: Box) -> NDArray[np.float32]:
            return normalise(pixels.read(box), limits)

        def write(core: Box, probabilities: NDArray[np.float32]) -> None:
            quantised = np.rint(probabilities * SCALE).astype(np.uint16)
            if tissue is not None:
                quantised[:, ~tissue(core)] = SCALE * np.eye(shape[0], 1, dtype=np.uint16)
            ledger.append(names[core], result.write_shard(core, quantised))
            log.info("%d of %d cores", len(ledger.units), len(names))

        skipped = [box for box in names if tissue is not None and not tissue(box).any()]
        for box in skipped:
            if names[box] not in ledger:
                write(box, np.zeros((shape[0], *box.shape), np.float32))
        todo = [box for box, unit in names.items() if unit not in ledger]
        predict_tiles(members, todo, read=read, write=write, device=device, symmetries=GROUPS[spec.symmetries])
        frame = {name: source.facts[name] for name in ("pixel_size_um", "factor")}
        name = output.name.removesuffix(".json")
        write_multiscale(ledger.store, name=name, shapes=[shape], centred=True, **frame)
        facts = {"shape": list(pixels.shape), "classes": shape[0], "scale": SCALE, "skipped_cores": len(skipped)}
        ledger.publish(facts | frame)


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

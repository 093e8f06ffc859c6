"""predict: class probabilities of a whole image or slide by overlap-tile inference."""

import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unetpipe.checkpoints import read_weights
from unetpipe.errors import ModelError
from unetpipe.geometry import Box, Tile, TileGrid
from unetpipe.inference import choose_device, predict_tiles, usable_threads
from unetpipe.intensity import intensity_range, normalise
from unetpipe.manifests import Manifest, open_ledger, read_manifest
from unetpipe.networks import build_network
from unetpipe.slides import create_plane, open_plane, write_multiscale
from unetpipe.specs import PredictSpec, UnetSpec

__all__ = ["SCALE", "predict"]

log = logging.getLogger(__name__)

# Probabilities are stored as round(p * SCALE) in uint16: off by at most 7.7e-6.
SCALE = 65535


def predict(image: Path, model: Path, *, output: Path, spec: PredictSpec, code: str, threads: int) -> None:
    """Apply a network to an image, core by core.

    Reads
    -----
    image : manifest of `ingest`
    model : manifest of `train`

    Writes
    ------
    output : manifest
        Beside it a store with the array ``0`` (K, Y, X), probability times 65535 as uint16.
    """
    source, trained = read_manifest(image, stage="ingest"), read_manifest(model, stage="train")
    with open_ledger(output, stage="predict", spec=spec, code=code, inputs=[source, trained]) as ledger:
        if ledger.complete:
            return
        check_fit(source, trained)
        torch.set_num_threads(usable_threads(threads))
        device = choose_device()
        if device.type == "cpu":
            log.warning("predict: no GPU found; using the CPU with %d threads", torch.get_num_threads())
        network_spec = UnetSpec(**trained.facts["network"])
        network = loaded(network_spec, trained, device)
        pixels = open_plane(source.store / "0")
        limits = intensity_range(trained.facts["intensity"], pixels.dtype, source.facts["percentiles"])
        shape = (network_spec.classes, *pixels.shape)
        result = create_plane(ledger.store / "0", shape=shape, dtype=np.uint16, shard_side=spec.core_px)
        grid = TileGrid(shape=pixels.shape, core_side=spec.core_px, geometry=network_spec.geometry)
        names = {box: unit for unit, box in result.iter_shards()}
        todo = [tile for tile in grid if names[tile.core] not in ledger]

        def read(box: Box) -> NDArray[np.float32]:
            return normalise(pixels.read(box), limits)

        def write(tile: Tile, probabilities: NDArray[np.float32]) -> None:
            quantised = np.rint(probabilities * SCALE).astype(np.uint16)
            ledger.append(names[tile.core], result.write_shard(tile.core, quantised))
            log.info("%d of %d cores", len(ledger.units), len(grid))

        predict_tiles(network, todo, shape=pixels.shape, read=read, write=write, device=device)
        pixel_size = source.facts["pixel_size_um"]
        name = output.name.removesuffix(".json")
        write_multiscale(ledger.store, name=name, shapes=[shape], pixel_size_um=pixel_size, centred=True)
        facts = {
            "shape": list(pixels.shape),
            "classes": network_spec.classes,
            "pixel_size_um": pixel_size,
            "scale": SCALE,
        }
        ledger.publish(facts)


def check_fit(image: Manifest, model: Manifest) -> None:
    """Hold the image against what the model was trained on."""
    expected, came = model.facts["network"]["channels"], image.facts["channels"]
    if came != expected:
        raise ModelError(
            f"{image.path}: expected {expected} channel(s) as model {model.sample} has, came {came}; "
            "choose channels in the sample sheet"
        )
    trained, found = model.facts["pixel_size_um"], image.facts["pixel_size_um"]
    if trained and found and abs(found / trained - 1) > 0.02:
        log.warning(
            "%s has pixels of %.4g um, model %s was trained on %.4g um: objects look %.2f times as large to it",
            image.sample, found, model.sample, trained, trained / found,
        )  # fmt: skip


def loaded(spec: UnetSpec, model: Manifest, device: torch.device) -> nn.Module:
    """The trained network, ready to predict."""
    network = build_network(spec, seed=0)
    network.load_state_dict(read_weights(model.store / "weights.safetensors", digest=model.facts["weights"]))
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()

"""export: a trained network, or images of a result, for other software."""

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from torch import nn

from unetpipe import __version__
from unetpipe.checkpoints import read_metadata, read_weights, write_weights
from unetpipe.errors import ConfigError, ModelError, StoreError
from unetpipe.geometry import NetGeometry
from unetpipe.manifests import Manifest, read_manifest, write_file
from unetpipe.multiscales import link_combined
from unetpipe.netspecs import NetworkSpec, network_spec
from unetpipe.networks import build_network
from unetpipe.oldzarr import write_old_pyramid
from unetpipe.programs import (
    CARD,
    check_onnx,
    largest_difference,
    load_onnx_program,
    load_torch_program,
    onnx_program,
    random_images,
    torch_program,
)
from unetpipe.sources.files import sha256_of_file
from unetpipe.specs import canonical_json

__all__ = ["export", "export_combined", "export_pyramids"]

log = logging.getLogger(__name__)

SUFFIXES = {"safetensors": ".safetensors", "torch": ".pt2", "onnx": ".onnx"}
# Side in px of the core of a window, where no side is given.
CORE = 512
TOLERANCE = 1e-5

INTENSITY = {
    "range": "per channel, 0 becomes 0 and the largest value of the data type (floats: 1) becomes 1",
    "percentile": "per channel, the image's 1st percentile becomes 0 and its 99.8th becomes 1; nothing is clipped",
}
LOGITS = {
    "softmax": "one per class; probabilities are their softmax",
    "sigmoid": "a single one, of class 1; its probability is the sigmoid, that of class 0 is the rest",
}
TILING = (
    "The image is cut into cores that start at multiples of the stride, counted from its first pixel. The window of a "
    "core starts context px before it, above and on the left; its side is residue modulo stride, at least minimum, and "
    "reaches context px behind the core. Outside the image, pixels are mirrored without repeating the edge. A window "
    "of side n gives logits of side n - shrink; the core begins context - shrink / 2 px from their first pixel."
)
WHOLE = "The result depends on the size of the window, so that an image must be given whole."


def export(
    model: Path, *, output: Path, form: Literal["safetensors", "torch", "onnx"] = "safetensors", side: int | None = None
) -> None:
    """Write a network for other software, and make sure that what lies on the disk computes the same.

    Reads
    -----
    model : manifest of `train`

    Writes
    ------
    output : folder
        ``NAME.safetensors``, ``NAME.pt2`` (torch.export) or ``NAME.onnx``, NAME being the model's. Each carries its
        card (network, geometry, tiling rule, intensity, pixel size, seed, digests) in its metadata, and has it beside
        it, with the file's digest, as ``.json`` behind the file's name.

    Raises
    ------
    ModelError
        If what was written computes something else than the network; no file is left behind.

    Notes
    -----
    `side` is that of the window in px, which programs are made for. By default it is the smallest that has a core of
    512 px. Formats torch and onnx take any number of windows at once.
    """
    trained = read_manifest(model, stage="train")
    net = network_spec(trained.facts["network"])
    if form == "safetensors" and side is not None:
        raise ConfigError("--side is for the formats torch and onnx, came format safetensors; leave it out")
    if form == "onnx":
        check_onnx()
    window = default_window(net.geometry) if side is None else side
    net.geometry.output_side(window)
    card = card_of(trained, net, None if form == "safetensors" else window)
    network = loaded(net, trained.store / "weights.safetensors", trained.facts["weights"])
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{trained.sample}{SUFFIXES[form]}"
    if form == "safetensors":
        write_parameters(path, network, net, canonical_json(card))
    else:
        write_program(path, network, net, canonical_json(card), window)
    card |= {"file": path.name, "sha256": sha256_of_file(path)}
    write_file(path.with_name(f"{path.name}.json"), json.dumps(card, indent=1, sort_keys=True).encode() + b"\n")
    log.info("%s: written, and held against the network", path)


def export_pyramids(result: Path, *, output: Path) -> None:
    """Write the images of a result as OME-Zarr 0.4, for viewers that do not read 0.5.

    Reads
    -----
    result : manifest of `ingest`, `annotate`, `predict` or `segment`

    Writes
    ------
    output : folder
        ``NAME.zarr``, NAME being the sample's; for labels ``NAME-classes.zarr`` and ``NAME-instances.zarr``.

    Raises
    ------
    ConfigError
        If the result holds no image.
    StoreError
        If what is to be written is there already.
    """
    found = read_manifest(result)
    groups = [name for name in (".", "classes", "instances") if f"{name}/zarr.json".removeprefix("./") in found.objects]
    if not groups:
        raise ConfigError(f"{result}: expected a result with images, came one of stage {found.stage}; see --format")
    output.mkdir(parents=True, exist_ok=True)
    for name in groups:
        target = output / f"{found.sample}{'' if name == '.' else f'-{name}'}.zarr"
        write_old_pyramid(found.store / name, target)
        log.info("%s: written", target)


def export_combined(result: Path, *, output: Path) -> None:
    """Put labels and their image together as one OME-Zarr, of links, for napari and other viewers.

    Reads
    -----
    result : manifest of `annotate` or `segment`
        The manifest of the image lies where the workflow has it, in the folder ``images`` beside that of the result.

    Writes
    ------
    output : folder
        ``NAME.zarr``, NAME being the sample's, with ``labels/classes`` and ``labels/instances``.

    Raises
    ------
    ConfigError
        If the result holds no labels.
    StoreError
        If the image is not the one that the labels were made of, or if what is to be written is there already.
    """
    found = read_manifest(result)
    if found.stage not in ("annotate", "segment"):
        raise ConfigError(f"{result}: expected labels, of stage annotate or segment, came stage {found.stage}")
    results = result.resolve().parents[2 if found.stage == "segment" else 1]
    image = read_manifest(results / "images" / f"{found.sample}.json", stage="ingest")
    # Of an image, annotations know the frame only.
    same = found.inputs.get(image.name) == image.content or found.stage == "annotate"
    if not same or found.facts["shape"] != image.facts["shape"]:
        raise StoreError(f"{result}: expected to be made of {image.path}, which is another image; run it again")
    output.mkdir(parents=True, exist_ok=True)
    target = output / f"{found.sample}.zarr"
    link_combined(image.store, {name: found.store / name for name in ("classes", "instances")}, target)
    log.info("%s: written", target)


def default_window(geometry: NetGeometry) -> int:
    """Side in px of the smallest window with a core of 512 px."""
    return geometry.input_side(CORE + 2 * geometry.context - geometry.shrink)


def largest_core(geometry: NetGeometry, window: int) -> int:
    """Side in px of the largest core of a window: a multiple of the stride; 0 where it has none."""
    return max(window - 2 * geometry.context, 0) // geometry.stride * geometry.stride


def card_of(trained: Manifest, net: NetworkSpec, window: int | None) -> dict[str, Any]:
    """What must be known to apply the network, as plain JSON data."""
    geometry = net.geometry
    card = {
        "unetpipe": __version__,
        "model": trained.sample,
        "network": trained.facts["network"],
        "classes": net.classes,
        "logits": LOGITS[net.head],
        "input": "float32 (N, channels, y, x)",
        "intensity": {"rule": trained.facts["intensity"], "meaning": INTENSITY[trained.facts["intensity"]]},
        "pixel_size_um": trained.facts["pixel_size_um"],
        "seed": trained.spec.get("seed"),
        "geometry": dataclasses.asdict(geometry),
        "tiling": TILING if geometry.tileable else WHOLE,
        "digests": {"model": trained.content, "weights": trained.facts["weights"]},
    }
    if window is not None:
        card["window_px"] = window
        if geometry.tileable:
            card["core_px"] = largest_core(geometry, window)
    return card


def loaded(net: NetworkSpec, weights: Path, digest: str) -> nn.Module:
    """The network with its parameters on the CPU, in evaluation mode."""
    network = build_network(net, seed=0)
    network.load_state_dict(read_weights(weights, digest=digest))
    return network.eval()


def write_parameters(path: Path, network: nn.Module, net: NetworkSpec, card: str) -> None:
    """Write a safetensors file; a network loaded from it gives the very same logits."""
    images = random_images(net.channels, net.geometry.input_side(1))

    def check(file: Path) -> None:
        again = loaded(net, file, sha256_of_file(file))
        hold(path, largest_difference(again, network, images), 0.0, same_card=read_metadata(file)[CARD] == card)

    write_weights(path, network.state_dict(), metadata={CARD: card}, check=check)


def write_program(path: Path, network: nn.Module, net: NetworkSpec, card: str, side: int) -> None:
    """Write a program; run from the disk, it gives the network's logits."""
    torchs = path.suffix == SUFFIXES["torch"]
    make: Callable[..., bytes] = torch_program if torchs else onnx_program
    load = load_torch_program if torchs else load_onnx_program
    images = random_images(net.channels, side)

    def check(file: Path) -> None:
        program, found = load(file.read_bytes())
        hold(path, largest_difference(program, network, images), TOLERANCE, same_card=found == card)

    write_file(path, make(network, channels=net.channels, side=side, card=card), check=check)


def hold(path: Path, difference: float, tolerance: float, *, same_card: bool) -> None:
    """Refuse a file that came back from the disk as something else than what was to be written."""
    if difference > tolerance or not same_card:
        came = f"a difference of {difference:.3g}" if same_card else "a changed card"
        raise ModelError(
            f"{path}: expected card and logits to come back from the disk as the network has them, to {tolerance:g}, "
            f"came {came}; the file is not kept; use another format"
        )

"""How good a network is while it is trained: whole validation images, predicted as `predict` does, and scored."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unetpipe.geometry import Box, TileGrid
from unetpipe.inference import Forward, predict_tiles
from unetpipe.intensity import intensity_range
from unetpipe.manifests import Manifest
from unetpipe.metrics.pixels import dice, iou, pixel_error
from unetpipe.metrics.scores import macro_mean
from unetpipe.metrics.tables import confusion
from unetpipe.progress import Progress
from unetpipe.signals import stop_if_asked
from unetpipe.slides import open_plane
from unetpipe.specs import IGNORE, TrainSpec
from unetpipe.training import Validate
from unetpipe.trainset import validated
from unetpipe.windows import shared_reader

__all__ = ["validation"]

VALIDATION_CORE = 512
# Most bytes of decoded chunks that wait for the next window.
CACHE_BYTES = 128_000_000


def validation(
    manifests: Sequence[Manifest], spec: TrainSpec, intensity: Any, device: torch.device, progress: Progress
) -> Validate | None:
    """A function that scores a network on the whole validation images.

    Parameters
    ----------
    manifests : sequence of Manifest
        All inputs of the training.
    spec : TrainSpec
        With the network.
    intensity : Any
        How grey values are normalised, as the patches tell.
    device : torch.device
        Where the network is.
    progress : Progress
        Its line is emptied before each validation, behind which the log has one.

    Returns
    -------
    callable or None
        Takes a network in evaluation mode and returns ``validation_loss``, the mean of -ln p over all pixels that are
        not ignored, p being the probability of the true class and at least 1e-7, and ``iou``, ``dice`` and
        ``pixel_error``, from one table over all images. None if there are none.

    Raises
    ------
    Interrupted
        By that function, between two cores, if a stop was asked for.
    """
    images = {m.sample: m for m in manifests if m.stage == "ingest"}
    truths = validated(manifests)
    if not truths:
        return None

    def validate(network: nn.Module) -> dict[str, float]:
        progress.clear()
        table = np.zeros((spec.network.classes,) * 2, dtype=np.int64)
        losses, pixels = list[float](), 0

        def score(classes: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> None:
            nonlocal table, pixels
            table += confusion(classes, probabilities.argmax(axis=0).astype(np.uint8), spec.network.classes)
            valid = classes != IGNORE
            chosen = np.take_along_axis(probabilities, np.where(valid, classes, 0)[None].astype(np.int64), axis=0)[0]
            losses.append(-float(np.log(np.maximum(chosen[valid], 1e-7), dtype=np.float64).sum()))
            pixels += int(valid.sum())

        for truth in truths:
            look_at(network, images[truth.sample], truth, spec, intensity, device, score)
        return {"validation_loss": sum(losses) / max(pixels, 1), **scores(table)}

    return validate


def look_at(
    network: nn.Module,
    image: Manifest,
    truth: Manifest,
    spec: TrainSpec,
    intensity: Any,
    device: torch.device,
    score: Callable[[NDArray[np.uint8], NDArray[np.float32]], None],
) -> None:
    """Hand the classes and the probabilities of a validation image on, core by core, in raster order."""
    plane, classes = open_plane(image.store / "0"), open_plane(truth.store / "classes" / "0")
    side = validation_core(spec, plane.shape)
    grid = TileGrid(shape=plane.shape, core_side=side, geometry=spec.network.geometry)
    forward, cores = Forward(members=[(network, grid)], device=device), [tile.core for tile in grid]
    limits = intensity_range(intensity, plane.dtype, image.facts["percentiles"])

    def write(core: Box, probabilities: NDArray[np.float32]) -> None:
        # A slide may take longer than a cluster waits.
        stop_if_asked()
        score(classes.read(core), probabilities)

    predict_tiles(
        forward,
        cores,
        read=shared_reader(plane, forward, cores, limits, most_bytes=CACHE_BYTES),
        write=write,
    )


def validation_core(spec: TrainSpec, shape: tuple[int, ...]) -> int:
    """Side in px of the cores of a validation image: one core where the network cannot be tiled."""
    geometry = spec.network.geometry
    return VALIDATION_CORE if geometry.tileable else -(-max(shape) // geometry.stride) * geometry.stride


def scores(table: NDArray[np.int64]) -> dict[str, float]:
    """Scores of a (K, K) table: IoU and Dice as means over the classes but the first; the worst where not defined."""
    found = {"iou": macro_mean(iou(table)[1:]), "dice": macro_mean(dice(table)[1:])}
    error = pixel_error(table)
    return {name: score.value if score.defined else 0.0 for name, score in found.items()} | {
        "pixel_error": error.value if error.defined else 1.0
    }

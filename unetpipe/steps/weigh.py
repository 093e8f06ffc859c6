"""weigh: maps of the loss weights of one sample."""

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.geometry import Box
from unetpipe.ledgers import open_ledger
from unetpipe.manifests import read_manifest
from unetpipe.slides import create_plane, open_plane
from unetpipe.specs import IGNORE, WeighSpec, WeightForm
from unetpipe.weights import FADE_FLOOR, FADE_SIGMA_PX, SIGMA_2019_PX, W0_2019, border_weights, faded_weights, reach_px
from unetpipe.writing import write_missing

__all__ = ["weigh"]

log = logging.getLogger(__name__)


def weigh(labels: Path, *, output: Path, spec: WeighSpec, code: str) -> None:
    """Compute the weights of one sample, shard by shard with exact seams.

    Reads
    -----
    labels : manifest of `annotate`
        Instances and classes.

    Writes
    ------
    output : manifest
        Beside it a store with the float32 array ``0`` (F, Y, X), one map for each of ``forms``, 0 where the class is
        ignored: what is added to the balance of classes (``unet2015``), or the whole weight (``falk2019``).

    Notes
    -----
    Memory is that of a shard with its surroundings, whatever the slide and the number of its cells.
    """
    source = read_manifest(labels, stage="annotate")
    with open_ledger(output, stage="weigh", spec=spec, code=code, inputs=[source]) as ledger:
        if ledger.complete:
            return
        instances = open_plane(source.store / "instances" / "0")
        classes = open_plane(source.store / "classes" / "0")
        weights = create_plane(ledger.store / "0", shape=(len(spec.forms), *instances.shape), dtype=np.float32)
        begun, margin = time.monotonic(), margin_px(spec)
        todo = sum(box.shape[0] * box.shape[1] for unit, box in weights.iter_shards() if unit not in ledger)

        def make(box: Box) -> NDArray[np.float32]:
            window = box.grown(margin).clipped(weights.shape)
            read = instances.read(window), classes.read(window)
            inside = box.relative_to(window.start).slices
            return np.stack([weighed(*read, spec, form)[inside] for form in spec.forms])

        write_missing(weights, make, ledger)
        log.info("weighed %.3g pixels, %.3g per second", todo, todo / max(time.monotonic() - begun, 1e-9))
        w0, sigma_px = zip(*(constants(spec)[form] for form in spec.forms), strict=True)
        ledger.publish(
            {"shape": list(weights.shape), "forms": list(spec.forms), "w0": list(w0), "sigma_px": list(sigma_px)}
        )


def constants(spec: WeighSpec) -> dict[WeightForm, tuple[float, float]]:
    """The w0 and the sigma in px of each form."""
    return {"unet2015": (spec.w0, spec.sigma_px), "falk2019": (W0_2019, SIGMA_2019_PX)}


def margin_px(spec: WeighSpec) -> int:
    """Surroundings in px beyond which nothing changes a weight."""
    reach = max(reach_px(w0=w0, sigma_px=sigma_px) for w0, sigma_px in (constants(spec)[form] for form in spec.forms))
    return max(reach, reach_px(w0=1.0 - FADE_FLOOR, sigma_px=FADE_SIGMA_PX)) if "falk2019" in spec.forms else reach


def weighed(
    instances: NDArray[np.uint32], classes: NDArray[Any], spec: WeighSpec, form: WeightForm
) -> NDArray[np.float32]:
    """(Y, X) weights of a window from instances as annotated, (Y, X), and classes, (Y, X), which know the ridges."""
    is_cell = classes % IGNORE > 0
    if form == "unet2015":
        weights = border_weights(np.where(is_cell, instances, 0), w0=spec.w0, sigma_px=spec.sigma_px)
        if spec.apply_to == "background":
            weights[is_cell] = 0.0
    else:
        # In 2019, distances are those to the objects as annotated: a ridge between two has d1 = 0.
        objects = np.where(classes != IGNORE, instances, 0)
        outside = border_weights(objects, w0=W0_2019, sigma_px=SIGMA_2019_PX) + faded_weights(objects > 0)
        weights = np.where(is_cell, np.float32(1), outside)
    weights[classes == IGNORE] = 0.0
    return weights

"""weigh: the separation term of the loss weights, for one sample."""

from pathlib import Path

import numpy as np

from unetpipe.manifests import open_ledger, read_manifest
from unetpipe.slides import create_plane, open_plane
from unetpipe.specs import WeighSpec
from unetpipe.weights import border_weights, reach_px

__all__ = ["weigh"]


def weigh(labels: Path, *, output: Path, spec: WeighSpec, code: str) -> None:
    """Compute the border weights of one sample, shard by shard with exact seams.

    Reads
    -----
    labels : manifest of `annotate`
        Instances and classes; ridge pixels belong to no instance here.

    Writes
    ------
    output : manifest
        Beside it a store with the float32 array ``0`` (Y, X).
    """
    source = read_manifest(labels, stage="annotate")
    with open_ledger(output, stage="weigh", spec=spec, code=code, inputs=[source]) as ledger:
        if ledger.complete:
            return
        instances = open_plane(source.store / "instances" / "0")
        classes = open_plane(source.store / "classes" / "0")
        weights = create_plane(ledger.store / "0", shape=instances.shape, dtype=np.float32)
        halo = reach_px(w0=spec.w0, sigma_px=spec.sigma_px)
        for unit, box in weights.iter_shards():
            if unit in ledger:
                continue
            window = box.grown(halo).clipped(weights.shape)
            inside = box.relative_to(window.start).slices
            is_cell = classes.read(window) % 255 > 0
            block = border_weights(np.where(is_cell, instances.read(window), 0), w0=spec.w0, sigma_px=spec.sigma_px)
            if spec.apply_to == "background":
                block = np.where(is_cell, np.float32(0), block)
            ledger.append(unit, weights.write_shard(box, np.ascontiguousarray(block[inside])))
        ledger.publish({"shape": list(weights.shape)})

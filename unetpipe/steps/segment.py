"""segment: classes and instances of a whole slide, stitched over its cores."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.geometry import Box
from unetpipe.instances import Connectivity, CoreComponents, core_components, label_core, relabelled, resolve
from unetpipe.manifests import Ledger, open_ledger, read_manifest
from unetpipe.multiscales import write_multiscale
from unetpipe.pyramids import level_shapes, nearest
from unetpipe.slides import Plane, coarser_block, create_plane, open_plane
from unetpipe.specs import SegmentSpec

__all__ = ["segment"]

CONNECTIVITY: Connectivity = 4


def segment(probabilities: Path, *, output: Path, spec: SegmentSpec, code: str) -> None:
    """Turn probabilities into the most probable class and into instances of one class.

    Reads
    -----
    probabilities : manifest of `predict`

    Writes
    ------
    output : manifest
        Beside it a store with two OME-Zarr label images: ``classes`` (uint8) and ``instances`` (uint32, numbered in
        raster order of their first pixels, whatever the cores).
    """
    source = read_manifest(probabilities, stage="predict")
    with open_ledger(output, stage="segment", spec=spec, code=code, inputs=[source]) as ledger:
        if ledger.complete:
            return
        predicted = open_plane(source.store / "0")
        classes, instances = (
            create_plane(ledger.store / name / "0", shape=predicted.shape, dtype=dtype, shard_side=predicted.shard_side)
            for name, dtype in (("classes", np.uint8), ("instances", np.uint32))
        )
        parts = [classify_core(unit, box, predicted, classes, ledger, spec) for unit, box in classes.iter_shards()]
        objects = resolve(parts, connectivity=CONNECTIVITY, min_area_px=spec.min_area_px)
        for (unit, box), lookup in zip(instances.iter_shards(), objects.lookups, strict=True):
            if f"instances/{unit}" not in ledger:
                labels, count = label_core(classes.read(box) == spec.foreground, connectivity=CONNECTIVITY)
                digest = instances.write_shard(box, relabelled(labels, count, lookup))
                ledger.append(f"instances/{unit}", digest)
        frame = {name: source.facts[name] for name in ("pixel_size_um", "factor")}
        for name, plane, n_classes in (("classes", classes, predicted.channels), ("instances", instances, 0)):
            write_pyramid(name, plane, ledger, frame | {"classes": n_classes})
        counts = sum(np.array(ledger.units[f"classes/{unit}"]["counts"]) for unit, _ in classes.iter_shards())
        facts = {
            "shape": list(classes.shape),
            "class_counts": np.asarray(counts).tolist(),
            "n_instances": objects.count,
            **frame,
        }
        ledger.publish(facts)


def classify_core(
    unit: str, box: Box, predicted: Plane, classes: Plane, ledger: Ledger, spec: SegmentSpec
) -> CoreComponents:
    """Write the classes of one core, unless they are there, and return its connected parts."""
    name = f"classes/{unit}"
    if name in ledger:
        block: NDArray[Any] = classes.read(box)
    else:
        block = predicted.read(box).argmax(axis=0).astype(np.uint8)
        counts = np.bincount(block.ravel(), minlength=predicted.channels).tolist()
        ledger.append(name, classes.write_shard(box, block), counts=counts)
    labels, count = label_core(block == spec.foreground, connectivity=CONNECTIVITY)
    return core_components(labels, count, core=box, image_width=classes.shape[1])


def write_pyramid(name: str, plane: Plane, ledger: Ledger, keys: dict[str, Any]) -> None:
    """Write the coarser levels of a label image and its metadata."""
    shapes = level_shapes(plane.shape)
    finer = plane
    for level, shape in enumerate(shapes[1:], start=1):
        coarser = create_plane(ledger.store / name / str(level), shape=shape, dtype=plane.dtype)
        for unit, box in coarser.iter_shards():
            if f"{name}/{unit}" not in ledger:
                block = coarser_block(finer, box, nearest)
                ledger.append(f"{name}/{unit}", coarser.write_shard(box, block))
        finer = coarser
    group = ledger.store / name
    write_multiscale(group, name=name, shapes=list(shapes), centred=False, label=True, **keys)

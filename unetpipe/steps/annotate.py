"""annotate: the truth of one sample, as instances and as classes."""

import dataclasses
import logging
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetpipe.annotations.maps import Truth
from unetpipe.annotations.truths import open_truth
from unetpipe.errors import AnnotationError
from unetpipe.labelimages import write_label_pyramid
from unetpipe.labels import carve, class_counts
from unetpipe.ledgers import Ledger, open_ledger
from unetpipe.manifests import read_manifest
from unetpipe.resampling import Resampling
from unetpipe.slides import Plane, create_plane
from unetpipe.sources.files import check_unchanged, source_stamp
from unetpipe.specs import AnnotateSpec, canonical_json

__all__ = ["annotate"]

log = logging.getLogger(__name__)


def annotate(annotation: Path, image: Path, *, output: Path, spec: AnnotateSpec, code: str) -> None:
    """Read an annotation file as instances and classes, shard by shard.

    Reads
    -----
    annotation : file
        An image of the source's size (instances, a mask, class indices or colours), or shapes: COCO, QuPath's GeoJSON,
        ImageJ's ROIs.
    image : manifest of `ingest`
        For its size, pixel size and file name. Where it was resampled, instances and classes are too, by the nearest
        pixel: instances that the source keeps apart stay apart, also where the gap between them is lost.

    Writes
    ------
    output : manifest
        Beside it a store with two OME-Zarr label images: ``instances`` (uint32, as annotated) and ``classes`` (uint8,
        255 = ignored, ridges between touching instances are background).
    """
    source = read_manifest(image, stage="ingest")
    # New pixels in a frame of the same size leave the truth as it is: only the frame enters the key, and the name of
    # the file, by which COCO knows the image.
    file = next((name.removeprefix("source/") for name in source.inputs if name.startswith("source/")), "")
    seen = {name: source.facts[name] for name in ("source_shape", "factor", "pixel_size_um", "plane_axes")}
    seen["file"] = file
    frame = dataclasses.replace(source, content=canonical_json(seen))
    stamp = source_stamp(annotation)
    with open_ledger(output, stage="annotate", spec=spec, code=code, inputs=[frame], sources=[annotation]) as ledger:
        if ledger.complete:
            return
        resampling = Resampling(shape=tuple(source.facts["source_shape"]), factor=source.facts["factor"])
        axes = source.facts["plane_axes"]
        with open_truth(annotation, spec, shape=resampling.shape, image=file, axes=axes) as truth:
            instances, classes = write_truth(truth, ledger, resampling, spec)
            drawn, kind = truth.count, truth.kind
        check_unchanged(annotation, stamp)
        counts, found = counted(instances, classes, spec.n_classes)
        if not counts.any():
            why = f"value {spec.ignore_value}" if spec.ignore_value is not None else f"outside: {spec.outside}"
            raise AnnotationError(
                f"{annotation}: every pixel is ignored ({why}), so that nothing can be learnt; annotate some, or "
                "leave the sample out"
            )
        if drawn is not None and drawn > found:
            log.warning("%s: %d of %d shapes have no pixel of their own", annotation, drawn - found, drawn)
        pixel_size = source.facts["pixel_size_um"]
        for name, plane, n_classes in (("classes", classes, spec.n_classes), ("instances", instances, 0)):
            keys = {"pixel_size_um": pixel_size, "factor": resampling.factor, "classes": n_classes}
            write_label_pyramid(plane, ledger, name, keys)
        facts = {
            "shape": list(resampling.result),
            "pixel_size_um": pixel_size,
            "kind": kind,
            "factor": resampling.factor,
            "class_counts": counts.tolist(),
            "n_instances": found,
        }
        ledger.publish(facts)


def write_truth(truth: Truth, ledger: Ledger, resampling: Resampling, spec: AnnotateSpec) -> tuple[Plane, Plane]:
    """Write the finest level of instances and classes; the ridge of a shard needs one pixel around it."""
    instances, classes = (
        create_plane(ledger.store / name / "0", shape=resampling.result, dtype=dtype)
        for name, dtype in (("instances", np.uint32), ("classes", np.uint8))
    )
    write_instances(truth, instances, ledger, resampling)
    for unit, box in classes.iter_shards():
        if f"classes/{unit}" not in ledger:
            window = box.grown(1).clipped(resampling.result)
            block = carve(resampling.labels(truth.classes, window), instances.read(window), ridge=spec.ridge)
            inside = np.ascontiguousarray(block[box.relative_to(window.start).slices])
            ledger.append(f"classes/{unit}", classes.write_shard(box, inside))
    return instances, classes


def write_instances(truth: Truth, instances: Plane, ledger: Ledger, resampling: Resampling) -> None:
    """Write the finest level of instances; where pixels change their size, behind a draft in those of the source."""
    shards = list(instances.iter_shards())
    if resampling.is_none:
        truth.prepare([box for _, box in shards])
        read = truth.instances
    else:
        draft = create_plane(ledger.store / "draft", shape=resampling.shape, dtype=np.uint32)
        boxes = [box for _, box in draft.iter_shards()]
        truth.prepare(boxes)
        for box in boxes:
            draft.write_shard(box, truth.instances(box))
        read = draft.read
    for unit, box in shards:
        if f"instances/{unit}" not in ledger:
            ledger.append(f"instances/{unit}", instances.write_shard(box, resampling.labels(read, box)))
    shutil.rmtree(ledger.store / "draft", ignore_errors=True)


def counted(instances: Plane, classes: Plane, n_classes: int) -> tuple[NDArray[np.int64], int]:
    """Pixels of each class, and the number of instances, of what was written."""
    counts, found = np.zeros(n_classes, np.int64), np.zeros(1, np.uint32)
    for _, box in instances.iter_shards():
        counts += class_counts(classes.read(box), n_classes)
        found = np.union1d(found, np.unique(instances.read(box)))
    return counts, found.size - 1

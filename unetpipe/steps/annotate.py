"""annotate: the truth of one sample, as instances and as classes."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.errors import AnnotationError
from unetpipe.geometry import Box
from unetpipe.labels import carve, class_counts, compact, instances_of_classes, instances_of_mask
from unetpipe.manifests import Ledger, open_ledger, read_manifest
from unetpipe.slides import create_plane, level_shapes, nearest, write_multiscale
from unetpipe.sourcefiles import check_unchanged, source_stamp
from unetpipe.sources import open_source
from unetpipe.specs import AnnotateSpec, canonical_json

__all__ = ["annotate"]


def annotate(annotation: Path, image: Path, *, output: Path, spec: AnnotateSpec, code: str) -> None:
    """Read an annotation file as instances and classes.

    Reads
    -----
    annotation : image file
        Instances, a mask or class indices, of the image's size.
    image : manifest of `ingest`
        For its size and pixel size.

    Writes
    ------
    output : manifest
        Beside it a store with two OME-Zarr label images: ``instances`` (uint32, as annotated) and ``classes`` (uint8,
        255 = ignored, ridges between touching instances are background).
    """
    source = read_manifest(image, stage="ingest")
    # New pixels in a frame of the same size leave the truth as it is: only the frame enters the key.
    seen = {name: source.facts[name] for name in ("shape", "pixel_size_um")}
    frame = dataclasses.replace(source, content=canonical_json(seen))
    stamp = source_stamp(annotation)
    with open_ledger(output, stage="annotate", spec=spec, code=code, inputs=[frame], sources=[annotation]) as ledger:
        if ledger.complete:
            return
        values = read_annotation(annotation, spec, tuple(source.facts["shape"]))
        check_unchanged(annotation, stamp)
        instances, classes = truth_of(values, spec, annotation)
        counts = class_counts(classes, spec.n_classes)
        if not counts.any():
            raise AnnotationError(f"{annotation}: every pixel is ignored ({spec.ignore_value}); nothing to learn from")
        pixel_size = source.facts["pixel_size_um"]
        write_labels(ledger, "instances", instances, pixel_size, classes=0)
        write_labels(ledger, "classes", classes, pixel_size, classes=spec.n_classes)
        facts = {
            "shape": list(classes.shape),
            "pixel_size_um": pixel_size,
            "class_counts": counts.tolist(),
            "n_instances": int(np.count_nonzero(np.unique(instances))),
        }
        ledger.publish(facts)


def read_annotation(path: Path, spec: AnnotateSpec, shape: tuple[int, ...]) -> NDArray[Any]:
    """The (Y, X) values of an annotation file, held against the image's shape."""
    with open_source(path, plane=spec.plane, palette="indices") as source:
        if source.shape != shape:
            expected, came = " x ".join(map(str, shape)), " x ".join(map(str, source.shape))
            raise AnnotationError(f"{path}: expected the image's size of {expected} px, came {came} px")
        block = source.read(Box(start=(0, 0), stop=source.shape))
    if block.dtype.kind == "f":
        raise AnnotationError(
            f"{path}: expected integer labels, came {block.dtype}; save it as 8, 16 or 32 bit integers"
        )
    if any((block[0] != other).any() for other in block[1:]):
        raise AnnotationError(
            f"{path}: expected one channel of labels, came {len(block)} different ones; "
            "save instances or class indices as a grey image"
        )
    values: NDArray[Any] = block[0]
    if values.size and int(values.min()) < 0:
        raise AnnotationError(f"{path}: expected labels from 0 on, came {int(values.min())}")
    return values


def truth_of(values: NDArray[Any], spec: AnnotateSpec, path: Path) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Instances (Y, X) and classes (Y, X) of annotation values (Y, X)."""
    ignored = values == spec.ignore_value if spec.ignore_value is not None else np.zeros(values.shape, dtype=bool)
    values = np.where(ignored, 0, values).astype(values.dtype)
    if spec.kind == "classes":
        if int(values.max(initial=0)) >= spec.n_classes:
            raise AnnotationError(
                f"{path}: expected class indices 0 to {spec.n_classes - 1}, came {int(values.max())}; "
                "name more classes, set annotate.ignore_value, or set annotate.kind"
            )
        classes = values.astype(np.uint8)
        instances = instances_of_classes(classes)
    else:
        instances = compact(values) if spec.kind == "instances" else instances_of_mask(values > 0)
        classes = (instances > 0).astype(np.uint8)
    classes = carve(classes, instances, ridge=spec.ridge)
    classes[ignored] = 255
    return instances, classes


def write_labels(ledger: Ledger, name: str, labels: NDArray[Any], pixel_size_um: float | None, classes: int) -> None:
    """Write (Y, X) labels as a pyramid; coarse levels take the first of 2 x 2 px."""
    shapes = level_shapes((labels.shape[0], labels.shape[1]))
    for level, shape in enumerate(shapes):
        plane = create_plane(ledger.store / name / str(level), shape=shape, dtype=labels.dtype)
        for unit, box in plane.iter_shards():
            if f"{name}/{unit}" not in ledger:
                ledger.append(f"{name}/{unit}", plane.write_shard(box, np.ascontiguousarray(labels[box.slices])))
        labels = nearest(labels)
    group = ledger.store / name
    write_multiscale(
        group, name=name, shapes=list(shapes), pixel_size_um=pixel_size_um, centred=False, label=True, classes=classes
    )

"""segment: classes and instances of a whole slide, stitched over its cores, and its objects measured and outlined."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.errors import ConfigError, ModelError, StoreError
from unetpipe.features import OutlineFile, iter_geometries, iter_texts, write_geojson, write_parquet, write_table
from unetpipe.geometry import Box
from unetpipe.labelimages import write_label_pyramid
from unetpipe.ledgers import Ledger, open_ledger
from unetpipe.manifests import Manifest, read_manifest
from unetpipe.masks import decided
from unetpipe.measures import (
    add_block,
    add_sums,
    framed,
    in_um,
    intensity_scale,
    labels_of_block,
    no_sums,
    properties,
    whole_numbers,
)
from unetpipe.multiscales import CLASS_COLOURS
from unetpipe.outlines import trace
from unetpipe.progress import TileProgress
from unetpipe.resampling import Resampling
from unetpipe.slides import Plane, create_plane, open_plane, shard_boxes
from unetpipe.specs import SegmentSpec
from unetpipe.stitching import Stitched, four_connected, instances_of, kinds_of, turns
from unetpipe.unfinished import Unfinished
from unetpipe.units import area_px

__all__ = ["segment"]

ROWS_AT_ONCE = 2**12
# Units of the ledger, and their files.
OBJECTS = {
    "objects.csv": "objects.csv",
    "objects.parquet": "objects.parquet",
    "objects.geojson": "objects.geojson.gz",
}


def segment(
    probabilities: Path, image: Path, thresholds: Path | None = None, *, output: Path, spec: SegmentSpec, code: str
) -> None:
    """Turn probabilities into a class for each pixel and into instances of classes, measured and outlined.

    Reads
    -----
    probabilities : manifest of `predict`
    image : manifest of `ingest`
        The image that they were predicted from.
    thresholds : manifest of `tune`, optional
        Of the same model: for the classes that the spec gives no threshold.

    Writes
    ------
    output : manifest
        Beside it a store with two OME-Zarr label images, ``classes`` (uint8) and ``instances`` (uint32, numbered in
        raster order of their first pixels, whatever the cores). Of the instances, the table ``objects.csv`` and
        ``objects.parquet`` (columns as in `properties` and `in_um`) and the outlines ``objects.geojson.gz``, in px of
        the source.
    """
    source, pixels = read_manifest(probabilities, stage="predict"), read_manifest(image, stage="ingest")
    if source.inputs.get(pixels.name) != pixels.content:
        raise StoreError(
            f"{image}: expected the image that {probabilities} was predicted from, came another; run predict again"
        )
    predicted = open_plane(source.store / "0")
    if spec.classes and len(spec.classes) != predicted.channels:
        raise ModelError(
            f"{probabilities}: expected {len(spec.classes)} classes as the configuration lists, came "
            f"{predicted.channels} of model {probabilities.parent.name}; list those of this model"
        )
    smallest = smallest_area(spec, pixels)
    tuned = [read_manifest(thresholds, stage="tune")] if thresholds else []
    if tuned and tuned[0].sample != probabilities.parent.name:
        raise StoreError(
            f"{thresholds}: expected thresholds of model {probabilities.parent.name}, as the probabilities are, "
            f"came those of {tuned[0].sample}; give those of the same model"
        )
    least = dict(tuned[0].facts["thresholds"] if tuned else {}) | (spec.thresholds or {})
    with open_ledger(output, stage="segment", spec=spec, code=code, inputs=[source, pixels, *tuned]) as ledger:
        if ledger.complete:
            return
        classes, instances = (
            create_plane(ledger.store / name / "0", shape=predicted.shape, dtype=dtype, shard_side=predicted.shard_side)
            for name, dtype in (("classes", np.uint8), ("instances", np.uint32))
        )
        unfinished = watched(ledger, classes, spec, predicted.channels)
        try:
            write_classes(classes, predicted, source.facts["scale"], ledger, spec, least, unfinished)
            if any(f"instances/{unit}" not in ledger for unit, _ in instances.iter_shards()) or objects_left(ledger):
                keys: dict[str, Any] = {"spec": spec, "scale": source.facts["scale"], "min_area_px": smallest}
                stitched, kinds = instances_of(classes, predicted, **keys, unfinished=unfinished)
                write_instances(instances, stitched, ledger, unfinished)
                write_objects(instances, kinds, source, pixels, ledger, spec, unfinished)
        finally:
            unfinished.progress.clear()
        frame = {name: source.facts[name] for name in ("pixel_size_um", "factor")}
        for name, plane, n_classes in (("classes", classes, predicted.channels), ("instances", instances, 0)):
            write_label_pyramid(plane, ledger, name, frame | {"classes": n_classes})
        by_class = ledger.units["objects.geojson"]["instances"]
        counts = sum(np.array(ledger.units[f"classes/{unit}"]["counts"]) for unit, _ in classes.iter_shards())
        facts = {
            "shape": list(classes.shape),
            "class_counts": np.asarray(counts).tolist(),
            "thresholds": least,
            "tuned": sorted({*least} - {*(spec.thresholds or {})}),
            "n_instances": sum(by_class.values()),
            "instances": by_class,
            **frame,
        }
        unfinished.remove()
        ledger.publish(facts)


def watched(ledger: Ledger, plane: Plane, spec: SegmentSpec, n_classes: int) -> Unfinished:
    """What is known of the cores of a plane, with the progress of all turns over them."""
    # Those of the labelling, those that write classes and instances, and the one that measures, in blocks of its own.
    over_cores = turns(spec, n_classes) + 2
    cores = over_cores * len(list(plane.iter_shards())) + len(list(shard_boxes("", plane.shape)))
    return Unfinished(ledger.store / "unfinished", TileProgress(cores, sys.stderr), turns=over_cores + 1)


def smallest_area(spec: SegmentSpec, image: Manifest) -> int:
    """Area in px that an instance must have."""
    size_um = image.facts["pixel_size_um"]
    if spec.min_area_um2 is None:
        return spec.min_area_px
    if size_um is None:
        raise ConfigError(
            f"{image.path}: expected a pixel size, which segment.min_area_um2 needs, came none; fill in the column "
            "pixel_size_um of the sample sheet"
        )
    return area_px(spec.min_area_um2, size_um)


def write_classes(
    classes: Plane,
    predicted: Plane,
    scale: int,
    ledger: Ledger,
    spec: SegmentSpec,
    thresholds: dict[str, float],
    unfinished: Unfinished,
) -> None:
    """Write the class of each pixel, core by core."""
    least = {spec.classes.index(name): max(1, round(t * scale)) for name, t in thresholds.items()}
    for unit, box in classes.iter_shards():
        is_new = f"classes/{unit}" not in ledger
        if is_new:
            block = decided(predicted.read(box), least=least)
            counts = np.bincount(block.ravel(), minlength=predicted.channels).tolist()
            ledger.append(f"classes/{unit}", classes.write_shard(box, block), counts=counts)
        unfinished.passed(box, is_new=is_new)


def write_instances(plane: Plane, stitched: Stitched, ledger: Ledger, unfinished: Unfinished) -> None:
    """Write the label of each pixel, core by core."""
    # The cores may be named by an array aside.
    names = {box: f"instances/{name}" for name, box in plane.iter_shards()}
    for number, (_, box) in enumerate(stitched.cores):
        is_new = names[box] not in ledger
        if is_new:
            ledger.append(names[box], plane.write_shard(box, stitched.block(number)))
        unfinished.passed(box, is_new=is_new)


def objects_left(ledger: Ledger) -> list[str]:
    """Units of the objects that are not there."""
    return [unit for unit, file in OBJECTS.items() if unit not in ledger or not (ledger.store / file).is_file()]


def write_objects(
    instances: Plane,
    kinds: NDArray[np.uint8],
    source: Manifest,
    image: Manifest,
    ledger: Ledger,
    spec: SegmentSpec,
    unfinished: Unfinished,
) -> None:
    """Write the table and the outlines of all instances, whose classes are given, unless they are there."""
    if not (left := objects_left(ledger)):
        return
    windows = image.facts["percentiles"]
    scale = 1.0 if np.dtype(image.facts["dtype"]).kind == "u" else intensity_scale(windows)
    sums = no_sums(len(kinds), image.facts["channels"])
    frame = Resampling(shape=tuple(image.facts["source_shape"]), factor=image.facts["factor"])
    with OutlineFile(ledger.store) as outlines:
        add_objects(sums, outlines, instances, kinds, source, image, spec, scale, unfinished)

        def tables() -> Iterator[dict[str, NDArray[Any]]]:
            return object_tables(sums, kinds, source.facts["scale"], scale, image, spec)

        colours = {spec.class_name(k): CLASS_COLOURS[(k - 1) % len(CLASS_COLOURS)] for k in np.unique(kinds).tolist()}
        writers: dict[str, Callable[[Path], str]] = {
            "objects.csv": lambda path: write_table(path, iter_texts(tables())),
            "objects.parquet": lambda path: write_parquet(path, tables()),
            "objects.geojson": lambda path: write_geojson(
                path, iter_geometries(outlines, frame), iter_texts(tables()), colours=colours
            ),
        }
        found = kinds_of(spec, open_plane(source.store / "0").channels)
        counts = {spec.class_name(k): int((kinds == k).sum()) for k in found}
        for unit in left:
            ledger.append(unit, writers[unit](ledger.store / OBJECTS[unit]), instances=counts)


def add_objects(
    sums: NDArray[np.int64],
    outlines: OutlineFile,
    instances: Plane,
    kinds: NDArray[np.uint8],
    source: Manifest,
    image: Manifest,
    spec: SegmentSpec,
    scale: float,
    unfinished: Unfinished,
) -> None:
    """Measure and trace all instances, block by block."""
    predicted, pixels = open_plane(source.store / "0"), open_plane(image.store / "0")
    shape, kind_of = instances.shape, np.concatenate([[np.uint8(0)], kinds])
    parts = instances if spec.connectivity == 4 else four_connected(instances, unfinished)

    def found(box: Box) -> dict[str, NDArray[Any]]:
        around = box.grown(1).clipped(shape)
        labels = framed(instances.read(around), box, shape)
        objects, names = labels_of_block(labels)
        own_sums = no_sums(len(objects), image.facts["channels"])
        if len(objects):
            own_kinds = kind_of[labels[1:-1, 1:-1]]
            probability = np.take_along_axis(predicted.read(box), own_kinds[None], axis=0)[0]
            add_block(own_sums, names, probability, whole_numbers(pixels.read(box), scale), box=box)
        own = labels if parts is instances else framed(parts.read(around), box, shape)
        vertices, runs = trace(labels, own, box=box, image_width=shape[1])
        return {"objects": objects, "sums": own_sums, "vertices": vertices, "runs": runs}

    for block in unfinished.each("objects", [box for _, box in shard_boxes("", shape)], found):
        add_sums(sums, block["sums"], block["objects"])
        outlines.add(block["vertices"], block["runs"])


def object_tables(
    sums: NDArray[np.int64], kinds: NDArray[np.uint8], full: int, scale: float, image: Manifest, spec: SegmentSpec
) -> Iterator[dict[str, NDArray[Any]]]:
    """The rows of all objects, some at once; at least one table, which tells the columns."""
    size_um = image.facts["pixel_size_um"]
    names = np.array([spec.class_name(k) for k in range(int(kinds.max(initial=0)) + 1)])
    channels = channel_names(image.facts["channel_names"], image.facts["channels"])
    for start in range(0, max(len(sums), 1), ROWS_AT_ONCE):
        some = sums[start : start + ROWS_AT_ONCE]
        found = properties(some, full=full, scale=scale, channels=channels)
        numbers = np.arange(start + 1, start + len(some) + 1)
        lengths = in_um(found, size_um) if size_um else {}
        yield {"id": numbers, "class": names[kinds[start : start + len(some)]], **found, **lengths}


def channel_names(names: Sequence[str], count: int) -> list[str]:
    """A name for each channel: its own, or its number where channels have none of their own."""
    return list(names) if len(set(names)) == count else [str(number) for number in range(count)]

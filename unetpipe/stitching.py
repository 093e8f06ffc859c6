"""Instances of a slide, core by core: connected parts of its classes, holes filled, split where they are narrow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.basins import REACH, STEPS, CoreBasins, core_basins, distance_heights, resolve_basins
from unetpipe.errors import StoreError
from unetpipe.geometry import Box
from unetpipe.instances import CoreComponents, Objects, core_components, relabelled, resolve
from unetpipe.labelling import Connectivity, label_core
from unetpipe.masks import filled
from unetpipe.measures import framed
from unetpipe.slides import Plane, create_plane
from unetpipe.specs import SegmentSpec
from unetpipe.unfinished import Unfinished

__all__ = ["Stitched", "connected", "four_connected", "instances_of", "kinds_of", "turns"]

OPPOSITE: dict[Connectivity, Connectivity] = {4: 8, 8: 4}

Labelled = Callable[[Box], tuple[NDArray[np.uint32], int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stitched:
    """Labels of a slide that are made core by core.

    Parameters
    ----------
    objects : Objects
        Those of the whole image.
    cores : tuple of (str, Box)
        Name and box of each core, in raster order.
    labelled : callable
        From a box to the labels of its core, and their number.
    """

    objects: Objects
    cores: tuple[tuple[str, Box], ...]
    labelled: Labelled

    def block(self, number: int) -> NDArray[np.uint32]:
        """The labels of a core, numbered over the whole image."""
        return relabelled(*self.labelled(self.cores[number][1]), self.objects.lookups[number])


def kinds_of(spec: SegmentSpec, n_classes: int) -> tuple[int, ...]:
    """Classes whose connected parts are instances.

    Examples
    --------
    >>> names = ("background", "cell", "debris", "nucleus")
    >>> kinds_of(SegmentSpec(classes=names), 4), kinds_of(SegmentSpec(classes=names, instances=("nucleus",)), 4)
    ((1, 2, 3), (3,))
    """
    if spec.instances is None:
        return tuple(range(1, n_classes))
    return tuple(sorted({spec.classes.index(name) for name in spec.instances}))


def turns(spec: SegmentSpec, n_classes: int) -> int:
    """How often `instances_of` and `four_connected` go over the cores of a slide.

    Examples
    --------
    >>> turns(SegmentSpec(), 3), turns(SegmentSpec(connectivity=8, fill_holes=True, split="distance"), 3)
    (1, 7)
    """
    filling = len(kinds_of(spec, n_classes)) if spec.fill_holes else 0
    return filling + 1 + 2 * (spec.split != "none") + 2 * (spec.connectivity == 8)


def connected(
    plane: Plane,
    values_of: Callable[[Box], NDArray[Any]],
    connectivity: Connectivity,
    unfinished: Unfinished,
    name: str,
    *,
    min_area_px: int = 0,
) -> Stitched:
    """The connected parts of equal value, in the cores of a plane; what is known of a core is kept under a name."""

    def labelled(box: Box) -> tuple[NDArray[np.uint32], int]:
        return label_core(values_of(box), connectivity=connectivity)

    def components(box: Box) -> dict[str, NDArray[Any]]:
        values = values_of(box)
        found = label_core(values, connectivity=connectivity)
        return core_components(*found, core=box, image_width=plane.shape[1], values=values).to_arrays()

    cores = tuple(plane.iter_shards())
    parts = [CoreComponents.from_arrays(a) for a in unfinished.each(name, [box for _, box in cores], components)]
    objects = resolve(parts, connectivity=connectivity, min_area_px=min_area_px)
    return Stitched(objects=objects, cores=cores, labelled=labelled)


def four_connected(labels: Plane, unfinished: Unfinished) -> Plane:
    """The 4-connected parts of labels, as an array on disk."""
    return stored(connected(labels, labels.read, 4, unfinished, "parts-cores"), labels, unfinished, "parts")


def stored(labels: Stitched, like: Plane, unfinished: Unfinished, name: str) -> Plane:
    """Labels as an array on disk, beside what is kept of an unfinished stage."""
    plane = beside(like, unfinished, name)
    for number, (_, box) in enumerate(labels.cores):
        try:
            plane.read(box)
            is_new = False
        except StoreError:
            # Not there, or damaged since.
            plane.write_shard(box, labels.block(number))
            is_new = True
        unfinished.passed(box, is_new=is_new)
    return plane


def beside(like: Plane, unfinished: Unfinished, name: str) -> Plane:
    """An array for labels in the cores of another one, among what is kept of an unfinished stage."""
    folder = unfinished.folder / name
    return create_plane(folder, shape=like.shape, dtype=np.uint32, shard_side=like.shard_side)


def instances_of(
    classes: Plane, predicted: Plane, *, spec: SegmentSpec, scale: int, min_area_px: int, unfinished: Unfinished
) -> tuple[Stitched, NDArray[np.uint8]]:
    """The instances of a slide.

    Parameters
    ----------
    classes : Plane
        Class of each pixel.
    predicted : Plane
        Probabilities of all classes.
    spec : SegmentSpec
        What instances are.
    scale : int
        Stored value of probability 1.
    min_area_px : int
        Smaller ones are dropped.
    unfinished : Unfinished
        Keeps what is needed as long as what comes back.

    Returns
    -------
    Stitched, (N,) uint8
        Labels, numbered in raster order of their first pixels, and the class of each instance.
    """
    kinds = kinds_of(spec, predicted.channels)
    values_of = instance_values(classes, kinds, spec, unfinished)
    whole = connected(classes, values_of, spec.connectivity, unfinished, "cores", min_area_px=min_area_px)
    own_kinds = whole.objects.values.astype(np.uint8)
    if spec.split == "none":
        return whole, own_kinds
    table = np.concatenate([[np.uint8(0)], own_kinds])
    plane = stored(whole, classes, unfinished, "whole")
    parts = split(plane, predicted, kinds, table, spec, scale, min_area_px, unfinished)
    return parts, table[parts.objects.values]


def instance_values(
    classes: Plane, kinds: Sequence[int], spec: SegmentSpec, unfinished: Unfinished
) -> Callable[[Box], NDArray[np.uint8]]:
    """A function that gives the class of those pixels of a core that belong to instances, 0 elsewhere."""
    own = np.zeros(256, np.uint8)
    own[list(kinds)] = kinds

    def values_of(box: Box) -> NDArray[np.uint8]:
        values: NDArray[np.uint8] = own[classes.read(box)]
        return values

    if not spec.fill_holes:
        return values_of
    around = OPPOSITE[spec.connectivity]
    boxes = [box for _, box in classes.iter_shards()]

    def surroundings(kind: int, box: Box) -> dict[str, NDArray[Any]]:
        values = values_of(box)
        found = label_core(values != kind, connectivity=around)
        parts = core_components(*found, core=box, image_width=classes.shape[1])
        return parts.to_arrays() | {"taken": np.unique(found[0][values > 0])}

    belongs: dict[int, dict[Box, NDArray[np.bool_]]] = {}
    for kind in kinds:
        records = list(unfinished.each(f"around-{kind}", boxes, partial(surroundings, kind)))
        parts, taken = [CoreComponents.from_arrays(a) for a in records], [a["taken"] for a in records]
        belongs[kind] = dict(zip(boxes, filled(parts, connectivity=around, taken=taken), strict=True))

    def filled_values_of(box: Box) -> NDArray[np.uint8]:
        values = values_of(box)
        full = values.copy()
        for kind in kinds:
            found, _ = label_core(values != kind, connectivity=around)
            full[belongs[kind][box].take(found)] = kind
        return full

    return filled_values_of


def split(
    whole: Plane,
    predicted: Plane,
    kinds: Sequence[int],
    kind_of: NDArray[np.uint8],
    spec: SegmentSpec,
    scale: int,
    min_area_px: int,
    unfinished: Unfinished,
) -> Stitched:
    """Instances parted where they are narrow, or less probable; their values are the labels of whole ones."""
    shape, reach = whole.shape, REACH if spec.split == "distance" else 0
    depth = max(1, round(spec.split_depth_px * STEPS if reach else spec.split_depth_probability * scale))

    def basins(box: Box) -> tuple[NDArray[np.uint32], CoreBasins]:
        around, wide = box.grown(1).clipped(shape), box.grown(1 + reach).clipped(shape)
        labels = whole.read(wide)
        inner = around.relative_to(wide.start).slices
        own = labels[inner]
        heights = np.zeros(own.shape, np.int32)
        # A read takes its time: it is not for cores that hold no instance.
        probabilities = predicted.read(around) if own.any() and not reach else None
        for kind in kinds if own.any() else ():
            mask = kind_of[labels] == kind
            rise = distance_heights(mask)[inner] if probabilities is None else probabilities[kind]
            heights = np.where(mask[inner], rise, heights).astype(np.int32)
        around_own, around_heights = framed(own, box, shape), framed(heights, box, shape)
        keys: dict[str, Any] = {"core": box, "image_width": shape[1], "connectivity": spec.connectivity, "depth": depth}
        return core_basins(around_own, around_heights, **keys)

    # Finding basins takes half of the time of all: those of the first pass are kept for the second.
    kept = beside(whole, unfinished, "basins")

    def recorded(box: Box) -> dict[str, NDArray[Any]]:
        labels, record = basins(box)
        kept.write_shard(box, labels)
        return record.to_arrays()

    def labelled(box: Box) -> tuple[NDArray[np.uint32], int]:
        try:
            labels = kept.read(box)
        except StoreError:
            # Lost or damaged since.
            labels, _ = basins(box)
        return labels, int(labels.max())

    cores = tuple(whole.iter_shards())
    found = unfinished.each("basins-cores", [box for _, box in cores], recorded)
    records = [CoreBasins.from_arrays(arrays) for arrays in found]
    objects = resolve_basins(records, depth=depth, min_area_px=min_area_px)
    return Stitched(objects=objects, cores=cores, labelled=labelled)

"""ingest: a source image as an OME-Zarr pyramid with checked pixels and known intensities."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.errors import GeometryError, SourceError
from unetpipe.geometry import Box
from unetpipe.intensity import percentiles
from unetpipe.ledgers import Ledger, open_ledger
from unetpipe.multiscales import write_multiscale
from unetpipe.pyramids import level_shapes
from unetpipe.resampling import Resampling, along_both, factor_between
from unetpipe.slides import Plane, create_plane, digest_of, open_plane
from unetpipe.sources.arrays import ArraySource
from unetpipe.sources.files import check_unchanged, source_stamp
from unetpipe.sources.images import Source, channel_index, checked_image_block, image_dtype, open_source
from unetpipe.sources.openslides import check_second_reader
from unetpipe.sources.views import link_view
from unetpipe.specs import IngestSpec
from unetpipe.tissue import tissue_mask, tissue_pixels
from unetpipe.units import agree, coarse_level, shrink_factor
from unetpipe.writing import write_levels

__all__ = ["ingest"]

log = logging.getLogger(__name__)

# Percentiles are taken from the finest level of at most this many pixels, so that memory stays bounded.
STATISTICS_PX = 2**24
LOW, HIGH = 1.0, 99.8
# Tissue is looked for where cells are no longer seen, in a level that is small enough.
TISSUE_UM, TISSUE_PX = 8.0, 2**22


def ingest(image: Path, *, output: Path, spec: IngestSpec, code: str) -> None:
    """Read a source image and write it as OME-Zarr 0.5 with a pyramid.

    Reads
    -----
    image : image file or folder
        Any that `open_source` takes; 8 or 16 bit or float; grey, RGB or RGBA.

    Writes
    ------
    output : manifest
        Beside it a store with the arrays ``0``, ``1`` ... (C, Y, X). ``pixel_size_um`` is their pixel size,
        ``nominal_um`` the one they stand for (`spec.pixel_size_um` where it is set, within 2 % of theirs), ``factor``
        the side of their pixels in px of the source's finest level, of shape ``source_shape``, two along y and x where
        they differ, ``plane_axes`` what its planes count through. With `spec.tissue`, the label image ``tissue`` beside
        them is 1 where there is tissue, at the ``level`` of the fact ``tissue``.

    Notes
    -----
    Resampled from the chosen level of the source, by `Resampling.image_block`.
    """
    stamp = source_stamp(image)
    with open_source(image, plane=spec.plane, level=spec.level) as source:
        # OpenSlide knows the first plane only.
        comparable = source.channels == 3 and not spec.level and not spec.plane
        check_second_reader(image, source.levels[0], source.read if comparable else None)
        channels = kept_channels(source, spec)
        sides = source_pixel_sides(source, spec)
        check_needs(source, sides, spec)
        frame = resampling_of(source, sides, spec)
        whole = frame_in_finest(source, frame, spec)
        pixel_size = spec.pixel_size_um if sides is None or not frame.is_none else sides[1]
        with open_ledger(output, stage="ingest", spec=spec, code=code, sources=[image]) as ledger:
            if ledger.complete:
                return
            dtype = image_dtype(source.dtype, image)
            shapes = [(len(channels), *shape) for shape in level_shapes(frame.result)]
            finest = used_in_place(source, channels, ledger, spec) if frame.is_none else None
            levels = [finest] if finest else []
            for i, shape in list(enumerate(shapes))[len(levels) :]:
                levels.append(create_plane(ledger.store / str(i), shape=shape, dtype=dtype))
            copy_pixels(source, channels, frame, levels, ledger)
            windows = intensity_windows(levels)
            tissue = write_tissue(levels, pixel_size, whole, ledger, spec)
            names = [source.channel_names[i] for i in channels] if source.channel_names else []
            write_multiscale(
                ledger.store,
                name=output.name.removesuffix(".json"),
                shapes=shapes,
                pixel_size_um=pixel_size,
                centred=True,
                factor=whole.factor,
                windows=windows,
                names=names,
                full=(0, np.iinfo(dtype).max) if dtype.kind == "u" else None,
            )
            facts = {
                "shape": list(frame.result),
                "source_shape": list(whole.shape),
                "factor": whole.factor,
                "channels": len(channels),
                "dtype": dtype.name,
                "levels": len(levels),
                "pixel_size_um": pixel_size,
                "nominal_um": spec.pixel_size_um or pixel_size,
                "percentiles": windows,
                "tissue": tissue,
                "channel_names": names,
                "plane_axes": source.plane_axes,
            }
            check_unchanged(image, stamp)
            ledger.publish(facts)


def kept_channels(source: Source, spec: IngestSpec) -> list[int]:
    """Indices of the channels to keep, held against the source's."""
    if spec.channels is None:
        return list(range(source.channels))
    return [channel_index(source, wanted) for wanted in spec.channels]


def used_in_place(source: Source, channels: list[int], ledger: Ledger, spec: IngestSpec) -> Plane | None:
    """Level 0 as links to the chunks of a Zarr source, checked and summed up as a copy would be; None to copy it."""
    folder = ledger.store / "0"
    if spec.copy or not isinstance(source, ArraySource) or not link_view(source, channels, folder):
        return None
    plane = open_plane(folder)
    for unit, box in plane.iter_shards():
        if unit not in ledger:
            ledger.append(unit, digest_of(checked_image_block(plane.read(box), source.path)))
    return plane


def source_pixel_sides(source: Source, spec: IngestSpec) -> tuple[float, float] | None:
    """Height and width of a pixel of the open level in um, by the sheet or else the file; None where neither tells."""
    given, declared = spec.source_pixel_size_um, source.pixel_sides_um
    if given is not None and declared and not all(agree(given, side) for side in declared):
        log.warning(
            "%s: the file says pixels of %s, the sample sheet %.4g um, which counts",
            source.path,
            shown(declared),
            given,
        )
    finest = declared if given is None else (given, given)
    if finest is None or not spec.level:
        return finest
    down, across = factor_between(source.levels[0], source.shape)
    return finest[0] * down, finest[1] * across


def shown(sides: tuple[float, float]) -> str:
    """Height and width of a pixel in words."""
    height, width = sides
    return f"{width:.4g} um" if agree(height, width) else f"{height:.4g} x {width:.4g} um (height x width)"


def check_needs(source: Source, sides: tuple[float, float] | None, spec: IngestSpec) -> None:
    """Refuse a source that lacks what the keys need."""
    if sides is None and (spec.pixel_size_um or spec.tissue != "none"):
        name = "pixel_size_um" if spec.pixel_size_um else "tissue"
        raise SourceError(
            f"{source.path}: expected a pixel size, which ingest.{name} needs, came none; fill in the column "
            "pixel_size_um of the sample sheet"
        )
    if sides is not None and not agree(*sides) and spec.pixel_size_um is None:
        raise SourceError(
            f"{source.path}: expected square pixels, came {shown(sides)}; set ingest.pixel_size_um, to which they are "
            "resampled, or the column pixel_size_um of the sample sheet if the file is wrong"
        )
    channels = source.channels if spec.channels is None else len(spec.channels)
    if spec.tissue == "colour" and channels != 3:
        raise SourceError(
            f"{source.path}: expected 3 channels, which ingest.tissue: colour needs, came {channels}; use darkness or "
            "brightness"
        )


def resampling_of(source: Source, sides: tuple[float, float] | None, spec: IngestSpec) -> Resampling:
    """From the pixels of the source's level to those that are wanted."""
    if sides is None or spec.pixel_size_um is None:
        return Resampling(shape=source.shape, factor=1.0)
    # Sides that agree are taken for one, so that what is square stays so to the last bit.
    along = [shrink_factor(side, spec.pixel_size_um) for side in (sides[1:] if agree(*sides) else sides)]
    try:
        return Resampling(shape=source.shape, factor=along if len(along) > 1 else along[0])
    except GeometryError as error:
        raise SourceError(f"{source.path}: {error} ({shown(sides)}) or ingest.pixel_size_um") from None


def frame_in_finest(source: Source, frame: Resampling, spec: IngestSpec) -> Resampling:
    """From the pixels of the source's finest level, in which shapes are drawn, to those that are wanted."""
    if not spec.level:
        return frame
    finest = source.levels[0]
    shrunk = zip(factor_between(finest, source.shape), along_both(frame.factor), strict=True)
    try:
        whole = Resampling(shape=finest, factor=one_or_both(a * b for a, b in shrunk))
        if whole.result == frame.result:
            return whole
        # The sides of the level were rounded, and those of the result are again.
        return Resampling(shape=finest, factor=one_or_both(factor_between(finest, frame.result)))
    except GeometryError as error:
        raise SourceError(f"{source.path}: level {spec.level}: {error}") from None


def one_or_both(factors: Iterable[float]) -> float | tuple[float, float]:
    """Factors along y and x as one where they are the same."""
    y, x = factors
    return y if y == x else (y, x)


def copy_pixels(source: Source, channels: list[int], frame: Resampling, levels: list[Plane], ledger: Ledger) -> None:
    """Write all levels in one pass over the source; those below the one that is used in place, if it is."""
    # A list would copy what a slice only points at.
    kept = slice(None) if channels == list(range(source.channels)) else channels

    def read(box: Box) -> NDArray[Any]:
        return checked_image_block(source.read(box), source.path)[kept]

    def make(box: Box) -> NDArray[Any]:
        return read(box) if frame.is_none else resampled(read, frame, box, levels[0])

    write_levels(levels, make, ledger, row_by_row=source.row_by_row)


def resampled(read: Callable[[Box], NDArray[Any]], frame: Resampling, box: Box, plane: Plane) -> NDArray[Any]:
    """(C, y, x) pixels of a box of level 0, made of parts of the source that fit into memory."""
    block = np.empty((plane.channels, *box.shape), plane.dtype)
    for part in frame.parts(box):
        block[:, *part.relative_to(box.start).slices] = frame.image_block(read(frame.source_box(part)), part)
    return block


def write_tissue(
    levels: list[Plane], pixel_size_um: float | None, frame: Resampling, ledger: Ledger, spec: IngestSpec
) -> dict[str, Any] | None:
    """Write the tissue mask as a label image of the store, if one is wanted; its level and its share of the area."""
    if spec.tissue == "none" or pixel_size_um is None:
        return None
    level = coarse_level([plane.shape for plane in levels], pixel_size_um, at_least_um=TISSUE_UM, at_most_px=TISSUE_PX)
    side_um = pixel_size_um * 2**level
    tissue = tissue_pixels(levels[level].read_whole(), spec.tissue)
    smallest_um2, margin_um = spec.tissue_smallest_um2, spec.tissue_margin_um
    mask = tissue_mask(tissue, pixel_size_um=side_um, smallest_um2=smallest_um2, margin_um=margin_um)
    if not mask.any():
        why = (
            "all parts are smaller than ingest.tissue_smallest_um2"
            if tissue.any()
            else "nothing stands out of the noise"
        )
        log.warning("%s: no tissue found: %s; if that is wrong, change ingest.tissue", ledger.manifest, why)
    # Not among the image's `labels`, which must have as many levels as the image.
    group = ledger.store / "tissue"
    plane = create_plane(group / "0", shape=mask.shape, dtype=np.uint8)
    for unit, box in plane.iter_shards():
        if f"tissue/{unit}" not in ledger:
            block = np.ascontiguousarray(mask[box.slices], np.uint8)
            ledger.append(f"tissue/{unit}", plane.write_shard(box, block))
    factor = [along * 2**level for along in along_both(frame.factor)]
    keys: dict[str, Any] = {"pixel_size_um": side_um, "factor": factor, "centred": True, "label": True}
    write_multiscale(group, name="tissue", shapes=[plane.shape], **keys)
    return {"level": level, "share": float(mask.mean())}


def intensity_windows(levels: list[Plane]) -> list[tuple[float, float]]:
    """Low and high percentile of each channel, from the finest level that is small enough."""
    small = [plane for plane in levels if plane.shape[0] * plane.shape[1] <= STATISTICS_PX] or levels[-1:]
    low_and_high = [percentiles(channel, (LOW, HIGH)) for channel in small[0].read_whole()]
    return [(low, high) for low, high in low_and_high]

"""ingest: a source image as an OME-Zarr pyramid with checked pixels and known intensities."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.arrays import ArraySource
from unetpipe.manifests import Ledger, open_ledger
from unetpipe.slides import (
    Plane,
    area_mean,
    coarser_block,
    create_plane,
    digest_of,
    level_shapes,
    open_plane,
    shard_boxes,
    write_multiscale,
)
from unetpipe.sourcefiles import check_unchanged, source_stamp
from unetpipe.sources import Source, channel_index, checked_image_block, image_dtype, open_source
from unetpipe.specs import IngestSpec
from unetpipe.views import link_view

__all__ = ["ingest"]

# Percentiles are taken from the finest level of at most this many pixels, so that memory stays bounded.
STATISTICS_PX = 2**24
LOW, HIGH = 1.0, 99.8


def ingest(image: Path, *, output: Path, spec: IngestSpec, code: str) -> None:
    """Read a source image and write it as OME-Zarr 0.5 with a pyramid.

    Reads
    -----
    image : image file or folder
        Any that `open_source` takes; 8 or 16 bit or float; grey, RGB or RGBA.

    Writes
    ------
    output : manifest
        Beside it a store with the arrays ``0``, ``1`` ... (C, Y, X).
    """
    with open_source(image, plane=spec.plane) as source:
        channels, stamp = kept_channels(source, spec), source_stamp(image)
        with open_ledger(output, stage="ingest", spec=spec, code=code, sources=[image]) as ledger:
            if ledger.complete:
                return
            dtype = image_dtype(source.dtype, image)
            shapes = [(len(channels), *shape) for shape in level_shapes(source.shape)]
            finest = used_in_place(source, channels, ledger, spec)
            levels = [finest] if finest else []
            for i, shape in list(enumerate(shapes))[len(levels) :]:
                levels.append(create_plane(ledger.store / str(i), shape=shape, dtype=dtype))
            if finest is None:
                copy_pixels(source, channels, levels[0], ledger)
            for finer, coarser in pairwise(levels):
                for unit, box in coarser.iter_shards():
                    if unit not in ledger:
                        ledger.append(unit, coarser.write_shard(box, coarser_block(finer, box, area_mean)))
            pixel_size = spec.pixel_size_um or source.pixel_size_um
            windows = intensity_windows(levels)
            names = [source.channel_names[i] for i in channels] if source.channel_names else []
            write_multiscale(
                ledger.store,
                name=output.name.removesuffix(".json"),
                shapes=shapes,
                pixel_size_um=pixel_size,
                centred=True,
                windows=windows,
                names=names,
                full=(0, np.iinfo(dtype).max) if dtype.kind == "u" else None,
            )
            facts = {
                "shape": list(source.shape),
                "channels": len(channels),
                "dtype": dtype.name,
                "levels": len(levels),
                "pixel_size_um": pixel_size,
                "percentiles": windows,
                "channel_names": names,
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
    for unit, box in shard_boxes(folder.name, plane.shape):
        if unit not in ledger:
            ledger.append(unit, digest_of(checked_image_block(plane.read(box), source.path)))
    return plane


def copy_pixels(source: Source, channels: list[int], plane: Plane, ledger: Ledger) -> None:
    """Copy level 0 shard by shard."""
    for unit, box in plane.iter_shards():
        if unit not in ledger:
            block = checked_image_block(source.read(box), source.path)[channels]
            ledger.append(unit, plane.write_shard(box, np.ascontiguousarray(block)))


def intensity_windows(levels: list[Plane]) -> list[tuple[float, float]]:
    """Low and high percentile of each channel, from the finest level that is small enough."""
    small = [plane for plane in levels if plane.shape[0] * plane.shape[1] <= STATISTICS_PX] or levels[-1:]
    pixels: NDArray[Any] = small[0].read_whole()
    return [tuple(float(v) for v in np.percentile(channel, (LOW, HIGH))) for channel in pixels]  # type: ignore[misc]

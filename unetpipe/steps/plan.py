"""plan: how slides would be cut into tiles, what that costs in memory and arithmetic."""

from collections.abc import Iterator
from pathlib import Path

from unetpipe.config import read_config
from unetpipe.errors import GeometryError, StoreError
from unetpipe.manifests import read_manifest

__all__ = ["plan"]

HEADER = ("model", "sample", "height", "width", "core", "window", "cores", "host GB", "GPU GB", "kFLOP/px", "work")


def plan(config: Path, *, images: Path) -> Iterator[str]:
    """The plan of every model for every sample that has been ingested, and for a slide larger than all cores.

    Parameters
    ----------
    config : Path
        The configuration.
    images : Path
        Folder with the manifests of `ingest`.

    Yields
    ------
    str
        Lines of a table: side of core and window in px, number of cores, predicted peaks of the process and of a GPU,
        arithmetic per output pixel, and the same relative to an infinite tile. What is imported counts as the usual
        network of its family, since no key tells its sizes.
    """
    chosen = read_config(config)
    yield row(HEADER)
    for model in chosen.applied:
        for sample in ["", *chosen.shown(model)]:
            shape = None
            if sample:
                try:
                    shape = tuple(read_manifest(images / f"{sample}.json", stage="ingest").facts["shape"])
                except StoreError:
                    continue
            height, width = shape or ("any", "any")
            try:
                found = chosen.plan(model, shape)
            except GeometryError as error:
                yield row((model, sample, str(height), str(width), f"  {error}"))
                continue
            memory = [f"{n / 1e9:.2f}" for n in (found.host_bytes, found.device_bytes)]
            sides = [str(n) for n in (found.core_px, found.window_px, found.cores if sample else "")]
            arithmetic = [f"{found.flops_per_px / 1e3:.0f}", f"{found.work:.3f}"]
            yield row((model, sample, str(height), str(width), *sides, *memory, *arithmetic))


def row(cells: tuple[str, ...]) -> str:
    """Cells below each other."""
    return "  ".join(f"{cell:<16.16}" if place < 2 else f"{cell:>8}" for place, cell in enumerate(cells)).rstrip()

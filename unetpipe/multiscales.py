"""What makes arrays an OME-Zarr 0.5 image: levels, axes, units, channels and colours, as metadata of their group."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unetpipe.errors import StoreError
from unetpipe.resampling import along_both
from unetpipe.specs import IGNORE

__all__ = ["CLASS_COLOURS", "link_combined", "write_multiscale"]

AXES = {"c": {"name": "c", "type": "channel"}, "y": {"name": "y", "type": "space"}, "x": {"name": "x", "type": "space"}}
CHANNEL_COLOURS = ("FF0000", "00FF00", "0000FF", "FFFFFF", "FF00FF", "00FFFF", "FFFF00")
# Of Okabe and Ito, told apart by nearly everyone.
CLASS_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


def _label_colours(count: int) -> dict[str, Any]:
    """The part `image-label` of a label image with this many classes; nothing for instances."""
    if not count:
        return {}
    rgba = {0: (0, 0, 0, 0)} | {v: (*CLASS_COLOURS[(v - 1) % len(CLASS_COLOURS)], 255) for v in range(1, count)}
    rgba[IGNORE] = (128, 128, 128, 255)
    return {"colors": [{"label-value": value, "rgba": list(colour)} for value, colour in rgba.items()]}


def _channels(
    windows: Sequence[tuple[float, float]], names: Sequence[str], full: tuple[float, float] | None
) -> list[dict[str, Any]]:
    """The channels of the part `omero`: colour, range and name of each."""
    colours = CHANNEL_COLOURS if len(windows) > 1 else ("FFFFFF",)
    described: list[dict[str, Any]] = []
    if len(windows) == 3 and not names:
        # A colour picture: one range keeps its colours.
        windows = [(min(low for low, _ in windows), max(high for _, high in windows))] * 3
    for i, (low, high) in enumerate(windows):
        least, most = full or (low, high)
        window = {"min": least, "max": most, "start": low, "end": high}
        label = {"label": names[i]} if names else {}
        described.append({"active": True, "color": colours[i % len(colours)], "window": window, **label})
    return described


def write_multiscale(
    group: Path,
    *,
    name: str,
    shapes: Sequence[tuple[int, ...]],
    pixel_size_um: float | None,
    centred: bool,
    factor: float | Sequence[float] = 1.0,
    label: bool = False,
    classes: int = 0,
    windows: Sequence[tuple[float, float]] | None = None,
    names: Sequence[str] = (),
    full: tuple[float, float] | None = None,
) -> None:
    """Write the OME-Zarr 0.5 metadata of a pyramid whose arrays are named 0, 1, 2 ...

    Parameters
    ----------
    group : Path
        The pyramid's folder.
    name : str
        Name shown by viewers.
    shapes : sequence of tuple
        Shape of each level, finest first.
    pixel_size_um : float or None
        Pixel size of level 0; the unit is left out where it is not known.
    centred : bool
        Whether a coarse pixel stands for the centre of its 2 x 2 px (mean) or for the first of them (nearest).
    factor : float or (float, float)
        Side of a pixel of level 0 in px of the source that it was resampled from, along y and x where they differ:
        coordinates are counted from the centre of the source's first pixel.
    label : bool
        Whether this is a label image.
    classes : int
        How many of its values, from 0 on, are classes with a colour each (0 is clear, 255 is grey); 0 for instances,
        which viewers colour at random.
    windows : sequence of (float, float), optional
        Display range of each channel.
    names : sequence of str, optional
        Name of each channel, where they have some.
    full : (float, float), optional
        Range of the data type; without it, the display range is all there is to choose from.

    References
    ----------
    OME-Zarr 0.5, doi:10.1007/s00418-023-02209-1.
    """
    unit = {"unit": "micrometer"} if pixel_size_um else {}
    axes = [AXES[a] | (unit if a != "c" else {}) for a in "cyx"[-len(shapes[0]) :]]
    size, leading = pixel_size_um or 1.0, len(shapes[0]) - 2
    datasets = []
    for level in range(len(shapes)):
        shift = [size * ((1 - 1 / f) + (2**level - 1 if centred else 0)) / 2 for f in along_both(factor)]
        scale = [1.0] * leading + [size * 2**level] * 2
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        transforms.append({"type": "translation", "translation": [0.0] * leading + shift})
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    kind = "mean" if centred else "nearest"
    ome: dict[str, Any] = {
        "version": "0.5",
        "multiscales": [{"name": name, "axes": axes, "datasets": datasets, "type": kind, "metadata": {"step": 2}}],
    }
    if label:
        ome["image-label"] = _label_colours(classes)
    if windows is not None:
        ome["omero"] = {"channels": _channels(windows, names, full)}
    _write_group(group, ome)


def link_combined(image: Path, labels: Mapping[str, Path], target: Path) -> None:
    """Make one OME-Zarr 0.5 image with its labels, whose arrays are links to those that are there.

    Parameters
    ----------
    image : Path
        Folder of an image pyramid.
    labels : mapping of str to Path
        Folder of each label pyramid, by the name that it gets.
    target : Path
        The folder to make; it appears when it is complete.

    Raises
    ------
    StoreError
        If the target is there already.

    Notes
    -----
    No pixel is copied: each array is a symbolic link, relative, so that it stays whole if a folder that holds both is
    moved. ``cp -rL`` makes a copy that stands alone.

    References
    ----------
    OME-Zarr 0.5, doi:10.1007/s00418-023-02209-1.
    """
    if target.exists():
        raise StoreError(f"{target}: is there already; delete it, or name another folder")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    _link_pyramid(image, partial, {})
    for name, group in labels.items():
        _link_pyramid(group, partial / "labels" / name, {"source": {"image": "../../"}})
    _write_group(partial / "labels", {"version": "0.5", "labels": list(labels)})
    partial.rename(target)


def _link_pyramid(group: Path, folder: Path, about: dict[str, Any]) -> None:
    """A pyramid's metadata, more being said of labels, and links to its arrays."""
    ome = json.loads((group / "zarr.json").read_text(encoding="utf-8"))["attributes"]["ome"]
    if about:
        ome["image-label"] = ome.get("image-label", {}) | about
    _write_group(folder, ome)
    for level in ome["multiscales"][0]["datasets"]:
        array = (group / level["path"]).resolve()
        (folder / level["path"]).symlink_to(os.path.relpath(array, folder.resolve()), target_is_directory=True)


def _write_group(folder: Path, ome: dict[str, Any]) -> None:
    """Make a group with its metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
    (folder / "zarr.json").write_text(json.dumps(document, indent=1, sort_keys=True), encoding="utf-8")

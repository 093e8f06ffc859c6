"""Arrays used where they lie: a folder of links to the chunks of one plane, under metadata that call it (C, Y, X).

Zarr keeps chunks in nested folders, one level per axis. Where each chunk holds one plane and one channel, or all
channels, links to these folders and a few lines of metadata are an array of their own: nothing is copied.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from unetpipe.arrays import ArraySource
from unetpipe.sourcefiles import files_below

__all__ = ["link_view"]

_DTYPES = (np.dtype(np.uint8), np.dtype("<u2"), np.dtype("<f4"))
_MOST_FILES = 2000


def link_view(source: ArraySource, channels: list[int], folder: Path) -> bool:
    """Make a folder an array (C, Y, X) of links to the chunks of a source, if their layout allows it.

    Parameters
    ----------
    source : ArraySource
        An open Zarr array.
    channels : list of int
        Which channels, in this order.
    folder : Path
        What to make, unless an interrupted run has made it.

    Returns
    -------
    bool
        False, and nothing made, where the plane must be copied: a NumPy file; pixels that are not uint8, uint16 or
        float32 in little-endian order; chunks that hold several planes or some of the channels, or whose axes are
        permuted; keys of chunks that are not nested; over 2,000 files, which a manifest would have to list.
    """
    if source.folder is None or source.dtype not in _DTYPES or source.axes[-2:] != ("y", "x"):
        return False
    version = 3 if (source.folder / "zarr.json").is_file() else 2
    name = "zarr.json" if version == 3 else ".zarray"
    metadata = json.loads((source.folder / name).read_text(encoding="utf-8"))
    if np.dtype(source.stored_dtype) not in _DTYPES or _permuted(metadata) or _separator(metadata) != "/":
        return False
    targets = _plane_folders(source, channels, metadata) or []
    files = [len(files_below(target)) if target.is_dir() else 0 for target in targets]
    if not files or min(files) == 0 or sum(files) > _MOST_FILES:
        return False
    root = folder / "c" if _prefix(metadata) else folder
    root.mkdir(parents=True, exist_ok=True)
    for number, target in enumerate(targets):
        if not (root / str(number)).is_symlink():
            (root / str(number)).symlink_to(os.path.relpath(target.resolve(), root.resolve()))
    view = _view_metadata(metadata, source, len(channels))
    (folder / name).write_text(json.dumps(view, indent=1, sort_keys=True), encoding="utf-8")
    return True


def _permuted(metadata: dict[str, Any]) -> bool:
    """Whether the pixels of a chunk are stored in another order than that of the axes."""
    codecs = list(metadata.get("codecs") or ())
    for codec in codecs:
        codecs += (codec.get("configuration") or {}).get("codecs") or ()
    return bool({"transpose"} & {codec["name"] for codec in codecs}) or str(metadata.get("order", "C")) != "C"


def _separator(metadata: dict[str, Any]) -> str:
    """What stands between the numbers in the key of a chunk."""
    if metadata["zarr_format"] == 2:
        return str(metadata.get("dimension_separator", "."))
    encoding = metadata["chunk_key_encoding"]
    default = "/" if encoding["name"] == "default" else "."
    return str((encoding.get("configuration") or {}).get("separator", default))


def _prefix(metadata: dict[str, Any]) -> bool:
    """Whether the chunks lie in the folder `c`."""
    return bool(metadata["zarr_format"] == 3 and metadata["chunk_key_encoding"]["name"] == "default")


def _grid(metadata: dict[str, Any]) -> list[int]:
    """Shape of what one file holds."""
    if metadata["zarr_format"] == 2:
        return list(metadata["chunks"])
    return list(metadata["chunk_grid"]["configuration"]["chunk_shape"])


def _plane_folders(source: ArraySource, channels: list[int], metadata: dict[str, Any]) -> list[Path] | None:
    """The folder with the chunks of each channel, or of all at once; None where chunks hold more or less than that."""
    assert source.folder is not None
    grid, keys = _grid(metadata), [channels]
    if "c" in source.axes:
        depth = grid[source.axes.index("c")]
        if depth == 1:
            keys = [[channel] for channel in channels]
        elif depth != source.channels or channels != list(range(source.channels)):
            return None
    if any(grid[k] != 1 for k in source.fixed):
        return None
    root = source.folder / "c" if _prefix(metadata) else source.folder
    several = len(keys) > 1 or (len(keys[0]) == 1 and "c" in source.axes and grid[source.axes.index("c")] == 1)
    found = []
    for key in keys:
        number = {k: key[0] if several else 0 for k, name in enumerate(source.axes) if name == "c"} | source.fixed
        found.append(root.joinpath(*(str(number[k]) for k in range(len(source.axes) - 2))))
    return found


def _view_metadata(metadata: dict[str, Any], source: ArraySource, count: int) -> dict[str, Any]:
    """Metadata of the (C, Y, X) array, made of those of its source."""
    depth = _grid(metadata)[source.axes.index("c")] if "c" in source.axes else 1
    view = {name: value for name, value in metadata.items() if name not in ("attributes", "consolidated_metadata")}
    view["shape"] = [count, *source.shape]
    if view["zarr_format"] == 2:
        return view | {"chunks": [depth, *metadata["chunks"][-2:]]}
    view["attributes"], view["dimension_names"] = {}, ["c", "y", "x"]
    view["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": [depth, *_grid(metadata)[-2:]]}}
    view["codecs"] = [_flat(codec, source, depth) for codec in metadata["codecs"]]
    return view


def _flat(codec: dict[str, Any], source: ArraySource, depth: int) -> dict[str, Any]:
    """A codec of the view: shards name the shape of their chunks."""
    if codec["name"] != "sharding_indexed":
        return codec
    shape = codec["configuration"]["chunk_shape"]
    inner = shape[source.axes.index("c")] if "c" in source.axes else 1
    return codec | {"configuration": codec["configuration"] | {"chunk_shape": [min(inner, depth), *shape[-2:]]}}

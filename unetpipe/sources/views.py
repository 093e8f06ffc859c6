"""Arrays used where they lie: a folder of links to the chunks of one plane, under metadata that call it (C, Y, X).

Zarr keeps chunks in nested folders, one level per axis. Where each chunk holds one plane and one channel, or all
channels, links to these folders and a few lines of metadata are an array of their own: nothing is copied.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from unetpipe.sources.arrays import ArraySource
from unetpipe.sources.files import files_below

__all__ = ["link_view"]

_DTYPES = (np.dtype(np.uint8), np.dtype("<u2"), np.dtype("<f4"))
_MOST_FILES = 20_000
# Longer chunks are decoded again for each part that a stage reads.
_LONGEST_PX = 2048
# Compressors of version 2 that version 3 has too. What blosc has done to a chunk stands in the chunk.
_COMPRESSORS: dict[str, dict[str, Any]] = {
    "blosc": {"cname": "zstd", "clevel": 5, "shuffle": "noshuffle", "typesize": 1, "blocksize": 0},
    "zstd": {"level": 0, "checksum": False},
    "gzip": {"level": 5},
}


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
        permuted; chunks longer than 2,048 px; codecs of version 2 that version 3 lacks; keys of chunks that are not
        nested; over 20,000 files, which a manifest has to list (some 40 bytes each) and each reader to look for.
    """
    if source.folder is None or source.dtype not in _DTYPES or source.axes[-2:] != ("y", "x"):
        return False
    metadata = _metadata(source.folder)
    if metadata is None or np.dtype(source.stored_dtype) not in _DTYPES or _transposed(metadata["codecs"]):
        return False
    if _separator(metadata) != "/" or max(_chunk_sides(metadata)) > _LONGEST_PX:
        return False
    targets = _plane_folders(source, channels, metadata) or []
    files = [len(files_below(target)) if target.is_dir() else 0 for target in targets]
    if not files or min(files) == 0 or sum(files) > _MOST_FILES:
        return False
    root = _root(folder, metadata)
    root.mkdir(parents=True, exist_ok=True)
    for number, target in enumerate(targets):
        if not (root / str(number)).is_symlink():
            (root / str(number)).symlink_to(os.path.relpath(target.resolve(), root.resolve()))
    view = _view_metadata(metadata, source, len(channels))
    (folder / "zarr.json").write_text(json.dumps(view, indent=1, sort_keys=True), encoding="utf-8")
    return True


def _metadata(folder: Path) -> dict[str, Any] | None:
    """Metadata of an array as version 3 has them; None where it cannot say what version 2 says."""
    if (folder / "zarr.json").is_file():
        return dict(json.loads((folder / "zarr.json").read_text(encoding="utf-8")))
    old = json.loads((folder / ".zarray").read_text(encoding="utf-8"))
    compressor = old.get("compressor") or {"id": None}
    if old.get("filters") or old.get("order") != "C" or compressor["id"] not in (None, *_COMPRESSORS):
        return None
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if compressor["id"]:
        codecs.append({"name": compressor["id"], "configuration": _COMPRESSORS[compressor["id"]]})
    separator = {"separator": old.get("dimension_separator", ".")}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": old["shape"],
        "data_type": np.dtype(old["dtype"]).name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": old["chunks"]}},
        "chunk_key_encoding": {"name": "v2", "configuration": separator},
        "fill_value": old.get("fill_value") or 0,
        "codecs": codecs,
    }


def _transposed(codecs: list[dict[str, Any]]) -> bool:
    """Whether the pixels of a chunk, or of a chunk in a shard, are stored in another order than that of the axes."""
    inner = [_transposed((codec.get("configuration") or {}).get("codecs") or []) for codec in codecs]
    return any(inner) or "transpose" in [codec["name"] for codec in codecs]


def _chunk_sides(metadata: dict[str, Any]) -> tuple[int, int]:
    """Height and width in px of what is decoded at once."""
    shards = [codec["configuration"] for codec in metadata["codecs"] if codec["name"] == "sharding_indexed"]
    shape = (shards or [metadata["chunk_grid"]["configuration"]])[0]["chunk_shape"]
    return int(shape[-2]), int(shape[-1])


def _separator(metadata: dict[str, Any]) -> str:
    """What stands between the numbers in the key of a chunk."""
    encoding = metadata["chunk_key_encoding"]
    default = "/" if encoding["name"] == "default" else "."
    return str((encoding.get("configuration") or {}).get("separator", default))


def _root(folder: Path, metadata: dict[str, Any]) -> Path:
    """Where the keys of chunks begin."""
    return folder / "c" if metadata["chunk_key_encoding"]["name"] == "default" else folder


def _plane_folders(source: ArraySource, channels: list[int], metadata: dict[str, Any]) -> list[Path] | None:
    """The folder with the chunks of each channel, or of all at once; None where chunks hold more or less than that."""
    assert source.folder is not None
    grid, keys = metadata["chunk_grid"]["configuration"]["chunk_shape"], [channels]
    if "c" in source.axes:
        depth = grid[source.axes.index("c")]
        if depth == 1:
            keys = [[channel] for channel in channels]
        elif depth != source.channels or channels != list(range(source.channels)):
            return None
    if any(grid[k] != 1 for k in source.fixed):
        return None
    root = _root(source.folder, metadata)
    several = len(keys) > 1 or (len(keys[0]) == 1 and "c" in source.axes and grid[source.axes.index("c")] == 1)
    found = []
    for key in keys:
        number = {k: key[0] if several else 0 for k, name in enumerate(source.axes) if name == "c"} | source.fixed
        found.append(root.joinpath(*(str(number[k]) for k in range(len(source.axes) - 2))))
    return found


def _view_metadata(metadata: dict[str, Any], source: ArraySource, count: int) -> dict[str, Any]:
    """Metadata of the (C, Y, X) array, made of those of its source."""
    grid = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    depth = grid[source.axes.index("c")] if "c" in source.axes else 1
    view = {name: value for name, value in metadata.items() if name not in ("attributes", "consolidated_metadata")}
    view["shape"] = [count, *source.shape]
    view["attributes"], view["dimension_names"] = {}, ["c", "y", "x"]
    view["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": [depth, *grid[-2:]]}}
    view["codecs"] = [_flat(codec, source, depth) for codec in metadata["codecs"]]
    return view


def _flat(codec: dict[str, Any], source: ArraySource, depth: int) -> dict[str, Any]:
    """A codec of the view: shards name the shape of their chunks."""
    if codec["name"] != "sharding_indexed":
        return codec
    shape = codec["configuration"]["chunk_shape"]
    inner = shape[source.axes.index("c")] if "c" in source.axes else 1
    return codec | {"configuration": codec["configuration"] | {"chunk_shape": [min(inner, depth), *shape[-2:]]}}

"""OME-Zarr 0.4 (Zarr version 2), for viewers that do not read 0.5 yet."""

import json
import shutil
from pathlib import Path
from typing import Any

import zarr

from unetpipe.errors import StoreError
from unetpipe.slides import Plane, open_plane, shard_boxes

__all__ = ["old_metadata", "write_old_pyramid"]

_ZLIB: dict[str, Any] = {"id": "zlib", "level": 1}


def old_metadata(ome: dict[str, Any]) -> dict[str, Any]:
    """The attributes of an OME-Zarr 0.4 group.

    Parameters
    ----------
    ome : dict
        The part `ome` of an OME-Zarr 0.5 group that this package wrote.

    Returns
    -------
    dict
        The same parts side by side, each with its version.

    Examples
    --------
    >>> old_metadata({"version": "0.5", "multiscales": [{"name": "a"}]})
    {'multiscales': [{'name': 'a', 'version': '0.4'}]}
    """
    parts = {name: part for name, part in ome.items() if name != "version"}
    parts["multiscales"] = [one | {"version": "0.4"} for one in ome["multiscales"]]
    return parts | {name: ome[name] | {"version": "0.4"} for name in ("omero", "image-label") if name in ome}


def write_old_pyramid(group: Path, target: Path) -> None:
    """Copy a pyramid of this package to OME-Zarr 0.4.

    Parameters
    ----------
    group : Path
        Folder of an OME-Zarr 0.5 image or label image.
    target : Path
        The folder to make; it appears when it is complete.

    Raises
    ------
    StoreError
        If the target is there already, or if a chunk of the source is damaged.

    Notes
    -----
    Chunks are those of the source without its shards, one file each, compressed by zlib, which all readers know.
    Version 2 has no check sums: the copy is for viewing.

    References
    ----------
    OME-Zarr 0.4, doi:10.1007/s00418-023-02209-1.
    """
    if target.exists():
        raise StoreError(f"{target}: is there already; delete it, or name another folder")
    ome = json.loads((group / "zarr.json").read_text(encoding="utf-8"))["attributes"]["ome"]
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    zarr.open_group(str(partial), mode="w", zarr_format=2, attributes=old_metadata(ome))
    for level in ome["multiscales"][0]["datasets"]:
        _copy_level(open_plane(group / level["path"]), partial / level["path"])
    partial.rename(target)


def _copy_level(source: Plane, folder: Path) -> None:
    """One array, shard by shard."""
    array = zarr.create_array(
        str(folder),
        shape=source.array.shape,
        dtype=source.dtype,
        chunks=source.array.chunks,
        compressors=_ZLIB,
        zarr_format=2,
        fill_value=0,
        chunk_key_encoding={"name": "v2", "separator": "/"},
        config={"write_empty_chunks": True},
    )
    for _, box in shard_boxes(folder.name, source.shape):
        array[(..., *box.slices)] = source.read(box)

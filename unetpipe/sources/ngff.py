"""Zarr folders from elsewhere: which array holds a level of an OME-Zarr, and what its axes are.

Only metadata are read here, as plain JSON, before any library sees the folder: codecs that run code when they decode
(pickle), or paths that lead out of it, end in one line.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from unetpipe.sources.refusals import refusal
from unetpipe.sources.tiffpages import believed_sides, um_per_unit

__all__ = ["StoredArray", "chunk_codecs", "is_zarr", "stored_array"]

_JSON_LIMIT = 16 * 2**20
_MARKERS = ("zarr.json", ".zarray", ".zgroup")
# What decodes numbers to numbers and is known to do nothing else.
_CODECS = {
    *("bytes", "transpose", "sharding_indexed", "crc32c"),
    *("blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma", "shuffle", "delta"),
}


class StoredArray(NamedTuple):
    """One Zarr array, and what the metadata around it say of its pixels."""

    folder: Path
    """The array's folder."""
    axes: tuple[str, ...]
    """Names of its axes in lower case, slowest first; empty where nothing names them."""
    pixel_sides_um: tuple[float, float] | None
    """Height and width of a pixel of the finest level in um, where they are declared."""
    channel_names: tuple[str, ...]
    """One name per channel, or none."""
    shapes: tuple[tuple[int, ...], ...] = ()
    """Shapes of the arrays of all levels, finest first; empty for an array that is no level."""


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a Zarr group or array, version 2 or 3."""
    return any((folder / name).is_file() for name in _MARKERS)


def stored_array(path: Path, level: int = 0) -> StoredArray:
    """The array with a level of a Zarr folder.

    Parameters
    ----------
    path : Path
        An OME-Zarr 0.4 or 0.5 image or label image, a bioformats2raw folder of one image, or a plain array.
    level : int
        Which level, 0 the finest; the finest where it is not there.

    Returns
    -------
    StoredArray
        That dataset of the first multiscale, or the array itself.

    Raises
    ------
    SourceError
        If the folder is a plate or holds several images, has no multiscales of versions 0.4 or 0.5, names an array
        outside itself or a finer level behind the first, or uses codecs that are not known to be harmless.
    ValueError, KeyError, TypeError
        Where the metadata are not what the format asks for.

    References
    ----------
    OME-Zarr 0.4 and 0.5, doi:10.1007/s00418-023-02209-1.
    """
    attributes, array = _node(path)
    ome = attributes.get("ome", attributes)
    if array is not None:
        _check_codecs(path, array)
        names = array.get("dimension_names") or attributes.get("_ARRAY_DIMENSIONS") or ()
        return StoredArray(path, tuple(str(name).lower() for name in names), None, ())
    if "plate" in ome or "well" in ome:
        kind = "plate" if "plate" in ome else "well"
        raise refusal(path, f"is a {kind}; name the folder of one field of view in it, such as {path.name}/A/1/0")
    if "bioformats2raw.layout" in ome and "multiscales" not in ome:
        images = sorted(p.name for p in path.iterdir() if p.name.isdigit() and is_zarr(p))
        if images != ["0"]:
            raise refusal(path, f"holds {len(images)} images; name the folder of one of them, such as {path.name}/0")
        return stored_array(path / "0", level)
    if "multiscales" not in ome:
        raise refusal(path, "is a Zarr group without an image (multiscales); name the folder of an image or array")
    return _level(path, ome, level)


def _node(folder: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Attributes of a group or array, and the metadata of an array (None for a group)."""
    if (folder / "zarr.json").is_file():
        node = _read_json(folder / "zarr.json")
        return node.get("attributes", {}), node if node["node_type"] == "array" else None
    attributes = _read_json(folder / ".zattrs") if (folder / ".zattrs").is_file() else {}
    return attributes, _read_json(folder / ".zarray") if (folder / ".zarray").is_file() else None


def _read_json(file: Path) -> dict[str, Any]:
    """A JSON object of at most 16 MiB."""
    if file.stat().st_size > _JSON_LIMIT:
        raise ValueError(f"{file.name} has more than {_JSON_LIMIT} bytes")
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise TypeError(f"{file.name} holds no JSON object")
    return content


def _level(path: Path, ome: dict[str, Any], number: int) -> StoredArray:
    """A dataset of an image, all of them held against the first."""
    multiscale = ome["multiscales"][0]
    axes, version = multiscale.get("axes"), ome.get("version") or multiscale.get("version")
    if version not in ("0.4", "0.5", None) or not isinstance(axes, list) or not all(isinstance(a, dict) for a in axes):
        raise refusal(path, f"is an OME-Zarr of version {version}; expected 0.4 or 0.5: convert it")
    shapes = [_checked_array(path, level["path"], len(axes)) for level in multiscale["datasets"]]
    for level, shape in enumerate(shapes):
        if any(a > b for a, b in zip(shape, shapes[0], strict=True)):
            raise refusal(path, f"has a level {level} of {shape} px, larger than its first of {shapes[0]}")
    first = multiscale["datasets"][0]
    transforms = [
        *(first.get("coordinateTransformations") or ()),
        *(multiscale.get("coordinateTransformations") or ()),
    ]
    chosen = multiscale["datasets"][number if 0 <= number < len(shapes) else 0]
    return StoredArray(
        path / chosen["path"],
        tuple(str(axis["name"]).lower() for axis in axes),
        _pixel_sides_um(axes, transforms),
        tuple(str(channel.get("label", "")) for channel in (ome.get("omero") or {}).get("channels") or ()),
        tuple(shapes),
    )


def _checked_array(path: Path, name: str, ndim: int) -> tuple[int, ...]:
    """Shape of a level's array, which must lie in its group."""
    parts = Path(name).parts
    if not parts or ".." in parts or Path(name).is_absolute():
        raise refusal(path, f"names the array {name!r:.60}, which is not inside the folder")
    _, array = _node(path / name)
    if array is None:
        raise refusal(path, f"has no array {name!r:.60}: an unfinished or incomplete copy")
    _check_codecs(path, array)
    shape = tuple(array["shape"])
    if len(shape) != ndim or not all(isinstance(n, int) for n in shape):
        raise refusal(path, f"declares {ndim} axes, but its array {name!r:.60} has the shape {shape}")
    return shape


def _check_codecs(path: Path, array: dict[str, Any]) -> None:
    """Refuse codecs that are not on the list."""
    used = [*(array.get("filters") or ()), *(array.get("codecs") or ())]
    used += [array["compressor"]] if array.get("compressor") else []
    for codec in used:
        name = str(codec.get("id", codec.get("name"))).removeprefix("numcodecs.")
        if name not in _CODECS:
            raise refusal(path, f"is encoded with {name!r:.40}, which is not read; use blosc, zstd or gzip")
        inner = codec.get("configuration", {})
        _check_codecs(path, {"codecs": [*(inner.get("codecs") or ()), *(inner.get("index_codecs") or ())]})


def chunk_codecs(folder: Path) -> list[str]:
    """Names of what encodes a chunk of an array, in the order in which it is applied, with or without shards.

    Parameters
    ----------
    folder : Path
        The array's folder.
    """
    _, array = _node(folder)
    assert array is not None
    compressor = [array["compressor"]] if array.get("compressor") else []
    return _names([*(array.get("filters") or ()), *(array.get("codecs") or ()), *compressor])


def _names(codecs: list[dict[str, Any]]) -> list[str]:
    """Names of codecs, those inside shards in the place of the shards."""
    found = []
    for codec in codecs:
        inner = (codec.get("configuration") or {}).get("codecs")
        found += _names(inner) if inner else [str(codec.get("id", codec.get("name"))).removeprefix("numcodecs.")]
    return found


def _pixel_sides_um(axes: list[dict[str, Any]], transforms: list[dict[str, Any]]) -> tuple[float, float] | None:
    """Height and width of a pixel by all scale transformations; None if not declared or beyond 0.001 to 100 um."""
    sides = {}
    for k, axis in enumerate(axes):
        scales = [t["scale"][k] for t in transforms if t["type"] == "scale"]
        unit = um_per_unit(str(axis.get("unit", "")))
        sides[str(axis["name"]).lower()] = math.prod(float(s) for s in scales) * unit
    return believed_sides(sides.get("y", 0.0), sides.get("x", 0.0))

"""GeoJSON as QuPath writes it: regions, detections and cells with a classification.

Coordinates are pixels of the finest level, (0, 0) being the outer corner of the first pixel: they are taken as they
are.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from unetpipe.annotations.jsonitems import iter_items
from unetpipe.annotations.shapes import ClassNames, Shape, polygon_of, refused, shape_of
from unetpipe.polygons import Rings

__all__ = ["Objects", "iter_qupath"]

Objects = Literal["all", "annotation", "detection"]

_KINDS = {
    "annotation": "annotation",
    "detection": "detection",
    "cell": "detection",
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathCellObject": "detection",
}


def iter_qupath(path: Path, *, names: ClassNames, objects: Objects, notes: Counter[str]) -> Iterator[Shape]:
    """Read the objects of a GeoJSON file.

    Parameters
    ----------
    path : Path
        A FeatureCollection, a list of features or one feature; gzipped or not.
    names : ClassNames
        What the names of classifications mean.
    objects : {"all", "annotation", "detection"}
        Which objects are read; cells are detections. Objects that do not say what they are are annotations.
    notes : Counter of str
        Counts what is left out: points and lines, tiles and cores of tissue arrays.

    Yields
    ------
    Shape
        One per Polygon or MultiPolygon, in the order of the file.

    Raises
    ------
    AnnotationError
        If the file is not JSON, or a feature has no geometry that can be read.

    Notes
    -----
    The name of a derived class, such as ``Tumour: Positive``, counts as a whole, or else by its part before the colon.
    Of cells the outline of the cell is read, not that of the nucleus.

    References
    ----------
    RFC 7946, doi:10.17487/RFC7946; QuPath: doi:10.1038/s41598-017-17204-5.
    """
    for number, feature in enumerate(_features(path), start=1):
        try:
            shape = _shape(feature, names, objects, notes)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise refused(path, f"feature {number}: expected a GeoJSON feature: {_reason(error)}") from None
        if shape is not None:
            yield shape


def _reason(error: Exception) -> str:
    """What is wrong with a feature."""
    return f"its key {error} is missing" if isinstance(error, KeyError) else str(error)


def _features(path: Path) -> Iterator[Any]:
    """The features of a file: of a collection, a list, or itself."""
    whole: dict[str, Any] = {}
    for key, item in iter_items(path):
        if key in ("", "features"):
            if item is not None:
                yield item
        elif not isinstance(item, list):
            whole[key] = item
    if whole.get("type") == "Feature":
        yield whole


def _shape(feature: Any, names: ClassNames, objects: Objects, notes: Counter[str]) -> Shape | None:
    """The shape of a feature, or None and a note."""
    if not isinstance(feature, dict):
        raise ValueError(f"came {type(feature).__name__}")
    geometry, properties = feature["geometry"], feature.get("properties") or {}
    kind = properties.get("objectType", properties.get("object_type", feature.get("id")))
    kind = _KINDS.get(kind, kind) if isinstance(kind, str) else "annotation"
    if kind in ("tile", "tma_core", "root"):
        notes[f"objects of type {kind} were left out"] += 1
        return None
    if objects not in ("all", kind if kind in _KINDS else "annotation"):
        return None
    parts = _parts(geometry, notes)
    if not parts:
        return None
    return shape_of(names.value_of(_class_name(properties, names)), parts, plane=_plane(geometry))


def _parts(geometry: Any, notes: Counter[str]) -> list[Rings]:
    """The polygons of a geometry."""
    kind = geometry["type"] if geometry is not None else "none"
    if kind == "GeometryCollection":
        return [part for one in geometry["geometries"] for part in _parts(one, notes)]
    if kind in ("none", "Point", "MultiPoint", "LineString", "MultiLineString"):
        notes[f"objects of geometry {kind} have no area and were left out"] += 1
        return []
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"came a geometry of type {kind!r:.40}")
    polygons = [geometry["coordinates"]] if kind == "Polygon" else geometry["coordinates"]
    found = [polygon_of(rings, notes) for rings in polygons]
    return [part for part in found if part is not None]


def _class_name(properties: dict[str, Any], names: ClassNames) -> str | None:
    """The name of a feature's class, None without one."""
    given = properties.get("classification")
    if isinstance(given, dict):
        several = given.get("names")
        given = ": ".join(map(str, several)) if isinstance(several, list) else given.get("name")
    if not given:
        return None
    name = str(given)
    return name if names.find(name) is not None or ":" not in name else name.split(":")[0].strip()


def _plane(geometry: Any) -> tuple[int, int] | None:
    """The z and t that QuPath notes in a geometry, None without a note."""
    plane = geometry.get("plane")
    return (int(plane.get("z", 0)), int(plane.get("t", 0))) if isinstance(plane, dict) else None

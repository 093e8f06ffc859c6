"""Regions: the union of areas without what is ignored, the same whatever the boxes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unetpipe.annotations.regions import read_region
from unetpipe.errors import AnnotationError
from unetpipe.geometry import Box

SHAPE = (40, 60)
WHOLE = Box(start=(0, 0), stop=SHAPE)


def geojson(path: Path, *features: tuple[list[list[list[float]]], str | None]) -> Path:
    """A file of polygons with class names."""
    found: list[dict[str, Any]] = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": rings},
            "properties": {"objectType": "annotation"} | ({"classification": {"name": name}} if name else {}),
        }
        for rings, name in features
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": found}))
    return path


def ring(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    """A rectangle."""
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def test_areas_of_all_names_without_holes_and_without_what_is_ignored(tmp_path: Path) -> None:
    path = geojson(
        tmp_path / "r.geojson",
        ([ring(30, 0, 34, 4)], "Ignore*"),
        ([ring(4, 2, 20, 30), ring(8, 8, 12, 12)], None),
        ([ring(25, -9, 99, 10)], "Tumour: Positive"),
    )
    expected = np.zeros(SHAPE, bool)
    expected[2:30, 4:20] = True
    expected[8:12, 8:12] = False
    expected[:10, 25:] = True
    expected[:4, 30:34] = False
    inside = read_region(path, shape=SHAPE)
    assert np.array_equal(inside(WHOLE), expected)
    rng = np.random.default_rng(1)
    for _ in range(50):
        start = rng.integers(0, SHAPE)
        stop = rng.integers(start, np.array(SHAPE) + 1)
        box = Box(start=tuple(start.tolist()), stop=tuple(stop.tolist()))
        assert np.array_equal(inside(box), expected[box.slices])


def test_what_holds_no_area_on_the_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.geojson").write_text("region\n")
    for path, said in (
        (geojson(tmp_path / "none.geojson"), "came none"),
        (geojson(tmp_path / "far.geojson", ([ring(70, 0, 90, 9)], None)), "all lie outside"),
        (geojson(tmp_path / "ignored.geojson", ([ring(0, 0, 9, 9)], "ignore")), "all lie outside"),
        (tmp_path / "text.geojson", "text.geojson"),
    ):
        with pytest.raises(AnnotationError, match=said) as error:
            read_region(path, shape=SHAPE)
        assert len(str(error.value)) <= 300


def test_a_folder_is_no_region(tmp_path: Path) -> None:
    """Not even one of masks."""
    with pytest.raises(AnnotationError, match="is a folder; name a file of areas: QuPath's GeoJSON or ImageJ's ROIs"):
        read_region(tmp_path, shape=(4, 4))

"""QuPath's GeoJSON."""

import gzip
import json
import logging
from typing import Any

import numpy as np
import pytest

from unetpipe.errors import AnnotationError

THREE = {"classes": ("background", "tumour", "stroma")}


def square(y: float, x: float, side: float) -> list[list[float]]:
    """A closed ring of (x, y)."""
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def feature(*rings: Any, name: str | None = None, kind: str = "Polygon", **properties: Any) -> dict[str, Any]:
    """A feature as QuPath writes it."""
    known = {"classification": {"name": name, "color": [1, 2, 3]}} if name else {}
    geometry = {"type": kind, "coordinates": list(rings)}
    return {"type": "Feature", "id": "3f2a", "geometry": geometry, "properties": known | properties}


def test_all_containers_say_the_same(read) -> None:
    one = feature(square(1, 2, 3))
    expected = np.zeros((6, 8), np.uint8)
    expected[1:4, 2:5] = 1
    collection = {"type": "FeatureCollection", "features": [one]}
    zipped = gzip.compress(json.dumps(collection).encode())
    marked = b"\xef\xbb\xbf \n" + json.dumps([one], indent=2).encode()
    for content in (collection, {"features": [one]}, [one], one, zipped, marked):
        instances, classes = read(content)
        assert np.array_equal(classes, expected)
        assert np.array_equal(instances, expected)


def test_holes_and_several_parts(read) -> None:
    parts = [[square(0, 0, 3), square(1, 1, 1)], [square(3, 4, 2)]]
    instances, _ = read([feature(*parts, kind="MultiPolygon")])
    assert instances.tolist() == [
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize("order", [1, -1])
def test_the_smaller_shape_lies_on_top_and_ignored_regions_above_all(read, order: int) -> None:
    shapes = [
        feature(square(0, 0, 6), name="Stroma"),
        feature(square(1, 1, 3), name="Tumour: Positive"),
        feature(square(0, 3, 5), name="Ignore*"),
    ]
    instances, classes = read(shapes[::order], **THREE)
    assert classes[1].tolist() == [2, 1, 1, 255, 255, 255, 255, 255]
    assert classes[5].tolist() == [2, 2, 2, 2, 2, 2, 0, 0]
    assert (np.unique(instances).size, instances[1, 4], instances[1, 0] != instances[1, 1]) == (3, 0, True)


def test_equal_shapes_are_covered_by_the_later_one(read) -> None:
    assert read([feature(square(0, 0, 2)), feature(square(0, 1, 2))])[0][0].tolist() == [1, 2, 2, 0, 0, 0, 0, 0]


def test_images_annotated_in_part(read) -> None:
    shapes = [feature(square(0, 0, 4), name="Region*"), feature(square(1, 1, 2), name="tumour")]
    names = {"Region*": "background"}
    instances, classes = read(shapes, outside="ignore", names=names, classes=("background", "tumour"))
    assert classes[1].tolist() == [0, 1, 1, 0, 255, 255, 255, 255]
    assert instances.max() == 1


def test_objects_are_chosen_by_their_type(read) -> None:
    shapes = [
        feature(square(0, 0, 2), objectType="annotation"),
        feature(square(0, 2, 2), objectType="detection"),
        feature(square(0, 4, 2), object_type="cell"),
    ]
    assert read(shapes)[0][0].tolist() == [1, 1, 2, 2, 3, 3, 0, 0]
    assert read(shapes, objects="annotation")[0][0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert read(shapes, objects="detection")[0][0].tolist() == [0, 0, 1, 1, 2, 2, 0, 0]


def test_what_is_left_out_is_counted(read, caplog: pytest.LogCaptureFixture) -> None:
    shapes = [
        feature(square(0, 0, 2)),
        feature(3, 4, kind="Point"),
        feature(square(0, 0, 6), objectType="tile"),
        feature([[0, 0], [1, 1]]),
        feature(square(4, 6, 9)),
        feature([[0, 2], [4, 6], [4, 2], [0, 6], [0, 2]]),
    ]
    with caplog.at_level(logging.WARNING):
        read(shapes)
    said = " | ".join(record.getMessage() for record in caplog.records)
    for text in (
        "1 objects of geometry Point have no area and were left out",
        "1 objects of type tile were left out",
        "1 outlines of fewer than 3 points were left out",
        "1 of 3 shapes reach outside the image and were cut",
        "1 shapes cross themselves",
    ):
        assert text in said


def test_planes(read) -> None:
    shapes = [feature(square(0, 2 * z, 2)) for z in range(3)]
    for z, shape in enumerate(shapes):
        shape["geometry"]["plane"] = {"c": -1, "z": z, "t": 0}
    assert read(shapes, plane=1)[0][0].tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    with pytest.raises(AnnotationError, match=r"3 planes \(0 to 2\); choose one"):
        read(shapes)
    with pytest.raises(
        AnnotationError, match="no shape in plane 7, but 3 in others: 0, 1, 2; correct annotation_plane"
    ):
        read(shapes, plane=7)


@pytest.mark.parametrize("order", ["zt", "tz"])
def test_planes_by_z_and_t(read, order: str) -> None:
    sizes = {"z": 4, "t": 2}
    shapes = [feature(square(0, i, 1)) for i in range(8)]
    for number, shape in enumerate(shapes):
        at = np.unravel_index(number, [sizes[name] for name in order])
        shape["geometry"]["plane"] = {"c": -1, **dict(zip(order, map(int, at), strict=True))}
    axes = [(name, sizes[name]) for name in order]
    for number in range(8):
        assert np.flatnonzero(read(shapes, plane=number, axes=axes)[0][0]).tolist() == [number]
    with pytest.raises(AnnotationError, match="the image has no z and t"):
        read(shapes, plane=1, axes=[("z", 8)])
    with pytest.raises(AnnotationError, match="the image has 3 z"):
        read(shapes, plane=1, axes=[("t", 2), ("z", 3)])


def test_all_shapes_of_one_plane_fit_an_image_of_one(read) -> None:
    shape = feature(square(0, 0, 2))
    shape["geometry"]["plane"] = {"z": 2, "t": 1}
    assert read([shape])[0][0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


def test_an_image_without_objects(read) -> None:
    for content in ([], {"type": "FeatureCollection", "features": []}):
        instances, classes = read(content)
        assert not instances.any()
        assert not classes.any()


@pytest.mark.parametrize(
    ("content", "keys", "said"),
    [
        (
            [feature(square(0, 0, 2), name="Tumur")] * 3,
            THREE,
            r"class 'Tumur' \(of 3 objects\) is not configured; did you mean tumour",
        ),
        ([feature(square(0, 0, 2))], THREE, r"no class \(of 1 object\) is not configured"),
        ([feature(square(600, 0, 2))], {}, "all 1 shapes lie outside the image of 6 x 8 px: y 600 to 602, x 0 to 2"),
        ([feature("abc")], {}, "feature 1: .* not a list of points"),
        ([feature([["0", "1"]] * 3)], {}, "feature 1: .* not a list of points"),
        ([feature([[0, 0], [1], [2, 2]])], {}, "feature 1: expected a GeoJSON feature"),
        ([feature([[0, 0], [1e99, 0], [2, 2]])], {}, "not finite or beyond"),
        ([{"type": "Feature"}], {}, "feature 1: .* its key 'geometry' is missing"),
        ([[1, 2]], {}, "feature 1: .* came list"),
        ([feature(1, kind="Circle")], {}, "came a geometry of type 'Circle'"),
        ({"type": "Topology", "objects": {}}, {}, "expected COCO .* or GeoJSON .* came the keys 'type', 'objects'"),
        ([{"geometry": {"type": "Polygon", "coordinates": [square(0, 0, 1)]}, "properties": [1]}], {}, "feature 1"),
    ],
)
def test_bad_features(read, content: Any, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(AnnotationError, match=said) as caught:
        read(content, **keys)
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)

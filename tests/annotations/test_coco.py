"""COCO: choosing the image, polygons, run lengths in both forms."""

import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetpipe.annotations.coco import decoded_counts, rings_of_counts
from unetpipe.errors import AnnotationError
from unetpipe.geometry import Box
from unetpipe.polygons import paint, polygons_of

CLASSES = {"classes": ("background", "cell", "debris")}
CELL = {"id": 1, "image_id": 5, "category_id": 3, "iscrowd": 0, "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]]}
RUNS = {"size": [6, 8], "counts": [7, 2, 4, 2, 33]}


def coco(*annotations: dict[str, Any], **tables: Any) -> dict[str, Any]:
    """A COCO document; annotations come first, as some writers have it."""
    known = {
        "annotations": [CELL | one for one in annotations],
        "images": [
            {"id": 4, "file_name": "x/b.tif", "height": 6, "width": 8},
            {"id": 5, "file_name": "x/a.tif", "height": 6, "width": 8},
        ],
        "categories": [{"id": 3, "name": "cell"}, {"id": 9, "name": "debris", "supercategory": "none"}],
    }
    return known | tables


def counts_of(mask: np.ndarray) -> list[int]:
    """Run lengths down the columns, by one pixel after the other."""
    runs, value = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            runs, value = [*runs, 0], pixel
        runs[-1] += 1
    return runs


def compressed(runs: list[int]) -> str:
    """COCO's text for run lengths, digit by digit."""
    text = ""
    for i, run in enumerate(runs):
        number = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            digit, number = number & 31, number >> 5
            more = number != (-1 if digit & 16 else 0)
            text += chr(48 + (digit | (32 if more else 0)))
    return text


def test_polygons(read) -> None:
    instances, classes = read(coco({}, {"category_id": 9, "segmentation": [[0, 4, 2, 4, 2, 6, 0, 6]]}), **CLASSES)
    expected = np.zeros((6, 8), np.uint8)
    expected[1:3, 1:4], expected[4:6, 0:2] = 1, 2
    assert np.array_equal(classes, expected)
    assert np.array_equal(instances, expected)


def test_polygons_of_one_annotation_are_united(read) -> None:
    two = {"segmentation": [[0, 0, 4, 0, 4, 2, 0, 2], [2, 0, 6, 0, 6, 2, 2, 2]]}
    assert read(coco(two), **CLASSES)[0][0].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]


def test_run_lengths_in_both_forms(read) -> None:
    expected = np.zeros((6, 8), np.uint8)
    expected[1:3, 1:3] = 1
    for counts in (RUNS["counts"], compressed(RUNS["counts"])):
        assert np.array_equal(read(coco({"segmentation": RUNS | {"counts": counts}}), **CLASSES)[1], expected)


def test_groups_are_ignored(read) -> None:
    instances, classes = read(coco({"iscrowd": 1, "segmentation": RUNS}, {}), **CLASSES)
    assert classes[1].tolist() == [0, 255, 255, 1, 0, 0, 0, 0]
    assert np.unique(instances).tolist() == [0, 1]


def test_images_are_found_by_name(read, caplog: pytest.LogCaptureFixture) -> None:
    both = coco({}, {"image_id": 4, "segmentation": [[6, 0, 8, 0, 8, 1, 6, 1]]})
    assert read(both, **CLASSES)[0][1, 1] == 1
    assert read(both, image="b.tif", **CLASSES)[0][0].tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    assert read(both, image="b.png", **CLASSES)[0][0, 7] == 1
    one = coco({}, images=[{"id": 5, "file_name": "C:\\data\\other.jpg", "height": 6, "width": 8}])
    with caplog.at_level(logging.WARNING):
        assert read(one, **CLASSES)[0].any()
    assert "its only image" in caplog.text
    assert not read(coco(), **CLASSES)[1].any()


@given(data=st.data(), shape=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_run_lengths_are_their_mask(data: st.DataObject, shape: tuple[int, int]) -> None:
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])))
    mask = mask.reshape(shape)
    runs = counts_of(mask)
    assert decoded_counts(compressed(runs)).tolist() == runs
    part, area = rings_of_counts(np.array(runs), shape)
    assert area == mask.sum()
    canvas = np.zeros(shape, np.uint32)
    if part is not None:
        one = np.ones(1, np.uint32)
        paint(canvas, polygons_of([part]), box=Box(start=(0, 0), stop=shape), order=np.arange(1), values=one)
    assert np.array_equal(canvas != 0, mask)


@given(runs=st.lists(st.integers(0, 2**40), max_size=30))
def test_compressed_counts_come_back(runs: list[int]) -> None:
    assert decoded_counts(compressed(runs)).tolist() == runs


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            coco({"segmentation": RUNS | {"size": [8, 6]}}),
            "annotation 1: expected run lengths for 6 x 8 px, came .8, 6.",
        ),
        (coco({"segmentation": RUNS | {"counts": [7, 2]}}), "expected run lengths of 48 px in all, came 9"),
        (coco({"segmentation": RUNS | {"counts": [7, -2, 43]}}), "expected run lengths from 0 to 48, came -2 to 43"),
        (coco({"segmentation": RUNS | {"counts": "52\u20ac"}}), "expected run lengths of 48 px|damaged or cut off"),
        (coco({"segmentation": RUNS | {"counts": "52`"}}), "damaged or cut off"),
        (coco({"segmentation": RUNS | {"counts": "`" * 20 + "0"}}), "more than 60 bits"),
        (coco({"segmentation": RUNS | {"counts": [[1]]}}), "as a text or as a list of integers"),
        (coco({"segmentation": {"size": [6, 8]}}), "annotation 1: its key 'counts' is missing"),
        (coco({"segmentation": [[1, 2, 3]]}), "an even number of coordinates"),
        (coco({"segmentation": [1, 2, 3, 4]}), "an even number of coordinates"),
        (coco({"segmentation": None, "bbox": [1, 2, 3, 4]}), "expected a segmentation, came none"),
        (coco({"category_id": 8}), "its category 8 is not among the categories"),
        (
            coco({}, categories=[{"id": 3, "name": "cel"}]),
            "class 'cel' .of 1 object. is not configured; did you mean cell",
        ),
        (coco({}, images=[]), "expected one image 'a.tif', came 0 among 0"),
        (coco({}, images=[{"id": 5, "file_name": "a.tif"}] * 2), "expected one image 'a.tif', came 2 among 2"),
        (
            coco({}, images=[{"id": n, "file_name": f"aa{n}.tif"} for n in range(3)]),
            "came 0 among 3; did you mean aa[012].tif",
        ),
        (
            coco({}, images=[{"id": 5, "file_name": "a.tif", "height": 8, "width": 6}]),
            "expected the image's size of 6 x 8 px, came 8 x 6 px",
        ),
        (coco({}, images=[{"id": 5}]), "no COCO file: an image or category lacks the key 'file_name'"),
        (coco({}, images=[3]), "no COCO file"),
        ({"images": [], "annotations": [7], "categories": []}, "came 0 among 0"),
    ],
)
def test_bad_annotations(read, content: Any, said: str) -> None:
    with pytest.raises(AnnotationError, match=said) as caught:
        read(content, **CLASSES)
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)

"""Annotations as instances and classes."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from unetpipe import slides
from unetpipe.errors import AnnotationError
from unetpipe.labels import carve
from unetpipe.manifests import read_manifest
from unetpipe.slides import open_plane
from unetpipe.specs import AnnotateSpec, IngestSpec
from unetpipe.steps.annotate import annotate
from unetpipe.steps.ingest import ingest

VALUES = np.array([[0, 7, 7, 0, 3, 3], [0, 7, 7, 0, 3, 3], [0, 0, 0, 0, 0, 0], [9, 9, 0, 5, 5, 5]], np.uint16)


@pytest.fixture
def read(tmp_path: Path):
    """A function that annotates VALUES' image with some values and gives facts, instances and classes."""
    tifffile.imwrite(tmp_path / "image.tif", VALUES)
    image, output = tmp_path / "images" / "s.json", tmp_path / "labels" / "s.json"
    ingest(tmp_path / "image.tif", output=image, spec=IngestSpec(), code="i@1")

    def call(values: np.ndarray, **keys: object):
        tifffile.imwrite(tmp_path / "truth.tif", values, photometric="minisblack")
        annotate(tmp_path / "truth.tif", image, output=output, spec=AnnotateSpec(**keys), code="a@1")  # type: ignore[arg-type]
        manifest = read_manifest(output, stage="annotate")
        return manifest.facts, *(open_plane(manifest.store / n / "0").read_whole() for n in ("instances", "classes"))

    return call


def test_instances_are_kept_as_annotated(read) -> None:
    facts, instances, classes = read(VALUES)
    assert np.array_equal(instances, VALUES)
    assert np.array_equal(classes, VALUES > 0)
    assert (facts["kind"], facts["n_instances"]) == ("instances", 4)
    assert facts["class_counts"] == [11, 13]


def test_a_mask_is_cut_into_its_connected_parts(read) -> None:
    facts, instances, _ = read((VALUES > 0).astype(np.uint8) * 255, kind="mask")
    assert facts["n_instances"] == 4
    assert len(np.unique(instances[VALUES == 7])) == 1


def test_ridge_parts_touching_instances(read) -> None:
    touching = np.zeros_like(VALUES)
    touching[:, :3], touching[:, 3:] = 1, 2
    symmetric, one_sided, none = (read(touching, ridge=r)[2] for r in ("symmetric", "one_sided", "none"))
    assert symmetric[0].tolist() == [1, 1, 0, 0, 1, 1]
    assert one_sided[0].tolist() == [1, 1, 1, 0, 1, 1]
    assert none.all()


def test_ignored_pixels_belong_to_nothing(read) -> None:
    facts, instances, classes = read(VALUES, ignore_value=9)
    assert (classes[3, :2] == 255).all()
    assert not instances[3, :2].any()
    assert facts["class_counts"] == [11, 11]


def test_class_maps(read) -> None:
    facts, instances, classes = read(np.minimum(VALUES, 2), kind="classes", n_classes=3)
    assert np.array_equal(classes, np.minimum(VALUES, 2))
    assert facts["n_instances"] == 4
    assert instances[0, 1] != instances[0, 4]


@pytest.mark.parametrize(
    ("values", "keys", "said"),
    [
        (VALUES[:-1], {}, "expected the image's size of 4 x 6 px, came 3 x 6 px"),
        (VALUES.astype(np.float32), {}, "expected integer labels, came float32"),
        (VALUES.astype(np.int16) - 1, {}, "expected labels from 0 on, came -1"),
        (VALUES, {"kind": "classes", "n_classes": 3}, "expected class indices 0 to 2, came 9"),
        (np.full_like(VALUES, 4), {"ignore_value": 4}, "every pixel is ignored"),
    ],
)
def test_annotations_that_do_not_fit(
    read, tmp_path: Path, values: np.ndarray, keys: dict[str, object], said: str
) -> None:
    with pytest.raises(AnnotationError, match=said):
        read(values, **keys)
    assert not (tmp_path / "labels" / "s.json").exists()


def annotated(
    folder: Path, shape: tuple[int, int], annotation: Path, **keys: Any
) -> tuple[Any, np.ndarray, np.ndarray]:
    """Facts, instances and classes of an annotation file of an empty image ``image.tif``."""
    tifffile.imwrite(folder / "image.tif", np.zeros(shape, np.uint8))
    image, output = folder / "images" / "s.json", folder / "labels" / "s.json"
    ingest(folder / "image.tif", output=image, spec=IngestSpec(), code="i@1")
    annotate(annotation, image, output=output, spec=AnnotateSpec(**keys), code="a@1")
    manifest = read_manifest(output, stage="annotate")
    return manifest.facts, *(open_plane(manifest.store / n / "0").read_whole() for n in ("instances", "classes"))


def square(y: int, x: int, side: int, name: str) -> dict[str, Any]:
    """A feature of QuPath."""
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "classification": {"name": name}},
    }


def test_shapes_of_several_classes(tmp_path: Path) -> None:
    names = [("cell", 0, 0), ("cell", 0, 4), ("debris", 0, 8), ("Ignore*", 8, 8)]
    shapes = [square(y, x, 4, name) for name, y, x in names]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": shapes}))
    keys = {"n_classes": 3, "classes": ("background", "cell", "debris")}
    facts, instances, classes = annotated(tmp_path, (12, 12), tmp_path / "a.geojson", **keys)
    assert facts["n_instances"] == 3
    assert instances[0].tolist() == [1] * 4 + [2] * 4 + [3] * 4
    # Instances of one class are parted, those of different classes part themselves.
    assert classes[0].tolist() == [1, 1, 1, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert (classes[8:, 8:] == 255).all()
    assert facts["class_counts"] == [144 - 16 - 24 - 16, 24, 16]


def test_coco_knows_the_image_by_its_source(tmp_path: Path) -> None:
    document = {
        "images": [
            {"id": n, "file_name": name, "height": 3, "width": 4} for n, name in enumerate(["b.tif", "image.tif"])
        ],
        "annotations": [
            {"image_id": n, "category_id": 1, "segmentation": [[n, 0, n + 1, 0, n + 1, 1, n, 1]]} for n in (0, 1)
        ],
        "categories": [{"id": 1, "name": "foreground"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    assert annotated(tmp_path, (3, 4), tmp_path / "a.json")[1][0].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("kind", ["instances", "mask", "shapes"])
def test_shards_do_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The same truth in one shard and in many, ridges at the seams included."""
    rng = np.random.default_rng(3)
    values = rng.integers(0, 4, (75, 90)).repeat(8, 0).repeat(8, 1).astype(np.uint16)
    if kind == "shapes":
        shapes = [square(int(y), int(x), 60, "foreground") for y, x in rng.integers(-20, 680, (200, 2))]
        (tmp_path / "a").write_text(json.dumps(shapes))
    else:
        tifffile.imwrite(tmp_path / "a", values if kind == "instances" else (values > 1).astype(np.uint8))
    keys = {"kind": kind} if kind != "shapes" else {}
    whole = annotated(tmp_path, values.shape, tmp_path / "a", **keys)
    (tmp_path / "labels" / "s.ledger").unlink()
    monkeypatch.setattr(slides, "SHARD", 256)
    parts = annotated(tmp_path, values.shape, tmp_path / "a", **keys)
    assert whole[0] == parts[0]
    assert np.array_equal(whole[1], parts[1])
    assert np.array_equal(whole[2], parts[2])
    assert np.array_equal(whole[2], carve((whole[1] > 0).astype(np.uint8), whole[1], ridge="symmetric"))


def test_covered_shapes_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shapes = [square(0, 0, 2, "foreground"), square(0, 0, 2, "foreground")]
    (tmp_path / "a").write_text(json.dumps(shapes))
    with caplog.at_level(logging.WARNING):
        assert annotated(tmp_path, (4, 4), tmp_path / "a")[0]["n_instances"] == 1
    assert "1 of 2 shapes have no pixel of their own" in caplog.text


def test_nothing_but_ignored_pixels(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("[]")
    with pytest.raises(AnnotationError, match=r"every pixel is ignored \(outside: ignore\)"):
        annotated(tmp_path, (4, 4), tmp_path / "a", outside="ignore")


def test_shapes_of_a_stack_of_z_and_t_belong_to_their_plane(tmp_path: Path) -> None:
    stack = np.zeros((2, 3, 6, 8), np.uint8)
    tifffile.imwrite(tmp_path / "s.ome.tif", stack, metadata={"axes": "TZYX"}, photometric="minisblack")
    drawn = square(1, 2, 3, "cell")
    drawn["geometry"]["plane"] = {"c": -1, "z": 2, "t": 1}
    (tmp_path / "s.geojson").write_text(json.dumps([drawn]))
    image, output = tmp_path / "images" / "s.json", tmp_path / "labels" / "s.json"
    for plane in (5, 2):
        ingest(tmp_path / "s.ome.tif", output=image, spec=IngestSpec(plane=plane), code="i@1")
        spec = AnnotateSpec(plane=plane, names={"cell": "foreground"})
        if plane == 5:
            annotate(tmp_path / "s.geojson", image, output=output, spec=spec, code="a@1")
            assert read_manifest(output, stage="annotate").facts["class_counts"] == [39, 9]
        else:
            with pytest.raises(AnnotationError, match="no shape in plane 2, but 1 in others: 5; correct annot"):
                annotate(tmp_path / "s.geojson", image, output=output, spec=spec, code="a@1")

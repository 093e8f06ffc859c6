"""Annotations as instances and classes."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from unetpipe.errors import AnnotationError
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
    assert facts["n_instances"] == 4
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

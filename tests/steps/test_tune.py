"""Thresholds come from validation images, and segment applies them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unetpipe.errors import StoreError
from unetpipe.ledgers import open_ledger
from unetpipe.manifests import Manifest, read_manifest
from unetpipe.slides import create_plane, open_plane
from unetpipe.specs import AnnotateSpec, IngestSpec, PredictSpec, SegmentSpec, TuneSpec
from unetpipe.steps.segment import segment
from unetpipe.steps.tune import tune

NAMES = ("background", "cell", "rare")


def stored(path: Path, stage: str, spec: Any, array: str, pixels: np.ndarray, facts: Any, inputs: Any = ()) -> Manifest:
    """An array as the result of a stage."""
    with open_ledger(path, stage=stage, spec=spec, code="x@1", inputs=inputs) as ledger:
        plane = create_plane(ledger.store / array, shape=pixels.shape, dtype=pixels.dtype)
        for unit, box in plane.iter_shards():
            ledger.append(unit, plane.write_shard(box, np.ascontiguousarray(pixels[(..., *box.slices)])))
        ledger.publish(facts)
    return read_manifest(path)


def sample(folder: Path, name: str, seed: int, scale: int = 65535) -> tuple[Path, Path, Path]:
    """Image, probabilities and labels of a sample whose cells are found at 0.3 rather than at a half."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((60, 70)) < 0.4).astype(np.uint8)
    cell = np.where(truth == 1, rng.uniform(0.3, 0.6, truth.shape), rng.uniform(0, 0.295, truth.shape))
    parts = np.stack([1 - cell - 0.01, cell, np.full(cell.shape, 0.01)]) * scale
    about = {"dtype": "uint8", "channels": 1, "channel_names": [], "percentiles": [[0, 1]], "source_shape": [60, 70]}
    frame = {"pixel_size_um": None, "factor": 1.0}
    keys: Any = (folder / f"images/{name}.json", "ingest", IngestSpec(), "0", truth[None], about | frame)
    image = stored(*keys)
    keys = (folder / f"probabilities/m/{name}.json", "predict", PredictSpec(), "0", np.rint(parts).astype(np.uint16))
    predicted = stored(*keys, frame | {"scale": scale}, [image])
    labels = stored(folder / f"labels/{name}.json", "annotate", AnnotateSpec(), "classes/0", truth, {})
    return image.path, predicted.path, labels.path


def test_a_threshold_chosen_on_two_images_finds_the_cells_of_a_third(tmp_path: Path) -> None:
    samples = [sample(tmp_path, name, seed) for seed, name in enumerate("abc")]
    inputs = [path for _, predicted, labels in samples[:2] for path in (labels, predicted)]
    tuned, output = tmp_path / "thresholds" / "m.json", tmp_path / "segmentations" / "m" / "c.json"
    tune(inputs, output=tuned, spec=TuneSpec(classes=NAMES), code="t@1")
    facts = read_manifest(tuned, stage="tune").facts
    assert facts == {"thresholds": {"cell": 0.3}, "dice": {"cell": 1.0}, "samples": ["a", "b"]}, "no pixel is rare"
    before = tuned.read_bytes()
    tune(inputs[::-1], output=tuned, spec=TuneSpec(classes=NAMES), code="t@1")
    assert tuned.read_bytes() == before
    image, predicted, labels = samples[2]
    keys: Any = {"output": output, "code": "s@1"}
    segment(predicted, image, tuned, spec=SegmentSpec(classes=NAMES, tune=True), **keys)
    found = read_manifest(output)
    assert found.facts["thresholds"] == {"cell": 0.3} and found.facts["tuned"] == ["cell"]
    assert set(found.inputs) == {"images/c", "probabilities/m/c", "thresholds/m"}
    truth, classes = (open_plane(read_manifest(p).store / "classes" / "0").read_whole() for p in (labels, output))
    assert np.array_equal(classes, truth)
    segment(predicted, image, tuned, spec=SegmentSpec(classes=NAMES, tune=True, thresholds={"cell": 0.5}), **keys)
    assert read_manifest(output).facts["thresholds"] == {"cell": 0.5} and read_manifest(output).facts["tuned"] == []


def test_samples_that_do_not_match_are_refused(tmp_path: Path) -> None:
    (_, one, truth), (_, other, _) = sample(tmp_path, "a", 1), sample(tmp_path, "b", 2)
    (_, coarse, coarse_truth) = sample(tmp_path, "c", 2, scale=255)
    keys: Any = {"output": tmp_path / "thresholds/m.json", "spec": TuneSpec(classes=NAMES), "code": "t@1"}
    with pytest.raises(StoreError, match="probabilities and labels of the same validation samples"):
        tune([one, other, truth], **keys)
    with pytest.raises(StoreError, match="probabilities and labels of the same"):
        tune([], **keys)
    with pytest.raises(StoreError, match="stored in steps"):
        tune([one, truth, coarse, coarse_truth], **keys)


def test_thresholds_of_another_model_are_refused(tmp_path: Path) -> None:
    image, predicted, labels = sample(tmp_path, "a", 1)
    tuned = tmp_path / "thresholds" / "n.json"
    tune([predicted, labels], output=tuned, spec=TuneSpec(classes=NAMES), code="t@1")
    keys: Any = {"output": tmp_path / "segmentations/m/a.json", "spec": SegmentSpec(classes=NAMES), "code": "s@1"}
    with pytest.raises(StoreError, match=r"expected thresholds of model m.* came those of n"):
        segment(predicted, image, tuned, **keys)

"""Slides as scanners write them go through ingest, predict and segment, and objects lie where the slide has them."""

import gzip
import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from unetpipe.checkpoints import write_weights
from unetpipe.geometry import Box
from unetpipe.ledgers import open_ledger
from unetpipe.manifests import Manifest, read_manifest
from unetpipe.networks import build_network
from unetpipe.polygons import paint, polygons_of
from unetpipe.slides import open_plane
from unetpipe.sources.images import open_source
from unetpipe.specs import IngestSpec, PredictSpec, SegmentSpec, TrainSpec, UnetSpec
from unetpipe.steps.ingest import ingest
from unetpipe.steps.predict import predict
from unetpipe.steps.segment import segment

pytestmark = pytest.mark.slow
NETWORK = UnetSpec(depth=2, base_width=2, channels=3)
NDPI_SHAPE, NDPI_UM = (4864, 3968), 0.2282
SMALLEST, GAIN = 60, 50.0


def smoothed(pixels: np.ndarray) -> np.ndarray:
    """(Y, X) mean of the colours of 8 bits, from 0 to 1, after four means over 3 x 3 px; mirrored at the border."""
    grey = pixels.mean(axis=0, dtype=np.float32) / np.float32(255)
    for _ in range(4):
        grey = ndimage.uniform_filter(grey, 3, mode="mirror")
    return grey


def write_model(path: Path, least: float, gain: float) -> Path:
    """A model whose foreground has the probability 1 / (1 + exp(-gain (g - least))), g as `smoothed` gives it."""
    state = {name: torch.zeros_like(tensor) for name, tensor in build_network(NETWORK, seed=0).state_dict().items()}
    # The means go over the upper skip: behind the two channels that come from below.
    state["encoder.0.0.weight"][0] = 1 / 27
    for name, channel in (("encoder.0.2", 0), ("decoder.1.0", 2), ("decoder.1.2", 0)):
        state[f"{name}.weight"][0, channel] = 1 / 9
    state["head.weight"][1, 0], state["head.bias"][1] = gain, -gain * least
    with open_ledger(path, stage="train", spec=TrainSpec(network=NETWORK), code="t@0") as ledger:
        digest = write_weights(ledger.store / "weights.safetensors", state)
        ledger.append("weights", digest)
        facts = {"network": asdict(NETWORK), "intensity": "range", "pixel_size_um": None, "weights": digest}
        ledger.publish(facts)
    return path


def rings_of(feature: dict[str, Any]) -> list[np.ndarray]:
    """Rings of a polygon as (V, 2) vertices (y, x), the last one left out; each is simple, and turned rightly."""
    assert feature["type"] == "Feature" and feature["geometry"]["type"] == "Polygon"
    rings = [np.array(ring) for ring in feature["geometry"]["coordinates"]]
    for number, ring in enumerate(rings):
        assert (ring[0] == ring[-1]).all() and len(np.unique(ring[:-1], axis=0)) == len(ring) - 1 >= 4
        across = (np.diff(ring, axis=0) != 0).tolist()
        assert all(sum(one) == 1 and one != other for one, other in pairwise(across))
        (x0, y0), (x1, y1) = ring[:-1].T, ring[1:].T
        # RFC 7946: the outer ring runs counter-clockwise, holes clockwise.
        assert (float((x0 * y1 - x1 * y0).sum()) > 0) == (number == 0)
    return [ring[:-1, ::-1] for ring in rings]


def check_table(found: Manifest, instances: np.ndarray, pixels: np.ndarray) -> None:
    """Areas and mean intensities of the table are those of the pixels."""
    table, size_um = pd.read_parquet(found.store / "objects.parquet"), found.facts["pixel_size_um"]
    assert len(table) == found.facts["n_instances"] == instances.max() > 20
    areas = np.bincount(instances.ravel(), minlength=len(table) + 1)[1:]
    assert np.array_equal(table["area_px"], areas) and areas.min() >= SMALLEST
    assert np.allclose(table["area_um2"], areas * size_um**2)
    means = [np.bincount(instances.ravel(), channel.ravel())[1:] / areas for channel in pixels]
    assert np.allclose(table.filter(like="mean_intensity"), np.transpose(means))
    assert table["mean_probability"].between(0.5, 1).all()


def check_outlines(found: Manifest, instances: np.ndarray, shape: tuple[int, int], factor: float) -> None:
    """Outlines are valid, lie on the slide in its finest pixels, and painted they are the instances."""
    collection = json.loads(gzip.decompress((found.store / "objects.geojson.gz").read_bytes()))
    assert collection["type"] == "FeatureCollection" and len(collection["features"]) == instances.max()
    assert {feature["properties"]["classification"]["name"] for feature in collection["features"]} == {"cell"}
    outlines = [rings_of(feature) for feature in collection["features"]]
    every = np.concatenate([ring for rings in outlines for ring in rings])
    # A size that is no multiple of the factor ends within one pixel of the result.
    assert every.min() >= 0 and (every.max(axis=0) <= np.array(shape) + (0 if factor == 1 else factor)).all()
    own = [(np.concatenate(rings) / factor, np.array([len(ring) for ring in rings])) for rings in outlines]
    painted, polygons = np.zeros(instances.shape, np.uint32), polygons_of(own)
    values, whole = np.arange(1, polygons.count + 1, dtype=np.uint32), Box(start=(0, 0), stop=instances.shape)
    assert not paint(painted, polygons, box=whole, order=np.arange(polygons.count), values=values).any()
    assert np.array_equal(painted, instances)


@pytest.mark.parametrize(
    ("name", "spec", "shape", "source_um", "share", "gain"),
    [
        ("tcga-cr-7395-01a-01-ts1.svs", IngestSpec(source_pixel_size_um=0.25), (3567, 4443), 0.25, 0.2, -GAIN),
        ("test3-DAPI-2-(387).ndpi", IngestSpec(), NDPI_SHAPE, NDPI_UM, 0.9, GAIN),
        ("test3-TRITC 2 (560).ndpi", IngestSpec(pixel_size_um=0.5), NDPI_SHAPE, NDPI_UM, 0.9, GAIN),
    ],
)
def test_objects_are_what_a_threshold_finds_on_the_slide(
    data_folder: Path,
    tmp_path: Path,
    name: str,
    spec: IngestSpec,
    shape: tuple[int, int],
    source_um: float,
    share: float,
    gain: float,
) -> None:
    slide, image_path = data_folder / "wsi" / name, tmp_path / "images" / "s.json"
    ingest(slide, output=image_path, spec=spec, code="i@1")
    image = read_manifest(image_path)
    factor = spec.pixel_size_um / source_um if spec.pixel_size_um else 1.0
    assert tuple(image.facts["source_shape"]) == shape
    assert image.facts["factor"] == pytest.approx(factor, rel=1e-3)
    with open_source(slide) as source:
        whole = Box(start=(0, 0), stop=shape)
        pixels = source.read(whole) if factor == 1 else open_plane(image.store / "0").read_whole()
    assert pixels.shape[1:] == pytest.approx((shape[0] / factor, shape[1] / factor), abs=1)
    grey = smoothed(pixels)
    least = float(np.quantile(grey[::4, ::4], share))
    model = write_model(tmp_path / "models" / "m.json", least, gain)
    probabilities, output = (tmp_path / folder / "m" / "s.json" for folder in ("probabilities", "segmentations"))
    predict(image_path, [model], output=probabilities, spec=PredictSpec(core_px=1024), code="p@1", threads=1)
    keys: dict[str, Any] = {"classes": ("background", "cell"), "min_area_px": SMALLEST}
    segment(probabilities, image_path, output=output, spec=SegmentSpec(**keys), code="s@1")

    found = read_manifest(output)
    assert found.facts["pixel_size_um"] == pytest.approx(spec.pixel_size_um or source_um, abs=1e-4)
    assert tuple(found.facts["shape"]) == pixels.shape[1:]
    stored = open_plane(read_manifest(probabilities).store / "0").read_whole()[1] / np.float32(65535)
    assert np.abs(stored - 1 / (1 + np.exp(-gain * (grey - np.float32(least))))).max() < 1e-4
    classes, instances = (open_plane(found.store / kind / "0").read_whole() for kind in ("classes", "instances"))
    unsure = np.abs(grey - least) < 1e-6
    assert unsure.mean() < 0.01 and np.array_equal(classes[~unsure] == 1, ((grey - least) * gain > 0)[~unsure])
    parts, _ = ndimage.label(classes)
    areas = np.bincount(parts.ravel())
    kept = np.flatnonzero(areas[1:] >= SMALLEST) + 1
    numbers = np.zeros(len(areas), np.uint32)
    numbers[kept] = np.arange(1, len(kept) + 1)
    assert np.array_equal(instances, numbers[parts])
    check_table(found, instances, pixels)
    check_outlines(found, instances, shape, image.facts["factor"])

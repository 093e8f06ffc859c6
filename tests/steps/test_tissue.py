"""The tissue mask beside the image, and probabilities that keep to it whatever the cores."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from unetpipe.errors import ConfigError, Interrupted, SourceError
from unetpipe.geometry import Box
from unetpipe.manifests import Manifest, read_manifest
from unetpipe.phantoms import phantom_image
from unetpipe.signals import asked
from unetpipe.slides import open_plane
from unetpipe.specs import IngestSpec, PredictSpec, SegmentSpec
from unetpipe.steps.ingest import ingest
from unetpipe.steps.predict import predict
from unetpipe.steps.segment import segment
from unetpipe.tissue import otsu_threshold, tissue_measure

from .conftest import Chain

SHAPE = (200, 280)
# At 2 um, level 2 has pixels of 8 um, but level 1 is the last: 140 px.
SPEC = {"tissue": "brightness", "source_pixel_size_um": 2.0, "tissue_smallest_um2": 0.0, "tissue_margin_um": 20.0}


def slide() -> np.ndarray:
    """Dark, with cells in an island that meets the left edge, and a speck of one pixel in a corner."""
    cells = phantom_image(Box(start=(0, 0), stop=SHAPE), shape=SHAPE, seed=3, diameter_px=20.0)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    pixels = np.where(((y - 100) / 60) ** 2 + ((x - 40) / 87) ** 2 <= 1, cells.clip(100, 255), 10).astype(np.uint8)
    pixels[190:194, 266:270] = 255
    return pixels


def ingested(folder: Path, pixels: np.ndarray, **spec: Any) -> Manifest:
    """The manifest of an ingested image."""
    folder.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / "s.tif", pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
    output = folder / "images" / "s.json"
    ingest(folder / "s.tif", output=output, spec=IngestSpec(**spec), code="i@1")
    return read_manifest(output, stage="ingest")


def mask_of(image: Manifest) -> np.ndarray:
    """The mask over level 0."""
    side = 2 ** image.facts["tissue"]["level"]
    coarse = open_plane(image.store / "tissue" / "0").read_whole() > 0
    height, width = image.facts["shape"]
    return coarse.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]


def predicted(chain: Chain, image: Manifest, folder: Path, **spec: Any) -> Manifest:
    """The manifest of an image's probabilities."""
    output = folder / "probabilities" / "m" / "s.json"
    predict(image.path, [chain["models/m"]], output=output, spec=PredictSpec(**spec), code="p@1", threads=1)
    return read_manifest(output, stage="predict")


def test_the_mask_covers_the_tissue_and_its_margin(tmp_path: Path) -> None:
    pixels = slide()
    image = ingested(tmp_path, pixels, **SPEC)
    mask = mask_of(image)
    assert image.facts["tissue"] == {"level": 1, "share": pytest.approx(mask[::2, ::2].mean())}
    assert mask[pixels >= 100].all()
    y, x = np.nonzero(pixels >= 100)
    rows, columns = np.nonzero(mask)
    assert columns.max() - x[y < 190].max() > 100, "the speck counts, with its margin"
    assert y.min() - rows.min() == pytest.approx(10, abs=2), "20 um"
    without = mask_of(ingested(tmp_path / "b", pixels, **SPEC | {"tissue_smallest_um2": 100.0}))
    assert not without[175:, 250:].any() and (without[:175] == mask[:175]).all()


def test_the_mask_is_a_label_image_that_lies_on_the_image(tmp_path: Path, data_folder: Path) -> None:
    image = ingested(tmp_path, slide(), **SPEC | {"pixel_size_um": 1.5})
    attributes = [json.loads((image.store / n / "zarr.json").read_text())["attributes"] for n in (".", "tissue")]
    level = image.facts["tissue"]["level"]
    assert level == 1
    one, other = (
        ome["ome"]["multiscales"][0]["datasets"][number]["coordinateTransformations"]
        for ome, number in zip(attributes, (level, 0), strict=True)
    )
    for kind, first, second in zip(("scale", "translation"), one, other, strict=True):
        assert second[kind] == pytest.approx(first[kind][1:])
    folder = data_folder / "ngff" / "0.5" / "schemas"
    schemas = [json.loads(path.read_text()) for path in folder.glob("*.schema")]
    registry = Registry().with_resources([(s["$id"], DRAFT202012.create_resource(s)) for s in schemas])
    schema = json.loads((folder / "label.schema").read_text())
    Draft202012Validator(schema, registry=registry).validate(attributes[1])
    for group in (image.store, image.store / "tissue"):
        pytest.importorskip("yaozarrs").validate_zarr_store(str(group))


def test_inside_nothing_changes_and_outside_is_background_whatever_the_cores(chain: Chain, tmp_path: Path) -> None:
    image = ingested(tmp_path, slide(), **SPEC)
    mask = mask_of(image)
    assert 0.2 < mask.mean() < 0.5
    everything = predicted(chain, image, tmp_path / "all", core_px=64)
    assert everything.facts["skipped_cores"] == 0
    reference = open_plane(everything.store / "0").read_whole().astype(int)
    counts = []
    for core in (32, 96, 512):
        manifest = predicted(chain, image, tmp_path / str(core), core_px=core, tissue_only=True)
        found = open_plane(manifest.store / "0").read_whole().astype(int)
        assert (found[0][~mask] == 65535).all() and (found[1:, ~mask] == 0).all()
        assert np.abs(found - reference)[:, mask].max() <= 1
        blocks = [mask[y : y + core, x : x + core].any() for y in range(0, 200, core) for x in range(0, 280, core)]
        assert manifest.facts["skipped_cores"] == blocks.count(False)
        counts.append(manifest.facts["skipped_cores"])
    assert counts[0] > 20 and counts[1] > 0 and counts[2] == 0
    segmentation = tmp_path / "32" / "segmentations" / "m" / "s.json"
    probabilities = tmp_path / "32" / "probabilities" / "m" / "s.json"
    segment(probabilities, image.path, output=segmentation, spec=SegmentSpec(min_area_px=1), code="s@1")
    assert not open_plane(read_manifest(segmentation).store / "classes" / "0").read_whole()[~mask].any()


def test_interrupted_it_gives_the_same_bytes(chain: Chain, tmp_path: Path) -> None:
    pixels = slide()
    for name in ("one", "other"):
        output = tmp_path / name / "probabilities" / "m" / "s.json"
        stops = 0
        if name == "other":
            asked.set()
        try:
            while not output.exists() and stops < 99:
                try:
                    image = ingested(tmp_path / name, pixels, **SPEC)
                    predicted(chain, image, tmp_path / name, core_px=64, tissue_only=True)
                except Interrupted:
                    stops += 1
        finally:
            asked.clear()
        assert stops > 20 or name == "one"
    for result in ("images/s.json", "probabilities/m/s.json"):
        assert (tmp_path / "one" / result).read_bytes() == (tmp_path / "other" / result).read_bytes()


def test_what_the_mask_needs_is_named(chain: Chain, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SourceError, match=r"ingest\.tissue needs.*the column pixel_size_um"):
        ingested(tmp_path, slide(), tissue="darkness")
    with pytest.raises(SourceError, match=r"expected 3 channels, which ingest\.tissue: colour needs, came 1"):
        ingested(tmp_path, slide(), **SPEC | {"tissue": "colour"})
    with pytest.raises(ConfigError, match=r"predict\.tissue_only needs; set ingest\.tissue"):
        predicted(chain, ingested(tmp_path, slide()), tmp_path, core_px=64, tissue_only=True)
    with caplog.at_level(logging.WARNING):
        image = ingested(tmp_path, slide(), **SPEC | {"tissue_smallest_um2": 1e9})
    assert "no tissue found" in caplog.text and not mask_of(image).any()
    found = open_plane(predicted(chain, image, tmp_path, core_px=64, tissue_only=True).store / "0").read_whole()
    assert (found[0] == 65535).all()


def test_colour_finds_what_is_stained(tmp_path: Path) -> None:
    noise = np.random.default_rng(5).integers(-3, 4, (200, 200, 3))
    pixels = np.full((200, 200, 3), 240) + noise
    pixels[50:150, 40:120] = (200, 120, 170) + noise[50:150, 40:120]
    pixels[:20] = noise[:20].clip(0)
    spec = SPEC | {"tissue": "colour", "tissue_margin_um": 0.0}
    expected = np.zeros((200, 200), bool)
    expected[50:150, 40:120] = True
    assert np.array_equal(mask_of(ingested(tmp_path, pixels.clip(0, 255).astype(np.uint8), **spec)), expected)


@pytest.mark.parametrize(
    ("tissue", "level", "deviation"), [("colour", 243, 4), ("darkness", 243, 4), ("brightness", 3, 2)]
)
def test_empty_slides_give_a_defined_and_empty_result(
    chain: Chain, tmp_path: Path, caplog: pytest.LogCaptureFixture, tissue: str, level: float, deviation: float
) -> None:
    shape = (200, 280, 3) if tissue == "colour" else (200, 280)
    pixels = np.random.default_rng(2).normal(level, deviation, shape).round().clip(0, 255).astype(np.uint8)
    with caplog.at_level(logging.WARNING):
        image = ingested(tmp_path, pixels, **SPEC | {"tissue": tissue})
    assert "no tissue found: nothing stands out of the noise" in caplog.text
    assert image.facts["tissue"]["share"] == 0 and not mask_of(image).any()
    if tissue == "colour":
        return
    probabilities = predicted(chain, image, tmp_path, core_px=64, tissue_only=True)
    assert probabilities.facts["skipped_cores"] == 4 * 5
    output = tmp_path / "segmentations" / "m" / "s.json"
    segment(probabilities.path, image.path, output=output, spec=SegmentSpec(), code="s@1")
    facts = read_manifest(output).facts
    assert facts["n_instances"] == 0 and facts["class_counts"][0] == 200 * 280 and sum(facts["class_counts"][1:]) == 0


@pytest.mark.parametrize(
    ("name", "tissue"),
    [
        ("CMU-1-Small-Region.svs", "colour"),
        ("CMU-1-Small-Region.svs", "darkness"),
        ("tcga-cr-7395-01a-01-ts1.svs", "colour"),
        ("test3-DAPI-2-(387).ndpi", "brightness"),
        ("test3-TRITC 2 (560).ndpi", "brightness"),
    ],
)
def test_real_slides_are_parted_by_otsu_alone(data_folder: Path, tmp_path: Path, name: str, tissue: str) -> None:
    output = tmp_path / "images" / "s.json"
    spec = IngestSpec(tissue=tissue, tissue_smallest_um2=0.0, tissue_margin_um=0.0, source_pixel_size_um=None)  # type: ignore[arg-type]
    if name.startswith("tcga"):
        spec = replace(spec, source_pixel_size_um=0.25)
    ingest(data_folder / "wsi" / name, output=output, spec=spec, code="i@1")
    image = read_manifest(output)
    level = image.facts["tissue"]["level"]
    measure = tissue_measure(open_plane(image.store / str(level)).read_whole(), tissue)  # type: ignore[arg-type]
    values = np.sqrt(measure - measure.min()) if tissue == "brightness" else measure
    threshold = otsu_threshold(values)
    assert threshold is not None
    mask = open_plane(image.store / "tissue" / "0").read_whole() > 0
    assert np.array_equal(mask, values >= threshold) and 0.1 < mask.mean() < 0.9

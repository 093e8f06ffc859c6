"""Pixel sizes from the file or the sheet to every result, resampled where asked, refused where they do not fit."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from unetpipe.errors import AnnotationError, ModelError, SourceError
from unetpipe.geometry import Box
from unetpipe.manifests import Manifest, read_manifest
from unetpipe.resampling import Resampling, along_both
from unetpipe.slides import open_plane
from unetpipe.specs import AnnotateSpec, IngestSpec, PredictSpec, SegmentSpec
from unetpipe.steps.annotate import annotate
from unetpipe.steps.ingest import ingest
from unetpipe.steps.predict import predict
from unetpipe.steps.segment import segment
from unetpipe.steps.train import train

from .conftest import TRAIN, Chain

FOUND = 0.25


def write_tiff(path: Path, pixels: np.ndarray, um: tuple[float, float] | None = (FOUND, FOUND)) -> Path:
    """A TIFF with pixels of `um` along x and y."""
    keys: dict[str, Any] = {} if um is None else {"resolution": (1e4 / um[0], 1e4 / um[1]), "resolutionunit": 3}
    tifffile.imwrite(path, pixels, tile=(64, 64), **keys)
    return path


def ingested(folder: Path, source: Path, **spec: Any) -> Manifest:
    """The manifest of an ingested image."""
    output = folder / "images" / "s.json"
    ingest(source, output=output, spec=IngestSpec(**spec), code="i@1")
    return read_manifest(output, stage="ingest")


def write_pyramid(path: Path, pixels: np.ndarray, um: float) -> list[np.ndarray]:
    """A TIFF of three levels, each with a value of its own added, sides cut; its levels."""
    levels = [
        pixels[: n // 2**k * 2**k : 2**k, : m // 2**k * 2**k : 2**k] + k for k in range(3) for n, m in [pixels.shape]
    ]
    keys: dict[str, Any] = {"resolution": (1e4 / um, 1e4 / um), "resolutionunit": 3, "tile": (64, 64)}
    with tifffile.TiffWriter(path) as writer:
        for k, level in enumerate(levels):
            writer.write(level, subfiletype=1 if k else 0, metadata=None, **keys)
    return levels


def centres_um(group: Path, level: int) -> np.ndarray:
    """Positions along y of the first three pixels of a level, as the metadata have them."""
    multiscale = json.loads((group / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]
    scale, translation = multiscale["datasets"][level]["coordinateTransformations"]
    return np.arange(3) * scale["scale"][-2] + translation["translation"][-2]


@pytest.mark.parametrize("target", [0.5 / 2.2, 0.55])
def test_shards_and_parts_leave_no_seams(tmp_path: Path, target: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 60000, (1300, 2300), dtype=np.uint16)
    manifest = ingested(tmp_path, write_tiff(tmp_path / "s.tif", pixels), pixel_size_um=target)
    whole = Resampling(shape=pixels.shape, factor=target / FOUND)
    expected = whole.image_block(pixels[None], Box(start=(0, 0), stop=whole.result))
    found = open_plane(manifest.store / "0").read_whole()
    assert found.tobytes() == expected.tobytes()
    assert manifest.facts["shape"] == list(expected.shape[1:])
    assert manifest.facts["source_shape"] == [1300, 2300]
    assert manifest.facts["factor"] == pytest.approx(target / FOUND)
    assert manifest.facts["pixel_size_um"] == target


@pytest.mark.parametrize("factor", [2.0, 1.5, 0.5])
def test_every_result_stands_where_its_source_stood(chain: Chain, tmp_path: Path, factor: float) -> None:
    source = write_tiff(tmp_path / "s.tif", np.zeros((600, 600), np.uint8))
    manifest = ingested(tmp_path, source, pixel_size_um=FOUND * factor)
    # A pixel's middle is the mean of the middles of the source's pixels under it, or their part.
    middles = ((np.arange(3) + 0.5) * factor - 0.5) * FOUND
    assert centres_um(manifest.store, 0) == pytest.approx(middles)
    pairs = np.arange(6).reshape(3, 2)
    coarse = (((pairs + 0.5) * factor - 0.5) * FOUND).mean(axis=1)
    assert centres_um(manifest.store, 1) == pytest.approx(coarse)
    labels, probabilities = tmp_path / "labels" / "s.json", tmp_path / "probabilities" / "m" / "s.json"
    annotate(source, manifest.path, output=labels, spec=AnnotateSpec(kind="mask"), code="a@1")
    predict(
        manifest.path, [chain["models/m"]], output=probabilities, spec=PredictSpec(core_px=512), code="p@1", threads=1
    )
    segmentation = tmp_path / "segmentations" / "m" / "s.json"
    segment(probabilities, manifest.path, output=segmentation, spec=SegmentSpec(), code="s@1")
    for path, groups in (
        (labels, ("classes", "instances")),
        (probabilities, ("",)),
        (segmentation, ("classes", "instances")),
    ):
        result = read_manifest(path)
        assert (result.facts["factor"], result.facts["pixel_size_um"]) == (factor, FOUND * factor)
        for group in groups:
            assert centres_um(result.store / group, 0) == pytest.approx(middles)


def test_within_the_tolerance_nothing_changes(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (70, 50), dtype=np.uint8)
    manifest = ingested(tmp_path, write_tiff(tmp_path / "s.tif", pixels), pixel_size_um=0.254)
    assert np.array_equal(open_plane(manifest.store / "0").read_whole()[0], pixels)
    facts = manifest.facts
    assert (facts["factor"], facts["pixel_size_um"], facts["nominal_um"]) == (1.0, 0.25, 0.254)
    assert centres_um(manifest.store, 0) == pytest.approx(np.arange(3) * 0.25)


def test_the_sheet_overrides_the_file_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write_tiff(tmp_path / "s.tif", np.zeros((40, 40), np.uint8))
    manifest = ingested(tmp_path, source, source_pixel_size_um=0.5, pixel_size_um=1.0)
    assert (manifest.facts["shape"], manifest.facts["factor"]) == ([20, 20], 2.0)
    assert "the file says pixels of 0.25 um, the sample sheet 0.5 um" in caplog.text
    caplog.clear()
    ingested(tmp_path, source, source_pixel_size_um=0.251)
    assert not caplog.text


def test_a_size_that_is_needed_and_not_known_stops_the_run(tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "s.tif", np.zeros((40, 40), np.uint8), None)
    with pytest.raises(SourceError, match=r"s\.tif: .*ingest\.pixel_size_um needs.*the column pixel_size_um") as caught:
        ingested(tmp_path, source, pixel_size_um=0.5)
    assert len(str(caught.value)) <= 300 and "\n" not in str(caught.value)
    assert ingested(tmp_path, source).facts["pixel_size_um"] is None
    assert ingested(tmp_path, source, source_pixel_size_um=0.25, pixel_size_um=0.5).facts["shape"] == [20, 20]


def test_pixels_that_are_no_squares_become_squares(tmp_path: Path) -> None:
    # Discs of 30 um, scanned with pixels 0.5 um high and 1.5 um wide.
    y, x = (np.mgrid[:240, :80] + 0.5) * np.array([0.5, 1.5])[:, None, None]
    values = sum(
        n * ((y - cy) ** 2 + (x - cx) ** 2 < 15**2) for n, (cy, cx) in enumerate([(30, 40), (80, 75)], start=1)
    )
    source = write_tiff(tmp_path / "s.tif", values.astype(np.uint8), (1.5, 0.5))
    manifest = ingested(tmp_path, source, pixel_size_um=1.0)
    assert manifest.facts["shape"] == [120, 120]
    assert manifest.facts["factor"] == pytest.approx([2.0, 2 / 3])
    assert manifest.facts["pixel_size_um"] == 1.0
    output = tmp_path / "labels" / "s.json"
    annotate(source, manifest.path, output=output, spec=AnnotateSpec(), code="a@1")
    truth = read_manifest(output, stage="annotate")
    instances = open_plane(truth.store / "instances" / "0").read_whole()
    for number, (cy, cx) in enumerate([(30, 40), (80, 75)], start=1):
        rows, columns = np.nonzero(instances == number)
        assert rows.size == pytest.approx(np.pi * 15**2, rel=0.02)
        assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((cy, cx), abs=0.3)
        assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=1)
    for group in (manifest.store, truth.store / "instances"):
        multiscale = json.loads((group / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]
        # The first square's middle is that of two source pixels down, of two thirds of one across.
        translation = multiscale["datasets"][0]["coordinateTransformations"][1]["translation"]
        assert translation[-2:] == pytest.approx([0.25, -0.25])


def test_pixels_that_are_no_squares_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write_tiff(tmp_path / "s.tif", np.zeros((40, 40), np.uint8), (0.25, 0.5))
    said = r"s\.tif: expected square pixels, came 0\.5 x 0\.25 um \(height x width\); set ingest\.pixel_size_um"
    with pytest.raises(SourceError, match=said) as caught:
        ingested(tmp_path, source)
    assert len(str(caught.value)) <= 300 and "\n" not in str(caught.value)
    assert ingested(tmp_path, source, source_pixel_size_um=0.25, pixel_size_um=0.5).facts["shape"] == [20, 20]
    assert "the file says pixels of 0.5 x 0.25 um (height x width), the sample sheet 0.25 um" in caplog.text
    nearly = write_tiff(tmp_path / "n.tif", np.zeros((40, 40), np.uint8), (0.25, 0.2549))
    assert ingested(tmp_path, nearly).facts["pixel_size_um"] == pytest.approx(0.25)


def test_nanometres_for_micrometres_are_refused(tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "s.tif", np.zeros((40, 40), np.uint8))
    with pytest.raises(SourceError, match=r"resampling by 1000: .*correct the pixel size \(0\.25 um\)"):
        ingested(tmp_path, source, pixel_size_um=250.0)


@pytest.mark.parametrize("kind", ["instances", "mask", "classes"])
def test_annotations_come_along_by_the_nearest_pixel(tmp_path: Path, kind: str) -> None:
    # Three objects of 8 x 8 px; the gap of one column between the first two falls between the centres.
    values = np.zeros((16, 32), np.uint8)
    values[4:12, 4:12], values[4:12, 13:21], values[4:12, 24:32] = 1, 1, 1
    if kind == "instances":
        values[4:12, 13:21] = 2
    image = ingested(tmp_path, write_tiff(tmp_path / "s.tif", values), pixel_size_um=0.5)
    truth, output = write_tiff(tmp_path / "t.tif", values), tmp_path / "labels" / "s.json"
    annotate(truth, image.path, output=output, spec=AnnotateSpec(kind=kind, ridge="none"), code="a@1")  # type: ignore[arg-type]
    manifest = read_manifest(output, stage="annotate")
    classes, instances = (open_plane(manifest.store / name / "0").read_whole() for name in ("classes", "instances"))
    assert np.array_equal(classes, values[1::2, 1::2] > 0)
    assert manifest.facts["shape"] == [8, 16]
    assert manifest.facts["n_instances"] == {"instances": 2, "mask": 3, "classes": 3}[kind]
    assert instances[4, 5] != instances[4, 6] and instances[4, 5:7].all(), "the first two stay two"


def test_an_annotation_of_the_resampled_size_is_refused(tmp_path: Path) -> None:
    image = ingested(tmp_path, write_tiff(tmp_path / "s.tif", np.zeros((40, 40), np.uint8)), pixel_size_um=0.5)
    truth = write_tiff(tmp_path / "t.tif", np.ones((20, 20), np.uint8))
    with pytest.raises(AnnotationError, match="size of 40 x 40 px, came 20 x 20"):
        annotate(truth, image.path, output=tmp_path / "labels" / "s.json", spec=AnnotateSpec(), code="a@1")


def with_fact(path: Path, copy: Path, **facts: Any) -> Path:
    """A result of a stage that says something else of itself."""
    data = json.loads(path.read_text())
    suffix = ".zarr" if data["stage"] != "train" else ""
    shutil.copytree(path.with_name(path.stem + suffix), copy.with_name(copy.stem + suffix))
    copy.write_text(json.dumps(data | {"facts": data["facts"] | facts}))
    return copy


def test_predict_refuses_another_pixel_size_and_names_the_remedy(
    chain: Chain, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "models").mkdir()
    model = with_fact(chain["models/m"], tmp_path / "models" / "m.json", pixel_size_um=0.5)
    pixels = np.random.default_rng(2).integers(0, 255, (90, 70), dtype=np.uint8)
    source, output = write_tiff(tmp_path / "s.tif", pixels), tmp_path / "probabilities" / "m" / "s.json"

    def predicted(**spec: Any) -> Manifest:
        image = ingested(tmp_path, source, **spec)
        predict(image.path, [model], output=output, spec=PredictSpec(core_px=64), code="p@1", threads=1)
        return read_manifest(output)

    with pytest.raises(
        ModelError, match=r"of 0\.5 um as model m .*came 0\.25 um; set ingest\.pixel_size_um: 0\.5"
    ) as e:
        predicted()
    assert len(str(e.value)) <= 300
    assert predicted(pixel_size_um=0.5).facts["shape"] == [45, 35]
    # What ingest takes for the target is what the model has seen, on either side of it.
    assert predicted(source_pixel_size_um=0.4902, pixel_size_um=0.5).facts["shape"] == [90, 70]
    assert "not known" not in caplog.text
    write_tiff(source, pixels, None)
    with caplog.at_level(logging.WARNING):
        predicted()
    assert "s: pixel size not known, model m was trained on 0.5 um" in caplog.text


def test_training_samples_have_one_pixel_size(chain: Chain, tmp_path: Path) -> None:
    for folder in ("patches", "images", "labels"):
        (tmp_path / folder).mkdir()
    patches = with_fact(chain["patches/a"], tmp_path / "patches" / "a.json", nominal_um=0.25)
    image = with_fact(chain["images/b"], tmp_path / "images" / "b.json", nominal_um=0.5)
    inputs = [patches, image, chain["labels/b"]]
    with pytest.raises(ModelError, match=r"0\.25 um \(a\) and 0\.5 um \(b\); set ingest\.pixel_size_um"):
        train(inputs, output=tmp_path / "models" / "m.json", spec=TRAIN, code="t@1", threads=1)


def test_a_level_of_the_source_keeps_the_coordinates_of_its_finest(tmp_path: Path) -> None:
    levels = write_pyramid(tmp_path / "s.tif", np.zeros((402, 480), np.uint8), FOUND)
    manifest = ingested(tmp_path, tmp_path / "s.tif", level=2, tissue="brightness", tissue_smallest_um2=0)
    assert np.array_equal(open_plane(manifest.store / "0").read_whole()[0], levels[2])
    # 402 = 4 * 100.5: a pixel stands for slightly more than 4.
    assert manifest.facts["shape"] == [100, 120]
    assert manifest.facts["source_shape"] == [402, 480]
    assert manifest.facts["factor"] == pytest.approx([4.02, 4.0])
    assert manifest.facts["pixel_size_um"] == pytest.approx(4 * FOUND)
    square = [[40, 201], [80, 201], [80, 281.4], [40, 281.4], [40, 201]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square]}, "properties": {}}
    (tmp_path / "s.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    spec, labels = AnnotateSpec(kind="mask"), tmp_path / "labels" / "s.json"
    annotate(tmp_path / "s.geojson", manifest.path, output=labels, spec=spec, code="a@1")
    classes = open_plane(read_manifest(labels).store / "classes" / "0").read_whole()
    expected = np.zeros((100, 120), np.uint8)
    expected[50:70, 10:20] = 1
    np.testing.assert_array_equal(classes, expected)


def test_the_sheet_gives_the_pixel_size_of_the_finest_level(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "s.tif", np.zeros((400, 480), np.uint8), FOUND)
    manifest = ingested(tmp_path, tmp_path / "s.tif", level=1, source_pixel_size_um=0.3)
    assert (manifest.facts["factor"], manifest.facts["pixel_size_um"]) == (2.0, 0.6)


@pytest.mark.parametrize("side", range(400, 416))
def test_a_level_may_be_resampled_further(tmp_path: Path, side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (side, 480), dtype=np.uint8)
    level = write_pyramid(tmp_path / "s.tif", pixels, FOUND)[1]
    manifest = ingested(tmp_path, tmp_path / "s.tif", level=1, pixel_size_um=0.75)
    assert manifest.facts["source_shape"] == [side, 480]
    frame = Resampling(shape=tuple(manifest.facts["source_shape"]), factor=manifest.facts["factor"])
    expected = Resampling(shape=level.shape, factor=1.5)
    # What is drawn in the finest level has the shape of what is seen, and lies within half a pixel of it.
    assert frame.result == expected.result == tuple(manifest.facts["shape"])
    assert along_both(manifest.facts["factor"]) == pytest.approx(
        [side / level.shape[0] * 1.5, 3.0], abs=0.5 * 3 / expected.result[0]
    )
    block = expected.image_block(level[None], Box(start=(0, 0), stop=expected.result))
    np.testing.assert_array_equal(open_plane(manifest.store / "0").read_whole(), block)


def test_a_level_too_coarse_is_one_line(tmp_path: Path) -> None:
    pixels = np.zeros((260, 260), np.uint8)
    with tifffile.TiffWriter(tmp_path / "s.tif") as writer:
        for step in (1, 130):
            writer.write(pixels[::step, ::step], metadata=None)
    with pytest.raises(SourceError, match="level 1: resampling by 130: expected pixels of 1/16 to 64 times"):
        ingested(tmp_path, tmp_path / "s.tif", level=1)

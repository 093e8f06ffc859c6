"""Only what lies in drawn areas is predicted, whatever the cores, and only the areas' bytes count."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from unetpipe.errors import AnnotationError
from unetpipe.manifests import Manifest, read_manifest
from unetpipe.slides import open_plane
from unetpipe.specs import IngestSpec, PredictSpec
from unetpipe.steps.ingest import ingest
from unetpipe.steps.predict import predict
from unetpipe.tissue import mask_block

from .conftest import Chain

SHAPE = (200, 280)
# Corners (x, y): a square of the image's left half, and a triangle.
SQUARE, TRIANGLE = [[20, 30], [110, 30], [110, 120], [20, 120]], [[150, 10], [270, 10], [150, 190]]


def drawn(path: Path, *rings: list[list[int]]) -> Path:
    geometry = {"type": "MultiPolygon", "coordinates": [[[*ring, ring[0]]] for ring in rings]}
    path.write_text(json.dumps({"type": "Feature", "geometry": geometry, "properties": {}}))
    return path


def inside(factor: float) -> np.ndarray:
    """The centres of pixels that lie in the areas, of an image whose pixels are `factor` times those of the source."""
    y, x = ((np.floor((np.arange(round(n / factor)) + 0.5) * factor) + 0.5) for n in SHAPE)
    y, x = y[:, None], x[None]
    square = (x > 20) & (x < 110) & (y > 30) & (y < 120)
    return square | ((x > 150) & (y > 10) & ((x - 150) / 120 + (y - 10) / 180 < 1))


def image_of(folder: Path, **keys: object) -> Path:
    pixels = np.random.default_rng(1).integers(0, 40, SHAPE, np.uint8)
    pixels[40:100, 60:240] += 150
    folder.mkdir(exist_ok=True)
    tifffile.imwrite(folder / "s.tif", pixels)
    output = folder / "images" / "s.json"
    ingest(folder / "s.tif", output=output, spec=IngestSpec(source_pixel_size_um=1.0, **keys), code="i@1")
    return output


def predicted(chain: Chain, image: Path, region: Path | None, output: Path, **spec: object) -> Manifest:
    keys = {"output": output, "spec": PredictSpec(**spec), "code": "p@1", "threads": 1}
    predict(image, [chain["models/m"]], region, **keys)
    return read_manifest(output, stage="predict")


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_outside_of_the_areas_is_background_and_inside_nothing_changes(
    chain: Chain, tmp_path: Path, factor: float
) -> None:
    image = image_of(tmp_path, pixel_size_um=factor)
    region, mask = drawn(tmp_path / "r.geojson", SQUARE, TRIANGLE), inside(factor)
    whole = open_plane(predicted(chain, image, None, tmp_path / "all" / "s.json", core_px=64).store / "0").read_whole()
    for core in (32, 96):
        manifest = predicted(chain, image, region, tmp_path / str(core) / "s.json", core_px=core)
        found = open_plane(manifest.store / "0").read_whole()
        assert (found[0][~mask] == 65535).all() and (found[1:, ~mask] == 0).all()
        assert np.abs(found.astype(int) - whole)[:, mask].max() <= 1
        height, width = mask.shape
        blocks = [mask[y : y + core, x : x + core].any() for y in range(0, height, core) for x in range(0, width, core)]
        assert manifest.facts["skipped_cores"] == blocks.count(False) > 0
        assert "source/r.geojson" in manifest.inputs


def test_regions_and_tissue_count_together_and_another_region_starts_anew(chain: Chain, tmp_path: Path) -> None:
    image = image_of(tmp_path, tissue="brightness", tissue_smallest_um2=100.0, tissue_margin_um=5.0)
    source, output = read_manifest(image), tmp_path / "p" / "s.json"
    tissue = open_plane(source.store / "tissue" / "0").read_whole() > 0
    box = next(box for _, box in open_plane(source.store / "0").iter_shards()).clipped(SHAPE)
    mask = mask_block(tissue, box, level=0, mask_level=source.facts["tissue"]["level"])
    keys = {"core_px": 64, "tissue_only": True}
    contents = []
    for rings, region in (((SQUARE, TRIANGLE), inside(1.0)), ((TRIANGLE,), inside(1.0) & (np.arange(280) > 130))):
        manifest = predicted(chain, image, drawn(tmp_path / "r.geojson", *rings), output, **keys)
        found = open_plane(manifest.store / "0").read_whole()
        assert ((found[0] == 65535) >= ~(mask & region)).all()
        assert (found[0][mask & region] < 65535).mean() > 0.9
        contents.append(manifest.content)
    assert contents[0] != contents[1]


def test_a_region_beside_the_image_is_refused(chain: Chain, tmp_path: Path) -> None:
    region = drawn(tmp_path / "r.geojson", [[300, 0], [400, 0], [400, 90]])
    with pytest.raises(AnnotationError, match="all lie outside"):
        predicted(chain, image_of(tmp_path), region, tmp_path / "p" / "s.json", core_px=64)

"""Segmentations are those of one piece."""

import csv
import gzip
import importlib
import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from skimage.measure import regionprops

from unetpipe.errors import ConfigError, ModelError, StoreError
from unetpipe.geometry import Box
from unetpipe.ledgers import Ledger, open_ledger
from unetpipe.manifests import Manifest, read_manifest
from unetpipe.pyramids import nearest
from unetpipe.signals import asked
from unetpipe.slides import Plane, create_plane, open_plane
from unetpipe.specs import IngestSpec, PredictSpec, SegmentSpec, canonical_json
from unetpipe.steps.segment import segment

from .conftest import Chain

FACTOR = 1.5
KINDS = ("csv", "parquet", "geojson.gz")


def stored(path: Path, stage: str, spec: Any, pixels: np.ndarray, side: int, facts: Any, inputs: Any = ()) -> Manifest:
    """An array (C, Y, X) as the result of a stage, in shards of a side."""
    with open_ledger(path, stage=stage, spec=spec, code="x@1", inputs=inputs) as ledger:
        plane = create_plane(ledger.store / "0", shape=pixels.shape, dtype=pixels.dtype, shard_side=side)
        for unit, box in plane.iter_shards():
            ledger.append(unit, plane.write_shard(box, np.ascontiguousarray(pixels[(slice(None), *box.slices)])))
        ledger.publish(facts)
    return read_manifest(path)


def sources(folder: Path, foreground: np.ndarray, side: int, *, size_um: float | None = 0.5) -> tuple[Path, Path]:
    """Probabilities of two classes (or all) on disk, in shards of a side, and their image of two channels."""
    (height, width), frame = foreground.shape[-2:], {"pixel_size_um": size_um, "factor": FACTOR}
    image = np.random.default_rng(8).integers(0, 60000, (2, height, width), np.uint16)
    source_shape = [int(height * FACTOR), int(width * FACTOR)]
    facts = {"channels": 2, "channel_names": ["DAPI", "FITC"], "dtype": "uint16", "percentiles": [[0.0, 1.0]] * 2}
    facts |= frame | {"source_shape": source_shape}
    pixels = stored(folder / "images" / "s.json", "ingest", IngestSpec(), image, 256, facts)
    both = (foreground if foreground.ndim == 3 else np.stack([65535 - foreground, foreground])).astype(np.uint16)
    path, facts = folder / "probabilities" / "m" / "s.json", frame | {"scale": 65535, "classes": len(both)}
    return stored(path, "predict", PredictSpec(core_px=side), both, side, facts, [pixels]).path, pixels.path


def segmented(folder: Path, foreground: np.ndarray, side: int, **spec: Any) -> Manifest:
    """The manifest of a segmentation of made-up probabilities."""
    output = folder / "segmentations" / "m" / "s.json"
    keys = {"classes": ("background", "cell"), "min_area_px": 0} | spec
    segment(*sources(folder, foreground, side), output=output, spec=SegmentSpec(**keys), code="s@1")
    return read_manifest(output, stage="segment")


def level(manifest: Manifest, name: str, number: int = 0) -> np.ndarray:
    return open_plane(manifest.store / name / str(number)).read_whole()


def table(manifest: Manifest) -> dict[str, list[str]]:
    with (manifest.store / "objects.csv").open(newline="") as file:
        names, *rows = csv.reader(file)
    return {name: [row[number] for row in rows] for number, name in enumerate(names)}


@pytest.fixture(scope="module")
def blobs() -> np.ndarray:
    """Foreground probabilities with blobs of all sizes."""
    noise = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(150, 210)), 2.5)
    return np.clip((noise / noise.std() * 0.3 + 0.5) * 65535, 0, 65535).round()


def kept_labels(mask: np.ndarray, connectivity: int, smallest: int) -> np.ndarray:
    """Labels of one piece, small ones left out."""
    labels, count = ndimage.label(mask, np.ones((3, 3)) if connectivity == 8 else None)
    kept = np.flatnonzero(np.bincount(labels.ravel(), minlength=count + 1)[1:] >= smallest) + 1
    final = np.zeros(count + 1, int)
    final[kept] = np.arange(1, len(kept) + 1)
    return final[labels]


@pytest.mark.parametrize(
    ("spec", "threshold", "connectivity"),
    [
        ({}, None, 4),
        ({"connectivity": 8, "fill_holes": True}, None, 8),
        ({"fill_holes": True, "thresholds": {"cell": 0.4}}, 0.4, 4),
    ],
)
def test_all_results_are_those_of_the_whole_whatever_the_cores(
    tmp_path: Path, blobs: np.ndarray, spec: Any, threshold: float | None, connectivity: int
) -> None:
    mask = blobs >= round(threshold * 65535) if threshold else blobs > 65535 - blobs
    filled = mask
    if spec.get("fill_holes"):
        filled = ndimage.binary_fill_holes(mask, np.ones((3, 3)) if connectivity == 4 else None)
    expected = kept_labels(filled, connectivity, 12)
    files = set()
    for side in (32, 256):
        manifest = segmented(tmp_path / str(side), blobs, side, min_area_px=12, **spec)
        assert np.array_equal(level(manifest, "instances"), expected)
        assert np.array_equal(level(manifest, "classes"), mask)
        assert manifest.facts["n_instances"] == expected.max()
        assert manifest.facts["class_counts"] == [int((~mask).sum()), int(mask.sum())]
        files.add(tuple((manifest.store / f"objects.{kind}").read_bytes() for kind in KINDS))
        assert {p.name for p in manifest.store.iterdir()} == {"classes", "instances", *(f"objects.{k}" for k in KINDS)}
    assert len(files) == 1


def test_the_table_holds_what_scikit_image_measures(tmp_path: Path, blobs: np.ndarray) -> None:
    manifest = segmented(tmp_path, blobs, 64, min_area_px=12)
    image = open_plane(tmp_path / "images" / "s.zarr" / "0").read_whole()
    regions = regionprops(level(manifest, "instances"), np.stack([*image, blobs / 65535], axis=-1))
    found = table(manifest)
    assert found.pop("class") == ["cell"] * len(regions)
    numbers = {name: np.array(values, float) for name, values in found.items()}
    assert numbers["id"].tolist() == [r.label for r in regions]
    expected = {
        "area_px": [r.area for r in regions],
        "area_um2": [r.area * 0.25 for r in regions],
        "centroid_y_px": [r.centroid[0] + 0.5 for r in regions],
        "centroid_x_um": [(r.centroid[1] + 0.5) * 0.5 for r in regions],
        "bottom_um": [r.bbox[2] * 0.5 for r in regions],
        "perimeter_um": [r.perimeter_crofton * 0.5 for r in regions],
        "eccentricity": [r.eccentricity for r in regions],
        "mean_intensity_DAPI": [r.intensity_mean[0] for r in regions],
        "mean_intensity_FITC": [r.intensity_mean[1] for r in regions],
        "mean_probability": [r.intensity_mean[2] for r in regions],
    }
    for name, values in expected.items():
        assert numbers[name] == pytest.approx(np.array(values), rel=1e-8), name
    whole = pd.read_parquet(manifest.store / "objects.parquet")
    assert list(whole) == list(table(manifest)) and set(whole.pop("class")) == {"cell"}
    for name in whole:
        assert numbers[name] == pytest.approx(whole[name].to_numpy(), rel=1e-8), name


def test_outlines_lie_in_the_source_and_carry_the_table(tmp_path: Path, blobs: np.ndarray) -> None:
    manifest = segmented(tmp_path, blobs, 64, min_area_px=12)
    found = table(manifest)
    features = json.loads(gzip.decompress((manifest.store / "objects.geojson.gz").read_bytes()))["features"]
    assert [f["properties"]["name"] for f in features] == found["id"]
    measured = features[5]["properties"]["measurements"]
    assert measured == {n: float(v[5]) for n, v in found.items() if n not in ("id", "class")}
    for feature in features:
        points = np.array(feature["geometry"]["coordinates"][0])
        measured = feature["properties"]["measurements"]
        assert points.min(axis=0).tolist() == [measured["left_px"] * FACTOR, measured["top_px"] * FACTOR]
        assert points.max(axis=0).tolist() == [measured["right_px"] * FACTOR, measured["bottom_px"] * FACTOR]


def test_areas_may_be_given_in_micrometres(tmp_path: Path, blobs: np.ndarray) -> None:
    manifest = segmented(tmp_path, blobs, 256, min_area_um2=5.0)
    assert np.array_equal(level(manifest, "instances"), kept_labels(blobs > 65535 - blobs, 4, 20))
    paths, output = sources(tmp_path / "no", blobs, 256, size_um=None), tmp_path / "no" / "segmentations/m/s.json"
    with pytest.raises(ConfigError, match=r"min_area_um2 needs, came none; fill in the column pixel_size_um"):
        segment(*paths, output=output, spec=SegmentSpec(min_area_um2=5.0), code="s@1")
    segment(*paths, output=output, spec=SegmentSpec(), code="s@1")
    found = table(read_manifest(output))
    assert not [name for name in found if name.endswith(("_um", "_um2"))]
    assert set(found["class"]) == {"1"}, "no names were given"


def test_nothing_found_is_a_result_too(tmp_path: Path) -> None:
    manifest = segmented(tmp_path, np.zeros((40, 50)), 64, fill_holes=True)
    assert manifest.facts["n_instances"] == 0
    assert all(not values for values in table(manifest).values()) and "area_um2" in table(manifest)
    assert json.loads(gzip.decompress((manifest.store / "objects.geojson.gz").read_bytes()))["features"] == []


def test_another_image_is_refused(tmp_path: Path, blobs: np.ndarray) -> None:
    probabilities, _ = sources(tmp_path / "one", blobs, 256)
    _, image = sources(tmp_path / "other", blobs[:40, :40], 256)
    with pytest.raises(StoreError, match="was predicted from, came another"):
        segment(probabilities, image, output=tmp_path / "segmentations/m/s.json", spec=SegmentSpec(), code="s@1")


@pytest.mark.parametrize("spec", [{"connectivity": 8, "fill_holes": True}, {"split": "distance"}])
def test_stopped_at_every_unit_it_gives_the_same_bytes(
    tmp_path: Path, blobs: np.ndarray, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = segmented(tmp_path / "one", blobs, 64, **spec)
    paths, output = sources(tmp_path / "other", blobs, 64), tmp_path / "other" / "segmentations" / "m" / "s.json"
    keys = {"classes": ("background", "cell"), "min_area_px": 0} | spec
    stops, append = 0, Ledger.append

    def append_and_ask(ledger: Ledger, unit: str, *digest: str, **facts: Any) -> None:
        asked.set()
        append(ledger, unit, *digest, **facts)

    monkeypatch.setattr(Ledger, "append", append_and_ask)
    while not output.exists() and stops < 99:
        try:
            segment(*paths, output=output, spec=SegmentSpec(**keys), code="s@1")
        except KeyboardInterrupt:
            stops += 1
        finally:
            asked.clear()
    assert stops == len(units(whole.path)) > 20
    assert_same(output, whole.path)


def assert_same(output: Path, whole: Path) -> None:
    """Two results have the bytes of one: manifests, and all files of their stores."""
    files = [
        {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*") if p.is_file()}
        for store in (path.with_suffix(".zarr") for path in (output, whole))
    ]
    assert files[0] == files[1]
    assert output.read_bytes() == whole.read_bytes()


def units(output: Path) -> list[str]:
    """Names of the units in a ledger."""
    ledger = output.with_suffix(".ledger")
    records = map(json.loads, ledger.read_text().splitlines() if ledger.exists() else [])
    return [record["unit"] for record in records if "unit" in record]


def test_pyramids_never_mix_labels(tmp_path: Path) -> None:
    foreground = np.zeros((300, 300))
    foreground[:60:2, ::2] = 65535
    manifest = segmented(tmp_path, foreground, 64)
    for name in ("classes", "instances"):
        assert np.array_equal(level(manifest, name, 1), nearest(level(manifest, name)))


NAMES = ("background", "cell", "debris", "nucleus")


@pytest.fixture(scope="module")
def mixture() -> np.ndarray:
    """Probabilities of four classes, whose parts touch, lie in each other and in holes."""
    noise = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=(4, 120, 170)), (0, 2, 2))
    noise[3] += ndimage.gaussian_filter(noise[1], 2) - 0.05
    powers = np.exp(noise / noise.std())
    return (powers / powers.sum(axis=0) * 65535).round()


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("wanted", [None, ("nucleus", "cell")])
def test_instances_of_several_classes(
    tmp_path: Path, mixture: np.ndarray, fill: bool, wanted: tuple[str, ...] | None
) -> None:
    classes, kinds = mixture.argmax(axis=0), [1, 3] if wanted else [1, 2, 3]
    full = np.where(np.isin(classes, kinds), classes, 0)
    for kind in kinds if fill else ():
        holes, _ = ndimage.label(full != kind, np.ones((3, 3)))
        border = set(np.concatenate([holes[0], holes[-1], holes[:, 0], holes[:, -1]]).tolist())
        others = set(holes[np.isin(classes, kinds) & (classes != kind)].tolist())
        full[~np.isin(holes, [0, *border, *others])] = kind
    labels = sum((ndimage.label(full == kind)[0] + 10000 * kind) * (full == kind) for kind in kinds)
    order = dict.fromkeys(labels[labels > 0].tolist())
    smallest = [name for name in order if (labels == name).sum() >= 4]
    expected = np.zeros(labels.shape, int)
    for number, name in enumerate(smallest, start=1):
        expected[labels == name] = number
    files = set()
    for side in (32, 256):
        keys: dict[str, Any] = {"classes": NAMES, "fill_holes": fill, "min_area_px": 4, "instances": wanted}
        manifest = segmented(tmp_path / str(side), mixture, side, **keys)
        assert np.array_equal(level(manifest, "instances"), expected)
        found = table(manifest)
        assert found["class"] == [NAMES[name // 10000] for name in smallest]
        assert manifest.facts["instances"] == {NAMES[k]: found["class"].count(NAMES[k]) for k in kinds}
        features = json.loads(gzip.decompress((manifest.store / "objects.geojson.gz").read_bytes()))["features"]
        assert [f["properties"]["classification"]["name"] for f in features] == found["class"]
        assert len({tuple(f["properties"]["classification"]["color"]) for f in features}) == len(kinds)
        own = [mixture[name // 10000][expected == k + 1].mean() / 65535 for k, name in enumerate(smallest)]
        assert np.array(found["mean_probability"], float) == pytest.approx(own, rel=1e-8)
        files.add(tuple((manifest.store / f"objects.{kind}").read_bytes() for kind in KINDS))
    assert len(files) == 1


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("split", ["distance", "probability"])
def test_split_instances_are_parts_of_whole_ones_whatever_the_cores(
    tmp_path: Path, mixture: np.ndarray, split: str, connectivity: int
) -> None:
    keys: dict[str, Any] = {"classes": NAMES, "connectivity": connectivity, "split_depth_px": 0.5}
    whole = level(segmented(tmp_path / "whole", mixture, 256, **keys), "instances")
    files = set()
    for side in (32, 80, 256):
        manifest = segmented(tmp_path / str(side), mixture, side, split=split, **keys)
        parts = level(manifest, "instances")
        assert np.array_equal(parts > 0, whole > 0)
        assert len(np.unique(np.stack([whole[parts > 0], parts[parts > 0]]), axis=1).T) == parts.max() > whole.max()
        assert list(dict.fromkeys(parts[parts > 0].tolist())) == list(range(1, parts.max() + 1)), "raster order"
        structure = np.ones((3, 3)) if connectivity == 8 else None
        assert all(ndimage.label(parts == k, structure)[1] == 1 for k in range(1, parts.max() + 1))
        assert table(manifest)["area_px"] == [str(n) for n in np.bincount(parts.ravel())[1:]]
        files.add(tuple((manifest.store / f"objects.{kind}").read_bytes() for kind in KINDS))
        assert {p.name for p in manifest.store.iterdir()} == {"classes", "instances", *(f"objects.{k}" for k in KINDS)}
    assert len(files) == 1


def test_touching_discs_come_apart(tmp_path: Path) -> None:
    y, x = np.mgrid[:90, :140]
    foreground = 65535.0 * (((y - 40) ** 2 + (x - 40) ** 2 < 900) | ((y - 50) ** 2 + (x - 92) ** 2 < 900))
    for split, count in (("none", 1), ("distance", 2), ("probability", 1)):
        manifest = segmented(tmp_path / split, foreground, 64, split=split)
        assert manifest.facts["n_instances"] == count
    # A valley between two peaks of probability, where the outline shows none.
    foreground = 65535 * np.where(abs(y - 45) < 20, 0.95 - 0.3 * np.exp(-((x - 70) ** 2) / 50), 0)
    for split, count in (("distance", 1), ("probability", 2)):
        manifest = segmented(tmp_path / f"valley-{split}", foreground, 64, split=split)
        assert manifest.facts["n_instances"] == count


# What computes a core, by the module that calls it.
KERNELS = {"unetpipe.stitching": ("label_core", "core_basins"), "unetpipe.steps.segment": ("decided", "trace")}


def counted(monkeypatch: pytest.MonkeyPatch, stop_behind: int | None = None) -> Counter[str]:
    """Count the calls of the kernels from now on; behind so many of them the process is as good as killed."""
    calls: Counter[str] = Counter()

    def wrapped(name: str, kernel: Any) -> Any:
        def call(*args: Any, **keys: Any) -> Any:
            calls[name] += 1
            if calls.total() == stop_behind:
                raise Killed
            return kernel(*args, **keys)

        return call

    for module, names in KERNELS.items():
        for name in names:
            target = f"{module}.{name}"
            kernel = ORIGINALS.setdefault(target, getattr(importlib.import_module(module), name))
            monkeypatch.setattr(target, wrapped(name, kernel))
    return calls


ORIGINALS: dict[str, Any] = {}


class Killed(BaseException):
    """Ends a stage wherever it is."""


@pytest.mark.parametrize(
    "spec", [{"connectivity": 8, "fill_holes": True}, {"split": "distance"}, {"split": "probability"}]
)
def test_no_core_is_computed_twice_but_the_one_in_flight(
    tmp_path: Path, blobs: np.ndarray, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = counted(monkeypatch)
    whole = segmented(tmp_path / "one", blobs, 64, **spec)
    paths, output = sources(tmp_path / "other", blobs, 64), tmp_path / "other" / "segmentations" / "m" / "s.json"
    keys = {"classes": ("background", "cell"), "min_area_px": 0} | spec
    taken: Counter[str] = Counter()
    kills = 0
    while not output.exists():
        calls = counted(monkeypatch, stop_behind=7)
        try:
            segment(*paths, output=output, spec=SegmentSpec(**keys), code="s@1")
        except Killed:
            kills += 1
        taken += calls
    assert kills > 5
    assert taken.total() - needed.total() <= kills
    assert_same(output, whole.path)


def test_basins_are_found_once_and_again_only_where_they_are_damaged(
    tmp_path: Path, blobs: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch)
    whole = segmented(tmp_path / "one", blobs, 64, split="distance")
    cores = len(list(open_plane(whole.store / "instances" / "0").iter_shards()))
    assert calls["core_basins"] == cores > 1
    write_shard = Plane.write_shard

    def write_and_damage(plane: Plane, box: Box, block: np.ndarray) -> str:
        digest = write_shard(plane, box, block)
        if plane.folder.name == "basins":
            y, x = (start // plane.shard_side for start in box.start)
            plane.shard_path((y, x)).write_bytes(bytes(100))
        return digest

    monkeypatch.setattr(Plane, "write_shard", write_and_damage)
    again = segmented(tmp_path / "two", blobs, 64, split="distance")
    assert calls["core_basins"] == 3 * cores
    assert_same(again.path, whole.path)


def test_what_is_kept_and_damaged_is_computed_again(
    tmp_path: Path, blobs: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = segmented(tmp_path / "one", blobs, 64)
    paths, output = sources(tmp_path / "other", blobs, 64), tmp_path / "other" / "segmentations" / "m" / "s.json"
    spec = SegmentSpec(classes=("background", "cell"), min_area_px=0)
    counted(monkeypatch, stop_behind=20)
    with pytest.raises(Killed):
        segment(*paths, output=output, spec=spec, code="s@1")
    kept = sorted(output.with_suffix(".zarr").glob("unfinished/cores/*"))
    content = bytearray(kept[1].read_bytes())
    content[len(content) // 2] ^= 4
    kept[1].write_bytes(content)
    counted(monkeypatch)
    segment(*paths, output=output, spec=spec, code="s@1")
    assert [message for message in caplog.messages if "damaged; computing it again" in message]
    assert_same(output, whole.path)


def test_unfinished_shards_that_are_damaged_are_taken_back(
    tmp_path: Path, blobs: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line, and the same command makes that shard again and no other one."""
    whole = segmented(tmp_path / "one", blobs, 64)
    paths, output = sources(tmp_path / "other", blobs, 64), tmp_path / "other" / "segmentations" / "m" / "s.json"
    keys: dict[str, Any] = {"spec": SegmentSpec(classes=("background", "cell"), min_area_px=0), "code": "s@1"}
    counted(monkeypatch, stop_behind=20)
    with pytest.raises(Killed):
        segment(*paths, output=output, **keys)
    shards = sorted(output.with_suffix(".zarr").glob("classes/0/c/*/*"))
    content = bytearray(shards[-1].read_bytes())
    content[9] ^= 4
    shards[-1].write_bytes(content)
    counted(monkeypatch)
    with pytest.raises(
        StoreError, match=f"{shards[-1].name}: damaged since it was written; it is taken back: give the"
    ):
        segment(*paths, output=output, **keys)
    assert any("computing these shards again" in message for message in caplog.messages)
    calls = counted(monkeypatch)
    segment(*paths, output=output, **keys)
    assert calls["decided"] == 1
    assert_same(output, whole.path)


@pytest.mark.parametrize(("name", "keys"), [("whole", {"split": "distance"}), ("parts", {"connectivity": 8})])
def test_arrays_aside_that_are_damaged_are_made_again(
    tmp_path: Path, blobs: np.ndarray, monkeypatch: pytest.MonkeyPatch, name: str, keys: dict[str, Any]
) -> None:
    whole = segmented(tmp_path / "one", blobs, 64, **keys)
    paths, output = sources(tmp_path / "other", blobs, 64), tmp_path / "other" / "segmentations" / "m" / "s.json"
    spec = SegmentSpec(classes=("background", "cell"), min_area_px=0, **keys)
    shards: list[Path] = []
    while len(shards) < 2:
        counted(monkeypatch, stop_behind=20)
        with pytest.raises(Killed):
            segment(*paths, output=output, spec=spec, code="s@1")
        shards = sorted(p for p in output.with_suffix(".zarr").glob(f"unfinished/{name}/c/*/*"))
    content = bytearray(shards[0].read_bytes())
    content[9] ^= 4
    shards[0].write_bytes(content)
    shards[1].write_bytes(shards[1].read_bytes()[:-7])
    counted(monkeypatch)
    segment(*paths, output=output, spec=spec, code="s@1")
    assert_same(output, whole.path)


@pytest.mark.parametrize(("kills", "tiles"), [(3, 3), pytest.param(25, 6, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    tmp_path: Path, mixture: np.ndarray, kills: int, tiles: int
) -> None:
    large = np.tile(mixture, (1, tiles, tiles))
    spec = SegmentSpec(classes=NAMES, connectivity=8, fill_holes=True, split="distance")
    paths = sources(tmp_path, large, 64)

    def start(output: Path) -> subprocess.Popen[bytes]:
        words = [*map(str, paths), "--output", str(output), "--spec", canonical_json(spec), "--code", "s@1"]
        return subprocess.Popen([sys.executable, "-m", "unetpipe", "segment", *words], stderr=subprocess.DEVNULL)

    whole, begin = tmp_path / "whole" / "segmentations" / "m" / "s.json", time.monotonic()
    assert start(whole).wait() == 0
    took, rng, killed = time.monotonic() - begin, random.Random(kills), 0
    # The first run may have taken longer than the others will: those that end before their kill do not count.
    while killed < kills:
        output = tmp_path / str(killed) / "segmentations" / "m" / "s.json"
        with start(output) as running:
            try:
                running.wait(rng.uniform(0.2, 1.0) * took)
            except subprocess.TimeoutExpired:
                running.kill()
                killed += 1
        assert start(output).wait() == 0
        assert_same(output, whole)
        shutil.rmtree(output.parent)


def test_other_classes_than_the_models_are_refused(chain: Chain, tmp_path: Path) -> None:
    names = ("background", "cell", "debris")
    spec = SegmentSpec(classes=names, thresholds={"debris": 0.5})
    with pytest.raises(ModelError, match=r"b\.json: expected 3 classes as the configuration lists, came 2 of model m"):
        segment(chain["probabilities/m/b"], chain["images/b"], output=tmp_path / "b.json", spec=spec, code="s@1")
    assert list(tmp_path.iterdir()) == []

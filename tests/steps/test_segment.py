"""Segmentations are those of one piece."""

from pathlib import Path

import numpy as np
from scipy import ndimage

from unetpipe.manifests import open_ledger, read_manifest
from unetpipe.pyramids import nearest
from unetpipe.slides import create_plane, open_plane
from unetpipe.specs import PredictSpec, SegmentSpec
from unetpipe.steps.segment import segment


def stored(folder: Path, foreground: np.ndarray, side: int) -> Path:
    """Probabilities of two classes on disk, in shards of a side."""
    pixels = np.stack([65535 - foreground, foreground]).astype(np.uint16)
    output = folder / "probabilities" / "m" / "s.json"
    with open_ledger(output, stage="predict", spec=PredictSpec(core_px=side), code="p@1") as ledger:
        plane = create_plane(ledger.store / "0", shape=pixels.shape, dtype=np.uint16, shard_side=side)
        for unit, box in plane.iter_shards():
            ledger.append(unit, plane.write_shard(box, np.ascontiguousarray(pixels[(slice(None), *box.slices)])))
        ledger.publish({"pixel_size_um": None, "factor": 1.0, "scale": 65535})
    return output


def test_instances_are_those_of_the_whole_whatever_the_cores(tmp_path: Path) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(150, 210)), 2.5)
    foreground = np.clip((noise / noise.std() * 0.3 + 0.5) * 65535, 0, 65535).round()
    labels, count = ndimage.label(foreground > 65535 - foreground)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    kept = [i for i in range(1, count + 1) if areas[i] >= 12]
    expected = np.zeros(count + 1, int)
    expected[kept] = range(1, len(kept) + 1)
    contents = set()
    for side in (16, 64, 256):
        source, output = stored(tmp_path / str(side), foreground, side), tmp_path / str(side) / "segmentations/m/s.json"
        segment(source, output=output, spec=SegmentSpec(min_area_px=12), code="s@1")
        manifest = read_manifest(output, stage="segment")
        instances = open_plane(manifest.store / "instances" / "0").read_whole()
        assert np.array_equal(instances, expected[labels])
        assert manifest.facts["n_instances"] == len(kept)
        assert sum(manifest.facts["class_counts"]) == 150 * 210
        contents.add(manifest.facts["class_counts"][1])
    assert contents == {int((labels > 0).sum())}


def test_pyramids_never_mix_labels(tmp_path: Path) -> None:
    foreground = np.zeros((300, 300))
    foreground[::2, ::2] = 65535
    source, output = stored(tmp_path, foreground, 64), tmp_path / "segmentations" / "m" / "s.json"
    segment(source, output=output, spec=SegmentSpec(min_area_px=0), code="s@1")
    store = read_manifest(output).store
    for name in ("classes", "instances"):
        fine, coarse = (open_plane(store / name / str(level)).read_whole() for level in (0, 1))
        assert np.array_equal(coarse, nearest(fine))

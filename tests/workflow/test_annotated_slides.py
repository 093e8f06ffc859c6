"""A folder of slides with QuPath's annotations becomes segmented slides by what the README says, and nothing else."""

import csv
import gzip
import json
import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml

from unetpipe.geometry import Box
from unetpipe.sources.images import open_source

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
COLOURS = {"Tumor": [200, 0, 0], "Stroma": [150, 200, 150], "Ignore*": [180, 180, 180]}


def exported(*shapes: tuple[str, int, int, int, int]) -> str:
    """What QuPath 0.5 exports of outlines, each a class, left, upper edge, width and height; the corners are cut."""
    features = []
    for number, (name, x, y, w, h) in enumerate(shapes):
        ring = [(x + w, y), (x + w, y + h - 9.5), (x + w - 9.25, y + h), (x, y + h), (x, y), (x + w, y)]
        classification = {"name": name, "color": COLOURS[name]}
        properties = {"objectType": "annotation", "classification": classification}
        properties |= {"isLocked": True} if number == 0 else {}
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "id": str(uuid.UUID(int=number)), "geometry": geometry})
        features[-1]["properties"] = properties
    return json.dumps({"type": "FeatureCollection", "features": features}, indent=2)


def write_slides(folder: Path, wsi: Path) -> None:
    """Two slides, one of them annotated, and three annotated areas of the other as pathologists cut them out."""
    folder.mkdir()
    cmu, tcga = wsi / "CMU-1-Small-Region.svs", wsi / "tcga-cr-7395-01a-01-ts1.svs"
    for slide in (cmu, tcga):
        (folder / slide.name).symlink_to(slide.resolve())
    several = [("Tumor", 1130, 640, 420, 380), ("Tumor", 1080, 1500, 260, 480), ("Stroma", 880, 700, 180, 900)]
    (folder / "CMU-1-Small-Region.geojson").write_text(exported(*several, ("Ignore*", 1300, 850, 300, 300)))
    with open_source(tcga) as source:
        for name, y, x in (("area 1", 1200, 2700), ("area 2", 1500, 400), ("area 3", 2500, 1500)):
            block = np.moveaxis(source.read(Box(start=(y, x), stop=(y + 512, x + 640))), 0, -1)
            tifffile.imwrite(folder / f"{name}.tif", block, tile=(256, 256), photometric="rgb", compression="jpeg")
            two = [("Tumor", 40, 30, 250, 300), ("Tumor", 300, 90, 200, 220), ("Stroma", 60, 350, 500, 120)]
            (folder / f"{name}.geojson").write_text(exported(*two))


def command(tree: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m unetpipe` in a project."""
    line = [sys.executable, "-m", "unetpipe", *arguments]
    ended = subprocess.run(line, cwd=tree.folder, env=tree.environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended


def facts(tree: Any, name: str) -> dict[str, Any]:
    """Facts of a result's manifest."""
    found: dict[str, Any] = json.loads((tree.results / f"{name}.json").read_text())["facts"]
    return found


def test_a_folder_of_slides_with_annotations_of_qupath(blank: Any, tmp_path: Path, data_folder: Path) -> None:
    tree = blank.copy(tmp_path / "project")
    write_slides(tree.folder / "slides", data_folder / "wsi")
    listed = command(tree, "sheet", "slides", "--overwrite").stdout
    assert "5 images: 2 train, 1 val, 1 test, 1 predict" in listed
    assert "objects are called Stroma, Tumor: set classes, or annotate.names, to that" in listed
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    config["classes"] = ["background", "tumor"]
    config["annotate"] |= {"names": {"Stroma": "background"}, "outside": "ignore"}
    config["models"]["unet16"]["network"] |= {"channels": 3, "depth": 2, "base_width": 2}
    config["augment"] |= {"copies": 2, "input_px": 108}
    config["train"] |= {"steps": 6, "validate_every": 6}
    (tree.folder / "config" / "config.yaml").write_text(yaml.safe_dump(config))
    told = "area_1, area_2, area_3 and 1 more: the pixel size is not known, that of others is 0.499 um"
    assert f"{told}; fill in pixel_size_um in the sheet" in command(tree, "doctor").stderr
    sheet = tree.folder / "config" / "samples.tsv"
    header, *rows = sheet.read_text().splitlines()
    filled = [row + ("\t" if row.startswith("CMU") else "\t0.5") for row in rows]
    sheet.write_text("\n".join([f"{header}\tpixel_size_um", *filled]) + "\n")
    assert "warning" not in command(tree, "doctor").stderr
    tree.run()
    # Of each outline that no other covers there, 45 px whose centres lie behind the cut corner are missing.
    counts = [180 * 900 - 45, 420 * 380 - 250 * 170 + 260 * 480 - 45]
    assert facts(tree, "labels/CMU-1-Small-Region")["class_counts"] == counts
    samples = {row["sample"]: row["split"] for row in csv.DictReader(sheet.read_text().splitlines(), delimiter="\t")}
    for name, split in samples.items():
        assert facts(tree, f"images/{name}")["channels"] == 3
        assert (tree.results / "labels" / f"{name}.json").is_file() == (split != "predict")
        assert (tree.results / "patches" / f"{name}.json").is_file() == (split == "train")
    applied = {name for name, split in samples.items() if split in ("test", "predict")}
    assert {path.stem for path in (tree.results / "segmentations" / "unet16").glob("*.json")} == applied
    for name in applied:
        found = facts(tree, f"segmentations/unet16/{name}")
        packed = tree.results / "segmentations" / "unet16" / f"{name}.zarr" / "objects.geojson.gz"
        objects = json.loads(gzip.decompress(packed.read_bytes()))["features"]
        assert (len(objects), found["pixel_size_um"]) == (found["n_instances"], 0.5)
        assert {feature["properties"]["classification"]["name"] for feature in objects} <= {"tumor"}
        assert f"{name}  · unet16" in re.sub(r"<[^>]*>", " ", (tree.results / "report" / "index.html").read_text())
    assert facts(tree, "metrics/unet16/area_2")["scores"]["iou_class_1"]["defined"]

"""Check what `make run` left: every stage's manifests, a report with pictures, and scores of a trained network."""

import json
import sys
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
EXPECTED = {
    "images": 11, "labels": 10, "weights": 6, "patches": 6, "models": 1,
    "probabilities/unet16": 3, "segmentations/unet16": 3, "metrics/unet16": 2,
}  # fmt: skip


def complaints() -> list[str]:
    """One line for each thing that is missing or not good enough."""
    found = []
    for folder, count in EXPECTED.items():
        came = len(list(RESULTS.glob(f"{folder}/*.json")))
        if came != count:
            found.append(f"{RESULTS / folder}: expected {count} manifests, came {came}")
    page = RESULTS / "report" / "index.html"
    if not page.is_file() or "unet16" not in page.read_text(encoding="utf-8"):
        found.append(f"{page}: missing, or without the model's name")
    if len(list(RESULTS.glob("report/**/*.png"))) < 8:
        found.append(f"{page.parent}: expected pictures of two test images, a slide and a weight map")
    for path in sorted(RESULTS.glob("metrics/*/*.json")):
        scores = json.loads(path.read_text(encoding="utf-8"))["facts"]["scores"]
        # A network that learned nothing has an IoU of about 0.55, the share of cells in the image.
        if not scores["iou_class_1"]["value"] > 0.85:
            found.append(f"{path}: expected an IoU of cells above 0.85, came {scores['iou_class_1']['value']}")
    slide = json.loads((RESULTS / "segmentations/unet16/slide1.json").read_text(encoding="utf-8"))["facts"]
    if slide["shape"] != [4096, 4096] or slide["n_instances"] < 1000:
        found.append(f"slide1: expected thousands of objects on 4096 x 4096 px, came {slide['n_instances']}")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(complaints()) or None)

"""What runs after what: every change re-runs what depends on it, and nothing else."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
import yaml

from unetpipe.netspecs import PaddedUnetSpec
from unetpipe.networks.padded_unet import build

DOCTORED = {"doctor/training", "doctor/all"}
EVALUATED = {"metrics/m/t", "report"}
SEGMENTED = {"segmentations/m/s", "segmentations/m/t"} | EVALUATED
PREDICTED = {"probabilities/m/s", "probabilities/m/t"} | SEGMENTED
TRAINED = {"models/m"} | PREDICTED
INGESTED = {f"images/{sample}" for sample in "abvts"}
ANNOTATED = {f"labels/{sample}" for sample in "abvt"}
WEIGHED = {"weights/a", "weights/b"}
AUGMENTED = {"patches/a", "patches/b"}
EVERYTHING = INGESTED | ANNOTATED | WEIGHED | AUGMENTED | TRAINED | DOCTORED
BEHIND_TRAIN = {"predict/m/s", "predict/m/t", "segment/m/s", "segment/m/t", "evaluate/m/t", "report"}


def test_the_first_run_makes_everything(blank: Any, finished: Any) -> None:
    assert blank.pending() == EVERYTHING
    assert set(finished.manifests()) == EVERYTHING
    assert (finished.results / "report" / "index.html").is_file()


def test_nothing_runs_where_nothing_changed(finished: Any) -> None:
    assert finished.pending() == set()


def test_time_stamps_do_not_matter(finished: Any, tmp_path: Path) -> None:
    tree = finished.copy(tmp_path / "elsewhere", copy_function=shutil.copyfile)
    tree.own_package()
    files = sorted(p for p in tree.folder.rglob("*") if p.is_file() and ".snakemake" not in p.parts)
    for number, path in enumerate(files):
        os.utime(path, (2_000_000_000 - 7919 * number % 9973,) * 2)
    assert tree.pending() == set()


def test_wording_of_the_configuration_does_not_matter(tree: Any) -> None:
    path = tree.folder / "config" / "config.yaml"
    data = yaml.safe_load(path.read_text())
    turned = {name: dict(reversed(keys.items())) for name, keys in reversed(data.items()) if isinstance(keys, dict)}
    text = yaml.safe_dump(turned | {"samples": data["samples"]}, sort_keys=False)
    path.write_text("# A comment.\n\n" + text.replace("\n", "\n\n"))
    sheet = tree.folder / "config" / "samples.tsv"
    header, *rows = sheet.read_text().splitlines()
    sheet.write_bytes("\r\n".join(["\ufeff" + header, *reversed(rows), "", ""]).encode())
    assert tree.pending() == set()


def test_a_key_runs_its_stage_and_what_follows(finished: Any, tmp_path: Path) -> None:
    changes: dict[str, tuple[dict[str, Any], set[str]]] = {
        "ingest": ({"pixel_size_um": 0.5}, EVERYTHING),
        "doctor": ({"stop": False}, DOCTORED | TRAINED),
        "weigh": ({"w0": 9.0}, WEIGHED | AUGMENTED | TRAINED),
        "augment": ({"seed": 2}, AUGMENTED | TRAINED),
        "train": ({"steps": 99}, TRAINED),
        "predict": ({"core_px": 32}, PREDICTED),
        "segment": ({"min_area_px": 6}, SEGMENTED),
        "evaluate": ({"thin": False}, EVALUATED),
        "report": ({"title": "another"}, {"report"}),
    }

    def pending(section: str) -> set[str]:
        tree = finished.copy(tmp_path / section)
        tree.configure(**{section: changes[section][0]})
        return tree.pending()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(changes, pool.map(pending, changes), strict=True))
    assert found == {section: expected for section, (_, expected) in changes.items()}


def test_other_workers_run_nothing_again(tree: Any) -> None:
    tree.configure(predict={"cluster": {"address": "tcp://127.0.0.1:1"}})
    assert tree.pending("--set-resources", "predict:gpu=2") == set()


def test_a_region_of_a_sample_predicts_that_one_again(tree: Any) -> None:
    ring = [[5, 5], [60, 5], [60, 50], [5, 5]]
    region = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    (tree.folder / "drawn here.geojson").write_text(json.dumps(region))
    sheet = tree.folder / "config" / "samples.tsv"
    header, *rows = sheet.read_text().splitlines()
    rows = [row + "\tdrawn here.geojson" * row.startswith("s\t") for row in rows]
    sheet.write_text("\n".join([header + "\tregion", *rows]) + "\n")
    assert tree.pending() == {"probabilities/m/s", "segmentations/m/s", "report"}
    tree.run()
    assert tree.pending() == set()
    assert "source/drawn here.geojson" in json.loads((tree.results / "probabilities/m/s.json").read_text())["inputs"]


def test_one_more_predict_sample(tree: Any) -> None:
    with (tree.folder / "config" / "samples.tsv").open("a") as sheet:
        sheet.write("s2\timages/s.tif\t\tpredict\n")
    assert tree.pending() == {"images/s2", "doctor/all", "probabilities/m/s2", "segmentations/m/s2", "report"}


def test_one_more_training_sample(tree: Any) -> None:
    with (tree.folder / "config" / "samples.tsv").open("a") as sheet:
        sheet.write("c\timages/s.tif\tlabels/s.tif\ttrain\n")
    assert tree.pending() == {"images/c", "labels/c", "weights/c", "patches/c"} | DOCTORED | TRAINED


def test_one_more_model(tree: Any) -> None:
    tree.configure(models={"m2": {"network": {"depth": 1, "base_width": 3}}})
    assert tree.pending() == {"/".join("m2" if part == "m" else part for part in name.split("/")) for name in TRAINED}


def test_one_more_model_of_another_place(tree: Any) -> None:
    network = build(PaddedUnetSpec(features=(4, 8)), seed=1)
    torch.save(network.state_dict(), tree.folder / "public.pth")
    tree.configure(models={"p": {"weights": "public.pth"}})
    assert tree.pending() == {"/".join("p" if part == "m" else part for part in name.split("/")) for name in TRAINED}
    tree.run("--until", "import_")
    assert tree.ran()[0] == {"import/p"}


def test_words_about_the_code_do_not_matter(tree: Any) -> None:
    path = tree.own_package() / "weights.py"
    text = path.read_text().replace('"""', '"""Said otherwise. ', 1).replace('\n    """', '\n    """Also here. ', 1)
    path.write_text("# A remark.\n\n" + text + "\n\n# Another remark.\n")
    assert tree.pending() == set()


def test_equal_content_made_again_stops_at_once(finished: Any, tree: Any) -> None:
    # Neutral code, and an image whose result is lost and made again: both are computed, and nothing behind them.
    with (tree.own_package() / "weights.py").open("a") as code:
        code.write("\n_NOTHING = None\n")
    for suffix in (".json", ".ledger"):
        (tree.results / "images" / f"b{suffix}").unlink()
    shutil.rmtree(tree.results / "images" / "b.zarr")
    weights = tree.results / "models" / "m" / "weights.safetensors"
    before = weights.stat().st_mtime_ns
    tree.run("--forcerun", "results/images/b.json")
    computed, early = tree.ran()
    assert computed == {"ingest/b", "weigh/a", "weigh/b"}
    assert early == {"annotate/b", "augment/a", "augment/b", "train/m"} | DOCTORED | BEHIND_TRAIN
    assert weights.stat().st_mtime_ns == before
    recomputed = {"weights/a", "weights/b"}
    was, now = finished.manifests(), tree.manifests()
    assert {name for name in now if now[name] != was[name]} == recomputed, "the code's fingerprint stands in them"


def test_code_that_computes_other_weights_runs_what_follows(finished: Any, tree: Any) -> None:
    path = tree.own_package() / "weights.py"
    text, wide = path.read_text(), "(-2.0 * float(sigma_px) ** 2)"
    assert text.count(wide) == 1
    path.write_text(text.replace(wide, "(-3.0 * float(sigma_px) ** 2)"))
    tree.run()
    assert tree.ran() == ({"weigh/a", "weigh/b", "augment/a", "augment/b", "train/m"} | BEHIND_TRAIN, set())
    assert tree.manifests()["models/m"] != finished.manifests()["models/m"]


def test_new_pixels_of_one_training_image(finished: Any, tree: Any) -> None:
    path = tree.folder / "images" / "a.tif"
    tifffile.imwrite(path, np.flipud(tifffile.imread(path)))
    tree.run()
    computed = {"ingest/a", "augment/a", "train/m"} | DOCTORED | BEHIND_TRAIN
    assert tree.ran() == (computed, {"annotate/a", "weigh/a"})
    assert tree.manifests()["models/m"] != finished.manifests()["models/m"]

"""All published recipes through the whole workflow, as small as they can be."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import yaml

from projects import CONFIG, ROOT
from unetpipe.documents import read_yaml

SMALL: dict[str, dict[str, Any]] = {
    name: {"depth": 1, "base_width": 2} for name in ("paper2015", "plugin2019", "s003", "s004")
} | {name: {"features": [2]} for name in ("s000", "s002")}


def test_all_presets_from_images_to_the_ranking(small: Any, tmp_path: Path) -> None:
    """About 40 s on two idle processors, most of it the start of 35 processes."""
    tree = small.copy(tmp_path / "project")
    shutil.copytree(ROOT / "config" / "presets", tree.folder / "config" / "presets")
    assert {*SMALL} == {path.stem for path in (tree.folder / "config" / "presets").iterdir()}
    models = {name: {"preset": name, "network": network} for name, network in SMALL.items()}
    config = CONFIG | {"models": models, "train": {"steps": 2, "validate_every": 2}}
    (tree.folder / "config" / "config.yaml").write_text(yaml.safe_dump(config))
    # Two trainings at a time: they take far less time than their processes take to start.
    ended = tree.snakemake("--cores", "2", "--resources", "gpu=2", "--set-threads", "train=1")
    assert ended.returncode == 0, ended.stderr[-4000:]
    # Whoever has no GPU, or one that is not found, reads it in the terminal, of each training and prediction.
    told = [line.split(":")[1] for line in ended.stderr.splitlines() if "no GPU to use; using the CPU with" in line]
    assert set(told) == (set() if torch.cuda.is_available() else {" train", " predict"})
    manifests = {name: json.loads(text) for name, text in tree.manifests().items()}
    for name in SMALL:
        recipe = read_yaml(tree.folder / "config" / "presets" / f"{name}.yaml")
        network = recipe.pop("network") | SMALL[name]
        assert network.items() <= manifests[f"models/{name}"]["facts"]["network"].items()
        assert recipe.items() <= manifests[f"models/{name}"]["spec"].items()
        assert "pixel_weights" in recipe
        assert manifests[f"metrics/{name}/t"]["facts"]["scores"]["pixel_error"]["defined"]
    costs = pd.read_csv(tree.results / "costs.tsv", sep="\t", index_col="network")
    assert {*costs.index} == {*SMALL} and (costs[["seconds_per_step", "peak_mb"]] > 0).all(axis=None)
    page, styles = ((tree.results / name).read_text() for name in ("report/index.html", "costs.css"))
    assert all(f'data-entry="{name}"' in page and f'"{name}"] .seconds' in styles for name in SMALL)


@pytest.fixture
def two(blank: Any, tmp_path: Path) -> Any:
    """A project of two data sets, one with masks and without validation, and of two recipes."""
    tree = blank.copy(tmp_path / "project")
    shutil.copytree(ROOT / "config" / "presets", tree.folder / "config" / "presets")
    rows = ["sample\timage\tannotation\tsplit\tdataset\tannotation_kind"]
    for name, (split, dataset) in SETS.items():
        path = tree.folder / "labels" / f"{name}.tif"
        if dataset == "y":
            # Larger, and of 16 bits: the doctor would warn if it held them against the others.
            image = tree.folder / "images" / f"{name}.tif"
            tifffile.imwrite(image, tifffile.imread(image).astype(np.uint16).repeat(2, 0).repeat(2, 1))
            tifffile.imwrite(path, (tifffile.imread(path) > 0).repeat(2, 0).repeat(2, 1).astype(np.uint8) * 255)
        kind = "mask" if dataset == "y" else ""
        rows.append(f"{name}\timages/{name}.tif\tlabels/{name}.tif\t{split}\t{dataset}\t{kind}")
    (tree.folder / "config" / "samples.tsv").write_text("\n".join(rows) + "\n")
    models = {name: {"preset": name, "network": SMALL[name]} for name in ("plugin2019", "s000")}
    config = CONFIG | {"models": models, "train": {"steps": 2, "validate_every": 2}}
    # Its own waits for validations, of which data set y has none.
    config["models"]["s000"]["schedule"] = "constant"
    (tree.folder / "config" / "config.yaml").write_text(yaml.safe_dump(config))
    return tree


SETS = {"a": ("train", "x"), "v": ("val", "x"), "t": ("test", "x"), "b": ("train", "y"), "s": ("test", "y")}
APPLIED = {"plugin2019-x": "t", "s000-x": "t", "plugin2019-y": "s", "s000-y": "s"}


def test_networks_are_applied_within_their_data_set(two: Any) -> None:
    pending = two.pending()
    for kind in ("probabilities", "segmentations", "metrics"):
        wanted = {f"{kind}/{model}/{sample}" for model, sample in APPLIED.items()}
        assert {name for name in pending if name.startswith(kind)} == wanted
    assert {name for name in pending if name.startswith("models/")} == {f"models/{model}" for model in APPLIED}


@pytest.mark.slow
def test_two_data_sets_in_one_run_and_one_report(two: Any) -> None:
    two.run()
    manifests = {name: json.loads(text) for name, text in two.manifests().items()}
    for model in APPLIED:
        learned = {"patches/a", "images/v", "labels/v"} if model.endswith("x") else {"patches/b"}
        assert {*manifests[f"models/{model}"]["inputs"]} == learned
        counts = manifests[f"labels/{'a' if model.endswith('x') else 'b'}"]["facts"]["class_counts"]
        assert len(counts) == 2 and manifests[f"models/{model}"]["facts"]["class_weights"] == (
            [0.0, 0.0] if model.startswith("plugin") else [1.0, 1.0]
        )
    assert manifests["weights/a"]["facts"]["forms"] == ["falk2019"], "as plugin2019 asks for; s000 asks for none"
    assert [manifests[f"labels/{name}"]["facts"]["kind"] for name in "ab"] == ["instances", "mask"]
    assert not [one for one in manifests["doctor/all"]["facts"]["faults"] if "where most samples have" in one["text"]]
    page = (two.results / "report" / "index.html").read_text()
    assert all(f"<h3>Ranking on {dataset}</h3>" in page and f"Rank on {dataset}" in page for dataset in "xy")
    styles = (two.results / "costs.css").read_text()
    for dataset in "xy":
        for entry in ("plugin2019", "s000"):
            assert f'[data-dataset="{dataset}"] [data-entry="{entry}"] .seconds::after' in styles
    assert two.pending() == set()

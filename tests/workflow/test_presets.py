"""All published recipes through the whole workflow, as small as they can be."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
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
        assert manifests[f"metrics/{name}/t"]["facts"]["scores"]["pixel_error"]["defined"]
    costs = pd.read_csv(tree.results / "costs.tsv", sep="\t", index_col="network")
    assert {*costs.index} == {*SMALL} and (costs[["seconds_per_step", "peak_mb"]] > 0).all(axis=None)
    page, styles = ((tree.results / name).read_text() for name in ("report/index.html", "costs.css"))
    assert all(f'data-entry="{name}"' in page and f'"{name}"] .seconds' in styles for name in SMALL)


def test_the_second_comparison_leaves_the_results_of_the_first_alone(small: Any, tmp_path: Path) -> None:
    """The commands of its file, with a dry run in place of Snakemake's."""
    data = Path(os.environ.get("UNETPIPE_DATA", "")) / "dsb2018"
    if not data.is_dir():
        pytest.skip("no data in the folder that UNETPIPE_DATA names")
    tree = small.copy(tmp_path / "project")
    shutil.rmtree(tree.folder / "config")
    shutil.copytree(ROOT / "config", tree.folder / "config")
    before = {path for path in tree.folder.rglob("*") if path.is_file()}
    text = (tree.folder / "config" / "presets-dsb2018.yaml").read_text()
    lines = [line.removeprefix("# ") for line in text.splitlines() if line.startswith(("# mkdir", "# snakemake"))]
    script = "set -e\n" + "\n".join(lines).replace("snakemake", f"{sys.executable} -m snakemake -n", 1)
    ended = subprocess.run(
        ["bash", "-c", script], cwd=tree.folder, env=tree.environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert re.search(r"^train +18$", ended.stdout, re.MULTILINE)
    after = {path for path in tree.folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path.relative_to(tree.folder).parts[0] for path in after - before} <= {"dsb2018"}

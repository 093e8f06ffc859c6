"""Small versions of the runs on public data: few images, few steps, the same chain."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NARROW = {"network": {"depth": 2, "base_width": 2}}


def shortened(blank: Any, folder: Path, name: str, wanted: dict[str, str], data: Path) -> Any:
    """A project with the configuration `name`, a few of its samples, and a tiny network."""
    tree = blank.copy(folder)
    config = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())
    config |= {"models": {"m": NARROW}, "samples": "config/samples.tsv"}
    config["augment"] |= {"copies": 2, "input_px": 108}
    config["train"] |= {"steps": 6, "validate_every": 6}
    (tree.folder / "config" / "config.yaml").write_text(yaml.safe_dump(config))
    header, *rows = (ROOT / "config" / f"{name}.tsv").read_text().splitlines()
    split = header.split("\t").index("split")
    kept = [row.split("\t") for row in rows if row.split("\t")[0] in wanted]
    assert all(row[split] == wanted[row[0]] for row in kept)
    sheet = "\n".join([header, *("\t".join(row) for row in kept)])
    (tree.folder / "config" / "samples.tsv").write_text(sheet.replace("${UNETPIPE_DATA:-../shared/data}", str(data)))
    return tree


def facts(tree: Any, name: str) -> dict[str, Any]:
    """Facts of a result's manifest."""
    found: dict[str, Any] = json.loads((tree.results / f"{name}.json").read_text())["facts"]
    return found


def test_slices_of_a_stack(blank: Any, tmp_path: Path, data_folder: Path) -> None:
    wanted = {"slice00": "train", "slice18": "val", "slice21": "test"}
    tree = shortened(blank, tmp_path / "project", "isbi2012", wanted, data_folder)
    tree.run()
    scores = facts(tree, "metrics/m/slice21")["scores"]
    assert {"pixel_error", "v_rand_thin", "v_info_thin"} <= {n for n, s in scores.items() if s["defined"]}
    assert facts(tree, "images/slice00") != facts(tree, "images/slice21")
    assert facts(tree, "labels/slice00")["shape"] == [512, 512]
    assert (tree.results / "report" / "index.html").is_file()


def test_nuclei_and_a_slide_with_blanks_and_brackets_in_its_name(blank: Any, tmp_path: Path, data_folder: Path) -> None:
    sheet = [row.split("\t") for row in (ROOT / "config" / "dsb2018.tsv").read_text().splitlines()[1:]]
    wanted = {next(row[0] for row in sheet if row[3] == split): split for split in ("train", "val", "test", "predict")}
    slide = next(name for name, split in wanted.items() if split == "predict")
    tree = shortened(blank, tmp_path / "project", "dsb2018", wanted, data_folder)
    tree.run()
    test = next(name for name, split in wanted.items() if split == "test")
    assert facts(tree, f"metrics/m/{test}")["matches"].keys() == {
        "true_positives",
        "false_positives",
        "false_negatives",
    }
    found = facts(tree, f"segmentations/m/{slide}")
    assert found["shape"] == [4864, 3968]
    assert found["pixel_size_um"] == pytest.approx(0.228, abs=1e-3)
    assert sum(found["class_counts"]) == 4864 * 3968

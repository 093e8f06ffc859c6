"""The doctor in the workflow: before all training, at no cost for what has not changed, and past odd names."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import tifffile


def table(tree: Any) -> dict[str, dict[str, str]]:
    """Rows of the doctor's table by sample."""
    with (tree.results / "doctor" / "table.tsv").open(newline="", encoding="utf-8") as file:
        return {row["sample"]: row for row in csv.DictReader(file, delimiter="\t")}


def add_row(tree: Any, *cells: str) -> None:
    """One more row of the sheet."""
    with (tree.folder / "config" / "samples.tsv").open("a", encoding="utf-8") as sheet:
        sheet.write("\t".join(cells) + "\n")


def test_an_error_stops_before_training(blank: Any, tmp_path: Path) -> None:
    tree = blank.copy(tmp_path / "project")
    shutil.copy(tree.folder / "images" / "a.tif", tree.folder / "images" / "t.tif")
    ended = tree.snakemake("--cores", "2", "--resources", "gpu=1")
    assert ended.returncode == 1
    lines = [line for line in ended.stderr.splitlines() if line.startswith("unetpipe: a, t:")]
    assert len(lines) == 1 and "the same image in test and train" in lines[0]
    assert "error: the same image" in table(tree)["t"]["faults"]
    assert not (tree.results / "doctor.json").exists()
    assert not list(tree.results.glob("models/*")) and not list(tree.results.glob("probabilities/*"))


def test_samples_and_settings_may_change_in_one_go(finished: Any, tree: Any, tmp_path: Path) -> None:
    # What a run does must not depend on whether changes come one by one or all together.
    add_row(tree, "s2", "images/s.tif", "", "predict")
    tifffile.imwrite(tree.folder / "labels" / "t.tif", np.flipud(tifffile.imread(tree.folder / "labels" / "t.tif")))
    tree.configure(train={"steps": 40}, segment={"min_area_px": 9})
    fresh = tree.copy(tmp_path / "fresh", ignore=shutil.ignore_patterns("results", ".snakemake"))
    tree.run()
    assert tree.pending() == set()
    fresh.run()
    assert tree.manifests() == fresh.manifests() != finished.manifests()


def test_training_goes_on_undisturbed_where_only_the_doctor_runs(tree: Any) -> None:
    before = (tree.results / "models" / "m.json").read_bytes()
    add_row(tree, "s2", "images/s.tif", "", "predict")
    tree.run()
    computed, early = tree.ran()
    assert (computed, early) == ({"ingest/s2", "doctor", "predict/m/s2", "segment/m/s2", "report"}, set())
    assert (tree.results / "models" / "m.json").read_bytes() == before
    assert "doctor" not in " ".join(json.loads(before)["inputs"])
    assert list(table(tree)) == ["a", "b", "s", "s2", "t", "v"]


def test_odd_paths_go_through(blank: Any, tmp_path: Path) -> None:
    tree = blank.copy(tmp_path / "my project (1) [ж]")
    odd = tree.folder / "scans [2], ß; 'x' \"y\" $HOME & co"
    odd.mkdir()
    sheet = tree.folder / "config" / "samples.tsv"
    header, *rows = sheet.read_text().splitlines()
    lines = [header.replace("\t", ";")]
    for row in rows:
        sample, image, annotation, split = row.split("\t")
        paths = []
        for path in (image, annotation):
            new = odd / f"{Path(path).parent.name} ({sample}) 細胞.tif"
            shutil.copy(tree.folder / path, new)
            paths.append('"' + str(new.relative_to(tree.folder)).replace('"', '""') + '"')
        lines.append(";".join([sample, *paths, split]))
    sheet.write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    (odd / "loop").symlink_to(odd)
    assert "images/a" in tree.pending()
    ended = tree.snakemake("results/doctor.json", "--cores", "2")
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert sorted(table(tree)) == ["a", "b", "s", "t", "v"]

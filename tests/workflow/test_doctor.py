"""The doctor in the workflow: a fault stops what it concerns, and a look that finds nothing new costs nothing."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile


def table(tree: Any) -> dict[str, dict[str, str]]:
    """Rows of the doctor's table by sample."""
    with (tree.results / "doctor" / "all" / "table.tsv").open(newline="", encoding="utf-8") as file:
        return {row["sample"]: row for row in csv.DictReader(file, delimiter="\t")}


def add_row(tree: Any, *cells: str) -> None:
    """One more row of the sheet."""
    with (tree.folder / "config" / "samples.tsv").open("a", encoding="utf-8") as sheet:
        sheet.write("\t".join(cells) + "\n")


def test_no_training_without_the_doctor(blank: Any, tmp_path: Path) -> None:
    tree = blank.copy(tmp_path / "project")
    before = tree.pending("results/models/m.json")
    assert "doctor/training" in before
    assert not before & {"doctor/all", "images/s", "images/t"}, "what trainings are not made of"
    tifffile.imwrite(tree.folder / "images" / "v.tif", np.zeros((72, 80), np.uint8))
    ended = tree.snakemake("--cores", "2", "results/doctor/training.json")
    assert ended.returncode == 1
    lines = [line for line in ended.stderr.splitlines() if line.startswith("unetpipe: v:")]
    assert len(lines) == 1 and "every pixel of the image is 0" in lines[0]
    assert not (tree.results / "doctor" / "training.json").exists()


def test_a_test_image_that_is_trained_on_is_an_error(tree: Any) -> None:
    shutil.copy(tree.folder / "images" / "a.tif", tree.folder / "images" / "t.tif")
    ended = tree.snakemake("--cores", "2", "results/doctor/all.json")
    assert ended.returncode == 1
    lines = [line for line in ended.stderr.splitlines() if line.startswith("unetpipe: a, t:")]
    assert len(lines) == 1 and "the same image in test and train" in lines[0]
    assert "error: the same image" in table(tree)["t"]["faults"]
    assert not (tree.results / "doctor" / "all.json").exists()
    assert (tree.results / "doctor" / "training.json").exists()


def test_the_command_leaves_the_workflow_nothing_to_do(tree: Any) -> None:
    written = (tree.results / "doctor" / "all.json").read_bytes()
    command = [sys.executable, "-m", "unetpipe", "doctor", "config/config.yaml"]
    ended = subprocess.run(command, cwd=tree.folder, env=tree.environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert [line.split()[0] for line in ended.stdout.splitlines()[:6]] == ["sample", "a", "b", "s", "t", "v"]
    assert (tree.results / "doctor" / "all.json").read_bytes() == written
    assert tree.pending() == set()


@pytest.mark.slow
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


@pytest.mark.slow
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
    ended = tree.snakemake("results/doctor/all.json", "--cores", "2")
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert sorted(table(tree)) == ["a", "b", "s", "t", "v"]

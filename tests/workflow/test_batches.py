"""Several samples per job: the same bytes, the same mending, and of a job that fails the others are kept."""

import re
from pathlib import Path

import tifffile

from projects import Project


def in_pairs(blank: Project, folder: Path) -> Project:
    """A project whose short stages take two samples per job."""
    project = blank.copy(folder / "project")
    project.configure(samples_per_job=2)
    return project


def test_the_same_results_come_whatever_shares_a_job(blank: Project, finished: Project, tmp_path: Path) -> None:
    tree = in_pairs(blank, tmp_path)
    path = tree.folder / "images/b.tif"
    sound = path.read_bytes()
    path.write_bytes(sound[: len(sound) // 2])
    ended = tree.snakemake("--cores", "2", "--keep-going", "results/patches/a.json", "results/patches/b.json")
    assert ended.returncode == 1
    assert "b.tif: is truncated" in ended.stderr
    path.write_bytes(sound)
    tree.run()
    computed, early = tree.ran()
    assert "ingest/a" in early and "ingest/b" in computed
    assert tree.manifests() == finished.manifests()
    assert tree.pending() == set()
    changed = tifffile.imread(tree.folder / "labels/b.tif")
    changed[changed == changed.max()] = 0
    tifffile.imwrite(tree.folder / "labels/b.tif", changed)
    tree.run("results/patches/a.json", "results/patches/b.json")
    computed, early = tree.ran()
    assert {"annotate/b", "weigh/b", "augment/b"} == computed
    assert {"annotate/a", "weigh/a", "augment/a"} == early


def test_jobs_are_as_many_as_there_are_batches(blank: Project, tmp_path: Path) -> None:
    tree = in_pairs(blank, tmp_path)
    jobs = re.findall(r"^rule (ingest|annotate)(\w*):", tree.snakemake("-n", "--cores", "2").stdout, re.MULTILINE)
    # Training samples a and b share theirs; s, which has to have no labels, t and v go other ways.
    ways = ["_1", "_2", "_3", "_4"]
    assert sorted(jobs) == [("annotate", way) for way in ways[1:]] + [("ingest", way) for way in ways]


def test_samples_of_one_file_are_not_taken_for_one(blank: Project, tmp_path: Path) -> None:
    tree = in_pairs(blank, tmp_path)
    sheet = tree.folder / "config/samples.tsv"
    sheet.write_text(sheet.read_text().replace("images/b.tif", "images/a.tif").replace("labels/b.tif", "labels/a.tif"))
    tree.run("results/weights/a.json", "results/weights/b.json")
    made = tree.manifests()
    assert {"images/a", "images/b", "labels/a", "labels/b", "weights/a", "weights/b"} == set(made)

"""The doctor as a command of its own: past bad samples, and nothing is done twice."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml

from unetpipe import checkup as checkup_module
from unetpipe.checkup import checkup, shown
from unetpipe.config import read_config
from unetpipe.errors import ConfigError, SourceError, StoreError
from unetpipe.fingerprint import fingerprint
from unetpipe.manifests import read_manifest

ALL = Path("results/doctor/all.json")
LABELS = np.zeros((60, 60), dtype=np.uint8)
LABELS[9:30, 9:30], LABELS[40:50, 40:50] = 1, 2
IMAGES = np.random.default_rng(0).integers(0, 99, (2, 60, 60), dtype=np.uint8) + 120 * (LABELS > 0).astype(np.uint8)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration with two good samples and a simulated one."""
    monkeypatch.chdir(tmp_path)
    rows = ["sample\timage\tannotation\tsplit", "z\tdrawn/images/z.tif\tdrawn/labels/z.tif\tval"]
    for name, split, pixels in zip("ab", ("train", "test"), IMAGES, strict=True):
        tifffile.imwrite(f"{name}.tif", pixels, resolution=(20000, 20000), resolutionunit="CENTIMETER")
        tifffile.imwrite(f"{name}_labels.tif", LABELS)
        rows.append(f"{name}\t{name}.tif\t{name}_labels.tif\t{split}")
    Path("s.tsv").write_text("\n".join(rows))
    config = {
        "samples": "s.tsv",
        "simulate": {"folder": "drawn", "image_side": 300},
        "augment": {"input_px": 50},
        "models": {"m": {"network": {"depth": 1}}},
    }
    Path("c.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def test_samples_are_read_as_the_workflow_reads_them(project: Path) -> None:
    tables: list[str] = []
    checkup(Path("c.yaml"), output=ALL, tell=tables.append)
    assert [line.split()[0] for line in "".join(tables).splitlines()] == ["sample", "a", "b", "z"]
    config = read_config(Path("c.yaml"))
    for stage, folder in (("ingest", "images"), ("annotate", "labels")):
        for name in "abz":
            manifest = read_manifest(Path("results") / folder / f"{name}.json", stage=stage)
            assert manifest.code == fingerprint(f"unetpipe.steps.{stage}")
            assert set(manifest.spec) == set(yaml.safe_load(config.spec(stage, name)))
    assert read_manifest(ALL).code == fingerprint("unetpipe.steps.doctor")


def test_bad_samples_are_listed_all_at_once(project: Path) -> None:
    Path("a.tif").write_bytes(b"no picture")
    tifffile.imwrite("b_labels.tif", LABELS[:50])
    with Path("s.tsv").open("a") as sheet:
        sheet.write(f"\nc\tabsent.tif\t\tpredict\nd\t{300 * 'd'}.tif\t\tpredict\n")
    tables: list[str] = []
    with pytest.raises(SourceError, match=r"a: a.tif: is of an unknown format.*; 3 more: see results/doctor/all/table"):
        checkup(Path("c.yaml"), output=ALL, tell=tables.append)
    text = Path("results/doctor/all/table.tsv").read_text()
    assert tables == [shown(text)]
    assert "error: a.tif: is of an unknown format" in text
    assert "error: b_labels.tif: expected the image's size of 60 x 60 px, came 50 x 60 px" in text
    assert "error: image: no such file: absent.tif" in text
    assert "ddd.tif cannot be looked at" in text
    assert not ALL.exists()


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied", "b_labels.tif"), StoreError("b_labels.tif: Perm")]
)
def test_files_that_may_not_be_read_are_listed_too(
    project: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def annotate(annotation: Path, *given: object, **keys: object) -> None:
        if annotation.name == "b_labels.tif":
            raise error
        whole(annotation, *given, **keys)

    whole: Any = checkup_module.annotate
    monkeypatch.setattr(checkup_module, "annotate", annotate)
    tables: list[str] = []
    with pytest.raises(SourceError, match=r"b: b_labels\.tif: Perm"):
        checkup(Path("c.yaml"), output=ALL, tell=tables.append)
    assert [line.split()[0] for line in tables[0].splitlines()[:4]] == ["sample", "a", "b", "z"]


def test_the_command_shows_the_table_and_ends_with_one_line(project: Path) -> None:
    tifffile.imwrite("b.tif", IMAGES[0][::-1])
    command = [sys.executable, "-W", "error", "-m", "unetpipe", "doctor", "c.yaml", "--log", "d.log"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("sample  split")
    assert [line.split()[:4] for line in lines[1:4]] == [
        ["a", "train", "60", "60"],
        ["b", "test", "60", "60"],
        ["z", "val", "300", "300"],
    ]
    assert [line.split(": ")[:2] for line in lines[5:]] == [["a", "error"], ["b", "error"]]
    [last] = ended.stderr.splitlines()
    assert last.startswith("unetpipe: a, b: the same image in test and train") and len(last) <= 300


def test_an_unusable_configuration_shows_no_old_table(project: Path) -> None:
    tables: list[str] = []
    checkup(Path("c.yaml"), output=ALL, tell=tables.append)
    Path("c.yaml").write_text("sample: s.tsv")
    with pytest.raises(ConfigError, match="did you mean samples"):
        checkup(Path("c.yaml"), output=ALL, tell=tables.append)
    assert len(tables) == 1


def test_cells_stand_below_each_other_and_faults_below_all() -> None:
    text = shown("sample\tb\tfaults\n1\t2\tx y\n" + "w" * 70 + '\t3\t"""q"""\n(all)\t\tz\n')
    assert text.splitlines() == [
        "sample" + " " * 26 + "b",
        "1" + " " * 31 + "2",
        "w" * 30 + "  3",
        "",
        "1: x y",
        "w" * 70 + ': "q"',
        "(all): z",
    ]
    assert shown("a\tb\tfaults\n") == "a  b"

"""Samples that share a job: each is in one, and goes the same way as the others there."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from projects import Project
from unetpipe.batches import Batch, batches
from unetpipe.config import Config, read_config
from unetpipe.errors import ConfigError
from unetpipe.needs import needs, requests


def configured(project: Project, per_job: Any, rows: list[str], **keys: Any) -> Config:
    """The configuration of a project with other rows in its sheet."""
    sheet = project.folder / "config/samples.tsv"
    sheet.write_text("\n".join(["sample\timage\tannotation\tsplit\tfold", *rows, ""]))
    document = yaml.safe_load((project.folder / "config/config.yaml").read_text())
    return read_config(document | {"samples": str(sheet), "samples_per_job": per_job} | keys)


@pytest.fixture
def project(blank: Project, tmp_path: Path) -> Project:
    """A project that has not run."""
    return blank.copy(tmp_path / "project")


def row(name: str, split: str, *, annotated: bool = True, fold: str = "") -> str:
    """One row of a sheet."""
    return f"{name}\timages/a.tif\t{'labels/a.tif' * annotated}\t{split}\t{fold}"


def test_every_sample_is_in_one_batch_with_its_like(project: Project) -> None:
    rows = [row(f"t{i}", "train", fold=str(i % 2)) for i in range(9)]
    rows += [row("v", "val"), row("x", "test")]
    rows += [row(f"p{i}", "predict", annotated=i > 2) for i in range(7)]
    config = configured(project, 3, rows)
    found = batches(config)
    assert sorted(name for batch in found for name in batch.names) == sorted(config.samples)
    assert [batch.number for batch in found] == list(range(1, len(found) + 1))
    assert {batch.names for batch in found} == {
        *(("t0", "t2", "t4"), ("t6", "t8"), ("t1", "t3", "t5"), ("t7",)),
        *(("v",), ("x",), ("p0", "p1", "p2"), ("p3", "p4", "p5"), ("p6",)),
    }


def test_a_row_at_the_end_changes_one_batch(project: Project) -> None:
    rows = [row(f"x{(i * 7) % 10}", "test" if i % 2 else "train") for i in range(10)] + [row("v", "val")]
    before = {batch.names for batch in batches(configured(project, 2, rows))}
    behind = {batch.names for batch in batches(configured(project, 2, [*rows, row("a", "train")]))}
    assert len(before - behind) == 1 and len(behind - before) == 1


def test_one_sample_per_job_is_one_rule_for_all(project: Project) -> None:
    (batch,) = batches(configured(project, 1, [row("a", "train"), row("v", "val")]))
    assert batch.rule("ingest") == "ingest" and batch.files("x/{sample}.json") == ["x/{sample}.json"]
    assert batch.each(str.upper)(SimpleNamespace(sample="abc")) == ["ABC"]


def test_memory_is_that_of_the_largest_and_times_are_added(project: Project) -> None:
    config = configured(project, 2, [row("a", "train"), row("b", "train"), row("v", "val")])
    large = project.folder / "large.tif"
    with large.open("wb") as file:
        file.truncate(300_000_000)
    config.samples["b"] = type(config.samples["b"])(
        **{name: getattr(config.samples["b"], name) for name in config.samples["b"].__slots__} | {"image": str(large)}
    )
    one, other = (needs(config, "augment", sample=name) for name in "ab")
    asked = requests(config)("augment", Batch(names=("a", "b"), number=1))
    assert asked["mem_mb"]({}, 1) == other.mem_mb > one.mem_mb
    # A job of ten minutes and some work has the ten once.
    assert asked["runtime"]({}, 1) == 10 + (one.runtime - 10) + (other.runtime - 10) > 15
    assert asked["disk_mb"]({}, 2) == 2 * (one.disk_mb + other.disk_mb)


@pytest.mark.parametrize("value", [0, 101, 1.5, "24", True, None])
def test_other_than_whole_numbers_are_refused(project: Project, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"samples_per_job: expected a whole number from 1 to 100, came"):
        configured(project, value, [row("a", "train")])

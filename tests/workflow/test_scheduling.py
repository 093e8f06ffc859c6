"""Which of the jobs that could begin does: what tells of bad samples first, and as many GPU jobs as there are GPUs."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from projects import ROOT

BEGINS = re.compile(r"^(?:local)?rule (\w+):$", re.MULTILINE)


def test_all_samples_are_looked_at_before_anything_is_drawn(tree: Any) -> None:
    # All is done before, so that jobs end at once; one core, so that the order is the scheduler's.
    said = tree.snakemake("--cores", "1", "--forcerun", "ingest", "--until", "augment", "doctor").stderr
    rules = BEGINS.findall(said)
    assert {"ingest", "annotate", "doctor", "weigh", "augment"} == {*rules}
    assert max(i for i, r in enumerate(rules) if r == "doctor") < min(i for i, r in enumerate(rules) if r == "weigh")


@pytest.mark.parametrize(("gpus", "at_once"), [((), 1), (("--resources", "gpu=2"), 2)])
def test_gpu_jobs_are_as_many_as_gpus(tree: Any, gpus: tuple[str, ...], at_once: int) -> None:
    command = ("--cores", "4", "--forcerun", "predict", "--until", "predict", "--set-threads", "predict=1")
    said = tree.snakemake(*command, *gpus).stderr
    steps = re.findall(r"^(?:(?:local)?rule (predict):|Finished jobid: \d+ \(Rule: predict\))$", said, re.MULTILINE)
    running = [2 * steps[: n + 1].count("predict") - n - 1 for n in range(len(steps))]
    assert len(running) == 4 and max(running) == at_once, said


@pytest.mark.parametrize("name", ["default", "slurm"])
def test_profiles_take_the_scheduler_that_is_quick_among_thousands(name: str) -> None:
    profile = yaml.safe_load(Path(ROOT / f"workflow/profiles/{name}/config.yaml").read_text())
    assert profile["scheduler"] == "greedy"

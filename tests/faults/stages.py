"""Stages of the tiny project one by one: their commands as Snakemake prints them, to be disturbed."""

import re
import shutil
import subprocess
from pathlib import Path

from projects import Project
from unetpipe.manifests import FOLDERS

COMMAND = re.compile(r"^Shell command: (exec python -m unetpipe .*)$", re.MULTILINE)
RESULT = re.compile(r"--output results/(\S+)\.json")
SUFFIXES = {folder: suffix for folder, suffix in FOLDERS.values()}
# One result of each stage.
RESULTS = (
    "images/a", "labels/a", "doctor/training", "weights/a", "patches/a", "models/m", "models/n", "probabilities/m/t",
    "thresholds/m", "segmentations/m/t", "metrics/m/t", "report",
)  # fmt: skip


def commands(project: Project) -> dict[str, str]:
    """The command of every result."""
    asked = project.snakemake("-n", "--forceall", "--cores", "2")
    assert asked.returncode == 0, asked.stderr[-4000:]
    return {RESULT.search(line)[1]: line for line in COMMAND.findall(asked.stdout)}  # type: ignore[index]


def forget(project: Project, result: str) -> None:
    """Remove a result as if it had never been."""
    manifest = project.results / f"{result}.json"
    for path in (manifest, manifest.with_suffix(".ledger")):
        path.unlink(missing_ok=True)
    shutil.rmtree(store(project, result), ignore_errors=True)


def store(project: Project, result: str) -> Path:
    """Folder of a result."""
    return project.results / (result + SUFFIXES[result.split("/")[0]])


def start(project: Project, command: str) -> subprocess.Popen[str]:
    """Start a stage."""
    return subprocess.Popen(
        command, shell=True, cwd=project.folder, env=project.environment, stderr=subprocess.PIPE, text=True
    )


def run(project: Project, command: str) -> tuple[int, list[str]]:
    """Exit code of a stage, and what it says."""
    with start(project, command) as process:
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
    return process.returncode, [line for line in lines if line.strip()]

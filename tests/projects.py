"""A tiny project in a folder of its own: five images of 72 x 80 px and a narrow network."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import yaml

ROOT = Path(__file__).resolve().parents[1]
RUN = ("--cores", "2", "--resources", "gpu=1")
SPLITS = {"a": "train", "b": "train", "v": "val", "t": "test", "s": "predict"}
CONFIG: dict[str, Any] = {
    "samples": "config/samples.tsv",
    "weigh": {"w0": 10.0, "sigma_px": 5.0},
    "augment": {"copies": 2, "input_px": 50},
    "train": {
        "steps": 60,
        "validate_every": 20,
        "checkpoint_s": 0.05,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "seed": 3,
    },
    "predict": {"core_px": 64},
    "segment": {"min_area_px": 5},
    "models": {"m": {"network": {"depth": 1, "base_width": 4, "dropout": 0.0}}},
}
RESULT = re.compile(r"^ +output: results/(\S+)\.json$", re.MULTILINE)
DONE = "already done with exactly these inputs"
# Before a command, it takes away every network from it, loopback too.
OFFLINE = ("unshare", "--map-root-user", "--net")


def cut_off() -> tuple[str, ...]:
    """`OFFLINE` where this system permits it; nothing elsewhere."""
    permitted = shutil.which("unshare") and subprocess.run([*OFFLINE, "true"], capture_output=True).returncode == 0
    return OFFLINE if permitted else ()


class Project:
    """A folder in which the workflow runs.

    Results are named by their path under results/ without the suffix: ``images/a``, ``models/m``, ``report``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder / "results"

    @property
    def environment(self) -> dict[str, str]:
        """The project's own package, and this Python, come first; compiled code is kept, as on most machines."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return kept | {"PATH": path, "PYTHONPATH": str(self.folder)}

    def snakemake(self, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run Snakemake to its end, whatever that is, by a command before it."""
        command = [*before, sys.executable, "-m", "snakemake", *arguments]
        return subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)

    def run(self, *arguments: str, before: tuple[str, ...] = ()) -> None:
        """The daily command; logs of earlier runs are removed."""
        shutil.rmtree(self.results / "logs", ignore_errors=True)
        ended = self.snakemake(*arguments, *RUN, before=before)
        assert ended.returncode == 0, ended.stderr[-4000:]

    def start(self) -> subprocess.Popen[bytes]:
        """The daily command in a process group of its own, to be killed."""
        command = [sys.executable, "-m", "snakemake", *RUN]
        with (self.folder / "run.log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def kill_when(self, reached: Callable[[], bool], *, delay_s: float = 0.0) -> bool:
        """Start the daily command and kill it with all its jobs a while behind a point; False if it ended before."""
        with self.start() as running:
            while running.poll() is None and not is_reached(reached):
                time.sleep(0.005)
            time.sleep(delay_s)
            killed = running.poll() is None
            if killed:
                os.killpg(running.pid, signal.SIGKILL)
        return killed

    def pending(self, *arguments: str) -> set[str]:
        """The results that a run would make."""
        asked = self.snakemake("-n", "--cores", "2", *arguments)
        assert asked.returncode == 0, asked.stderr[-4000:]
        found = set(RESULT.findall(asked.stdout + asked.stderr))
        nothing = "Nothing to be done" in asked.stdout + asked.stderr
        assert nothing == (not found)
        return found

    def ran(self) -> tuple[set[str], set[str]]:
        """The stages and names whose jobs computed something in the last run, and those that returned early."""
        logs = self.results / "logs"
        texts = {p.relative_to(logs).with_suffix("").as_posix(): p.read_text() for p in logs.rglob("*.log")}
        early = {name for name, text in texts.items() if DONE in text}
        return set(texts) - early, early

    def manifests(self) -> dict[str, bytes]:
        """The bytes of every manifest."""
        stores = {path.with_suffix("") for path in self.results.rglob("*.ledger")}
        return {
            store.relative_to(self.results).as_posix(): path.read_bytes()
            for store in stores
            if (path := store.with_name(store.name + ".json")).is_file()
        }

    def configure(self, **sections: Any) -> None:
        """Change keys of the configuration."""
        path = self.folder / "config" / "config.yaml"
        data = yaml.safe_load(path.read_text())
        for name, keys in sections.items():
            data[name] = data.get(name, {}) | keys if isinstance(keys, dict) else keys
        path.write_text(yaml.safe_dump(data, sort_keys=False))

    def own_package(self) -> Path:
        """Give the project a copy of the package that may be changed; its folder."""
        package = self.folder / "unetpipe"
        package.unlink()
        shutil.copytree(ROOT / "unetpipe", package)
        return package

    def copy(self, folder: Path, **options: Any) -> "Project":
        """The whole tree at another place."""
        shutil.copytree(self.folder, folder, symlinks=True, **options)
        return Project(folder)


def is_reached(reached: Callable[[], bool]) -> bool:
    """Whether a point is reached; not, where a file or folder went away while it was looked at."""
    try:
        return reached()
    except FileNotFoundError:
        return False


def draw_sample(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Image (72, 80) of discs, two of which touch, with their labels."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:72, :80]
    labels = np.zeros((72, 80), dtype=np.uint16)
    centres = [(20, 20), (20, 33), *rng.uniform((35, 10), (62, 70), (4, 2))]
    for label, (cy, cx) in enumerate(centres, start=1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= 49] = label
    image = 60 + 110 * (labels > 0) + rng.normal(0, 12, labels.shape)
    return image.clip(0, 255).astype(np.uint8), labels


def new_project(folder: Path, samples: str = "".join(SPLITS)) -> Project:
    """A project of some of the samples that has not run yet."""
    for name in ("config", "images", "labels"):
        (folder / name).mkdir(parents=True)
    # A link, so that numba's compiled code is found beside the sources and kept for the next time.
    (folder / "unetpipe").symlink_to(ROOT / "unetpipe")
    shutil.copytree(ROOT / "workflow", folder / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "environment.yml", folder)
    rows = ["sample\timage\tannotation\tsplit"]
    for number, (sample, split) in enumerate(SPLITS.items()):
        if sample not in samples:
            continue
        image, labels = draw_sample(number)
        tifffile.imwrite(folder / "images" / f"{sample}.tif", image)
        tifffile.imwrite(folder / "labels" / f"{sample}.tif", labels)
        rows.append(f"{sample}\timages/{sample}.tif\tlabels/{sample}.tif\t{split}")
    (folder / "config" / "samples.tsv").write_text("\n".join(rows) + "\n")
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return Project(folder)


def small_project(folder: Path) -> Project:
    """A project of three samples that has not run yet, for kills of whole runs."""
    project = new_project(folder, "avt")
    project.configure(train={"steps": 40, "validate_every": 10})
    return project


def finished_once(blank: Project, base: Path, name: str) -> Project:
    """A copy of a project behind its first run, cut off from every network where that is permitted.

    Processes that test have one together, in a folder of this name; `base` is pytest's.
    """
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    project = Project(folder / "project")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            shutil.rmtree(project.folder, ignore_errors=True)
            blank.copy(project.folder).run(before=cut_off())
            (folder / "done").touch()
    return project

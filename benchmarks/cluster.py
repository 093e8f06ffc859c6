"""The default example through a SLURM of its own on this machine, by the daily command with the profile as it stands.

Run: python benchmarks/cluster.py

Root, slurm-wlm and munge are needed. The SLURM has two nodes that say they have 16 processors and two GPUs each, all of
which is this machine: jobs hinder each other more than on a cluster. Target: 10 minutes with two processor cores.
"""

import shutil
import sys
import tempfile
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from clusterprojects import PROFILE, ClusterProject, cluster_in_tmp  # noqa: E402
from private_slurm import missing  # noqa: E402

TARGET_MIN = 10.0
# What the example is made of.
NEEDED = ("config", "environment.yml", "unetpipe", "workflow")


def copy_repository(folder: Path) -> Path:
    """The example in a folder of its own, which has no results."""
    folder.mkdir()
    for name in NEEDED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    return folder


def seconds_of(job: dict[str, str]) -> float:
    """Seconds from the start of a job to its end."""
    start, end = (datetime.fromisoformat(job[key]) for key in ("StartTime", "EndTime"))
    return (end - start).total_seconds()


def main() -> None:
    """Run the example and print its minutes, then the jobs of each rule or group."""
    if missing():
        sys.exit(missing())
    with tempfile.TemporaryDirectory() as folder, cluster_in_tmp() as cluster:
        project = ClusterProject(copy_repository(Path(folder) / "unetpipe"), cluster)
        start = time.perf_counter()
        ended = project.snakemake(*PROFILE)
        minutes = (time.perf_counter() - start) / 60
        if ended.returncode != 0:
            sys.exit(ended.stderr[-4000:])
        jobs = cluster.jobs().values()
        names = [Path(job["StdOut"]).relative_to(project.results / "logs/slurm").parts[0] for job in jobs]
    verdict = "reached" if minutes < TARGET_MIN else "missed"
    print(f"{minutes:.1f} minutes, {len(names)} jobs; target {TARGET_MIN:g} minutes: {verdict}")
    for name, count in Counter(names).items():
        longest_s = max(seconds_of(job) for job, own in zip(jobs, names, strict=True) if own == name)
        print(f"{count:3} {name}, {longest_s:.0f} s at most")


if __name__ == "__main__":
    main()

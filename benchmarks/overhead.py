"""What the workflow costs beside its stages' work: Snakemake, and the start of a process for each job.

Run: python benchmarks/overhead.py [--samples 20] [--cores 2] [--per-job 1]

Everything is computed once. Then all jobs are made to run again: each finds its work done and stops at once, so that
what is left is overhead. A run that has nothing to do is measured apart, and taken away. A job is one stage of one
sample, or of as many as `samples_per_job` has it; N cores start N jobs at once. Targets: under 2 s per job and core;
and for the short CPU stages of 1,000 samples under 0.3 s of wall time per sample, all four of them together, with
several samples per job. CPU seconds tell more on a busy machine.
"""

import argparse
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from projects import Project, new_project  # noqa: E402

# Targets, in seconds of wall time.
JOB_S, SAMPLE_S = 2.0, 0.3


def make_project(folder: Path, n_samples: int, per_job: int) -> Project:
    """The tests' tiny project, with as many training samples as wanted; all are the same files."""
    project = new_project(folder)
    with (folder / "config" / "config.yaml").open("a") as file:
        file.write(f"samples_per_job: {per_job}\n")
    sheet = folder / "config" / "samples.tsv"
    head, first, *_, validation, _, _ = sheet.read_text().splitlines()
    rows = [first.replace("a\t", f"x{number:05}\t", 1) for number in range(n_samples)]
    sheet.write_text("\n".join([head, *rows, validation, ""]))
    return project


def cpu_seconds() -> float:
    """CPU seconds of all processes started so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(project: Project, *arguments: str) -> tuple[float, float]:
    """Wall and CPU seconds of one run of Snakemake."""
    start, used = time.perf_counter(), cpu_seconds()
    ended = project.snakemake(*arguments)
    if ended.returncode != 0:
        sys.exit(ended.stderr[-2000:])
    return time.perf_counter() - start, cpu_seconds() - used


def median_start_s(project: Project) -> dict[str, float]:
    """Median wall seconds of each stage's jobs in the last run, as Snakemake has measured them."""
    found: dict[str, list[float]] = {}
    for path in project.results.glob("benchmarks/*/*.tsv"):
        found.setdefault(path.parent.name, []).append(float(path.read_text().splitlines()[1].split()[0]))
    return {stage: statistics.median(seconds) for stage, seconds in found.items()}


def main() -> None:
    """Print the overhead per job and per sample, then the start of each stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--per-job", type=int, default=1)
    given = parser.parse_args()
    command = ("--cores", str(given.cores))
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder) / "project", given.samples, given.per_job)
        command += tuple(f"results/patches/x{number:05}.json" for number in range(given.samples))
        timed(project, *command)
        idle_wall, idle_cpu = timed(project, *command)
        wall, cpu = timed(project, *command, "--forceall")
        starts = median_start_s(project)
    n_jobs = -(-given.samples // given.per_job) * len(starts)
    print(f"nothing to do: {idle_wall:.2f} s wall, {idle_cpu:.2f} s CPU")
    wall, cpu = wall - idle_wall, cpu - idle_cpu
    print(f"{n_jobs} jobs that stop at once, {given.cores} cores: {wall:.1f} s wall, {cpu:.1f} s CPU")
    for what, count in (("job", n_jobs), ("sample", given.samples)):
        print(f"per {what}: {wall / count:.3f} s wall, {cpu / count:.3f} s CPU")
    for stage, seconds in starts.items():
        print(f"{stage:10} {seconds:.2f} s wall from start to end")
    targets = [(f"per sample with {given.cores} cores", wall / given.samples, SAMPLE_S)]
    # Of a job of several samples, that of all its processes.
    targets += [("per job and core", given.cores * wall / n_jobs, JOB_S)] if given.per_job == 1 else []
    for what, seconds, target_s in targets:
        print(f"{what}: {seconds:.2f} s, target {target_s} s: {'reached' if seconds < target_s else 'missed'}")


if __name__ == "__main__":
    main()

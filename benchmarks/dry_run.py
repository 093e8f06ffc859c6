"""Seconds and memory of `snakemake -n` by number of samples, in a project that has not run yet; seconds of `--help`.

Run: python benchmarks/dry_run.py [--samples 1000]

Targets: under 10 s for 1,000 samples; under 60 s and 2 GB for 10,000; `python -m unetpipe --help` under 0.5 s, beside
a Python that does nothing. CPU seconds tell more where the machine is busy with other things.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = """\
samples: config/samples.tsv
augment: {input_px: 572}
models: {paper: {}}
"""
# Of a hundred samples.
SPLITS = ["train"] * 10 + ["val"] * 5 + ["test"] * 5 + ["predict"] * 80


def make_project(folder: Path, n_samples: int) -> None:
    """A project of empty images: a dry run does not look into them."""
    for name in ("config", "images", "labels"):
        (folder / name).mkdir()
    shutil.copytree(ROOT / "workflow", folder / "workflow")
    (folder / "config" / "config.yaml").write_text(CONFIG)
    rows = ["sample\timage\tannotation\tsplit"]
    for number in range(n_samples):
        files = [f"{kind}/x{number:05}.tif" for kind in ("images", "labels")]
        for file in files:
            (folder / file).touch()
        rows.append("\t".join([f"x{number:05}", *files, SPLITS[number % len(SPLITS)]]))
    (folder / "config" / "samples.tsv").write_text("\n".join(rows))


def cpu_seconds() -> float:
    """CPU seconds of all processes started so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def dry_run(n_samples: int) -> tuple[float, float, int]:
    """Wall and CPU seconds and number of jobs of one dry run."""
    with tempfile.TemporaryDirectory() as folder:
        make_project(Path(folder), n_samples)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "snakemake", "-n", "--cores", "2"]
        start, used = time.perf_counter(), cpu_seconds()
        ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        wall, cpu = time.perf_counter() - start, cpu_seconds() - used
    if ended.returncode != 0:
        sys.exit(ended.stderr[-2000:])
    total = next(line for line in (ended.stdout + ended.stderr).splitlines() if line.startswith("total "))
    return wall, cpu, int(total.split()[1])


def median_seconds(*arguments: str, times: int = 9) -> float:
    """Median wall seconds of a Python process with these arguments."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=True)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    """Print one line for `--help`, and one per size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1000)
    samples = parser.parse_args().samples
    helped, bare = median_seconds("-m", "unetpipe", "--help"), median_seconds("-c", "pass")
    print(f"--help {helped:.2f} s, python -c pass {bare:.2f} s")
    for n_samples in (20, samples):
        wall, cpu, jobs = dry_run(n_samples)
        # The largest process so far: the sizes are run in rising order.
        peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
        print(f"{n_samples:6} samples {jobs:6} jobs {wall:6.1f} s wall {cpu:6.1f} s CPU {peak_mb:6.0f} MB")


if __name__ == "__main__":
    main()

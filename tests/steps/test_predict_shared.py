"""Predictions that workers share have the bytes of one in one process, whoever dies in between."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from unetpipe.specs import IngestSpec
from unetpipe.steps.ingest import ingest

from .conftest import Chain

pytestmark = pytest.mark.slow
pytest.importorskip("distributed")

SPEC = json.dumps({"core_px": 96})
# Set for whatever a cluster starts, as it is on a shared file system.
HOME = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def start(chain: Chain, output: Path, cluster: dict[str, object], **more: str) -> subprocess.Popen[str]:
    words = ["predict", chain.root / "images/s.json", chain["models/m"], "--output", output, "--threads", "1"]
    words += ["--spec", SPEC, "--code", "p@1", "--cluster", json.dumps(cluster), "--region", chain.root / "r.geojson"]
    command = [sys.executable, "-m", "unetpipe", *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | HOME | more)


def finished(process: subprocess.Popen[str]) -> str:
    """What a process said that ended well."""
    _, said = process.communicate()
    assert process.returncode == 0, said
    return said


def result(output: Path) -> dict[str, bytes]:
    """Manifest and store, with all files that are there."""
    store = output.with_suffix(".zarr")
    files = {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()}
    assert files.keys() == json.loads(output.read_text())["objects"].keys(), "nothing else is left there"
    return files | {"": output.read_bytes()}


def wait_for(reached: Callable[[], bool]) -> None:
    for _ in range(6000):
        if reached():
            return
        time.sleep(0.01)
    raise AssertionError("not within a minute")


def units(output: Path) -> int:
    """Finished shards that the ledger knows."""
    ledger = output.with_suffix(".ledger")
    return ledger.read_bytes().count(b'"unit"') if ledger.exists() else 0


def workers_of(parent: int) -> list[int]:
    """Processes of Python's that a process has started, but for the one that looks after their resources."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            is_child = int((place / "stat").read_text().rpartition(")")[2].split()[1]) == parent
            if is_child and b"spawn_main" in (place / "cmdline").read_bytes():
                found.append(int(place.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.fixture(scope="module")
def expected(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The result of one process; its image is in the chain, with a region that leaves out a corner."""
    folder = tmp_path_factory.mktemp("whole")
    ring = [[0, 0], [1000, 0], [1300, 400], [1300, 1000], [0, 1000], [0, 0]]
    region = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    (chain.root / "r.geojson").write_text(json.dumps(region))
    tifffile.imwrite(folder / "s.tif", np.random.default_rng(1).integers(0, 255, (1000, 1300), np.uint8))
    ingest(folder / "s.tif", output=chain.root / "images/s.json", spec=IngestSpec(), code="i@1")
    output = folder / "probabilities" / "m" / "s.json"
    finished(start(chain, output, {}))
    return result(output)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_number_of_workers_changes_nothing(
    chain: Chain, expected: dict[str, bytes], tmp_path: Path, count: int
) -> None:
    output = tmp_path / "probabilities" / "m" / "s.json"
    finished(start(chain, output, {"local": count}))
    assert result(output) == expected
    cost = json.loads((tmp_path / "costs" / "predict" / "m" / "s.json").read_text())
    assert cost["workers"] == count and cost["peak_mb"] > 100


def test_a_worker_that_is_killed_is_replaced(chain: Chain, expected: dict[str, bytes], tmp_path: Path) -> None:
    output = tmp_path / "probabilities" / "m" / "s.json"
    process = start(chain, output, {"local": 2})
    wait_for(lambda: units(output) >= 10)
    first, second = workers_of(process.pid)
    os.kill(first, signal.SIGKILL)
    finished(process)
    assert result(output) == expected
    assert not Path(f"/proc/{second}").exists()


def test_killed_it_goes_on_with_other_workers(chain: Chain, expected: dict[str, bytes], tmp_path: Path) -> None:
    output = tmp_path / "probabilities" / "m" / "s.json"
    for count, number in ((2, signal.SIGKILL), (1, signal.SIGTERM), (0, signal.SIGKILL)):
        before = units(output)
        process = start(chain, output, {"local": count})
        wait_for(lambda before=before: units(output) >= before + 10)
        children = workers_of(process.pid)
        assert len(children) == count
        process.send_signal(number)
        process.communicate()
        assert process.returncode == (75 if number == signal.SIGTERM else -number)
        wait_for(lambda children=children: not any(Path(f"/proc/{child}").exists() for child in children))
        assert units(output) >= before + 10, "what was finished stays so"
    finished(start(chain, output, {"local": 2}))
    assert result(output) == expected


def test_workers_of_a_running_scheduler(chain: Chain, expected: dict[str, bytes], tmp_path: Path) -> None:
    """By its file and by its address; workers with another package are refused in one line."""
    file = tmp_path / "scheduler.json"
    other = tmp_path / "other"
    shutil.copytree(Path(HOME["PYTHONPATH"]) / "unetpipe", other / "unetpipe")
    with (other / "unetpipe" / "inference.py").open("a") as source:
        source.write("STAGES = 2\n")
    command = [
        sys.executable,
        "-m",
        "dask",
        "scheduler",
        "--scheduler-file",
        str(file),
        "--port",
        "0",
        "--no-dashboard",
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [subprocess.Popen(command, **quiet)]

    def worker(package: str, name: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "dask", "worker", "--scheduler-file", str(file), "--nthreads", "3", "--no-nanny"]
        words += ["--name", name, "--no-dashboard", "--local-directory", str(tmp_path / name)]
        # Python looks for packages in the folder where it is started first.
        return subprocess.Popen(words, env=os.environ | {"PYTHONPATH": package}, cwd=package, **quiet)

    try:
        wait_for(lambda: file.exists() and file.stat().st_size > 0)
        running.append(worker(str(other), "other"))
        process = start(chain, tmp_path / "refused" / "s.json", {"scheduler_file": str(file)})
        _, said = process.communicate()
        assert process.returncode == 2 and "workers have another unetpipe" in said.splitlines()[-1]
        running[-1].kill()
        running.pop().wait()
        running += [worker(HOME["PYTHONPATH"], name) for name in "ab"]
        address = json.loads(file.read_text())["address"]
        for number, cluster in enumerate(({"scheduler_file": str(file)}, {"address": address})):
            output = tmp_path / str(number) / "probabilities" / "m" / "s.json"
            finished(start(chain, output, cluster))
            assert result(output) == expected
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_jobs_of_slurm(chain: Chain, expected: dict[str, bytes], tmp_path: Path) -> None:
    """With an sbatch that starts what it is given: the jobs ask for what was configured, and end."""
    pytest.importorskip("dask_jobqueue")
    for name, text in (
        (
            "sbatch",
            # The script is kept, as by SLURM: the one given is gone when this returns.
            f'cp "$1" {tmp_path}/job.$$; setsid bash {tmp_path}/job.$$ >>{tmp_path}/said 2>&1 &'
            ' echo "Submitted batch job $!"',
        ),
        ("scancel", f"echo $@ >>{tmp_path}/cancelled; kill -- -$1"),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    output = tmp_path / "probabilities" / "m" / "s.json"
    cluster = {"slurm": 2, "directives": ["--partition=fast", "--gpus=1"]}
    finished(start(chain, output, cluster, PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}"))
    assert result(output) == expected
    scripts = [path.read_text() for path in tmp_path.glob("job.*")]
    assert len(scripts) == 2
    for script in scripts:
        for line in ("#SBATCH --cpus-per-task=1", "#SBATCH --mem=", "#SBATCH --partition=fast", "#SBATCH --gpus=1"):
            assert line in script
    assert len((tmp_path / "cancelled").read_text().split()) == 2

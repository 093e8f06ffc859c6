"""What clusters do to jobs: a training that is ended in any way goes on, and ends with the same bytes."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterprojects import PROFILE, QUICK, ClusterProject, cluster_in_tmp
from private_slurm import PrivateSlurm, is_gone, missing, wait_for
from projects import Project

from .stages import commands, forget, run

pytestmark = [
    pytest.mark.faults,
    pytest.mark.xdist_group("finished"),
    pytest.mark.skipif(bool(missing()), reason=f"no SLURM can be started here: {missing()}"),
]
RESULT = "models/m"


@pytest.fixture(scope="module")
def cluster() -> Iterator[PrivateSlurm]:
    """A cluster for all tests of this file."""
    with cluster_in_tmp() as one:
        yield one


@pytest.fixture(scope="module")
def long(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished project, with a training that takes long enough to be disturbed."""
    project = finished.copy(tmp_path_factory.mktemp("long") / "project")
    # At the rate of the short training, the network would be dead long before the end.
    project.configure(train={"steps": 600, "validate_every": 300, "checkpoint_s": 1.0, "learning_rate": 0.002})
    code, lines = run(project, commands(project)[RESULT])
    assert code == 0, lines
    return project


def disturbed(
    long: Project, cluster: PrivateSlurm, folder: Path, disturb: Callable[[dict[str, str]], None], *arguments: str
) -> list[dict[str, str]]:
    """Train on the cluster, disturb the job behind its first checkpoint, and wait for the end; the training's jobs."""
    tree = ClusterProject(long.copy(folder / "project").folder, cluster)
    forget(tree, RESULT)
    before = set(cluster.jobs())
    command = ("python", "-m", "snakemake", *PROFILE, *QUICK, *arguments, f"results/{RESULT}.json")
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(command, cwd=tree.folder, env=tree.environment, stdout=log, stderr=log)
        wait_for(
            lambda: any((tree.results / RESULT).glob("checkpoints/step-*.json")) or running.poll() is not None, 180
        )
        own = [job for number, job in cluster.jobs().items() if number not in before]
        disturb(own[-1])
        assert running.wait(600) == 0, (folder / "log").read_text()[-4000:]
    assert tree.manifests()[RESULT] == long.manifests()[RESULT]
    assert "going on behind step" in (tree.results / "logs/train/m.log").read_text()
    return [job for number, job in cluster.jobs().items() if number not in before]


@pytest.mark.parametrize("number", range(3))
def test_scancel(long: Project, cluster: PrivateSlurm, tmp_path: Path, number: int) -> None:
    """SLURM: `scancel` of a training."""

    def disturb(job: dict[str, str]) -> None:
        cluster.call("scancel", job["JobId"])

    jobs = disturbed(long, cluster, tmp_path, disturb)
    assert sorted(job["JobState"] for job in jobs) == ["CANCELLED", "COMPLETED"]


@pytest.mark.parametrize("number", range(3))
def test_time_limit(long: Project, cluster: PrivateSlurm, tmp_path: Path, number: int) -> None:
    """SLURM: the time limit of a training."""

    def disturb(job: dict[str, str]) -> None:
        # What SLURM does two minutes before the end of the time.
        cluster.call("scancel", "--signal=TERM", job["JobId"])

    jobs = disturbed(long, cluster, tmp_path, disturb)
    assert sorted(job["JobState"] for job in jobs) == ["COMPLETED", "FAILED"]


@pytest.mark.parametrize("number", range(3))
def test_preemption(long: Project, cluster: PrivateSlurm, tmp_path: Path, number: int) -> None:
    """SLURM: a training makes way for a job of higher priority, and is queued again."""

    def disturb(job: dict[str, str]) -> None:
        cluster.call("sbatch", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")

    jobs = disturbed(long, cluster, tmp_path, disturb)
    assert max(int(job["Restarts"]) for job in jobs) == 1


@pytest.mark.parametrize("number", range(3))
def test_node_failure(long: Project, cluster: PrivateSlurm, tmp_path: Path, number: int) -> None:
    """SLURM: the machine of a training dies, and the job is queued again."""

    def disturb(job: dict[str, str]) -> None:
        node = job["NodeList"]
        for pid in [cluster.pid(f"slurmd.{node}"), *processes_of(job["JobId"])]:
            if not is_gone(pid):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: "State=DOWN" in cluster.call("scontrol", "show", "node", node, "-o"), 180)
        cluster.start_node(node)

    jobs = disturbed(long, cluster, tmp_path, disturb)
    assert any(int(job["Restarts"]) for job in jobs) or len(jobs) > 1


def processes_of(job: str) -> list[int]:
    """Processes that run for a job: those with its number in their environment, and its step daemons."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environment, line = (path / "environ").read_bytes(), (path / "cmdline").read_bytes()
        except OSError:
            continue
        if f"SLURM_JOB_ID={job}\0".encode() in environment + b"\0" or line.startswith(f"slurmstepd: [{job}.".encode()):
            found.append(int(path.name))
    return found


@pytest.mark.parametrize("number", range(3))
def test_out_of_memory(long: Project, cluster: PrivateSlurm, tmp_path: Path, number: int) -> None:
    """SLURM: a training is killed for want of memory, and the next attempt asks for more."""
    tree = ClusterProject(long.copy(tmp_path / "project").folder, cluster)
    forget(tree, RESULT)
    before = set(cluster.jobs())
    asked = "train:mem_mb=150 * attempt ** 3"
    ended = tree.snakemake(*PROFILE, *QUICK, "--set-resources", asked, "--", f"results/{RESULT}.json")
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert tree.manifests()[RESULT] == long.manifests()[RESULT]
    memory = [job["MinMemoryNode"] for number, job in cluster.jobs().items() if number not in before]
    assert memory[0] == "150M" and len(memory) > 1

"""What clusters do to jobs: a training that is ended in any way goes on, and ends with the same bytes."""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from clusterprojects import PROFILE, QUICK, ClusterProject, cluster_in_tmp
from private_slurm import PrivateSlurm, is_gone, missing, wait_for
from projects import Project

from .stages import commands, forget, run

pytestmark = [
    pytest.mark.faults,
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


def asking(long: Project, cluster: PrivateSlurm, folder: Path, **resources: str) -> ClusterProject:
    """A copy without its model, whose profile asks for something else for the training."""
    tree = ClusterProject(long.copy(folder / "project").folder, cluster)
    forget(tree, RESULT)
    path = tree.folder / "workflow/profiles/slurm/config.yaml"
    profile = yaml.safe_load(path.read_text())
    profile["set-resources"]["train"] |= resources
    # As many threads as the undisturbed training has: this machine may have no more.
    profile["cores"] = 2
    path.write_text(yaml.safe_dump(profile))
    return tree


def disturbed(
    long: Project, cluster: PrivateSlurm, folder: Path, disturb: Callable[[dict[str, str]], None], **resources: str
) -> list[dict[str, str]]:
    """Train on the cluster, disturb the job behind its first checkpoint, and wait for the end; the training's jobs."""
    tree = asking(long, cluster, folder, **resources)
    before = set(cluster.jobs())
    command = ("python", "-m", "snakemake", *PROFILE, *QUICK, f"results/{RESULT}.json")
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(command, cwd=tree.folder, env=tree.environment, stdout=log, stderr=log)
        wait_for(
            lambda: any((tree.results / RESULT).glob("checkpoints/step-*.json")) or running.poll() is not None, 180
        )
        own = [job for number, job in cluster.jobs().items() if number not in before]
        disturb(own[-1])
        assert running.wait(600) == 0, (folder / "log").read_text()[-4000:]
    assert tree.manifests()[RESULT] == long.manifests()[RESULT]
    # It may have come to its end before it was disturbed.
    assert re.search("going on behind step|already done", (tree.results / "logs/train/m.log").read_text())
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
    """SLURM: the time limit of a training, which hears of it or is killed for it."""

    def disturb(job: dict[str, str]) -> None:
        own = [pid for pid in processes_of(job["JobId"]) if b"\0unetpipe\0train\0" in command_of(pid)]
        # It takes as long as it needs to.
        for pid in own:
            os.kill(pid, signal.SIGSTOP)
        if number:
            wait_for(lambda: cluster.jobs()[job["JobId"]]["JobState"] == "TIMEOUT", 300)
        else:
            # SLURM may wake it to tell it, so that it has ended before anybody looks.
            wait_for(lambda: all(is_gone(pid) or has_pending(pid, signal.SIGTERM) for pid in own), 300)
            for pid in own:
                if not is_gone(pid):
                    os.kill(pid, signal.SIGCONT)

    # As the profile wants it, SLURM tells the job two minutes before the end of four; or else it tells nothing.
    asked = {"runtime": "attempt", "slurm_extra": "'--mail-type=NONE'"} if number else {"runtime": "4 * attempt"}
    jobs = disturbed(long, cluster, tmp_path, disturb, **asked)
    assert sorted(job["JobState"] for job in jobs) == ["COMPLETED", "TIMEOUT" if number else "FAILED"]


def command_of(pid: int) -> bytes:
    """The words of a process's command, a zero behind each."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def has_pending(pid: int, number: int) -> bool:
    """Whether a signal waits for a process to go on."""
    status = Path(f"/proc/{pid}/status").read_text()
    masks = re.findall(r"^(?:SigPnd|ShdPnd):\s+(\w+)", status, re.MULTILINE)
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


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
            environment = (path / "environ").read_bytes()
        except OSError:
            continue
        line = command_of(int(path.name))
        if f"SLURM_JOB_ID={job}\0".encode() in environment + b"\0" or line.startswith(f"slurmstepd: [{job}.".encode()):
            found.append(int(path.name))
    return found


@pytest.mark.parametrize("number", range(3))
def test_out_of_memory(long: Project, cluster: PrivateSlurm, tmp_path: Path, number: int) -> None:
    """SLURM: a training is killed for want of memory, and the next attempt asks for more."""
    tree = asking(long, cluster, tmp_path, mem_mb="150 * attempt ** 3")
    before = set(cluster.jobs())
    ended = tree.snakemake(*PROFILE, *QUICK, f"results/{RESULT}.json")
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert tree.manifests()[RESULT] == long.manifests()[RESULT]
    jobs = [job for number, job in cluster.jobs().items() if number not in before]
    assert [job["MinMemoryNode"] for job in jobs][:2] == ["150M", "1200M"]
    assert [job["JobState"] == "COMPLETED" for job in jobs] == [False] * (len(jobs) - 1) + [True]

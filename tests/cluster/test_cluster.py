"""The workflow through a real SLURM with the profile as it stands: what is asked for, who holds a GPU, what re-runs."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from projects import ROOT, Project

from .private_slurm import PrivateSlurm, missing, private_slurm

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.xdist_group("cluster"),
    pytest.mark.skipif(bool(missing()), reason=f"no SLURM can be started here: {missing()}"),
]
# Sooner than on a cluster of many, and the logs are looked at.
QUICK = ("--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "5", "--slurm-keep-successful-logs")
PROFILE = ("--profile", "workflow/profiles/slurm")


class ClusterProject(Project):
    """A project whose daily command goes to a cluster."""

    def __init__(self, folder: Path, cluster: PrivateSlurm) -> None:
        super().__init__(folder)
        self.cluster = cluster

    @property
    def environment(self) -> dict[str, str]:
        """The cluster's programs come behind this Python's, which has none of their names."""
        own = super().environment
        path = f"{self.cluster.folder / 'bin'}{os.pathsep}{own['PATH']}{os.pathsep}/usr/sbin"
        return own | self.cluster.variables | {"PATH": path}

    def run(self, *arguments: str) -> None:
        """The daily command on a cluster."""
        shutil.rmtree(self.results / "logs", ignore_errors=True)
        ended = self.snakemake(*PROFILE, *QUICK, *arguments)
        assert ended.returncode == 0, ended.stderr[-4000:]

    def asked(self, since: int = 0) -> dict[str, list[dict[str, Any]]]:
        """What jobs were granted, by rule or group, of those with a larger id."""
        found: dict[str, list[dict[str, Any]]] = {}
        for number, job in self.cluster.jobs().items():
            if int(number) > since:
                granted = dict(part.split("=") for part in job["TRES"].split(","))
                name = Path(job["StdOut"]).relative_to(self.results / "logs/slurm").parts[0]
                found.setdefault(name, []).append(
                    {
                        "gpus": int(job.get("TresPerJob", "0").rpartition(":")[2]),
                        "cpus": int(granted["cpu"]),
                        "mem_mb": int(granted["mem"].removesuffix("M")),
                        "minutes": clock_minutes(job["TimeLimit"]),
                        "tasks": int(job["NumTasks"]),
                        "nodes": int(granted["node"]),
                        "state": job["JobState"],
                    }
                )
        return found


def clock_minutes(text: str) -> int:
    """Minutes of a time limit such as 1-02:30:00."""
    days, _, clock = text.rpartition("-")
    hours, minutes, _ = map(int, clock.split(":"))
    return int(days or 0) * 1440 + hours * 60 + minutes


@pytest.fixture(scope="module")
def cluster() -> Iterator[PrivateSlurm]:
    """A cluster; not in pytest's folders, which munge may not enter."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as place:
        Path(place).chmod(0o755)
        with private_slurm(Path(place)) as one:
            yield one


@pytest.fixture(scope="module")
def ran(blank: Project, cluster: PrivateSlurm, tmp_path_factory: pytest.TempPathFactory) -> ClusterProject:
    """The project behind its first run on the cluster."""
    project = ClusterProject(blank.copy(tmp_path_factory.mktemp("cluster") / "project").folder, cluster)
    sheet = project.folder / "config/samples.tsv"
    # One sample for each of training, validation and test: every job takes seconds to begin.
    kept = [line for line in sheet.read_text().splitlines() if line.split("\t")[0] in ("sample", "a", "v", "t")]
    sheet.write_text("\n".join(kept) + "\n")
    project.run()
    return project


def test_gpus_are_held_by_training_and_prediction_only(ran: ClusterProject) -> None:
    asked = ran.asked()
    assert set(asked) == {
        "group_read_annotate_ingest",
        "group_deform_augment_weigh",
        "group_score_evaluate_segment",
        *("rule_doctor", "rule_train", "rule_predict", "rule_report"),
    }
    for name, jobs in asked.items():
        for job in jobs:
            assert job["gpus"] == (name in ("rule_train", "rule_predict")), name
            assert (job["tasks"], job["nodes"], job["state"]) == (1, 1, "COMPLETED"), name
    # Three samples are read side by side in one job.
    assert [job["cpus"] for job in asked["group_read_annotate_ingest"]] == [3]
    assert len(asked["rule_doctor"]) == 2 and sum(map(len, asked.values())) == 8


def test_memory_and_time_are_those_of_the_rules(ran: ClusterProject) -> None:
    said = ran.snakemake("-n", "--forceall", "--cores", "8").stdout
    blocks = {block.split(":")[0]: block for block in said.split("\nrule ")[1:]}
    asked = ran.asked()
    for rule in ("train", "predict", "doctor", "report"):
        resources = dict(
            part.split("=") for part in blocks[rule].split("resources: ")[1].splitlines()[0].split(", ") if "=" in part
        )
        for job in asked[f"rule_{rule}"]:
            assert (job["mem_mb"], job["minutes"]) == (int(resources["mem_mb"]), int(resources["runtime"])), rule
    assert asked["rule_train"][0]["cpus"] == 8


def test_what_re_runs_is_the_same_as_without_a_cluster(ran: ClusterProject) -> None:
    assert ran.pending(*PROFILE) == set(), "nothing has changed"
    for number, path in enumerate(sorted(ran.folder.glob("images/*"))):
        os.utime(path, (2_000_000_000 - number,) * 2)
    assert ran.pending(*PROFILE) == set(), "time stamps have"
    last = max(map(int, ran.cluster.jobs()))
    ran.configure(evaluate={"thin": False})
    assert ran.pending(*PROFILE) == {"metrics/m/t", "report"}
    ran.run()
    asked = ran.asked(last)
    assert sorted(asked) == ["group_score_evaluate", "rule_report"] and not any(
        j["gpus"] for js in asked.values() for j in js
    )


def test_two_gpus_are_held_by_one_task(cluster: PrivateSlurm, tmp_path: Path) -> None:
    project = ClusterProject(tmp_path, cluster)
    (tmp_path / "Snakefile").write_text(
        'rule train:\n    output: "seen"\n    threads: 2\n    resources: gpu=2, mem_mb=500, runtime=2\n'
        '    shell: "echo $CUDA_VISIBLE_DEVICES $SLURM_STEP_NUM_TASKS >> seen; sleep 1"\n'
    )
    profile = tmp_path / "profile"
    shutil.copytree(ROOT / "workflow/profiles/slurm", profile)
    ended = project.snakemake("--profile", str(profile), *QUICK)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert (tmp_path / "seen").read_text() == "0,1 1\n"


def test_the_profile_has_one_place_for_what_is_yours() -> None:
    text = (ROOT / "workflow/profiles/slurm/config.yaml").read_text()
    _, own, rest = text.split("# ---", 2)
    assert "slurm_account" in own and "slurm_partition" in own and "slurm_account" not in rest
    # With their marks of a comment gone, the lines of this place are what the plug-in takes.
    filled = yaml.safe_load(text.replace("# slurm_", "slurm_").replace("# gpu_model", "gpu_model"))
    assert filled["default-resources"] == {"slurm_account": "my_account", "slurm_partition": "my_partition", "nodes": 1}
    assert filled["set-resources"]["train"]["gpu_model"] == "a100"


def test_the_cluster_is_gone_with_its_processes(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="slurm-") as place:
        Path(place).chmod(0o755)
        with private_slurm(Path(place)) as one:
            pids = [one.pid(daemon) for daemon in ("munged", "slurmctld", "slurmd.n1", "slurmd.n2")]
    listed = subprocess.run(["ps", "-o", "stat=", "-p", ",".join(map(str, pids))], capture_output=True, text=True)
    assert all(state.startswith("Z") for state in listed.stdout.split())

"""What jobs of a real SLURM share, lose and hold."""

import shutil
from pathlib import Path

import pytest

from clusterprojects import PROFILE, QUICK, ClusterProject
from private_slurm import PrivateSlurm, missing
from projects import ROOT, Project

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(missing()), reason=f"no SLURM can be started here: {missing()}"),
]


def test_of_a_group_with_a_failed_job_the_others_are_kept(
    cluster: PrivateSlurm, blank: Project, tmp_path: Path
) -> None:
    tree = ClusterProject(blank.copy(tmp_path / "project").folder, cluster)
    path, target = tree.folder / "images/t.tif", "results/labels/t.json"
    targets = (target, "results/images/a.json", "results/images/v.json")
    sound = path.read_bytes()
    # The smallest of the three, so that its job is the last to be chosen.
    path.write_bytes(sound[: len(sound) // 2])
    ended = tree.snakemake(*PROFILE, *QUICK, "--retries", "0", *targets)
    assert ended.returncode == 1 and "t.tif: is truncated" in ended.stderr, ended.stderr[-4000:]
    path.write_bytes(sound)
    tree.run(*targets)
    computed, early = tree.ran()
    assert {"ingest/a", "ingest/v"} <= early and {"ingest/t", "annotate/t"} <= computed


def test_several_samples_share_a_process(cluster: PrivateSlurm, blank: Project, tmp_path: Path) -> None:
    tree = ClusterProject(blank.copy(tmp_path / "project").folder, cluster)
    last = max(map(int, cluster.jobs()), default=0)
    tree.configure(samples_per_job=2)
    tree.run("results/labels/a.json", "results/labels/b.json")
    assert {name: len(jobs) for name, jobs in tree.asked(last).items()} == {"rule_ingest_3": 1, "rule_annotate_3": 1}
    assert {"ingest/a", "ingest/b", "annotate/a", "annotate/b"} <= tree.ran()[0]


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

"""A job that a real SLURM has cancelled goes on in the next attempt."""

import subprocess
from pathlib import Path

import pytest
from faults.stages import forget

from clusterprojects import PROFILE, QUICK, ClusterProject
from private_slurm import PrivateSlurm, missing, wait_for
from projects import Project

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(missing()), reason=f"no SLURM can be started here: {missing()}"),
]


def test_a_training_that_is_cancelled_goes_on_to_the_same_bytes(
    cluster: PrivateSlurm, finished: Project, tmp_path: Path
) -> None:
    tree = ClusterProject(finished.copy(tmp_path / "project").folder, cluster)
    tree.configure(train={"steps": 600, "validate_every": 300, "checkpoint_s": 1.0, "learning_rate": 0.002})
    alone = tree.copy(tmp_path / "alone")
    alone.run("results/models/m.json")
    forget(tree, "models/m")
    last = max(map(int, cluster.jobs()), default=0)
    # With as many threads as without a cluster: this machine may have no more.
    words = (*PROFILE, *QUICK, "--cores", "2", "results/models/m.json")
    command = ("python", "-m", "snakemake", *words)
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(command, cwd=tree.folder, env=tree.environment, stdout=log, stderr=log)
        wait_for(
            lambda: any((tree.results / "models/m/checkpoints").glob("step-*.json")) or running.poll() is not None, 900
        )
        cluster.call("scancel", str(max(map(int, cluster.jobs()))))
        assert running.wait(900) == 0, (tmp_path / "log").read_text()[-4000:]
    assert tree.manifests()["models/m"] == alone.manifests()["models/m"]
    assert "going on behind step" in (tree.results / "logs/train/m.log").read_text()
    assert sorted(job["state"] for job in tree.asked(last)["rule_train"]) == ["CANCELLED", "COMPLETED"]

"""The workflow through a real SLURM with the profile as it stands: what is asked for, who holds a GPU, what re-runs."""

import subprocess

import pytest
import yaml

from clusterprojects import PROFILE, ClusterProject, cluster_in_tmp
from private_slurm import PrivateSlurm, missing
from projects import ROOT, Project

SAMPLES = {"a": "train", "v": "val", "t": "test"}
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(missing()), reason=f"no SLURM can be started here: {missing()}"),
]


@pytest.fixture(scope="module")
def ran(blank: Project, cluster: PrivateSlurm, tmp_path_factory: pytest.TempPathFactory) -> ClusterProject:
    """A small form of the simulated example behind its first run on the cluster, by the words of docs/cluster.md."""
    project = ClusterProject(blank.copy(tmp_path_factory.mktemp("cluster") / "project").folder, cluster)
    project.configure(simulate={"folder": "drawn", "image_side": 80, "diameter_px": 14.0})
    # One sample for each of training, validation and test: every job takes seconds to begin.
    rows = [f"{s}\tdrawn/images/{s}.tif\tdrawn/labels/{s}.tif\t{split}" for s, split in SAMPLES.items()]
    (project.folder / "config/samples.tsv").write_text("\n".join(["sample\timage\tannotation\tsplit", *rows, ""]))
    assert project.follow_the_page() == [f"snakemake {way}--profile workflow/profiles/slurm" for way in ("-n ", "")]
    return project


def test_the_page_is_followed(ran: ClusterProject) -> None:
    jobs = [job for job in ran.cluster.jobs().values() if ran.folder.as_posix() in job["StdOut"]]
    assert {(job["Account"], job["Partition"]) for job in jobs} == {("tests", "normal")}
    assert "report" in ran.manifests()


def test_gpus_are_held_by_training_and_prediction_only(ran: ClusterProject) -> None:
    asked = ran.asked()
    assert set(asked) == {
        "group_draw_simulate",
        "group_read_annotate_ingest",
        "group_deform_augment_weigh",
        "group_score_evaluate_segment",
        *("rule_doctor", "rule_train", "rule_predict", "rule_report"),
    }
    for name, jobs in asked.items():
        for job in jobs:
            assert job["gpus"] == (name in ("rule_train", "rule_predict")), name
            assert (job["tasks"], job["nodes"], job["state"]) == (1, 1, "COMPLETED"), name
    # Three samples are drawn, and read, by one job.
    for name in ("group_draw_simulate", "group_read_annotate_ingest"):
        assert [job["cpus"] for job in asked[name]] == [3]
    assert len(asked["rule_doctor"]) == 2 and sum(map(len, asked.values())) == 9


def test_memory_and_time_are_those_of_the_rules(ran: ClusterProject) -> None:
    said = ran.snakemake("-n", "--forceall", *PROFILE).stdout
    blocks = {block.split(":")[0]: block for block in said.split("\nrule ")[1:]}
    asked = ran.asked()
    for rule in ("train", "predict", "doctor", "report"):
        resources = dict(
            part.split("=", 1)
            for part in blocks[rule].split("resources: ")[1].splitlines()[0].split(", ")
            if "=" in part
        )
        for job in asked[f"rule_{rule}"]:
            assert (job["mem_mb"], job["minutes"]) == (int(resources["mem_mb"]), int(resources["runtime"])), rule
    assert asked["rule_train"][0]["cpus"] == 8


def test_what_re_runs_is_the_same_as_without_a_cluster(ran: ClusterProject) -> None:
    last = max(map(int, ran.cluster.jobs()))
    ran.run()
    for path in ran.folder.glob("drawn/*/*"):
        path.touch()
    ran.run()
    assert max(map(int, ran.cluster.jobs())) == last, "nothing has changed, then time stamps have: no job"
    ran.configure(evaluate={"thin": False})
    assert ran.pending(*PROFILE) == {"metrics/m/t", "report"}
    ran.run()
    asked = ran.asked(last)
    assert sorted(asked) == ["group_score_evaluate", "rule_report"] and not any(
        j["gpus"] for js in asked.values() for j in js
    )


def test_the_profile_has_one_place_for_what_is_yours() -> None:
    text = (ROOT / "workflow/profiles/slurm/config.yaml").read_text()
    _, own, rest = text.split("# ---", 2)
    assert "slurm_account" in own and "slurm_partition" in own and "slurm_account" not in rest
    # With their marks of a comment gone, the lines of this place are what the plug-in takes.
    filled = yaml.safe_load(text.replace("# slurm_", "slurm_").replace("# gpu_model", "gpu_model"))
    assert filled["default-resources"] == {
        "slurm_account": "my_account",
        "slurm_partition": "my_partition",
        "runtime": 30,
    }
    assert filled["set-resources"]["train"]["gpu_model"] == "a100"


def test_the_cluster_is_gone_with_its_processes() -> None:
    with cluster_in_tmp() as one:
        pids = [one.pid(daemon) for daemon in ("munged", "slurmctld", "slurmd.n1", "slurmd.n2")]
    listed = subprocess.run(["ps", "-o", "stat=", "-p", ",".join(map(str, pids))], capture_output=True, text=True)
    assert all(state.startswith("Z") for state in listed.stdout.split())

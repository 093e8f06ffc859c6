"""The workflow as Snakemake sees it: lint, profile, size, its own report, mistakes in the configuration."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from projects import DONE


def test_lint_has_nothing_to_say(blank: Any) -> None:
    ended = blank.snakemake("--lint")
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_default_profile_is_used_by_itself(blank: Any) -> None:
    asked = blank.snakemake("-n", "--cores", "2")
    said = asked.stdout + asked.stderr
    assert "workflow/profiles/default" in said
    assert "Shell command: exec python -m unetpipe train" in said, "printshellcmds"
    assert "mem_mb=" not in said, "nothing limits the memory"


@pytest.mark.parametrize("limits", [("--cores", "2", "--resources", "mem_mb=4000"), ("--jobs", "5")])
def test_jobs_ask_for_memory_where_it_is_limited_or_they_queue(blank: Any, limits: tuple[str, ...]) -> None:
    asked = blank.snakemake("-n", *limits)
    said = asked.stdout + asked.stderr
    told = [line for line in said.splitlines() if "    resources: " in line]
    assert len(told) > 8
    assert sum("mem_mb=" in line and "runtime=" in line for line in told) == len(told) - 1, "all but rule all"


@pytest.mark.parametrize(
    ("given", "gpus"),
    [
        ((), 1),
        (("--resources", "gpu=2", "--set-resources", "train:gpu=2"), 2),
        (("--set-resources", "train:gpu=0"), 0),
        (("--set-resources", "train:gpu=0", "train:gres='gpu:a100:2'"), 2),
    ],
)
def test_the_training_is_told_its_gpus(blank: Any, given: tuple[str, ...], gpus: int) -> None:
    asked = blank.snakemake("-n", "--cores", "2", *given)
    commands = [line for line in (asked.stdout + asked.stderr).splitlines() if "unetpipe train" in line]
    assert len(commands) == 1 and f" --gpus {gpus} " in commands[0]


@pytest.mark.slow
def test_a_thousand_samples(blank: Any, tmp_path: Path) -> None:
    tree = blank.copy(tmp_path / "project")
    rows = ["sample\timage\tannotation\tsplit"]
    splits = ["train"] * 100 + ["val"] * 50 + ["test"] * 50 + ["predict"] * 800
    rows += [f"x{number:04}\timages/a.tif\tlabels/a.tif\t{split}" for number, split in enumerate(splits)]
    (tree.folder / "config" / "samples.tsv").write_text("\n".join(rows))
    # images, labels of 200, two of the doctor, weights and patches of 100, the model, two of 850, metrics of 50, report
    assert len(tree.pending()) == 1000 + 200 + 2 + 2 * 100 + 1 + 2 * 850 + 50 + 1


# Sample a is in fold 0, b in fold 1, t is for the test; an ensemble's members have seen both a and b.
MANY = {"m-s1-f0": "at", "m-s1-f1": "bt", "m-s2-f0": "at", "m-s2-f1": "bt", "all": "t"}


@pytest.fixture
def many(blank: Any, tmp_path: Path) -> Any:
    """A project with two seeds, two folds and an ensemble."""
    tree = blank.copy(tmp_path / "project")
    network = {"depth": 1, "base_width": 2, "dropout": 0.0}
    tree.configure(models={"m": {"network": network, "seeds": [1, 2]}}, train={"steps": 4, "validate_every": 4})
    with (tree.folder / "config" / "config.yaml").open("a") as file:
        file.write("folds: 2\nensembles: {all: [m]}\n")
    return tree


def test_seeds_folds_and_ensembles_are_asked_for(many: Any) -> None:
    pending = many.pending()
    for kind, more in (("metrics", ""), ("segmentations", "s"), ("probabilities", "s")):
        wanted = {f"{kind}/{model}/{sample}" for model, samples in MANY.items() for sample in samples + more}
        assert {name for name in pending if name.startswith(kind)} == wanted
    assert {name for name in pending if name.startswith("models/")} == {f"models/{m}" for m in MANY if m != "all"}


@pytest.mark.slow
def test_seeds_folds_and_ensembles_in_one_run(many: Any) -> None:
    many.run()
    manifests = many.manifests()
    wanted = {f"metrics/{model}/{sample}" for model, samples in MANY.items() for sample in samples}
    assert {name for name in manifests if name.startswith("metrics/")} == wanted
    inputs = json.loads(manifests["models/m-s1-f0"])["inputs"]
    assert "patches/b" in inputs and "patches/a" not in inputs
    assert sum(name.startswith("models/") for name in json.loads(manifests["probabilities/all/t"])["inputs"]) == 4
    costs = (many.results / "costs.tsv").read_text().splitlines()
    assert len(costs) == 5 and costs[0].split("\t")[:4] == ["network", "parameters", "steps", "seconds_per_step"]
    assert many.pending() == set()


def test_snakemake_writes_its_own_report(finished: Any, tmp_path: Path) -> None:
    page = tmp_path / "x.html"
    ended = finished.snakemake("--report", str(page))
    assert ended.returncode == 0, ended.stderr
    text = page.read_text(encoding="utf-8")
    assert all(f'"{rule}"' in text for rule in ("ingest", "train", "report"))


@pytest.mark.parametrize("name", ["models/m", "probabilities/m/t"])
def test_a_command_without_a_fingerprint_finds_the_result_of_the_workflow(tree: Any, name: str) -> None:
    manifest = json.loads((tree.results / f"{name}.json").read_text())
    inputs = [f"results/{name}.json" for name in sorted(manifest["inputs"])]
    command = [sys.executable, "-m", "unetpipe", manifest["stage"], *inputs, "--output", f"results/{name}.json"]
    command += ["--spec", json.dumps(manifest["spec"])]
    ended = subprocess.run(command, cwd=tree.folder, env=tree.environment, capture_output=True, text=True)
    assert ended.returncode == 0 and DONE in ended.stderr, ended.stderr
    assert tree.pending() == set()


def test_a_mistake_is_one_line(blank: Any, tmp_path: Path) -> None:
    tree = blank.copy(tmp_path / "project")
    tree.configure(weigh={"sigma_px": -1.0})
    ended = tree.snakemake("--cores", "2")
    assert ended.returncode == 2
    lines = [line for line in ended.stderr.splitlines() if line.startswith("unetpipe: ")]
    assert lines == [
        "unetpipe: config/config.yaml: weigh.sigma_px: expected a value above 0, came -1; see config/README.md"
    ]
    assert "Traceback" not in ended.stderr
    assert not tree.results.exists()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("weigh: {w0: 10.0}\nweigh: {w0: 5.0}\n", "key 'weigh' stands twice, again in line 2"),
        ("weigh: {w0: 10.0\n", "line 2"),
        ("- weigh\n", "config/config.yaml: expected"),
        (None, "config/config.yaml: no such file"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_line(blank: Any, tmp_path: Path, text: str | None, wanted: str) -> None:
    tree = blank.copy(tmp_path / "project")
    path = tree.folder / "config/config.yaml"
    path.unlink() if text is None else path.write_text(text)
    ended = tree.snakemake("-n")
    lines = [line for line in ended.stderr.splitlines() if line.startswith("unetpipe: ")]
    assert ended.returncode == 2 and len(lines) == 1 and wanted in lines[0], ended.stderr
    assert "Traceback" not in ended.stderr


def test_of_several_configurations_the_later_one_wins_and_mistakes_name_all(blank: Any, tmp_path: Path) -> None:
    tree = blank.copy(tmp_path / "project")
    files = ("--configfile", "config/config.yaml", "config/more.yaml")
    for text, code, wanted in (
        ("models: {n: {network: {depth: 1, base_width: 2}}}\n", 0, r"results/models/n\.json"),
        ("weigh: {w0: -1}\n", 2, r"config/config\.yaml, \S*config/more\.yaml: weigh\.w0: expected"),
    ):
        (tree.folder / "config/more.yaml").write_text(text)
        ended = tree.snakemake("-n", "--cores", "2", *files)
        assert ended.returncode == code and re.search(wanted, ended.stdout + ended.stderr), ended.stderr
        assert code or "results/models/m.json" in ended.stdout + ended.stderr


def test_a_failed_job_says_its_line(blank: Any, tmp_path: Path) -> None:
    tree = blank.copy(tmp_path / "project")
    (tree.folder / "images" / "a.tif").write_bytes(b"II*\0 and nothing more")
    ended = tree.snakemake("--cores", "2", "results/images/a.json")
    assert ended.returncode == 1
    lines = [line for line in ended.stderr.splitlines() if line.startswith("unetpipe: ")]
    assert len(lines) == 1 and "a.tif" in lines[0]
    assert not list(tree.results.glob("images/*"))


def test_thresholds_are_chosen_on_the_validation_samples_where_asked(blank: Any, tmp_path: Path) -> None:
    assert not [name for name in blank.pending() if name.startswith("thresholds/") or name == "probabilities/m/v"]
    tree = blank.copy(tmp_path / "project")
    tree.configure(segment={"tune": True})
    asked = tree.pending() - blank.pending()
    assert asked == {"thresholds/m", "probabilities/m/v"}


@pytest.mark.slow
def test_a_run_with_chosen_thresholds(blank: Any, tmp_path: Path) -> None:
    tree = blank.copy(tmp_path / "project")
    tree.configure(segment={"tune": True}, train={"steps": 40})
    tree.run()
    tuned, used = (
        json.loads((tree.results / name).read_text())["facts"]["thresholds"]
        for name in ("thresholds/m.json", "segmentations/m/s.json")
    )
    assert tuned == used and list(used) == ["foreground"]
    page = (tree.results / "report" / "index.html").read_text()
    assert f"foreground from probability {used['foreground']} (chosen on validation images)" in page

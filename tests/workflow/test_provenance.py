"""A run is written down, and every result can be held against what it was made of."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

import unetpipe
from unetpipe.errors import StoreError
from unetpipe.steps.verify import verify


def told(tree: Any) -> list[str]:
    """Faults that are told; none where all is well."""
    lines: list[str] = []
    try:
        verify(tree.results, tell=lines.append)
    except StoreError as error:
        assert str(error).startswith(f"{tree.results}: {len(lines)} faults")
        return lines
    assert len(lines) == 1 and "22 results and sources are as they were written" in lines[0]
    return []


def test_a_run_is_written_down(finished: Any) -> None:
    run = json.loads((finished.results / "run.json").read_text())
    assert run["unetpipe"] == unetpipe.__version__
    assert run["python"] == platform.python_version() and run["packages"]["torch"] == torch.__version__
    assert run["host"]["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert run["host"]["processors"] == len(os.sched_getaffinity(0))
    assert run["config"]["models"] == {"m": {"network": {"depth": 1, "base_width": 4, "dropout": 0.0}}}
    assert run["sources"]["a"] == {"image": "images/a.tif", "annotation": "labels/a.tif"}
    # All on this machine; Snakemake sets the variables of each job by its threads.
    assert sorted(name for made in run["computed"] for name in made["results"]) == [
        "predict/m/s",
        "predict/m/t",
        "train/m",
    ]
    assert all(made["host"] | {"variables": {}} == run["host"] | {"variables": {}} for made in run["computed"])
    # By hand: the name, the digest of what it was made from, and of what came, line by line.
    lines = []
    for path in finished.results.rglob("*.json"):
        if not path.with_suffix(".ledger").is_file():
            continue
        manifest = json.loads(path.read_text())
        made = {"schema": 2} | {key: manifest[key] for key in ("stage", "spec", "code", "inputs")}
        key = hashlib.sha256(json.dumps(made, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        name = path.relative_to(finished.results).with_suffix("").as_posix()
        lines.append(f"{'results/' * (name == 'report')}{name} {key} {manifest['content']}\n")
    assert run["results"] == len(lines) == 22
    assert run["dag"] == hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def test_lock_files_and_commit_are_written_down(tree: Any) -> None:
    def git(*words: str) -> str:
        command = ["git", "-C", str(tree.folder), "-c", "user.name=x", "-c", "user.email=x", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def recorded() -> Any:
        command = [sys.executable, "-m", "unetpipe", "record"]
        subprocess.run(command, cwd=tree.folder, env=tree.environment, check=True)
        return json.loads((tree.results / "run.json").read_text())

    before = json.loads((tree.results / "run.json").read_text())
    tree.own_package()
    (tree.folder / "requirements-cpu.lock").write_text("numpy==2.4.6\n")
    git("init", "--quiet")
    git("add", "config", "environment.yml")
    git("commit", "--quiet", "--message", "x")
    run = recorded()
    assert run["locks"] == {"requirements-cpu.lock": hashlib.sha256(b"numpy==2.4.6\n").hexdigest()}
    assert run["code"] == {"commit": git("rev-parse", "HEAD"), "changed": False}
    assert {name: run[name] for name in ("dag", "config", "sources")} == {
        name: before[name] for name in ("dag", "config", "sources")
    }
    (tree.folder / "environment.yml").unlink()
    assert recorded()["code"] == run["code"] | {"changed": True}


def test_all_is_well_and_the_command_says_so(finished: Any) -> None:
    assert told(finished) == []


@pytest.mark.parametrize("stage", ["images/a", "labels/a", "weights/a", "patches/a", "probabilities/m/t"])
def test_pixels_that_are_not_what_was_written_are_told(tree: Any, stage: str) -> None:
    # Of the same size and with a fitting checksum: another sample's shard.
    other = stage.replace("/a", "/b") if stage.endswith("/a") else stage.replace("/t", "/s")
    for folder in (tree.results / f"{stage}.zarr").glob("**/c"):
        twin = Path(str(folder).replace(f"{stage}.zarr", f"{other}.zarr"))
        for file in (p for p in folder.rglob("*") if p.is_file()):
            content = (twin / file.relative_to(folder)).read_bytes()
            file.write_bytes(content)
    path = tree.results / f"{stage}.json"
    manifest = json.loads(path.read_text())
    for name in manifest["objects"]:
        manifest["objects"][name] = (tree.results / f"{stage}.zarr" / name).stat().st_size
    path.write_text(json.dumps(manifest))
    lines = told(tree)
    assert lines and all(line.startswith(f"{path}: ") and "is not what was written" in line for line in lines)


def test_parameters_tables_and_facts_are_told(tree: Any) -> None:
    def altered(name: str, change: Any) -> None:
        path = tree.results / name
        path.write_bytes(change(path.read_bytes()))

    altered("models/m/weights.safetensors", lambda content: content[:-1] + bytes([content[-1] ^ 1]))
    altered("report/index.html", lambda content: content.replace(b"unetpipe", b"Unetpipe", 1))
    altered("metrics/m/t.json", lambda content: content.replace(b'"n": ', b'"n": 1', 1))
    lines = told(tree)
    for name, words in (
        ("models/m.json", "weights.safetensors is not what was written"),
        ("report.json", "index.html is not what was written"),
        ("metrics/m/t.json", "the content digest does not follow"),
    ):
        assert sum(f"{name}: " in line and words in line for line in lines) == 1, (name, lines)


def test_a_broken_chain_is_told(tree: Any) -> None:
    image = tree.folder / "images/a.tif"
    tifffile.imwrite(image, np.flipud(tifffile.imread(image)))
    (line,) = told(tree)
    assert line == f"{tree.results}/images/a.json: its source {image} has changed"
    (tree.results / "labels/t.json").unlink()
    path = tree.results / "weights/a.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"content": "0" * 64}))
    lines = told(tree)
    assert f"{tree.results}/metrics/m/t.json: made of labels/t, which is not there" in lines
    assert any("made of another weights/a than is there now" in line for line in lines)


@pytest.mark.slow
def test_what_verify_takes_back_is_made_anew(finished: Any, tree: Any) -> None:
    victim = next(p for p in (tree.results / "probabilities/m/t.zarr/0/c").rglob("*") if p.is_file())
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 4
    victim.write_bytes(content)
    lines: list[str] = []
    verify(tree.results, tell=lines.append, mend=True)
    fault, remedy = lines
    target = f"{tree.results}/probabilities/m/t.json"
    assert fault.startswith(f"{target}: ") and f": snakemake {target} --cores 8 --resources gpu=1" in remedy
    # Without a target, Snakemake does not miss what only finished results were made of.
    tree.run("results/probabilities/m/t.json")
    assert tree.manifests() == finished.manifests() and told(tree) == [] and tree.pending() == set()


def test_no_results_are_no_good_results(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="expected a folder of results"):
        verify(tmp_path, tell=[].append)

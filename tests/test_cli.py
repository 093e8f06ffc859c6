"""The command line as people meet it."""

import dataclasses
import json
import keyword
import subprocess
import sys
from pathlib import Path

import pytest
import tifffile
from numpy import arange, uint8

from unetpipe import __version__, cli
from unetpipe.cli import chosen
from unetpipe.config import STAGE_SPECS, read_config
from unetpipe.fingerprint import fingerprint
from unetpipe.manifests import read_manifest


def unetpipe(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m unetpipe`` with words."""
    return subprocess.run([sys.executable, "-m", "unetpipe", *words], capture_output=True, text=True, check=False)


def test_help_names_every_stage_and_imports_nothing_heavy() -> None:
    program = (
        "import sys, unetpipe.cli as c\n"
        "sys.argv = ['unetpipe', '--help']\n"
        "try: c.main()\n"
        "finally: print(sorted({'numpy', 'torch', 'zarr', 'numba', 'pydantic', 'rich'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert all(f"\n  {verb} " in found for verb in STAGE_SPECS)
    assert found.rstrip().endswith("[]")


@pytest.mark.parametrize("verb", STAGE_SPECS)
def test_every_stage_explains_itself(verb: str) -> None:
    found = unetpipe(verb, "--help")
    assert found.returncode == 0
    words = getattr(cli, verb + "_" * keyword.iskeyword(verb)).__doc__
    assert words.splitlines()[0] in " ".join(found.stdout.split())
    assert "--spec" in found.stdout


def test_reads_that_nobody_waits_for_are_not_told_behind_an_error() -> None:
    """zarr leaves them when a chunk is damaged; its loop is closed at exit."""
    program = (
        "import asyncio, logging, sys; from unetpipe import cli; loop = asyncio.new_event_loop();"
        "loop.create_task(asyncio.sleep(9)); loop.run_until_complete(asyncio.sleep(0)); loop.close();"
        "sys.argv = ['unetpipe', 'verify', '/no/folder']; {}; cli.main()"
    )

    def heard(before: str) -> str:
        words = [sys.executable, "-c", program.format(before)]
        return subprocess.run(words, capture_output=True, text=True, check=False).stderr

    assert heard("pass") == "unetpipe: /no/folder: expected a folder of results with manifests, came none\n"
    as_it_was = "cli.is_heard = lambda record: True"
    assert "Task was destroyed" in heard(as_it_was), "or the test shows nothing"


def test_version() -> None:
    assert unetpipe("--version").stdout.strip() == __version__


def test_a_stage_runs_alone_with_its_own_fingerprint_and_log(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a b (1).tif", arange(64, dtype=uint8).reshape(8, 8))
    output, log = tmp_path / "images" / "a.json", tmp_path / "logs" / "a.log"
    found = unetpipe("ingest", str(tmp_path / "a b (1).tif"), "--output", str(output), "--log", str(log))
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    assert read_manifest(output).code == fingerprint("unetpipe.steps.ingest")
    assert log.exists()
    again = unetpipe("ingest", str(tmp_path / "a b (1).tif"), "--output", str(output))
    assert "already done with exactly these inputs" in again.stderr


@pytest.mark.parametrize("copies", [2, 0])
def test_what_runs_is_counted_by_hand_as_in_the_workflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copies: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.tsv").write_text("sample\timage\tannotation\tsplit\na\ta.tif\ta.tif\ttrain\n")
    models = {"d": {"network": {"family": "dilated_unet", "depth": 1, "form": "valid"}}, "u": {"network": {"depth": 1}}}
    sections = {"augment": {"copies": copies, "input_px": 60}, "ensembles": {"e": ["d", "u"]}}
    config = read_config({"samples": "s.tsv", "models": models} | sections)
    for name, stage, facts in [
        ("patches", "augment", {"count": copies}),
        *((name, "train", {"network": dataclasses.asdict(model.network)}) for name, model in config.models.items()),
    ]:
        content = {"schema": 2, "version": "", "stage": stage, "spec": {}, "code": "", "inputs": {}, "content": ""}
        Path(f"{name}.json").write_text(json.dumps(content | {"facts": facts, "objects": {}, "digests": {}}))
    for name, model in config.models.items():
        assert chosen(model.spec, [Path("patches.json")]) == config.training_modules(name)
    both = [Path(f"{name}.json") for name in config.members("e")]
    assert chosen(config.sections["predict"], both) == config.network_modules("e")
    assert len(both) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("weigh", "absent.json", "--output", "x.json"), "absent.json: no such manifest"),
        (
            ("weigh", "absent.json", "--output", "x.json", "--spec", '{"sigma_px": 0}'),
            "sigma_px: expected a value above 0",
        ),
        (("weigh", "absent.json", "--output", "x.json", "--spec", "{"), "weigh --spec"),
        (("ingest", "absent.tif", "--output", "x.json"), "absent.tif"),
        (("import", "absent.pth", "--output", "x.json"), "absent.pth: no such file"),
        (("train", "absent.json", "--output", "x.json"), "absent.json: no such manifest"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    found = unetpipe(*words)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert found.stderr.startswith("unetpipe: ")
    assert said in found.stderr
    assert len(found.stderr) <= 300
    assert list(tmp_path.iterdir()) == []

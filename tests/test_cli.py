"""The command line as people meet it."""

import subprocess
import sys
from pathlib import Path

import pytest
import tifffile
from numpy import arange, uint8

from unetpipe import __version__
from unetpipe.config import STAGE_SPECS
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
    assert "--spec" in found.stdout


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

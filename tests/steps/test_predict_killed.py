"""Predictions that are killed at random moments end with the bytes of one that was not."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from unetpipe.specs import IngestSpec
from unetpipe.steps.ingest import ingest

from .conftest import Chain

SPEC = json.dumps({"core_px": 96})


def start(image: Path, model: Path, output: Path) -> subprocess.Popen[bytes]:
    words = ["predict", image, model, "--output", output, "--spec", SPEC, "--code", "p@1", "--threads", "1"]
    log = ["--log", output.with_suffix(".log")]
    return subprocess.Popen([sys.executable, "-m", "unetpipe", *map(str, words + log)], stderr=subprocess.DEVNULL)


def units(output: Path) -> int:
    """Finished cores that the ledger knows."""
    ledger = output.with_suffix(".ledger")
    return ledger.read_bytes().count(b'"unit"') if ledger.exists() else 0


def store(output: Path) -> dict[str, bytes]:
    """All files of a result."""
    folder = output.with_suffix(".zarr")
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_killed_at_random_moments_the_result_is_the_same(chain: Chain, tmp_path: Path, kills: int) -> None:
    tifffile.imwrite(tmp_path / "s.tif", np.random.default_rng(1).integers(0, 255, (1000, 1300), np.uint8))
    image = tmp_path / "images" / "s.json"
    ingest(tmp_path / "s.tif", output=image, spec=IngestSpec(), code="i@1")
    whole = tmp_path / "probabilities" / "whole" / "s.json"
    begun = time.monotonic()
    assert start(image, chain["models/m"], whole).wait() == 0
    seconds = time.monotonic() - begun
    draw, killed, rounds = random.Random(kills), 0, 0
    while killed < kills:
        output = tmp_path / str(rounds) / "probabilities" / "whole" / "s.json"
        while not output.exists():
            before = units(output)
            process = start(image, chain["models/m"], output)
            try:
                process.wait(seconds * draw.uniform(0.3, 1.1))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                killed += 1
            process.wait()
            assert units(output) >= before, "what was finished stays so"
        assert output.read_bytes() == whole.read_bytes()
        assert store(output) == store(whole)
        rounds += 1

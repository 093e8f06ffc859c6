"""Killed without warning at any moment, the same command goes on, and ends with the same bytes."""

import os
import random
from pathlib import Path
from typing import Any

import pytest


def test_three_kills_and_the_same_bytes(small: Any, undisturbed: Any, tmp_path: Path) -> None:
    tree = small.copy(tmp_path / "project")
    rng = random.Random(7)
    # At most 10 manifests come before the model's, two of them the doctor's; four come behind it.
    early, late = rng.randint(0, 7), rng.randint(11, 14)
    delays = [rng.uniform(0, 0.5) for _ in range(2)]
    moments = f"behind {early} manifests and {delays[0]:.3f} s, a checkpoint, {late} manifests and {delays[1]:.3f} s"
    assert tree.kill_when(lambda: len(tree.manifests()) >= early, delay_s=delays[0]), moments
    assert tree.kill_when(lambda: any((tree.results / "models/m/checkpoints").glob("step-*.json"))), moments
    assert "models/m" not in tree.manifests()
    tree.kill_when(lambda: len(tree.manifests()) >= late, delay_s=delays[1])
    assert "going on behind step" in (tree.results / "logs/train/m.log").read_text()
    tree.run()
    assert tree.manifests() == undisturbed, moments


@pytest.mark.slow
@pytest.mark.parametrize("number", range(12))
def test_a_kill_at_any_time(blank: Any, finished: Any, tmp_path: Path, number: int) -> None:
    tree = blank.copy(tmp_path / "project")
    delay_s = random.Random(number).uniform(0, 60 / (os.cpu_count() or 1))
    tree.kill_when(lambda: True, delay_s=delay_s)
    tree.run()
    assert tree.manifests() == finished.manifests(), f"killed behind {delay_s:.3f} s"

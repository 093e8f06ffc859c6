"""Processes that work together end together, and say why."""

import importlib
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from unetpipe.errors import ConfigError, Interrupted, UnetpipeError
from unetpipe.processes import together
from unetpipe.signals import asked

CPU = torch.device("cpu")


@pytest.fixture
def ranked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of what the processes do, found by its name in all of them."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("ranked")


def test_one_device_needs_no_process() -> None:
    said: list[object] = []
    together(lambda device, word: said.extend((device, word, os.getpid())), [CPU], "word")
    assert said == [CPU, "word", os.getpid()]


@pytest.mark.parametrize(
    ("what", "error", "said"),
    [
        ("raise_in_second", ConfigError, "^the second one is not well$"),
        ("kill_second", UnetpipeError, "one of the 2 processes was killed by signal 9, .* the same command goes on$"),
    ],
)
def test_one_that_fails_ends_all_in_one_line(what: str, error: type[Exception], said: str, ranked: Any) -> None:
    with pytest.raises(error, match=said):
        together(getattr(ranked, what), [CPU, CPU])


def test_a_stop_is_heard_while_the_processes_begin(ranked: Any) -> None:
    asked.set()
    try:
        with pytest.raises(Interrupted):
            together(ranked.wait_for_ever, [CPU, CPU], Path("unused"))
    finally:
        asked.clear()


def test_a_killed_parent_takes_all_with_it(tmp_path: Path) -> None:
    program = (
        f"import sys, torch, pathlib; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import ranked\n"
        "from unetpipe.processes import together\n"
        "if __name__ == '__main__':\n"
        f"    together(ranked.wait_for_ever, [torch.device('cpu')] * 2, pathlib.Path({str(tmp_path / 'pids')!r}))\n"
    )
    (tmp_path / "pids").mkdir()
    (tmp_path / "run.py").write_text(program, encoding="utf-8")
    with subprocess.Popen([sys.executable, str(tmp_path / "run.py")], stderr=subprocess.DEVNULL) as process:
        while len(pids := [int(p.name) for p in (tmp_path / "pids").iterdir()]) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    for _ in range(200):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return
        time.sleep(0.05)
    pytest.fail("a process lives on by itself")


def test_the_first_one_is_heard(ranked: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="unetpipe"):
        together(ranked.speak, [CPU, CPU])
    assert sorted(caplog.messages) == ["0 of 2 informs", "0 of 2 warns", "1 of 2 has an error"]

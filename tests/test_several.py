"""One stage for several samples: lists become commands, each has a process of its own, and none outlives the first."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from unetpipe.errors import ConfigError
from unetpipe.several import commands

# Each call writes its process into a file, and does what its letter says.
PROGRAM = """
import os, signal, sys, time
from unetpipe.errors import Interrupted
from unetpipe.signals import listen, stop_if_asked
from unetpipe.several import each

def work(i, what):
    open(f"{sys.argv[1]}/{i}", "w").write(str(os.getpid()))
    if what == "c":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "e":
        listen()
        time.sleep(2)
    if what == "w":
        listen()
        for _ in range(600):
            time.sleep(0.05)
            try:
                stop_if_asked()
            except Interrupted:
                sys.exit(75)
    sys.exit({"f": 2}.get(what, 0))

sys.exit(each([(what, lambda i=i, what=what: work(i, what)) for i, what in enumerate(sys.argv[2])]))
"""


def start(folder: Path, what: str) -> subprocess.Popen[str]:
    """A process that makes the calls of some letters."""
    command = [sys.executable, "-c", PROGRAM, str(folder), what]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def pid(folder: Path, i: int) -> int:
    """The process of call number `i`, once it has begun."""
    path = folder / str(i)
    wait(lambda: path.is_file() and path.read_text() != "")
    return int(path.read_text())


def wait(reached: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_gone(number: int) -> bool:
    """Whether a process has ended."""
    path = Path(f"/proc/{number}/stat")
    try:
        return path.read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_every_list_is_dealt_out_in_its_order() -> None:
    words = ["a b", "c", "1", "2", "--output", "x", "y", "--spec", '{"k":1}', "--log", "p", "q"]
    assert commands("annotate", words) == [
        ["annotate", "a b", "1", "--output", "x", "--spec", '{"k":1}', "--log", "p"],
        ["annotate", "c", "2", "--output", "y", "--spec", '{"k":1}', "--log", "q"],
    ]


@pytest.mark.parametrize("words", ["a b", "a --log p q", "a b --output x y z --log p q", "a b --output --log p q"])
def test_lists_that_do_not_fit_are_refused(words: str) -> None:
    with pytest.raises(ConfigError, match="expected one value per sample"):
        commands("weigh", words.split())


def test_each_call_has_a_process_and_a_failure_stops_none_of_the_others(tmp_path: Path) -> None:
    running = start(tmp_path, "gfgcg")
    _, said = running.communicate(timeout=120)
    assert running.returncode == 2
    assert len({pid(tmp_path, i) for i in range(5)} | {running.pid}) == 6
    assert said.strip() == "c: ended by signal 11, often for want of memory; give the same command again"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_request_to_stop_is_passed_on_and_nothing_begins_behind_it(tmp_path: Path, number: signal.Signals) -> None:
    with start(tmp_path, "gwg") as running:
        pid(tmp_path, 1)
        # Python is told where it listens.
        time.sleep(0.3)
        running.send_signal(number)
        assert running.wait(60) == 75
    assert not (tmp_path / "2").exists()


def test_a_call_that_ends_in_spite_of_a_request_is_the_last(tmp_path: Path) -> None:
    with start(tmp_path, "eg") as running:
        pid(tmp_path, 0)
        time.sleep(0.3)
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 75 and said.startswith("stopped on request; finished work is saved")
    assert not (tmp_path / "1").exists()


def test_who_is_killed_takes_the_call_at_work_along(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("elsewhere locks keep a successor away")
    with start(tmp_path, "w") as running:
        worker = pid(tmp_path, 0)
        running.kill()
        running.wait(60)
        wait(lambda: is_gone(worker))


def test_mistakes_of_the_command_line_are_told_before_anything_begins(tmp_path: Path) -> None:
    words = ["several", "weigh", "a.json", "b.json", "--output", "x", "y", "--nothing", "1", "--log", "p", "q"]
    command = [sys.executable, "-m", "unetpipe", *words]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert ended.returncode == 2 and "--nothing" in ended.stderr
    assert not list(tmp_path.iterdir())

"""One line in a terminal, a line a minute in a log, event files where tensorboard is."""

import io
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unetpipe.progress import EventFiles, Progress, TileProgress

HISTORY = [{"step": 5, "loss": 0.5, "iou": 0.25}, {"step": 10, "loss": 0.25, "iou": 0.5}]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, seconds: float) -> None:
    """40 steps of one second, 1 Mpx and falling loss each, on a clock of our own."""
    now = [0.0]
    progress = Progress(40, stream, clock=lambda: now[0])
    for step in range(1, 41):
        now[0] += seconds
        progress.show(step, 1 / step, 1_000_000 * step)
    progress.clear()


def test_a_terminal_gets_one_line_that_renews_itself(caplog: pytest.LogCaptureFixture) -> None:
    stream = Terminal()
    with caplog.at_level(logging.INFO):
        shown(stream, 1.0)
    assert "\n" not in stream.getvalue()
    lines = [line for line in stream.getvalue().split("\r") if line]
    assert lines[18].startswith("[############            ] 20/40, loss 0.05, 1 Mpx/s, 0:00:20 left")
    assert lines[-1] == "\x1b[K"
    assert not caplog.records


def test_a_terminal_is_not_flooded() -> None:
    stream = Terminal()
    shown(stream, 0.01)
    assert len(stream.getvalue().split("\r")) < 10


def test_elsewhere_the_log_gets_a_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    with caplog.at_level(logging.INFO):
        shown(stream, 6.0)
    assert stream.getvalue() == ""
    assert len(caplog.records) == 4
    assert "10/40" in caplog.messages[0] and "0:03:00 left" in caplog.messages[0]


def cores_shown(stream: io.StringIO, seconds: float, busy: float) -> None:
    """20 cores of 2 Mpx, half of which need not be computed, on a clock of our own."""
    now = [0.0]
    progress = TileProgress(20, stream, done=6, clock=lambda: now[0])
    for core in range(14):
        now[0] += seconds
        if core < 4:
            progress.skip()
        else:
            progress.show(2_000_000, busy * seconds)
    progress.clear()


def test_cores_done_before_count_as_done_but_not_as_fast(caplog: pytest.LogCaptureFixture) -> None:
    stream = Terminal()
    with caplog.at_level(logging.INFO):
        cores_shown(stream, 1.0, 0.5)
    lines = [line.removesuffix("\x1b[K") for line in stream.getvalue().split("\r") if line not in ("", "\x1b[K")]
    assert lines[0] == "[#############           ] 11/20, 0.4 Mpx/s, 0:00:45 left, busy 10 %"
    assert lines[-1] == "[########################] 20/20, 1.43 Mpx/s, 0:00:00 left, busy 36 %"
    assert len(lines) == 10 and caplog.messages == lines[-1:]


def test_the_log_gets_a_line_a_minute_and_a_last_one(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    with caplog.at_level(logging.INFO):
        cores_shown(stream, 25.0, 0.0)
    assert stream.getvalue() == ""
    assert [message.split(",")[0][-5:] for message in caplog.messages] == ["11/20", "14/20", "17/20", "20/20"]
    assert not [message for message in caplog.messages if "busy" in message]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a writer of event files is told."""
    written: list[Any] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            written.append(("purge", purge_step))

        def add_scalar(self, *scalar: Any) -> None:
            written.append(scalar)

        def flush(self) -> None: ...

        def close(self) -> None:
            written.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    return written


def test_event_files_hold_each_row_once(tmp_path: Path, written: list[Any]) -> None:
    events = EventFiles(tmp_path / "events")
    for rows in (HISTORY[:1], HISTORY[:1], HISTORY):
        events.follow(rows)
    events.close()
    rows = [("loss", 0.5, 5), ("iou", 0.25, 5), ("loss", 0.25, 10), ("iou", 0.5, 10)]
    assert written == [("purge", 0), *rows, "closed"]


def test_rows_behind_the_fall_of_a_training_are_taken_back(tmp_path: Path, written: list[Any]) -> None:
    events = EventFiles(tmp_path / "events")
    for rows in (HISTORY, HISTORY[:1], [*HISTORY[:1], {"step": 10, "loss": 0.125}]):
        events.follow(rows)
    before = [("loss", 0.5, 5), ("iou", 0.25, 5)]
    lost = [("loss", 0.25, 10), ("iou", 0.5, 10)]
    assert written == [("purge", 0), *before, *lost, "closed", ("purge", 0), *before, ("loss", 0.125, 10)]


def test_nothing_is_written_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    events = EventFiles(tmp_path / "events")
    events.follow(HISTORY)
    events.close()
    assert not list(tmp_path.iterdir())


def test_tensorboard_reads_the_event_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventFiles(tmp_path / "events")
    for rows in (HISTORY, HISTORY[:1], [*HISTORY[:1], {"step": 10, "loss": 0.5, "iou": 0.125}]):
        events.follow(rows)
    events.close()
    found = EventAccumulator(str(tmp_path / "events")).Reload().Scalars("iou")
    assert [(row.step, row.value) for row in found] == [(5, 0.25), (10, 0.125)]

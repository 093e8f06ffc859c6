"""What is kept of cores is read, not computed, unless it is damaged."""

import io
import logging
from pathlib import Path

import numpy as np
import pytest

from unetpipe.errors import Interrupted
from unetpipe.geometry import Box
from unetpipe.progress import TileProgress
from unetpipe.signals import asked
from unetpipe.unfinished import Unfinished

CORES = [Box(start=(0, x), stop=(3, x + 2)) for x in (0, 2, 4)]


def unfinished(folder: Path) -> Unfinished:
    return Unfinished(folder / "unfinished", TileProgress(3, io.StringIO()), turns=1)


def found(folder: Path, made: list[Box]) -> list[float]:
    """Sums of all cores; those that were made are noted."""

    def make(core: Box) -> dict[str, np.ndarray]:
        made.append(core)
        return {"place": np.array(core.start), "none": np.zeros((0, 4), np.float32)}

    arrays = list(unfinished(folder).each("places", CORES, make))
    assert all(one["none"].shape == (0, 4) and one["none"].dtype == np.float32 for one in arrays)
    return [one["place"].sum().item() for one in arrays]


def test_each_core_is_computed_once(tmp_path: Path) -> None:
    made: list[Box] = []
    assert found(tmp_path, made) == found(tmp_path, made) == [0, 2, 4]
    assert made == CORES
    unfinished(tmp_path).remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damaged_ones_are_computed_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    made: list[Box] = []
    found(tmp_path, made)
    path = tmp_path / "unfinished" / "places" / "0-2"
    content = path.read_bytes()
    for at in range(0, len(content), 41):
        changed = content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :]
        path.write_bytes({"flip": changed, "cut": content[:at], "empty": b""}[damage])
        assert found(tmp_path, made) == [0, 2, 4]
        assert made.pop() == CORES[1] and made == CORES
        assert "0-2: damaged; computing it again" in caplog.messages[-1]
        assert path.read_bytes() == content


def test_a_stop_comes_between_two_cores(tmp_path: Path) -> None:
    made: list[Box] = []
    asked.set()
    try:
        with pytest.raises(Interrupted):
            found(tmp_path, made)
    finally:
        asked.clear()
    assert found(tmp_path, made) == [0, 2, 4] and made == CORES


def test_all_turns_over_all_cores_make_up_the_progress(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for core in CORES[:2]:
        list(unfinished(tmp_path).each("one", [core], lambda core: {"place": np.array(core.start)}))
    times = iter([0.0, 2.0, 4.0, 6.0, 8.0])
    work = unfinished(tmp_path)
    work.progress, work.turns = TileProgress(6, io.StringIO(), clock=lambda: next(times)), 2
    with caplog.at_level(logging.INFO):
        for name in ("one", "other"):
            list(work.each(name, CORES, lambda core: {"place": np.array(core.start)}))
    assert caplog.messages == ["[########################] 6/6, 1.5e-06 Mpx/s, 0:00:00 left"]

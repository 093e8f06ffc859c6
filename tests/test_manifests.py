"""Ledgers go on after any kill, and equal work gives equal bytes."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from unetpipe.errors import Interrupted, StoreError
from unetpipe.ledgers import open_ledger
from unetpipe.manifests import FOLDERS, read_manifest, store_path, write_file
from unetpipe.signals import asked, listen
from unetpipe.slides import create_plane, open_plane
from unetpipe.specs import WeighSpec

DEFAULT = WeighSpec()
UNITS = ["0/0/0", "0/0/1", "0/1/0", "0/1/1", "1/0/0"]


def work(
    output: Path, *, spec: WeighSpec = DEFAULT, code: str = "weigh@1", stop_behind: int | None = None
) -> list[str]:
    """A small stage that writes one file per unit; returns the units that it had to do."""
    done = []
    with open_ledger(output, stage="weigh", spec=spec, code=code) as ledger:
        if ledger.complete:
            return []
        for number, unit in enumerate(UNITS):
            if unit in ledger:
                continue
            if number == stop_behind:
                raise RuntimeError("killed")
            file = ledger.store / unit
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(unit * 3)
            ledger.append(unit, f"digest of {unit}")
            done.append(unit)
        ledger.publish({"shape": [3, 4]})
    return done


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "results" / "weights" / "cell.01.json"


@pytest.mark.parametrize("behind", range(len(UNITS)))
def test_goes_on_behind_the_last_unit_with_the_same_bytes(output: Path, tmp_path: Path, behind: int) -> None:
    undisturbed = tmp_path / "other" / "weights" / "cell.01.json"
    work(undisturbed)
    with pytest.raises(RuntimeError):
        work(output, stop_behind=behind)
    assert not output.exists()
    assert work(output) == UNITS[behind:]
    assert output.read_bytes() == undisturbed.read_bytes()


def test_finished_work_returns_at_once_and_writes_its_manifest_again(output: Path) -> None:
    work(output)
    before = output.read_bytes()
    output.unlink()
    assert work(output) == []
    assert output.read_bytes() == before


def test_a_torn_last_line_is_forgotten(output: Path) -> None:
    with pytest.raises(RuntimeError):
        work(output, stop_behind=3)
    ledger = output.with_name("cell.01.ledger")
    ledger.write_bytes(ledger.read_bytes()[:-5])
    assert work(output) == UNITS[2:]


@pytest.mark.parametrize("change", [{"spec": WeighSpec(w0=1.0)}, {"code": "weigh@2"}])
def test_other_work_starts_afresh(output: Path, change: dict[str, object]) -> None:
    work(output)
    debris = store_path(output, "weigh") / "left behind"
    debris.write_text("x")
    assert work(output, **change) == UNITS  # type: ignore[arg-type]
    assert not debris.exists()


@pytest.mark.parametrize("harm", ["delete", "truncate", "empty"])
def test_a_damaged_store_is_noticed_before_use_and_made_anew(output: Path, harm: str) -> None:
    work(output)
    victim = store_path(output, "weigh") / "0/1/0"
    if harm == "delete":
        victim.unlink()
    else:
        victim.write_text("" if harm == "empty" else "0/1/00/1/")
    with pytest.raises(StoreError, match="0/1/0"):
        read_manifest(output, stage="weigh")
    assert work(output) == UNITS
    read_manifest(output, stage="weigh")


def write_shards(output: Path, stage: str, *, stop_behind: int = 4) -> list[str]:
    """A stage that fills an array of four shards; returns those that it had to write."""
    done = []
    with open_ledger(output, stage=stage, spec=DEFAULT, code="1") as ledger:
        plane = create_plane(ledger.store / "0", shape=(2, 30, 30), dtype=np.uint8, shard_side=16)
        for unit, box in plane.iter_shards():
            if unit not in ledger:
                if len(done) == stop_behind:
                    raise RuntimeError("killed")
                ledger.append(unit, plane.write_shard(box, np.ones((2, *box.shape), np.uint8)))
                done.append(unit)
        ledger.publish({})
    return done


@pytest.mark.parametrize("harm", ["delete", "cut off", "empty"])
@pytest.mark.parametrize("stage", ["predict", "ingest"])
def test_a_shard_that_an_unfinished_store_has_lost_is_made_again(tmp_path: Path, stage: str, harm: str) -> None:
    undisturbed, output = (tmp_path / name / FOLDERS[stage][0] / "m" / "a.json" for name in ("one", "two"))
    units = write_shards(undisturbed, stage)
    with pytest.raises(RuntimeError):
        write_shards(output, stage, stop_behind=3)
    shard = store_path(output, stage) / "0" / "c" / "0" / "0" / "1"
    if harm == "delete":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-1] if harm == "cut off" else b"")
    assert write_shards(output, stage) == ([units[1], units[3]] if stage == "predict" else units)
    assert output.read_bytes() == undisturbed.read_bytes()
    assert open_plane(read_manifest(output).store / "0").read_whole().all()


def test_manifests_do_not_depend_on_place_or_time(tmp_path: Path) -> None:
    paths = [tmp_path / name / "weights" / "a.json" for name in ("one", "two")]
    for path in paths:
        work(path)
        time.sleep(0.01)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert str(tmp_path) not in paths[0].read_text()


def test_content_does_not_know_the_code_that_made_it(output: Path, tmp_path: Path) -> None:
    other = tmp_path / "weights" / "b.json"
    work(output)
    work(other, code="weigh@2")
    assert read_manifest(output).content == read_manifest(other).content


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "not a manifest"), ("{}", "not a manifest"), ('{"schema": 1}', "not a manifest"), ("[1]", "not a manifest")],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=said):
        read_manifest(path)
    with pytest.raises(StoreError, match="no such manifest"):
        read_manifest(tmp_path / "absent.json")


def test_manifest_of_another_stage_or_schema_is_refused(output: Path) -> None:
    work(output)
    with pytest.raises(StoreError, match="stage train"):
        read_manifest(output, stage="train")
    output.write_text(json.dumps(json.loads(output.read_text()) | {"schema": 99}))
    with pytest.raises(StoreError, match="schema"):
        read_manifest(output)


SECOND = """
import sys
from pathlib import Path
from unetpipe.ledgers import open_ledger
from unetpipe.specs import WeighSpec
with open_ledger(Path(sys.argv[1]), stage="weigh", spec=WeighSpec(), code="weigh@1") as ledger:
    sys.exit(0 if ledger.complete else 1)
"""


def test_a_second_process_waits_and_then_returns_early(output: Path) -> None:
    with open_ledger(output, stage="weigh", spec=WeighSpec(), code="weigh@1") as ledger:
        command = [sys.executable, "-c", SECOND, str(output)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as second:
            assert second.stderr is not None
            said = second.stderr.readline()
            assert second.poll() is None
            ledger.append("0/0/0", "d")
            ledger.publish({})
            ledger.file.close()
            assert second.wait(30) == 0
    assert f"another process works on this result (process {os.getpid()} on {platform.node()}, since " in said
    assert sorted(path.name for path in output.parent.iterdir()) == ["cell.01.json", "cell.01.ledger", "cell.01.zarr"]


def test_a_request_to_stop_is_heard_behind_a_unit(output: Path) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        listen()
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Interrupted):
            work(output)
    finally:
        asked.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert work(output) == UNITS[1:]


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_file(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_file_gets_its_name_only_if_its_check_agrees(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def check(partial: Path) -> None:
        assert partial != path
        if partial.read_bytes() != b"good":
            raise StoreError("bad")

    with pytest.raises(StoreError, match="bad"):
        write_file(path, b"evil", check=check)
    assert list(tmp_path.iterdir()) == []
    write_file(path, b"good", check=check)
    with pytest.raises(StoreError, match="bad"):
        write_file(path, b"evil", check=check)
    assert [(p, p.read_bytes()) for p in tmp_path.iterdir()] == [(path, b"good")]

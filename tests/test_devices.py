"""Devices are chosen, not hoped for."""

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from unetpipe import devices
from unetpipe.devices import (
    check_gpus,
    choose_device,
    host_facts,
    lease_devices,
    set_tensorfloat32,
    total_bytes,
    upload_stream,
    usable_threads,
    used_bytes,
)
from unetpipe.errors import ConfigError, StoreError
from unetpipe.leases import HELD, take_lease

CPU = torch.device("cpu")


@pytest.mark.parametrize(("gpus", "there"), [(2, 0), (2, 1), (8, 4)])
def test_more_gpus_than_there_are_is_an_error_with_both_numbers(
    gpus: int, there: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(ConfigError, match=f"expected {gpus} GPUs on this machine, found {there}"):
        check_gpus(gpus)
    with pytest.raises(ConfigError, match=f"expected {gpus} GPUs on this machine, found {there}"):
        lease_devices(gpus)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A machine with two GPUs of which nobody has leased one; the folder of leases."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=f"gpu{number}"))
    held = len(HELD)
    lease_devices.cache_clear()
    yield tmp_path / f"unetpipe-{os.getuid()}"
    lease_devices.cache_clear()
    while len(HELD) > held:
        os.close(HELD.pop())


def test_one_or_none_is_no_demand(two_gpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (list(lease_devices(0)), list(lease_devices(2))) == ([CPU], [torch.device("cuda", n) for n in range(2)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    lease_devices.cache_clear()
    assert list(lease_devices(0)) == list(lease_devices(1)) == [CPU] == [choose_device()]


@pytest.mark.parametrize(
    ("variables", "file", "refused"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0"}, "nvidia0", True),
        ({"SLURM_JOB_GPUS": "3"}, "nvidia3", True),
        ({"CUDA_VISIBLE_DEVICES": "", "SLURM_JOB_GPUS": "3"}, "nvidia3", False),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, "nvidia0", False),
        ({"CUDA_VISIBLE_DEVICES": "0"}, "nvidiactl", False),
        ({}, "nvidia0", False),
    ],
)
def test_a_gpu_that_the_job_was_given_and_that_does_not_work_is_refused(
    variables: dict[str, str], file: str, refused: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "DEVICE_FILES", tmp_path)
    (tmp_path / file).touch()
    lease_devices.cache_clear()
    try:
        if refused:
            with pytest.raises(ConfigError, match=r"^GPU [03]: given to this job .* finds none; look at") as caught:
                lease_devices(1)
            assert len(str(caught.value)) <= 300
        else:
            assert list(lease_devices(1)) == [CPU]
        assert list(lease_devices(0)) == [CPU]
    finally:
        lease_devices.cache_clear()


def test_jobs_lease_different_gpus_until_they_end(two_gpus: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another process has the first GPU, which is free again when it is killed."""
    code = (
        "import pathlib, sys; from unetpipe.leases import take_lease\n"
        "take_lease(pathlib.Path(sys.argv[1]), what='GPU'); print('held', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(two_gpus / "gpu0.lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        assert lease_devices(1) is lease_devices(1) and list(lease_devices(1)) == [torch.device("cuda", 1)]
        lease_devices.cache_clear()
        assert list(lease_devices(1)) == [torch.device("cuda", 0)] and "sharing them" in caplog.text
        other.kill()
    lease_devices.cache_clear()
    assert list(lease_devices(1)) == [torch.device("cuda", 0)]


def test_what_is_leased_is_refused_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    code = (
        "import pathlib, sys; from unetpipe.leases import take_lease\ntake_lease(pathlib.Path(sys.argv[1]), what='it')"
    )
    held = len(HELD)
    take_lease(path, what="it")
    ended = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert f"it: in use by another run (process {os.getpid()} on " in ended.stderr
    os.close(HELD.pop())
    assert len(HELD) == held
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == 0


def test_a_holder_that_has_not_told_its_name_yet_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a lock and the line of who holds it, a moment passes."""
    path = tmp_path / "lease"
    path.touch()
    with path.open("a") as holding:
        fcntl.flock(holding, fcntl.LOCK_EX)
        monkeypatch.setattr(time, "sleep", lambda _: path.write_text("process 7 on n1\n"))
        with pytest.raises(StoreError, match=r"in use by another run \(process 7 on n1\)"):
            take_lease(path, what="it")
        path.write_text("")
        monkeypatch.setattr(time, "sleep", lambda _: None)
        with pytest.raises(StoreError, match=r"in use by another run \(it has not told its name\)"):
            take_lease(path, what="it")


def test_tensorfloat32_is_said_for_products_and_convolutions() -> None:
    for wanted in (True, False):
        set_tensorfloat32(wanted)
        assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is wanted


def test_processors_are_counted_on_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS tells how many there are only; Python from 3.13 on knows better."""
    for name in ("process_cpu_count", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert (usable_threads(8), host_facts()["processors"]) == (5, 5)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert usable_threads(8) == 3
    monkeypatch.setattr(os, "process_cpu_count", lambda: 2, raising=False)
    assert usable_threads(8) == 2


def test_all_windows_go_to_a_gpu_by_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory belongs to the stream that it was allocated on: of many streams, each would keep a window's."""
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace(device=device))
    upload_stream.cache_clear()
    first, other = torch.device("cuda", 0), torch.device("cuda", 1)
    assert upload_stream(first) is upload_stream(torch.device("cuda", 0)) is not upload_stream(other)
    upload_stream.cache_clear()


def test_threads_and_memory_are_those_of_the_machine() -> None:
    assert usable_threads(0) == usable_threads(1) == 1
    assert usable_threads(10**6) < 10**6
    assert used_bytes(CPU) < total_bytes(CPU)


def test_memory_grows_with_what_is_held() -> None:
    """In a process of its own, which is not charged with what its parent has held."""
    code = (
        "import torch; from unetpipe.devices import used_bytes; cpu = torch.device('cpu')\n"
        "before = used_bytes(cpu); held = torch.ones(5 * 10**7); print(used_bytes(cpu) - before)"
    )
    grown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 10**8 < int(grown) < 3 * 10**8

"""Devices are chosen, not hoped for."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from unetpipe.devices import (
    LEASES,
    choose_device,
    choose_devices,
    lease_device,
    set_tensorfloat32,
    total_bytes,
    usable_threads,
    used_bytes,
)
from unetpipe.errors import ConfigError

CPU = torch.device("cpu")


@pytest.mark.parametrize(("gpus", "there"), [(2, 0), (2, 1), (8, 4)])
def test_more_gpus_than_there_are_is_an_error_with_both_numbers(
    gpus: int, there: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(ConfigError, match=f"expected {gpus} GPUs on this machine, found {there}"):
        choose_devices(gpus)


def test_one_or_none_is_no_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert list(choose_devices(0)) == list(choose_devices(1)) == [CPU] == [choose_device()]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert (list(choose_devices(0)), list(choose_devices(1))) == ([CPU], [torch.device("cuda")])
    assert list(choose_devices(3)) == [torch.device("cuda", n) for n in range(3)]


def test_jobs_lease_different_gpus_until_they_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two GPUs: another process has the first, which is free again when it is killed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=f"gpu{number}"))
    folder = tmp_path / f"unetpipe-{os.getuid()}"
    folder.mkdir()
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(folder / "gpu0.lock")]
    try:
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            lease_device.cache_clear()
            assert lease_device() == lease_device() == torch.device("cuda", 1)
            lease_device.cache_clear()
            assert lease_device() == torch.device("cuda", 0) and "sharing the first" in caplog.text
            other.kill()
        lease_device.cache_clear()
        assert lease_device() == torch.device("cuda", 0) and len(LEASES) == 2
    finally:
        lease_device.cache_clear()
        while LEASES:
            LEASES.pop().close()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert lease_device() == CPU
    lease_device.cache_clear()


def test_tensorfloat32_is_said_for_products_and_convolutions() -> None:
    for wanted in (True, False):
        set_tensorfloat32(wanted)
        assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is wanted


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

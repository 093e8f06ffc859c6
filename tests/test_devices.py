"""Devices are chosen, not hoped for."""

import subprocess
import sys

import pytest
import torch

from unetpipe.devices import choose_device, choose_devices, set_tensorfloat32, total_bytes, usable_threads, used_bytes
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

"""What computes: processors and GPUs."""

import os
import resource
from collections.abc import Sequence
from pathlib import Path

import torch

from unetpipe.errors import ConfigError

__all__ = [
    "choose_device",
    "choose_devices",
    "set_tensorfloat32",
    "total_bytes",
    "usable_threads",
    "used_bytes",
]


def usable_threads(wanted: int) -> int:
    """The wanted number of threads, at most the processors this process may use."""
    return max(1, min(wanted, len(os.sched_getaffinity(0))))


def choose_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_devices(gpus: int) -> Sequence[torch.device]:
    """The devices that share a training, one process each.

    Parameters
    ----------
    gpus : int
        How many GPUs the training may use; 0: none, 1: one if there is one.

    Returns
    -------
    sequence of torch.device
        That many GPUs, or the CPU.

    Raises
    ------
    ConfigError
        If more than one GPU is asked for and fewer are there.

    Examples
    --------
    >>> choose_devices(0)
    [device(type='cpu')]
    """
    if gpus == 0:
        return [torch.device("cpu")]
    if gpus == 1:
        return [choose_device()]
    found = torch.cuda.device_count()
    if found < gpus:
        raise ConfigError(f"train --gpus: expected {gpus} GPUs on this machine, found {found}; ask for at most {found}")
    return [torch.device("cuda", number) for number in range(gpus)]


def set_tensorfloat32(wanted: bool) -> None:
    """Let a GPU round the factors of float32 products to 10 bits, or not; PyTorch's default does in convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = wanted
    torch.backends.cudnn.allow_tf32 = wanted


def used_bytes(device: torch.device) -> int:
    """Most memory that this process has had so far: tensors on a GPU, or all of it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux's ru_maxrss begins with what the parent held before this program was started in its place; VmHWM does not.
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    # Bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def total_bytes(device: torch.device) -> int:
    """Memory of a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

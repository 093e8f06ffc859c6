"""What computes: processors and GPUs."""

import logging
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from unetpipe.errors import ConfigError, StoreError
from unetpipe.heap import machine_bytes
from unetpipe.leases import take_lease

__all__ = [
    "DTYPES",
    "check_gpus",
    "check_precision",
    "choose_device",
    "download",
    "host_facts",
    "lease_devices",
    "mark",
    "seconds_between",
    "set_tensorfloat32",
    "total_bytes",
    "upload",
    "usable_threads",
    "used_bytes",
]

log = logging.getLogger(__name__)

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
"""Half precisions, for `torch.autocast`."""

# Where a GPU shows, whether or not its driver works.
DEVICE_FILES = Path("/dev")

# Environment variables that change which instructions compute, or how many threads add up.
DECISIVE = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "CUBLAS_WORKSPACE_CONFIG",
)


def host_facts() -> dict[str, Any]:
    """What equal bits depend on beside settings and packages: system, processor, variables and GPUs, no names."""
    cuda = torch.cuda.is_available()
    return {
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "byteorder": sys.byteorder,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "processors": processors(),
        "variables": {name: os.environ[name] for name in DECISIVE if name in os.environ},
        "cuda": torch.version.cuda if cuda else None,
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
    }


def usable_threads(wanted: int) -> int:
    """The wanted number of threads, at most the processors this process may use."""
    return max(1, min(wanted, processors()))


def processors() -> int:
    """Processors that this process may use; where the system does not tell, all of the machine."""
    if hasattr(os, "process_cpu_count"):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def lease_devices(gpus: int) -> Sequence[torch.device]:
    """GPUs that no other process of this user has leased, until this process ends.

    Parameters
    ----------
    gpus : int
        How many it may use; 0: none, 1: one if there is one.

    Returns
    -------
    sequence of torch.device
        That many GPUs, or the CPU.

    Raises
    ------
    ConfigError
        If more than one GPU is asked for and fewer are there; or one, which this job was given and torch cannot use.

    Notes
    -----
    A workflow counts GPUs but names none, so its jobs agree by lock files in the folder for temporary files, named by
    the GPUs' own numbers; only those that CUDA_VISIBLE_DEVICES shows count. Where too many are leased, the first of
    them are shared, with a warning.

    Examples
    --------
    >>> lease_devices(0)
    [device(type='cpu')]
    """
    check_gpus(gpus)
    if gpus == 0 or not torch.cuda.is_available():
        if gpus:
            check_promise()
        return [torch.device("cpu")]
    folder = Path(tempfile.gettempdir()) / f"unetpipe-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    leased: list[int] = []
    there = range(torch.cuda.device_count())
    for number in there:
        if len(leased) < gpus:
            with suppress(StoreError):
                take_lease(folder / f"{torch.cuda.get_device_properties(number).uuid}.lock", what=f"GPU {number}")
                leased.append(number)
    if len(leased) < gpus:
        log.warning("GPUs are in use by other jobs; sharing them: run as many jobs at once as there are GPUs")
        leased += [number for number in there if number not in leased][: gpus - len(leased)]
    return [torch.device("cuda", number) for number in leased]


def check_promise() -> None:
    """Refuse a job that was given a GPU which torch cannot use: on processors, it would take days in place of hours."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", os.environ.get("SLURM_JOB_GPUS", ""))
    if given not in ("", "-1", "NoDevFiles") and any(DEVICE_FILES.glob("nvidia[0-9]*")):
        raise ConfigError(
            f"GPU {given}: given to this job (CUDA_VISIBLE_DEVICES, SLURM_JOB_GPUS), but torch {torch.__version__} "
            "finds none; look at nvidia-smi, and for a torch that is built for it; or ask for none: gpu: 0, and "
            "CUDA_VISIBLE_DEVICES= by hand"
        )


def check_gpus(gpus: int) -> None:
    """Make sure that several GPUs are there.

    Parameters
    ----------
    gpus : int
        How many are asked for; one is no demand.

    Raises
    ------
    ConfigError
        If fewer are there.
    """
    found = torch.cuda.device_count() if gpus > 1 else gpus
    if found < gpus:
        raise ConfigError(
            f"--gpus: expected {gpus} GPUs on this machine, found {found}; "
            + (f"ask for at most {found}" if found else "leave it out, and the CPU is used")
        )


def check_precision(precision: str, device: torch.device, *, stage: str) -> None:
    """Make sure that a device can compute in a precision.

    Parameters
    ----------
    precision : str
        "float32", "tensorfloat32", or one of `DTYPES`.
    device : torch.device
        What computes.
    stage : str
        Section of the configuration, for the message.

    Raises
    ------
    ConfigError
        If it cannot.

    Examples
    --------
    >>> check_precision("bfloat16", torch.device("cpu"), stage="predict")
    """
    if device.type != "cuda" and precision in ("tensorfloat32", "float16"):
        raise ConfigError(f"{stage}.precision: {precision} needs a GPU, there is none here; use float32 or bfloat16")
    if (
        device.type == "cuda"
        and precision == "bfloat16"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise ConfigError(f"{stage}.precision: this GPU has no bfloat16; use float16 or float32")


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
    return machine_bytes()


def upload(array: NDArray[Any], device: torch.device) -> Tensor:
    """An array on a device; on its way to a GPU while that computes something else.

    Parameters
    ----------
    array : array
        Any content.
    device : torch.device
        Where to.

    Returns
    -------
    Tensor
        On a CPU, the array's own memory.
    """
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor
    stream = upload_stream(device)
    with torch.cuda.stream(stream):
        there = tensor.pin_memory().to(device, non_blocking=True)
    stream.synchronize()
    # Its memory is not given away before the stream that computes is done with it.
    there.record_stream(torch.cuda.default_stream(device))
    return there


@cache
def upload_stream(device: torch.device) -> Any:
    """The stream of a GPU for what is on its way there: one, for what one stream frees serves no other."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def download(tensor: Tensor) -> Callable[[], NDArray[Any]]:
    """A function that waits for what is computed and gives it as an array; others can compute before it is called.

    Parameters
    ----------
    tensor : Tensor
        On any device.

    Examples
    --------
    >>> download(torch.arange(3))().tolist()
    [0, 1, 2]
    """
    if tensor.device.type != "cuda":
        return tensor.numpy
    there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    there.copy_(tensor, non_blocking=True)
    event = mark(tensor.device)

    def wait() -> NDArray[Any]:
        event.synchronize()
        return there.numpy()

    return wait


def mark(device: torch.device) -> Any:
    """The moment at which a device will have done all that it has been given so far; for `seconds_between`."""
    if device.type != "cuda":
        return time.perf_counter()
    # Threads have a device of their own that is current, the first one unless they have said otherwise.
    with torch.cuda.device(device):
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
    return event


def seconds_between(begun: Any, ended: Any) -> float:
    """Seconds from one moment of a device to another one, which is waited for.

    Examples
    --------
    >>> begun = mark(torch.device("cpu"))
    >>> seconds_between(begun, mark(torch.device("cpu"))) >= 0
    True
    """
    if isinstance(begun, float):
        return float(ended - begun)
    ended.synchronize()
    return float(begun.elapsed_time(ended)) / 1000

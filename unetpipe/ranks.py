"""One training shared out among processes of one machine; for a process by itself, all of this does nothing.

Each process has the whole state and computes its part of the patches of a step. Sums go over all of them, so that each
makes the same change of the same parameters. The first one alone validates, saves and speaks.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["add_up", "any_of", "count", "from_first", "is_first", "is_own", "joined"]

T = TypeVar("T")

# The others wait for each other while the first one validates, however long that takes.
PATIENCE = timedelta(days=30)


@contextmanager
def joined(rank: int, processes: int, meeting: Path, device: torch.device) -> Iterator[None]:
    """Work together with other processes.

    Parameters
    ----------
    rank : int
        Number of this one.
    processes : int
        How many there are.
    meeting : Path
        A file that does not exist yet, where they find each other.
    device : torch.device
        Where this one computes.
    """
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    # What the processes of one machine tell each other does not leave it.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0] if loopback else "")
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    store = dist.FileStore(str(meeting), processes)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=processes, timeout=PATIENCE)
    yield
    # Behind an error, others may wait in a sum for ever: whoever started the processes ends them.
    dist.destroy_process_group()


def count() -> int:
    """Number of processes that share the training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process validates, saves and speaks."""
    return count() == 1 or dist.get_rank() == 0


def is_own(draw: int, accumulate: int) -> bool:
    """Whether a draw is for this process: of each step's draws, each process has a run of the same length.

    Parameters
    ----------
    draw : int
        Number of the patch in the order of the training.
    accumulate : int
        Patches of a step, a multiple of the number of processes.

    Returns
    -------
    bool
        Always true for a process by itself.
    """
    return count() == 1 or draw % accumulate * count() // accumulate == dist.get_rank()


def any_of(flag: bool) -> bool:
    """Whether the flag is up in any process."""
    if count() == 1:
        return flag
    flags = torch.tensor(int(flag))
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def from_first(value: T) -> T:
    """What the first process has here; a tensor stays on its device, all else is sent as it is."""
    if count() == 1:
        return value
    if isinstance(value, Tensor):
        dist.broadcast(value, src=0)
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]


def add_up(sums: Tensor, network: nn.Module, buffers: Sequence[Tensor], patches: int) -> Tensor:
    """Add up gradients and other sums over all processes, and put their batch statistics one behind the other.

    Parameters
    ----------
    sums : (n,) float32 tensor
        This process's parts.
    network : nn.Module
        With this process's gradients, and buffers as its patches have left them; both are changed in place.
    buffers : sequence of Tensor
        The buffers of the network before the step, which were the same everywhere.
    patches : int
        Patches of the step that each process had.

    Returns
    -------
    (n,) float32 tensor
        The sums over all processes.

    Notes
    -----
    Batch norm keeps r <- (1 - m) r + m b of the statistics b of each patch. Of P processes with n patches each, number
    j has made q^n r_0 + s_j of r_0, with q = 1 - m; all patches one behind the other make q^(nP) r_0 +
    sum_j q^(n (P - 1 - j)) s_j, which is what all processes get. Counters are added up, as if q = 1. So the order of
    additions is all that differs from one process.
    """
    processes = count()
    if processes == 1:
        return sums
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    kept = [q**patches for q in decays(network)]
    later = processes - 1 - dist.get_rank()
    added = [
        (now.double() - q * before) * q**later for now, before, q in zip(network.buffers(), buffers, kept, strict=True)
    ]
    pieces = [sums, *gradients, *(part.float() for part in added)]
    flat = torch.cat([piece.reshape(-1) for piece in pieces])
    dist.all_reduce(flat)
    parts = torch.split(flat, [piece.numel() for piece in pieces])
    whole = [part.view_as(piece) for part, piece in zip(parts, pieces, strict=True)]
    for gradient, part in zip(gradients, whole[1:], strict=False):
        gradient.copy_(part)
    for now, before, q, part in zip(network.buffers(), buffers, kept, whole[1 + len(gradients) :], strict=True):
        now.copy_(before.double() * q**processes + part)
    return whole[0]


def decays(network: nn.Module) -> Iterator[float]:
    """What a patch leaves of each buffer: 1 - m of running statistics, all of a counter."""
    for module in network.modules():
        for name, _ in module.named_buffers(recurse=False):
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and name.startswith("running_"):
                yield 1.0 - (module.momentum or 0.0)
            else:
                yield 1.0

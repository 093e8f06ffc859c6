"""Several processes that do one thing together, and end together."""

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from unetpipe.errors import Interrupted, UnetpipeError
from unetpipe.ranks import joined
from unetpipe.signals import listen, stop_asked

__all__ = ["together"]

log = logging.getLogger(__name__)

POLL_S = 0.2
# How long the others may go on behind an error, to say what they know of it.
GRACE_S = 2.0


def together(call: Callable[..., None], devices: Sequence[torch.device], *arguments: Any) -> None:
    """Call a function once for each device, in processes of their own that may use `ranks`; one device needs none.

    Parameters
    ----------
    call : callable
        A function of a module; takes a device and the arguments.
    devices : sequence of torch.device
        One for each process.
    *arguments : Any
        Anything that can be pickled.

    Raises
    ------
    UnetpipeError
        What one of them has raised, as MemoryError, OSError or RuntimeError too; or that one was killed.
    Interrupted
        If a stop was asked for, here or in one of them.

    Notes
    -----
    What the processes log goes through the logging of this one; but for errors, only the first one is heard. A request
    to stop is passed on to all. When one fails, or this process ends in whatever way, so do all.
    """
    if len(devices) == 1:
        call(devices[0], *arguments)
        return
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, BaseProcess] = {}
    with tempfile.TemporaryDirectory(prefix="unetpipe-") as folder:
        try:
            for rank in range(len(devices)):
                receiver, sender = context.Pipe(duplex=False)
                level = logging.getLogger("unetpipe").getEffectiveLevel() if rank == 0 else logging.ERROR
                orders = (rank, devices, Path(folder) / "meeting", level, sender, call, arguments)
                process: BaseProcess = context.Process(target=work, args=orders, daemon=True)
                process.start()
                sender.close()
                workers[receiver] = process
            supervise(workers)
        finally:
            for process in workers.values():
                process.kill()
                process.join()


def work(
    rank: int,
    devices: Sequence[torch.device],
    meeting: Path,
    level: int,
    sender: Connection,
    call: Callable[..., None],
    arguments: Sequence[Any],
) -> None:
    """The life of one process; whatever ends it before its time is sent home."""
    # Who types Ctrl-C interrupts all; the one that started the others ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listen()
    threading.Thread(target=leave_with_parent, daemon=True).start()
    logging.getLogger().addHandler(QueueHandler(SimpleNamespace(put_nowait=sender.send)))
    logging.getLogger("unetpipe").setLevel(level)
    try:
        with joined(rank, len(devices), meeting, devices[rank]):
            call(devices[rank], *arguments)
    except (UnetpipeError, Interrupted, MemoryError, OSError) as error:
        sender.send(error)
    except RuntimeError as error:
        # Where another process fails, this one fails in a sum with it; by itself, it is a fault to be traced.
        home = RuntimeError(str(error))
        home.add_note(traceback.format_exc())
        sender.send(home)
    else:
        return
    # Not through the end of the interpreter, which waits for sums that will not come.
    os._exit(1)


def leave_with_parent() -> None:
    """End this process when the one that started it is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def supervise(workers: dict[Connection, BaseProcess]) -> None:
    """Wait for all processes to end; raise what went wrong."""
    running, silent = dict(workers), set(workers)
    errors: list[BaseException] = []
    passed_on, deadline = False, float("inf")
    while running and time.monotonic() < deadline:
        for end in wait(list(running), POLL_S):
            assert isinstance(end, Connection)
            try:
                message = end.recv()
            except (EOFError, OSError):
                process = running.pop(end)
                process.join()
                if process.exitcode and end in silent:
                    errors.append(killed(process, len(workers)))
                    deadline = min(deadline, time.monotonic() + GRACE_S)
                continue
            if isinstance(message, logging.LogRecord):
                logging.getLogger(message.name).handle(message)
            else:
                silent.discard(end)
                errors.append(message)
                # Who stops on request may take its time to save.
                if not isinstance(message, Interrupted):
                    deadline = min(deadline, time.monotonic() + GRACE_S)
        if stop_asked() and not passed_on:
            passed_on = True
            for process in running.values():
                process.terminate()
    if errors:
        raise min(errors, key=gravity)


def killed(process: BaseProcess, processes: int) -> UnetpipeError | Interrupted:
    """What to say of a process that ended without a word."""
    code = process.exitcode or 0
    if stop_asked() and code in (-signal.SIGTERM, -signal.SIGUSR1):
        return Interrupted("stopped on request before the training had begun; the same command goes on")
    end = f"was killed by signal {-code}, often for want of memory" if code < 0 else f"ended with exit code {code}"
    return UnetpipeError(
        f"training: one of the {processes} processes {end}; the last checkpoint is kept, the same command goes on"
    )


def gravity(error: BaseException) -> int:
    """Causes come before what follows from them: the first of the least is what is told."""
    return 2 if isinstance(error, RuntimeError) else 1 if isinstance(error, Interrupted) else 0

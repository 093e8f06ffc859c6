"""One stage for several samples: one start of Python and its libraries, then a process for each sample."""

import ctypes
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType

from unetpipe.errors import ConfigError

__all__ = ["commands", "each"]

log = logging.getLogger(__name__)

# Of <sys/prctl.h>.
PR_SET_PDEATHSIG = 1
# Exit code of a stage that was asked to stop, or interrupted: none is begun behind it.
STOPPED = (75, 130)


def commands(stage: str, words: Sequence[str]) -> list[list[str]]:
    """The commands of several samples, from one whose arguments are lists.

    Parameters
    ----------
    stage : str
        The command.
    words : sequence of str
        Its arguments and options. Each option has one value per sample, or one for all. Values that belong to no option
        come first: one per sample, in as many lists as the stage has arguments. ``--log`` tells how many samples there
        are.

    Returns
    -------
    list of list of str
        One command per sample.

    Raises
    ------
    ConfigError
        If the lists do not fit each other.

    Examples
    --------
    >>> for one in commands("augment", "i j k l --output x y --code 1 --log p q".split()):
    ...     print(*one)
    augment i k --output x --code 1 --log p
    augment j l --output y --code 1 --log q
    """
    lists: dict[str, list[str]] = {"": []}
    name = ""
    for word in words:
        if word.startswith("--"):
            name = word
            lists[name] = []
        else:
            lists[name].append(word)
    arguments, n = lists.pop(""), len(lists.get("--log", []))
    uneven = [name for name, values in lists.items() if len(values) not in (1, n)]
    if not n or len(arguments) % n or uneven:
        raise ConfigError(
            f"several {stage}: expected one value per sample, came {n} of --log, {len(arguments)} arguments"
            + "".join(f", {len(lists[name])} of {name}" for name in uneven)
            + "; give each list as many values as --log"
        )
    found = []
    for i in range(n):
        options = [(name, values[i % len(values)]) for name, values in lists.items()]
        found.append([stage, *arguments[i::n], *(word for option in options for word in option)])
    return found


def each(calls: Sequence[tuple[str, Callable[[], None]]]) -> int:
    """Make each call in turn, in a process of its own that begins with what is imported here.

    Parameters
    ----------
    calls : sequence of (str, callable)
        What each is about, and the call.

    Returns
    -------
    int
        0, or the first other exit code. A call that fails does not keep the others from their turn; a request to stop,
        which the call at work is told, too, does: 75.

    Notes
    -----
    A process for each: memory, threads, signals and locks are those of a stage that runs alone, and a decoder that
    crashes takes one sample with it. They end with this process, be that killed.
    """
    # Pages that are not written stay shared.
    gc.freeze()
    sys.stdout.flush()
    worker, stopped, first = 0, False, 0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        if worker:
            # Ctrl-C reaches all processes of a terminal; a second one would disturb the leaving.
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGTERM if number == signal.SIGINT else number)

    noted = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = {number: signal.signal(number, stop) for number in noted}
    parent = os.getpid()
    for what, call in calls:
        if stopped:
            log.error("stopped on request; finished work is saved, the same command goes on")
            return STOPPED[0]
        # Held back until it is known who is to be told.
        signal.pthread_sigmask(signal.SIG_BLOCK, noted)
        worker = os.fork()
        if not worker:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, noted)
            end_with(parent)
            call()
            # All is written; to take down every module page by page takes longer than a stage that finds its work done.
            logging.shutdown()
            sys.stdout.flush()
            os._exit(0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, noted)
        code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
        worker = 0
        if code in STOPPED:
            return code
        if code < 0:
            log.error("%s: ended by signal %d, often for want of memory; give the same command again", what, -code)
            code = 128 - code
        first = first or code
    return first


def end_with(parent: int) -> None:
    """Let the kernel kill this process when its parent is gone; where it cannot, locks keep a successor away."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

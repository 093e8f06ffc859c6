"""Leases: what one process may use alone, until it ends in whatever way."""

import fcntl
import os
import platform
import time
from pathlib import Path
from typing import TextIO

from unetpipe.errors import StoreError, in_one_line

__all__ = ["hold_folder", "holder", "take_lease"]

# Descriptors of locked files, open until the process ends.
HELD: list[int] = []
# A holder's line is awaited for a second.
WAITS, WAIT_S = 20, 0.05


def take_lease(path: Path, *, what: str) -> None:
    """Take something for this process alone.

    Parameters
    ----------
    path : Path
        A file that stands for it; who holds the lease writes machine, process and time into it.
    what : str
        What it is, for the message.

    Raises
    ------
    StoreError
        If another process holds it.

    Notes
    -----
    The lease is a lock (`flock`) of the operating system: it ends with its process, be that killed, and nothing has to
    be unlocked.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     take_lease(Path(folder) / "lease", what="this folder")
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = named_in(file)
            raise StoreError(
                f"{what}: in use by another run ({other}); wait for it to end, or stop it, and give the same command"
                " again"
            ) from None
        file.truncate(0)
        file.write(f"{holder()}\n")
        HELD.append(os.dup(file.fileno()))


def named_in(lease: TextIO) -> str:
    """Who holds a lease: its line comes a moment behind its lock."""
    for _ in range(WAITS):
        lease.seek(0)
        if line := lease.readline().strip():
            return line
        time.sleep(WAIT_S)
    return "it has not told its name"


def holder() -> str:
    """This process, its machine and the time, for those that wait for it."""
    return f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"


def hold_folder() -> None:
    """Take the project's folder for this run alone; ends the process with one line and exit code 2 if it is taken."""
    with in_one_line():
        take_lease(Path(".snakemake/unetpipe/lease"), what=str(Path.cwd()))

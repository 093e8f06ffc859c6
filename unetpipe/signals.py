"""A polite stop: SIGTERM and SIGUSR1 let a stage finish its unit, save, and leave."""

import signal
import threading
from types import FrameType

from unetpipe.errors import Interrupted

__all__ = ["listen", "stop_asked", "stop_if_asked"]

asked = threading.Event()


def listen() -> None:
    """From now on SIGTERM and SIGUSR1 are noted instead of ending the process."""

    def note(number: int, frame: FrameType | None) -> None:
        asked.set()

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGUSR1, note)


def stop_asked() -> bool:
    """Whether the process was asked to stop."""
    return asked.is_set()


def stop_if_asked() -> None:
    """Raise `Interrupted` if a stop was asked for; called where everything so far is saved."""
    if stop_asked():
        raise Interrupted("stopped on request; finished work is saved, the same command goes on")

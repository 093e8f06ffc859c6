"""How far a long stage is: one line that renews itself in a terminal, a line a minute in a log elsewhere."""

import importlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

__all__ = ["EventFiles", "Progress"]

BAR = 24
SECONDS_ON_TERMINAL = 0.2
SECONDS_IN_LOG = 60.0

log = logging.getLogger(__name__)


class Progress:
    """The progress of a training.

    Parameters
    ----------
    steps : int
        Steps of the whole training.
    stream : text stream
        Where a terminal would be, such as ``sys.stderr``.
    clock : callable
        Seconds of a clock that never goes back.

    Examples
    --------
    >>> import io
    >>> Progress(40, io.StringIO()).line(10, 0.25, rate=5e5, left_s=100.0)
    '[######                  ] 10/40, loss 0.25, 0.5 Mpx/s, 0:01:40 left'
    """

    def __init__(self, steps: int, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.steps, self.stream, self.clock = steps, stream, clock
        self.on_terminal = stream.isatty()
        self.first: tuple[float, int, int] | None = None
        self.shown = clock()

    def show(self, step: int, loss: float, pixels: int) -> None:
        """Tell where the training is, unless that was told just now."""
        now = self.clock()
        if self.first is None:
            self.first = (now, step, pixels)
            return
        if now - self.shown < (SECONDS_ON_TERMINAL if self.on_terminal else SECONDS_IN_LOG):
            return
        self.shown = now
        begun, first_step, first_pixels = self.first
        seconds = max(now - begun, 1e-9)
        rate = (pixels - first_pixels) / seconds
        done = max(step - first_step, 1)
        text = self.line(step, loss, rate=rate, left_s=(self.steps - step) * seconds / done)
        if self.on_terminal:
            self.stream.write(f"\r{text}\x1b[K\r")
            self.stream.flush()
        else:
            log.info("%s", text)

    def line(self, step: int, loss: float, *, rate: float, left_s: float) -> str:
        """Bar, step, loss, pixels per second and time left."""
        bar = "#" * (BAR * step // self.steps)
        minutes, seconds = divmod(math.ceil(left_s), 60)
        left = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
        return f"[{bar:{BAR}}] {step}/{self.steps}, loss {loss:.4g}, {rate / 1e6:.3g} Mpx/s, {left} left"

    def clear(self) -> None:
        """Empty the line, so that others can be written."""
        if self.on_terminal:
            self.stream.write("\r\x1b[K")
            self.stream.flush()


class EventFiles:
    """The history as event files for TensorBoard; nothing where that is not installed.

    Parameters
    ----------
    folder : Path
        Where to write; outside all stores, for event files hold times and host names.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written = 0
        self.writer: Any = None
        try:
            self.make: Any = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        except ImportError:
            self.make = None

    def follow(self, history: Sequence[Mapping[str, float]]) -> None:
        """Write the rows that are new; the first call of a process takes back what others wrote."""
        if self.make is None:
            return
        if self.writer is None:
            self.writer = self.make(str(self.folder), purge_step=0)
        for row in history[self.written :]:
            for name, value in row.items():
                if name != "step":
                    self.writer.add_scalar(name, value, int(row["step"]))
        self.written = len(history)
        self.writer.flush()

    def close(self) -> None:
        """Finish the file."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None

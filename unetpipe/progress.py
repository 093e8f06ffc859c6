"""How far a long stage is: one line that renews itself in a terminal, and a line a minute in the log."""

import importlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

__all__ = ["EventFiles", "Progress", "TileProgress"]

BAR = 24
SECONDS_ON_TERMINAL = 0.2
SECONDS_IN_LOG = 60.0

log = logging.getLogger(__name__)


class Line:
    """A line that is told again and again: to a terminal, where there is one, and to the log.

    Parameters
    ----------
    stream : text stream
        Where a terminal would be, such as ``sys.stderr``.
    now : float
        Seconds of a clock that never goes back.
    """

    def __init__(self, stream: TextIO, now: float) -> None:
        self.stream = stream
        self.on_terminal = stream.isatty()
        self.shown = self.logged = now

    def tell(self, now: float, text: Callable[[], str], *, at_last: bool = False) -> None:
        """Tell it wherever that was not done just now."""
        if now - self.logged >= SECONDS_IN_LOG or at_last:
            self.logged = now
            # The log may be the terminal itself.
            self.clear()
            log.info("%s", text())
        if self.on_terminal and (now - self.shown >= SECONDS_ON_TERMINAL or at_last):
            self.shown = now
            self.stream.write(f"\r{text()}\x1b[K\r")
            self.stream.flush()

    def clear(self) -> None:
        """Empty the line, so that others can be written."""
        if self.on_terminal:
            self.stream.write("\r\x1b[K")
            self.stream.flush()


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
        self.steps, self.clock = steps, clock
        self.told = Line(stream, clock())
        self.first: tuple[float, int, int] | None = None

    def show(self, step: int, loss: float, pixels: int) -> None:
        """Tell where the training is, unless that was told just now."""
        now = self.clock()
        if self.first is None:
            self.first = (now, step, pixels)
            return
        begun, first_step, first_pixels = self.first
        seconds = max(now - begun, 1e-9)
        rate = (pixels - first_pixels) / seconds
        done = max(step - first_step, 1)
        left_s = (self.steps - step) * seconds / done
        self.told.tell(now, lambda: self.line(step, loss, rate=rate, left_s=left_s))

    def line(self, step: int, loss: float, *, rate: float, left_s: float) -> str:
        """Bar, step, loss, pixels per second and time left."""
        return f"{bar(step, self.steps)}, loss {loss:.4g}, {rate / 1e6:.3g} Mpx/s, {duration(left_s)} left"

    def clear(self) -> None:
        """Empty the line, so that others can be written."""
        self.told.clear()


class TileProgress:
    """The progress of a prediction, or of another stage that goes over cores.

    Parameters
    ----------
    cores : int
        Cores of the whole image.
    stream : text stream
        Where a terminal would be, such as ``sys.stderr``.
    done : int
        Cores that need not be computed.
    clock : callable
        Seconds of a clock that never goes back.

    Examples
    --------
    >>> import io
    >>> times = iter([0.0, 30.0])
    >>> progress = TileProgress(4, io.StringIO(), clock=lambda: next(times))
    >>> progress.show(15_000_000, 27.0)
    >>> progress.line()
    '[######                  ] 1/4, 0.5 Mpx/s, 0:01:30 left, busy 90 %'
    """

    def __init__(
        self,
        cores: int,
        stream: TextIO,
        *,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cores, self.clock, self.done = cores, clock, done
        self.new = self.pixels = 0
        self.computed_s = 0.0
        self.begin(1)
        self.told = Line(stream, self.begun)

    def begin(self, devices: int) -> None:
        """From now on time counts, that of so many devices."""
        self.devices, self.begun = devices, self.clock()
        self.now = self.begun

    @property
    def rate(self) -> float:
        """Pixels per second."""
        return self.pixels / max(self.now - self.begun, 1e-9)

    @property
    def busy(self) -> float:
        """Share of the devices' time in which a core was computed."""
        return min(self.computed_s / max(self.devices * (self.now - self.begun), 1e-9), 1.0)

    def skip(self) -> None:
        """Take note of a core that need not be computed."""
        self.done += 1

    def show(self, pixels: int, seconds: float = 0.0) -> None:
        """Take note of a core, and of the seconds for which a device was busy with it; tell it unless told just now."""
        self.done, self.new, self.pixels = self.done + 1, self.new + 1, self.pixels + pixels
        self.computed_s += seconds
        self.now = self.clock()
        self.told.tell(self.now, self.line, at_last=self.done == self.cores)

    def line(self) -> str:
        """Bar, cores, pixels per second, time left and, where there are any, how busy the devices were."""
        left_s = (self.cores - self.done) * (self.now - self.begun) / max(self.new, 1)
        busy = f", busy {100 * self.busy:.0f} %" if self.computed_s else ""
        return f"{bar(self.done, self.cores)}, {self.rate / 1e6:.3g} Mpx/s, {duration(left_s)} left{busy}"

    def clear(self) -> None:
        """Empty the line, so that others can be written."""
        self.told.clear()


def bar(done: int, whole: int) -> str:
    """A bar and the numbers that it stands for."""
    return f"[{'#' * (BAR * done // whole):{BAR}}] {done}/{whole}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, rounded up."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


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
        """Write the rows that are new; the first call of a process takes back what others wrote.

        Where a training went back, all rows are written anew, and those behind its fall are taken back.
        """
        if self.make is None:
            return
        if len(history) < self.written:
            self.close()
            self.written = 0
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

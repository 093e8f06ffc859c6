"""How fast a training goes, and what share of its time it waits for patches."""

import time

from unetpipe.feed import Feed
from unetpipe.ranks import count

__all__ = ["Pace"]


class Pace:
    """Counts the time of steps, without that of validations and checkpoints between them.

    Parameters
    ----------
    feed : Feed
        Where the patches come from.
    accumulate : int
        Patches of a step.
    step : int
        Where it begins to count.

    Attributes
    ----------
    steps : int
        Steps counted so far.
    epochs : dict of int to (float, float)
        Seconds of each epoch, counted from 1, and those of them that were waited for patches. Steps that were looked at
        together count for the epoch of the last one.
    """

    def __init__(self, feed: Feed, accumulate: int, step: int) -> None:
        self.feed, self.accumulate, self.steps = feed, accumulate, 0
        self.epochs: dict[int, tuple[float, float]] = {}
        self.told, self.next_epoch = self.counts(), 1
        self.start(step)

    def start(self, step: int) -> None:
        """Go on to count at a step."""
        self.begun, self.step, self.waited_s = time.monotonic(), step, self.feed.waited_s

    def stop(self, step: int) -> None:
        """Count no more until the next start."""
        if step > self.step:
            epoch = -(-step * self.accumulate // len(self.feed.patches))
            seconds, waited = self.epochs.get(epoch, (0.0, 0.0))
            self.epochs[epoch] = (seconds + time.monotonic() - self.begun, waited + self.feed.waited_s - self.waited_s)
            self.steps, self.step = self.steps + step - self.step, step

    def counts(self) -> tuple[float, float, int, int, int]:
        """Seconds, those of them that were waited, pixels taken, patches asked for, and those that were in memory."""
        seconds, waited = (sum(spent) for spent in zip((0.0, 0.0), *self.epochs.values(), strict=True))
        return seconds, waited, self.feed.pixels, self.feed.reads, self.feed.hits

    def tell(self) -> str:
        """How fast it went and from where patches came since this was last asked, and of each epoch that is over."""
        seconds, waited, pixels, reads, hits = (now - then for now, then in zip(self.counts(), self.told, strict=True))
        self.told = self.counts()
        said = f"{pixels * count() / max(seconds, 1e-9):.3g} pixels/s, "
        said += f"waited for patches {100 * waited / max(seconds, 1e-9):.2g} %, "
        said += f"had {100 * hits / max(reads, 1):.3g} % in memory"
        over = self.step * self.accumulate // len(self.feed.patches)
        shares = {epoch: 100 * share for epoch, share in self.shares().items() if self.next_epoch <= epoch <= over}
        self.next_epoch = over + 1
        if not shares:
            return said
        first, last, least, most = min(shares), max(shares), min(shares.values()), max(shares.values())
        if first == last:
            return f"{said}; waited in epoch {first} {most:.2g} %"
        return f"{said}; waited in epochs {first} to {last} {least:.2g} to {most:.2g} %"

    def shares(self) -> dict[int, float]:
        """Share of each epoch's time that was waited for patches."""
        return {epoch: waited / max(seconds, 1e-9) for epoch, (seconds, waited) in self.epochs.items()}

    @property
    def seconds_per_step(self) -> float:
        """Mean over all that was counted; 0 if nothing was."""
        return self.counts()[0] / self.steps if self.steps else 0.0

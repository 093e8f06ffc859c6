"""Planes and pyramids written shard by shard: what is missing is made while what was made before is written."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unetpipe.geometry import Box
from unetpipe.ledgers import Ledger
from unetpipe.pyramids import area_mean
from unetpipe.slides import Plane

__all__ = ["ShardWriter", "write_levels", "write_missing"]

Make = Callable[[Box], NDArray[Any]]


class ShardWriter:
    """Writes one shard at a time in a thread of its own, and records each when it is durable, in the order given.

    Parameters
    ----------
    ledger : Ledger
        Where shards are recorded. Leaving the context ends when the last one is.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="shards")
        self.last: tuple[str, Future[str]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.pool:
            if kind is None and self.last is not None:
                self.ledger.append(self.last[0], self.last[1].result())

    def write(self, plane: Plane, name: str, box: Box, block: NDArray[Any]) -> None:
        """Write the pixels of a shard, as `Plane.iter_shards` names it, as soon as the one before is written."""
        before, digest = self.last, "" if self.last is None else self.last[1].result()
        self.last = name, self.pool.submit(plane.write_shard, box, block)
        if before is not None:
            self.ledger.append(before[0], digest)


def write_missing(plane: Plane, make: Make, ledger: Ledger) -> None:
    """Write the shards of a plane that its ledger does not know.

    Parameters
    ----------
    plane : Plane
        Where to.
    make : callable
        Gives the pixels of a shard's box; called in raster order.
    ledger : Ledger
        Knows what is there.
    """
    with ShardWriter(ledger) as writer:
        for name, box in plane.iter_shards():
            if name not in ledger:
                writer.write(plane, name, box, make(box))


def write_levels(levels: Sequence[Plane], make: Make, ledger: Ledger) -> None:
    """Write the shards of an image pyramid that its ledger does not know, each coarser level by area mean.

    Parameters
    ----------
    levels : sequence of Plane
        Finest first; each half the size of the one before, sides rounded up.
    make : callable
        Gives the pixels of a shard's box of the finest level; called in raster order, for each box at most once.
    ledger : Ledger
        Knows what is there.

    Notes
    -----
    One pass: a shard is halved while it is in memory, and one of the next level is written as soon as all that it is
    made of is there. Half a row of shards waits in memory: 31 MB for an RGB slide of 20,480 px width. What an
    interrupted run has written is read back only where something is still to be made of it.
    """
    with ShardWriter(ledger) as writer:
        pyramid = _Pyramid(levels, writer)
        for name, box in levels[0].iter_shards():
            block = None
            if name not in ledger:
                block = make(box)
                writer.write(levels[0], name, box, block)
            pyramid.finish(0, box, block)


class _Pyramid:
    """Shards that wait for all that they are made of: by level and first pixel, the boxes and halves that came."""

    def __init__(self, levels: Sequence[Plane], writer: ShardWriter) -> None:
        self.levels, self.writer = levels, writer
        self.waiting: dict[tuple[int, tuple[int, int]], list[tuple[Box, NDArray[Any] | None]]] = {}
        self.shards = [{box.start: (name, box) for name, box in plane.iter_shards()} for plane in levels]

    def finish(self, level: int, box: Box, block: NDArray[Any] | None) -> None:
        """Take note that a shard is written, (C, y, x) or None if it was before; write what this was the last part of.

        Last is the part in the far corner, because parts come in raster order.
        """
        if level + 1 == len(self.levels):
            return
        coarser = self.levels[level + 1]
        y, x = (start // 2 // coarser.shard_side * coarser.shard_side for start in box.start)
        name, target = self.shards[level + 1][y, x]
        is_new = name not in self.writer.ledger
        parts = self.waiting.setdefault((level + 1, (y, x)), [])
        parts.append((box, area_mean(block) if is_new and block is not None else None))
        if any(
            min(2 * stop, n) > end for stop, n, end in zip(target.stop, self.levels[level].shape, box.stop, strict=True)
        ):
            return
        del self.waiting[level + 1, (y, x)]
        made = self.assembled(level, target, parts) if is_new else None
        if made is not None:
            self.writer.write(coarser, name, target, made)
        self.finish(level + 1, target, made)

    def assembled(self, level: int, target: Box, parts: Sequence[tuple[Box, NDArray[Any] | None]]) -> NDArray[Any]:
        """A shard of the next coarser level, of the halves of its parts; those written before are read back."""
        finer = self.levels[level]
        block = np.empty((*finer.array.shape[:-2], *target.shape), finer.dtype)
        for box, half in parts:
            if half is None:
                half = area_mean(finer.read(box))
            y, x = (start // 2 - origin for start, origin in zip(box.start, target.start, strict=True))
            block[..., y : y + half.shape[-2], x : x + half.shape[-1]] = half
        return block

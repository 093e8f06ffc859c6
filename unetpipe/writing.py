"""Planes and pyramids written shard by shard: what is missing is made while what was made before is written."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unetpipe.geometry import Box
from unetpipe.ledgers import Ledger
from unetpipe.pyramids import means_of, quad_sums
from unetpipe.slides import Plane

__all__ = ["ShardWriter", "write_levels", "write_missing"]

AT_ONCE = 3

Make = Callable[[Box], NDArray[Any]]


class ShardWriter:
    """Writes shards in threads of its own, and records each when it is durable, in the order given.

    Three at a time: while one or two wait for the disk, another is encoded.

    Parameters
    ----------
    ledger : Ledger
        Where shards are recorded. Leaving the context ends when the last one is.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="shards")
        self.pending = deque[tuple[str, Future[str]]]()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.pool:
            while kind is None and self.pending:
                self.record_first()

    def write(self, plane: Plane, name: str, box: Box, block: NDArray[Any]) -> None:
        """Write the pixels of a shard, as `Plane.iter_shards` names it; return when at most three are not written."""
        self.pending.append((name, self.pool.submit(plane.write_shard, box, block)))
        # A shard waits in the pool, so that its threads go on while this one records.
        while len(self.pending) > AT_ONCE:
            self.record_first()

    def record_first(self) -> None:
        """Wait for the shard that was given first."""
        name, digest = self.pending.popleft()
        self.ledger.append(name, digest.result())


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


def write_levels(levels: Sequence[Plane], make: Make, ledger: Ledger, *, row_by_row: bool) -> None:
    """Write the shards of an image pyramid that its ledger does not know.

    A pixel of a coarser level is the mean of all pixels of the finest one that it covers, rounded once.

    Parameters
    ----------
    levels : sequence of Plane
        Finest first; each half the size of the one before, sides rounded up.
    make : callable
        Gives the pixels of a shard's box of the finest level; called for each box at most once, by a thread of its own.
    ledger : Ledger
        Knows what is there.
    row_by_row : bool
        Whether boxes are asked for in raster order, else quarter by quarter, in Morton order.

    Notes
    -----
    One pass: the pixels of a shard are added up while it is in memory, and a shard of the next level is written as soon
    as all that it is made of is there. Quarter by quarter, the sums of three shards of each level wait in memory at
    most, however wide the image; in raster order those of half a row of shards, some 70 MB for an RGB slide of 8 bits
    and 20,480 px width. What an interrupted run has written is read back only where something is still to be made of
    it.
    """
    shards = list(levels[0].iter_shards())
    if not row_by_row:
        shards.sort(key=lambda shard: morton(shard[1], levels[0]))
    missing = [box for name, box in shards if name not in ledger]
    with closing(iter_ahead(make, missing)) as blocks, ShardWriter(ledger) as writer:
        pyramid = _Pyramid(levels, writer)
        for name, box in shards:
            block = None
            if name not in ledger:
                block = next(blocks)
                writer.write(levels[0], name, box, block)
            pyramid.finish(0, box, block)


def iter_ahead(make: Make, boxes: Iterable[Box]) -> Generator[NDArray[Any], None, None]:
    """The pixels of boxes: a thread makes the next ones while these are in use."""
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        coming = deque[Future[NDArray[Any]]]()
        for box in boxes:
            coming.append(pool.submit(make, box))
            if len(coming) > 1:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def morton(box: Box, plane: Plane) -> int:
    """Place of a shard in Morton order: the bits of its row and column, alternating."""
    row, column = (start // plane.shard_side for start in box.start)
    return sum((row >> bit & 1) << 2 * bit + 1 | (column >> bit & 1) << 2 * bit for bit in range(32))


Part = tuple[Box, NDArray[Any] | None]


class _Pyramid:
    """Shards that wait for all that they are made of: by level and first pixel, the boxes and sums that came."""

    def __init__(self, levels: Sequence[Plane], writer: ShardWriter) -> None:
        self.levels, self.writer = levels, writer
        self.waiting: dict[tuple[int, tuple[int, int]], list[Part]] = {}
        self.shards = [{box.start: (name, box) for name, box in plane.iter_shards()} for plane in levels]

    def finish(self, level: int, box: Box, sums: NDArray[Any] | None) -> None:
        """Take note that a shard is written; write what this was the last part of.

        The sums, (C, y, x), are those of the pixels of the finest level that each of its pixels covers, or None where
        it was written before. Last is the part in the far corner, in raster and in Morton order.
        """
        if level + 1 == len(self.levels):
            return
        coarser = self.levels[level + 1]
        place = self.place_of(level, box)
        name, target = self.shards[level + 1][place]
        is_new = name not in self.writer.ledger
        parts = self.waiting.setdefault((level + 1, place), [])
        parts.append((box, quad_sums(sums, level=level + 1) if is_new and sums is not None else None))
        if any(
            min(2 * stop, n) > end for stop, n, end in zip(target.stop, self.levels[level].shape, box.stop, strict=True)
        ):
            return
        del self.waiting[level + 1, place]
        made = self.assembled(level + 1, target, parts) if is_new else None
        if made is not None:
            keys: dict[str, Any] = {"origin": target.start, "whole": self.levels[0].shape, "dtype": coarser.dtype}
            self.writer.write(coarser, name, target, means_of(made, level=level + 1, **keys))
        self.finish(level + 1, target, made)

    def place_of(self, level: int, box: Box) -> tuple[int, int]:
        """First pixel of the shard of the next coarser level that a shard is a part of."""
        side = self.levels[level + 1].shard_side
        y, x = (start // 2 // side * side for start in box.start)
        return y, x

    def assembled(self, level: int, target: Box, parts: Sequence[Part]) -> NDArray[Any]:
        """The sums of a shard, of those of its parts; of parts that were written before, from the finest level."""
        first = parts[0][1] if parts[0][1] is not None else self.added_up(level, parts[0][0])
        sums = np.empty((*first.shape[:-2], *target.shape), first.dtype)
        for box, part in [(parts[0][0], first), *parts[1:]]:
            part = self.added_up(level, box) if part is None else part
            y, x = (start // 2 - origin for start, origin in zip(box.start, target.start, strict=True))
            sums[..., y : y + part.shape[-2], x : x + part.shape[-1]] = part
        return sums

    def added_up(self, level: int, box: Box) -> NDArray[Any]:
        """Sums for a level from a shard of the level before, all read from the finest one."""
        if level == 1:
            return quad_sums(self.levels[0].read(box), level=1)
        finer = [other for _, other in self.shards[level - 2].values() if self.place_of(level - 2, other) == box.start]
        return quad_sums(self.assembled(level - 1, box, [(other, None) for other in finer]), level=level)

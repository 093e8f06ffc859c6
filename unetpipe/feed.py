"""Training patches in the order that the seed gives, read ahead of the network."""

import functools
import itertools
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetpipe.ranks import is_own

__all__ = ["Feed", "Patches", "patch_index"]

# Patches read ahead for each worker.
AHEAD = 2
# Bytes of decoded patches that are kept for the next epochs: decoding costs more than a step of a small network.
KEPT_BYTES = 2**30


class Patches(Protocol):
    """Anything that gives patch number i as image (C, n, n), classes (m, m) and separation weights (m, m).

    It has so many patches; drawn ones have new numbers in every epoch, which go on behind the last.
    """

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]: ...


def patch_index(seed: int, draw: int, n_patches: int) -> int:
    """Number of the patch that is drawn: every epoch runs through all patches in an order of its own.

    Parameters
    ----------
    seed : int
        Seed of the order.
    draw : int
        How many patches were drawn before.
    n_patches : int
        How many there are.

    Returns
    -------
    int

    Examples
    --------
    >>> sorted(patch_index(7, draw, 5) for draw in range(5, 10))
    [0, 1, 2, 3, 4]
    """
    epoch, position = divmod(draw, n_patches)
    return int(epoch_order(seed, epoch, n_patches)[position])


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, n_patches: int) -> NDArray[np.int64]:
    """(n_patches,) numbers of the patches in the order of an epoch."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch)))).permutation(n_patches)


class Feed:
    """Patches as tensors on a device; those to come are read by other threads meanwhile.

    Parameters
    ----------
    patches : Patches
        Read from several threads.
    seed : int
        Seed of the order.
    draws : int
        How many patches the whole training draws; nothing is read beyond.
    workers : int
        Threads that read ahead, each two patches; 0 reads when asked. No number changes what is taken.
    device : torch.device
        Where the patches go.
    accumulate : int
        Patches of a step; where several processes share them, each reads its own ahead only.
    drawn : bool
        Whether the patches of each epoch are new ones: number i of epoch e is read as number i + e N of N.

    Attributes
    ----------
    waited_s : float
        Seconds that `take` took so far, all calls together.
    pixels : int
        Pixels taken so far, of the images, by this process.
    reads, hits : int
        Patches asked for so far, ahead or not, and how many of them were in memory.

    Notes
    -----
    Up to 1 GiB of patches stays in memory once read, unless they are drawn.
    """

    def __init__(
        self,
        patches: Patches,
        *,
        seed: int,
        draws: int,
        workers: int,
        device: torch.device,
        accumulate: int = 1,
        drawn: bool = False,
    ) -> None:
        self.patches, self.seed, self.draws, self.device, self.accumulate = patches, seed, draws, device, accumulate
        self.drawn = drawn
        self.ahead = AHEAD * workers
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="patches") if workers else None
        self.coming: dict[int, Future[tuple[Tensor, ...]]] = {}
        self.kept: dict[int, tuple[Tensor, ...]] = {}
        self.room = 0 if drawn else KEPT_BYTES
        self.counting = threading.Lock()
        self.reads = self.hits = 0
        self.waited_s = 0.0
        self.pixels = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def take(self, draw: int) -> tuple[Tensor, ...]:
        """Image (1, C, n, n), classes (1, m, m) and separation weights (1, m, m) of a draw, in any order of draws."""
        begun = time.perf_counter()
        image, classes, separation = self.read(draw) if self.pool is None else self.awaited(self.pool, draw)
        image = image.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        classes, separation = (part.to(self.device, non_blocking=True) for part in (classes, separation))
        self.pixels += image.shape[-2] * image.shape[-1]
        self.waited_s += time.perf_counter() - begun
        return image, classes, separation

    def awaited(self, pool: ThreadPoolExecutor, draw: int) -> tuple[Tensor, ...]:
        """What was read ahead for a draw; the next ones are asked for."""
        own = (number for number in range(draw + 1, self.draws) if is_own(number, self.accumulate))
        wanted = (draw, *itertools.islice(own, self.ahead))
        for past in self.coming.keys() - set(wanted):
            self.coming.pop(past).cancel()
        for number in wanted:
            if number not in self.coming:
                self.coming[number] = pool.submit(self.read, number)
        return self.coming.pop(draw).result()

    def read(self, draw: int) -> tuple[Tensor, ...]:
        """The tensors of a draw in the memory of the processor, from where a GPU can fetch them by itself."""
        index = patch_index(self.seed, draw, len(self.patches))
        with self.counting:
            self.reads += 1
            self.hits += index in self.kept
        if index in self.kept:
            return self.kept[index]
        if self.drawn:
            index += draw // len(self.patches) * len(self.patches)
        tensors = tuple(torch.from_numpy(part)[None] for part in self.patches.read(index))
        if self.device.type == "cuda":
            tensors = tuple(part.pin_memory() for part in tensors)
        size = sum(part.nbytes for part in tensors)
        if size <= self.room:
            self.room -= size
            self.kept[index] = tensors
        return tensors

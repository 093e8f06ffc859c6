"""Patches arrive in the order of the seed, whoever reads them."""

import threading
import time
from collections import Counter
from concurrent import futures

import numpy as np
import pytest
import torch

from unetpipe import feed as feed_module
from unetpipe.errors import StoreError
from unetpipe.feed import Feed, patch_index

CPU = torch.device("cpu")


class Numbered:
    """Patches that hold their own number, and remember how many were read."""

    def __init__(self, count: int = 7, seconds: float = 0.0) -> None:
        self.count, self.seconds, self.reads = count, seconds, 0

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.reads += 1
        time.sleep(self.seconds)
        value = np.float32(index)
        return np.full((1, 4, 5), value), np.full((2, 2), index, np.uint8), np.full((2, 2), value)


def taken(feed: Feed, draws: list[int]) -> list[int]:
    """Numbers of the patches of some draws, which all three parts agree about."""
    found = []
    for draw in draws:
        image, classes, separation = feed.take(draw)
        assert image.shape == (1, 1, 4, 5) and classes.shape == separation.shape == (1, 2, 2)
        assert image.unique() == classes.unique() == separation.unique()
        found.append(int(image[0, 0, 0, 0]))
    return found


def test_an_epoch_sees_every_patch_once_and_epochs_differ() -> None:
    epochs = [tuple(patch_index(3, draw, 7) for draw in range(7 * e, 7 * e + 7)) for e in range(6)]
    assert all(Counter(e) == Counter(range(7)) for e in epochs)
    assert len(set(epochs)) > 1


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
@pytest.mark.parametrize("draws", [list(range(30)), list(range(9, 20)), [5, 6, 7, 5, 6, 7, 8, 29, 0, 1]])
def test_any_order_of_draws_gets_what_the_seed_says(workers: int, draws: list[int]) -> None:
    with Feed(Numbered(), seed=4, draws=30, workers=workers, device=CPU) as feed:
        assert taken(feed, draws) == [patch_index(4, draw, 7) for draw in draws]
        assert feed.pixels == 20 * len(draws)


@pytest.mark.parametrize("workers", [1, 2])
def test_two_patches_per_worker_are_read_unasked_and_none_beyond_the_end(workers: int) -> None:
    patches = Numbered(9)
    with Feed(patches, seed=1, draws=9, workers=workers, device=CPU) as feed:
        taken(feed, [0])
        assert len(feed.coming) == 2 * workers
        futures.wait(feed.coming.values())
        assert patches.reads == 1 + 2 * workers
        taken(feed, list(range(1, 9)))
    assert patches.reads == 9


@pytest.mark.parametrize(("room", "reads"), [(0, 21), (3 * 100, 15), (10**9, 7)])
def test_what_fits_is_read_once(room: int, reads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A patch has 4 * 20 + 4 + 4 * 4 = 100 bytes: three of seven, or all, are kept over three epochs."""
    monkeypatch.setattr(feed_module, "KEPT_BYTES", room)
    patches = Numbered()
    with Feed(patches, seed=1, draws=21, workers=0, device=CPU) as feed:
        assert taken(feed, list(range(21))) == [patch_index(1, draw, 7) for draw in range(21)]
    assert patches.reads == reads


@pytest.mark.parametrize("workers", [0, 2])
def test_drawn_patches_have_new_numbers_in_every_epoch_and_none_is_kept(workers: int) -> None:
    patches = Numbered(4)
    with Feed(patches, seed=3, draws=12, workers=workers, device=CPU, drawn=True) as feed:
        found = taken(feed, list(range(12)))
        assert found == [patch_index(3, draw, 4) + 4 * (draw // 4) for draw in range(12)]
        assert sorted(found) == list(range(12))
        assert not feed.kept
    with Feed(patches, seed=3, draws=12, workers=workers, device=CPU, drawn=True) as feed:
        assert taken(feed, [7, 8]) == found[7:9], "a training that goes on draws the same"


@pytest.mark.parametrize("workers", [0, 1])
def test_hits_are_counted(workers: int) -> None:
    with Feed(Numbered(), seed=1, draws=21, workers=workers, device=CPU) as feed:
        taken(feed, list(range(21)))
        assert (feed.reads, feed.hits) == (21, 14)


def test_waiting_is_measured() -> None:
    with Feed(Numbered(seconds=0.005), seed=1, draws=4, workers=0, device=CPU) as feed:
        taken(feed, [0, 1, 2, 3])
        assert feed.waited_s >= 4 * 0.005


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_patch_is_told_and_no_thread_stays(workers: int) -> None:
    class Torn(Numbered):
        def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            if index == 3:
                raise StoreError("patch 3 is damaged")
            return super().read(index)

    before = threading.active_count()
    with pytest.raises(StoreError, match="patch 3"), Feed(Torn(), seed=1, draws=7, workers=workers, device=CPU) as feed:
        taken(feed, list(range(7)))
    assert threading.active_count() == before

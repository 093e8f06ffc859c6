"""Patches on disk."""

from pathlib import Path

import numpy as np
import pytest

from unetpipe.errors import StoreError
from unetpipe.patches import BLOCK, PatchStore, PatchStores, create_patches, open_patches


def filled(folder: Path, count: int) -> tuple[PatchStore, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """A store of random patches."""
    rng = np.random.default_rng(count)
    patches = [
        (
            rng.random((2, 12, 12), dtype=np.float32),
            rng.integers(0, 3, (4, 4), dtype=np.uint8),
            rng.random((4, 4), np.float32),
        )
        for _ in range(count)
    ]
    store = create_patches(folder, count=count, channels=2, input_px=12, output_px=4)
    for _, numbers in store.iter_blocks():
        store.write_block(numbers, [patches[i] for i in numbers])
    return store, patches


def test_what_is_written_is_read_by_one_number_over_all_samples(tmp_path: Path) -> None:
    counts = (BLOCK + 3, 1, BLOCK)
    parts = [filled(tmp_path / str(n), n) for n in counts]
    stores, every = PatchStores(tuple(s for s, _ in parts), 12), [p for _, patches in parts for p in patches]
    assert len(stores) == sum(counts)
    for index, expected in enumerate(every):
        for found, wanted in zip(stores.read(index), expected, strict=True):
            assert found.tobytes() == wanted.tobytes()
    with pytest.raises(IndexError):
        stores.read(sum(counts))


def test_a_network_may_see_the_middle_of_each_image(tmp_path: Path) -> None:
    store, patches = filled(tmp_path / "p", 1)
    image, classes, weights = PatchStores((store,), 8).read(0)
    assert np.array_equal(image, patches[0][0][:, 2:10, 2:10])
    assert np.array_equal(classes, patches[0][1]) and np.array_equal(weights, patches[0][2])


def test_an_interrupted_store_is_opened_and_not_emptied(tmp_path: Path) -> None:
    _, patches = filled(tmp_path / "p", 3)
    again = create_patches(tmp_path / "p", count=3, channels=2, input_px=12, output_px=4)
    assert np.array_equal(again.read(2)[0], patches[2][0])


def test_damage_is_noticed(tmp_path: Path) -> None:
    filled(tmp_path / "p", 2)
    shard = tmp_path / "p" / "image" / "c" / "0" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 4] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(StoreError, match="damaged"):
        open_patches(tmp_path / "p").read(0)
    with pytest.raises(StoreError, match="no readable patches"):
        open_patches(tmp_path / "absent")

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
            rng.random((2, 4, 4), np.float32),
        )
        for _ in range(count)
    ]
    store = create_patches(folder, count=count, channels=2, input_px=12, output_px=4, forms=2)
    for _, numbers in store.iter_blocks():
        store.write_block(numbers, [patches[i] for i in numbers])
    return store, patches


def test_what_is_written_is_read_by_one_number_over_all_samples(tmp_path: Path) -> None:
    counts = (BLOCK + 3, 1, BLOCK)
    parts = [filled(tmp_path / str(n), n) for n in counts]
    every = [p for _, patches in parts for p in patches]
    for form in (0, 1, None):
        stores = PatchStores(tuple(s for s, _ in parts), 12, form)
        assert len(stores) == sum(counts)
        for index, (image, classes, weights) in enumerate(every):
            expected = image, classes, np.zeros((4, 4), np.float32) if form is None else weights[form]
            for found, wanted in zip(stores.read(index), expected, strict=True):
                assert found.shape == wanted.shape and found.tobytes() == wanted.tobytes()
        with pytest.raises(IndexError):
            stores.read(sum(counts))


def test_a_network_may_see_the_middle_of_each_image(tmp_path: Path) -> None:
    store, patches = filled(tmp_path / "p", 1)
    image, classes, weights = PatchStores((store,), 8, 1).read(0)
    assert np.array_equal(image, patches[0][0][:, 2:10, 2:10])
    assert np.array_equal(classes, patches[0][1]) and np.array_equal(weights, patches[0][2][1])


def test_an_interrupted_store_is_opened_and_not_emptied(tmp_path: Path) -> None:
    _, patches = filled(tmp_path / "p", 3)
    again = create_patches(tmp_path / "p", count=3, channels=2, input_px=12, output_px=4, forms=2)
    assert np.array_equal(again.read(2)[0], patches[2][0])


def test_patches_are_what_zarr_reads(tmp_path: Path) -> None:
    count = 2 * BLOCK + 3
    store, _ = filled(tmp_path / "p", count)
    for index in range(count):
        for found, array in zip(store.read(index), (store.image, store.classes, store.weights), strict=True):
            expected = np.asarray(array[index])
            assert found.dtype == expected.dtype and np.array_equal(found, expected)


def harmed(content: bytes, how: str) -> bytes:
    """A shard of two patches, damaged."""
    if how == "chunk":
        return content[:20] + bytes([content[20] ^ 1]) + content[21:]
    if how == "table":
        return content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]
    return content[: {"short": 60, "half": len(content) // 2, "empty": 0}[how]]


@pytest.mark.parametrize("how", ["chunk", "table", "short", "half", "empty", "missing", "never written"])
def test_damage_is_noticed(how: str, tmp_path: Path) -> None:
    store, patches = filled(tmp_path / "p", 2)
    shard = tmp_path / "p" / "image" / "c" / "0" / "0" / "0" / "0"
    if how == "missing":
        shard.unlink()
    elif how == "never written":
        store = create_patches(tmp_path / "q", count=2, channels=2, input_px=12, output_px=4, forms=2)
        store.write_block(range(0, 1), patches[:1])
    else:
        shard.write_bytes(harmed(shard.read_bytes(), how))
    with pytest.raises(StoreError, match="patch 1 is damaged" if how == "never written" else "patch 0 is damaged"):
        store.read(1 if how == "never written" else 0)


def test_a_folder_without_patches_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no readable patches"):
        open_patches(tmp_path / "absent")

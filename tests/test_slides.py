"""Planes on disk: round trips, alignment and damage."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from unetpipe.errors import StoreError
from unetpipe.geometry import Box
from unetpipe.labelimages import coarser_block
from unetpipe.pyramids import nearest
from unetpipe.slides import create_plane, digest_of, open_plane


def filled(folder: Path, shape: tuple[int, ...], side: int) -> tuple[np.ndarray, list[str]]:
    """A plane of random pixels on disk, and its shards' digests."""
    pixels = np.random.default_rng(0).integers(0, 60000, shape, dtype=np.uint16)
    plane = create_plane(folder, shape=shape, dtype=np.uint16, shard_side=side)
    digests = [
        plane.write_shard(box, np.ascontiguousarray(pixels[(..., *box.slices)])) for _, box in plane.iter_shards()
    ]
    return pixels, digests


@pytest.mark.parametrize("shape", [(70, 130), (3, 64, 65), (1, 1)])
@pytest.mark.parametrize("side", [16, 48, 256])
def test_read_is_crop_of_what_was_written(tmp_path: Path, shape: tuple[int, ...], side: int) -> None:
    pixels, _ = filled(tmp_path / "0", shape, side)
    plane = open_plane(tmp_path / "0")
    assert np.array_equal(plane.read_whole(), pixels)
    rng = np.random.default_rng(1)
    for _ in range(20):
        (y0, y1), (x0, x1) = (sorted(rng.integers(0, n + 1, 2)) for n in shape[-2:])
        box = Box(start=(int(y0), int(x0)), stop=(int(y1), int(x1)))
        assert np.array_equal(plane.read(box), pixels[(..., *box.slices)])


def test_writing_part_of_a_shard_is_impossible(tmp_path: Path) -> None:
    plane = create_plane(tmp_path / "0", shape=(64, 64), dtype=np.uint8, shard_side=32)
    for box in (Box(start=(0, 0), stop=(16, 32)), Box(start=(16, 0), stop=(48, 32)), Box(start=(0, 0), stop=(64, 64))):
        with pytest.raises(AssertionError):
            plane.write_shard(box, np.zeros(box.shape, np.uint8))


def test_an_interrupted_array_is_opened_and_not_emptied(tmp_path: Path) -> None:
    pixels, _ = filled(tmp_path / "0", (40, 40), 16)
    again = create_plane(tmp_path / "0", shape=(40, 40), dtype=np.uint16, shard_side=16)
    assert np.array_equal(again.read_whole(), pixels)


def test_a_shard_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, _ = filled(tmp_path / "0", (32, 32), 32)
    plane = open_plane(tmp_path / "0", writable=True)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    ((_, box),) = plane.iter_shards()
    with pytest.raises(OSError, match="No space"):
        plane.write_shard(box, np.zeros((32, 32), np.uint16))
    assert np.array_equal(plane.read_whole(), pixels)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    filled(tmp_path / "0", (64, 64), 64)
    file = next((tmp_path / "0" / "c").rglob("0"))
    while file.is_dir():
        file = next(file.iterdir())
    good = file.read_bytes()
    rng = np.random.default_rng(2)
    for position in rng.integers(0, len(good), 60):
        bad = bytearray(good)
        bad[position] ^= 1 << int(rng.integers(8))
        file.write_bytes(bytes(bad))
        with pytest.raises(StoreError, match=r"damaged at \(0, 0\).*run `python -m unetpipe verify --mend`, then"):
            open_plane(tmp_path / "0").read_whole()


def test_a_disk_that_fails_for_now_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards that are lost, cut off or changed are named, to be made again; those that could not be opened are not."""
    plane = create_plane(tmp_path / "0", shape=(128, 64), dtype=np.uint8, shard_side=64)
    for _, box in plane.iter_shards():
        plane.write_shard(box, np.full(box.shape, 7, np.uint8))
    path = plane.shard_path((1, 0))
    content = path.read_bytes()
    lower = Box(start=(70, 0), stop=(80, 64))
    for damaged in (None, content[:9], content[:-3], bytes([content[0] ^ 1]) + content[1:]):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        with pytest.raises(StoreError, match="damaged at") as found:
            plane.read(lower)
        assert found.value.files == [path]
    path.write_bytes(content)

    def too_many(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched, pytest.raises(StoreError, match="Too many open files") as found:
        patched.setattr(Path, "open", too_many)
        plane.read(lower)
    assert not found.value.files
    assert (plane.read(lower) == 7).all()


def test_missing_array_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no readable array"):
        open_plane(tmp_path / "0")


def test_digest_does_not_know_memory_layout() -> None:
    block = np.arange(12, dtype=np.uint16).reshape(3, 4)
    assert digest_of(block) == digest_of(np.asfortranarray(block)) == digest_of(block.astype(">u2"))
    assert digest_of(block) != digest_of(block.T)


def test_coarser_levels_do_not_know_the_shards(tmp_path: Path) -> None:
    pixels, _ = filled(tmp_path / "0", (75, 45), 16)
    coarser = create_plane(tmp_path / "1", shape=(38, 23), dtype=np.uint16, shard_side=16)
    for _, box in coarser.iter_shards():
        coarser.write_shard(box, coarser_block(open_plane(tmp_path / "0"), box))
    assert np.array_equal(coarser.read_whole(), nearest(pixels))

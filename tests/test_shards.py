"""Shards are those of Zarr v3: what one side writes, the other reads."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import zarr

from unetpipe.errors import StoreError
from unetpipe.shards import COMPRESSORS, FAULTS, ShardTable, encoded_shard, in_threads
from unetpipe.slides import create_plane, open_plane


def pixels(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Numbers of any size."""
    return np.random.default_rng(3).integers(0, 200, shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
@pytest.mark.parametrize("shape", [(70, 130), (3, 64, 33), (1, 1)])
def test_zarr_reads_what_is_written_and_writes_what_is_read(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    values = pixels(shape, dtype)
    plane = create_plane(tmp_path / "0", shape=shape, dtype=dtype, shard_side=32)
    for _, box in plane.iter_shards():
        plane.write_shard(box, values[(..., *box.slices)])
    array = zarr.open_array(store=str(tmp_path / "0"), mode="r+")
    np.testing.assert_array_equal(array[...], values)
    array[...] = values[..., ::-1, ::-1]
    found = open_plane(tmp_path / "0").read_whole()
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values[..., ::-1, ::-1])


def test_equal_pixels_give_equal_bytes_whatever_their_layout() -> None:
    chunk = pixels((8, 8), "uint16")
    same = [chunk, np.asfortranarray(chunk), chunk.astype(">u2")]
    assert len({b"".join(encoded_shard([one, None, one])) for one in same}) == 1


def test_each_channel_of_a_chunk_has_a_code_of_its_own() -> None:
    rng = np.random.default_rng(5)
    # 16 even values take 4 bits a pixel; those of three channels at once are 48, of 5.6 bits.
    chunk = np.stack([rng.integers(low, low + 16, (256, 256), np.uint8) for low in (0, 100, 200)])
    size = sum(map(len, encoded_shard([chunk])))
    assert size < 0.505 * chunk.size
    assert len(imagecodecs.zstd_encode(chunk.tobytes(), level=1)) > 0.57 * chunk.size


def test_chunks_that_are_not_there_are_told(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.write_bytes(b"".join(encoded_shard([None, np.zeros((2, 2), np.uint8)])))
    table = ShardTable.of(path, 2)
    chunk = np.ones((2, 2), np.uint8)
    table.read(1, chunk)
    assert chunk.tolist() == [[0, 0], [0, 0]]
    with pytest.raises(FAULTS, match="never written"):
        table.read(0, chunk)
    with pytest.raises(FAULTS):
        table.read(1, np.empty((2, 2), np.uint16))


def test_a_lost_shard_is_no_black_image(tmp_path: Path) -> None:
    plane = create_plane(tmp_path / "0", shape=(64, 64), dtype=np.uint8, shard_side=32)
    with pytest.raises(StoreError, match="damaged"):
        plane.read_whole()


@pytest.mark.parametrize("shape", [(64, 50), (3, 64, 50)])
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"shards": (32, 32)},
        {"shards": (32, 64)},
        {"shards": (32, 32), "compressors": COMPRESSORS, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
        {"shards": (32, 32), "compressors": COMPRESSORS, "leading": 1},
    ],
)
def test_arrays_of_others_are_read_in_any_layout(tmp_path: Path, shape: tuple[int, ...], keys: dict) -> None:
    leading = (keys.pop("leading"),) * (len(shape) - 2) if "leading" in keys else shape[:-2]
    wide = {name: (*leading, *value) if name == "shards" else value for name, value in keys.items()}
    chunks = (*leading, 16, 16)
    array = zarr.create_array(store=str(tmp_path / "0"), shape=shape, dtype=np.uint16, chunks=chunks, **wide)
    values = pixels(shape, "uint16")
    array[...] = values
    plane = open_plane(tmp_path / "0")
    np.testing.assert_array_equal(plane.read_whole(), values)
    assert [name for name, _ in plane.iter_shards()] == ["0/0/0"] or plane.is_own


@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_results_come_in_the_order_of_the_items(count: int) -> None:
    assert in_threads(lambda x: x * x, range(count)) == [x * x for x in range(count)]


def test_an_error_in_a_thread_is_told() -> None:
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda x: 1 // (x - 7), range(9))

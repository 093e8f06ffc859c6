"""Boxes read through the shared reader are the plane's, and no chunk is decoded twice while there is room."""

import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from unetpipe.errors import StoreError
from unetpipe.geometry import Box, TileGrid, unet_geometry
from unetpipe.mirroring import source_box, window_of
from unetpipe.reading import SharedReader
from unetpipe.slides import Plane, create_plane, open_plane

PIXELS = np.random.default_rng(1).integers(0, 255, (2, 700, 1100), np.uint8)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Plane:
    made = create_plane(tmp_path_factory.mktemp("p") / "0", shape=PIXELS.shape, dtype=np.uint8, shard_side=512)
    for _, box in made.iter_shards():
        made.write_shard(box, PIXELS[(slice(None), *box.slices)])
    return made


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Plane:
    """Not ours: oblong chunks without shards."""
    folder = tmp_path_factory.mktemp("f") / "0"
    zarr.create_array(store=str(folder), shape=PIXELS.shape, dtype=np.uint8, chunks=(1, 60, 300))[:] = PIXELS
    return open_plane(folder)


def windows(core: int) -> list[Box]:
    grid = TileGrid(shape=PIXELS.shape[1:], core_side=core, geometry=unet_geometry(3))
    return [tile.window for tile in grid]


def reader_of(plane: Plane, seen: list[Box], most: int = 10**9) -> SharedReader:
    return SharedReader(plane, [source_box(window, plane.shape) for window in seen], most_bytes=most)


@pytest.mark.parametrize("core", [64, 256, 400, 1200])
@pytest.mark.parametrize("name", ["plane", "foreign"])
def test_each_chunk_is_decoded_once_and_forgotten(name: str, core: int, request: pytest.FixtureRequest) -> None:
    seen = windows(core)
    reader = reader_of(request.getfixturevalue(name), seen)
    for window in seen:
        assert np.array_equal(reader.read(window), window_of(PIXELS, window))
    assert reader.decoded == reader.uses.size
    assert not reader.waiting and not reader.bytes and not reader.uses.any()


@pytest.mark.parametrize("most", [0, 2 * 256**2, 5 * 256**2])
def test_chunks_for_which_there_is_no_room_are_decoded_again(plane: Plane, most: int) -> None:
    seen = windows(128)[::-1]
    reader = reader_of(plane, seen, most)
    for window in seen:
        assert np.array_equal(reader.read(window), window_of(PIXELS, window))
        assert sum(chunk.nbytes for chunk in reader.waiting.values()) == reader.bytes <= most
    assert reader.decoded > reader.uses.size


def test_only_the_overlap_waits(plane: Plane) -> None:
    """Cores of one chunk: behind a row of windows, three rows of chunks are in memory, and the fourth is none."""
    boxes = [Box(start=(y, 0), stop=(y + 256, 1100)) for y in (0, 256)]
    reader = SharedReader(plane, boxes, most_bytes=10**9)
    reader.read(boxes[0])
    assert not reader.waiting, "windows that do not overlap share nothing"
    boxes = [Box(start=(0, 0), stop=(300, 1100)), Box(start=(200, 0), stop=(700, 1100))]
    reader = SharedReader(plane, boxes, most_bytes=10**9)
    reader.read(boxes[0])
    assert {y for y, _ in reader.waiting} == {0, 1}


def test_memory_of_chunks_is_used_again(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of windows apart from each other: what one has decoded serves the next."""
    made, new = [], Plane.new_chunk
    monkeypatch.setattr(Plane, "new_chunk", lambda plane: made.append(new(plane)) or made[-1])
    boxes = [Box(start=(0, x), stop=(512, x + 256)) for x in (0, 256, 512, 768)]
    reader = SharedReader(plane, boxes, most_bytes=10**9)
    for box in boxes:
        assert np.array_equal(reader.read(box), window_of(PIXELS, box))
    assert (reader.decoded, len(made), len(reader.free)) == (8, 2, 2)


def test_threads_end_with_the_reader(plane: Plane) -> None:
    before = threading.active_count()
    seen = windows(1200)
    for _ in range(5):
        reader_of(plane, seen).read(seen[0])
    gc.collect()
    end = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_a_damaged_chunk_is_told(plane: Plane, tmp_path: Path) -> None:
    copied = create_plane(tmp_path / "0", shape=PIXELS.shape, dtype=np.uint8, shard_side=512)
    reader = reader_of(copied, windows(256))
    with pytest.raises(StoreError, match="damaged at"):
        reader.read(windows(256)[0])

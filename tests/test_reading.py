"""Boxes read through the shared reader are the plane's, and no chunk is decoded twice while there is room."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from unetpipe.errors import StoreError
from unetpipe.geometry import Box, TileGrid, unet_geometry
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
    return [tile.window.clipped(PIXELS.shape[1:]) for tile in grid]


@pytest.mark.parametrize("core", [64, 256, 400, 1200])
@pytest.mark.parametrize("name", ["plane", "foreign"])
def test_each_chunk_is_decoded_once_and_forgotten(name: str, core: int, request: pytest.FixtureRequest) -> None:
    plane, boxes = request.getfixturevalue(name), windows(core)
    reader = SharedReader(plane, boxes, most_bytes=10**9)
    for box in boxes:
        assert np.array_equal(reader.read(box), PIXELS[(slice(None), *box.slices)])
    assert reader.decoded == reader.uses.size
    assert not reader.waiting and not reader.bytes and not reader.uses.any()


@pytest.mark.parametrize("most", [0, 2 * 256**2, 5 * 256**2])
def test_chunks_for_which_there_is_no_room_are_decoded_again(plane: Plane, most: int) -> None:
    boxes = windows(128)[::-1]
    reader = SharedReader(plane, boxes, most_bytes=most)
    for box in boxes:
        assert np.array_equal(reader.read(box), PIXELS[(slice(None), *box.slices)])
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


def test_a_damaged_chunk_is_told(plane: Plane, tmp_path: Path) -> None:
    copied = create_plane(tmp_path / "0", shape=PIXELS.shape, dtype=np.uint8, shard_side=512)
    reader = SharedReader(copied, windows(256), most_bytes=10**9)
    with pytest.raises(StoreError, match="damaged at"):
        reader.read(windows(256)[0])

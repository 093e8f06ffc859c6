"""What a network sees of a stored image is the normalised image, read once."""

from pathlib import Path

import numpy as np
import pytest
import torch

from unetpipe import windows
from unetpipe.geometry import TileGrid, unet_geometry
from unetpipe.inference import Forward
from unetpipe.mirroring import window_of
from unetpipe.reading import SharedReader
from unetpipe.slides import create_plane
from unetpipe.windows import shared_reader


@pytest.mark.parametrize(("most", "again"), [(10**9, False), (0, True)])
def test_windows_are_normalised_and_chunks_are_decoded_once(
    most: int, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (1, 300, 500), np.uint8)
    plane = create_plane(tmp_path / "0", shape=pixels.shape, dtype=np.uint8, shard_side=256)
    for _, box in plane.iter_shards():
        plane.write_shard(box, pixels[(slice(None), *box.slices)])
    made: list[SharedReader] = []
    monkeypatch.setattr(windows, "SharedReader", lambda *a, **k: made.append(SharedReader(*a, **k)) or made[0])
    grid = TileGrid(shape=(300, 500), core_side=64, geometry=unet_geometry(2))
    forward, cores = Forward(members=[(torch.nn.Identity(), grid)], device=torch.device("cpu")), [t.core for t in grid]
    read = shared_reader(plane, forward, cores, [(10.0, 210.0)], most_bytes=most)
    for window in (tile.window for tile in grid):
        seen = (window_of(pixels, window).astype(np.float32) - 10) / 200
        np.testing.assert_allclose(read(window), seen, rtol=1e-6, atol=1e-6)
    assert (made[0].decoded > made[0].uses.size) == again

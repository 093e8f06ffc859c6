"""Tiled inference is one pass over the mirrored image, whatever the tiles."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unetpipe.errors import GeometryError
from unetpipe.geometry import Box, TileGrid
from unetpipe.inference import predict_image, predict_tiles, read_window
from unetpipe.networks import build_network
from unetpipe.specs import UnetSpec

CPU = torch.device("cpu")
SPEC = UnetSpec(depth=2, base_width=4, classes=3)
NETWORK = build_network(SPEC, seed=11).eval()


def one_pass(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities from a single pass over the image mirrored by numpy."""
    context, geometry = SPEC.geometry.context, SPEC.geometry
    height, width = image.shape[1:]
    far = [geometry.input_side(n) - n - context for n in (height, width)]
    padded = image
    for axis, margin in ((1, far[0]), (2, far[1])):
        pads = [(0, 0)] * 3
        pads[axis] = (context, margin)
        mode = "edge" if image.shape[axis] == 1 else "reflect"
        padded = np.pad(padded, pads, mode=mode)
    with torch.no_grad():
        logits = NETWORK(torch.from_numpy(np.ascontiguousarray(padded))[None])
    return logits.softmax(1)[0, :, :height, :width].numpy()


def test_tiled_equals_one_pass() -> None:
    """200 random image sizes and cores, images smaller than a tile and remainders of one pixel among them."""
    rng = np.random.default_rng(7)
    worst = 0.0
    for _ in range(200):
        height, width = (int(n) for n in rng.integers(1, 90, 2))
        core = 4 * int(rng.integers(1, 20))
        image = rng.random((1, height, width), dtype=np.float32)
        tiled = predict_image(NETWORK, image, SPEC.geometry, core_side=core, device=CPU)
        whole = one_pass(image)
        worst = max(worst, float(np.abs(tiled - whole).max()))
        sure = np.diff(np.sort(whole, axis=0), axis=0)[-1] > 1e-5
        assert np.array_equal(tiled.argmax(0)[sure], whole.argmax(0)[sure])
    assert worst < 1e-5


def test_tiles_out_of_phase_would_differ() -> None:
    image = np.random.default_rng(1).random((1, 80, 80), dtype=np.float32)
    whole = one_pass(image)
    shifted = one_pass(image[:, 1:, 1:])
    inner = (slice(None), slice(30, 50), slice(30, 50))
    assert np.abs(whole[:, 31:51, 31:51] - shifted[inner]).max() > 1e-2


def test_order_and_workers_change_nothing() -> None:
    image = np.random.default_rng(2).random((1, 70, 61), dtype=np.float32)
    grid = TileGrid(shape=(70, 61), core_side=16, geometry=SPEC.geometry)
    results = []
    for order, workers in ((1, 1), (-1, 4)):
        result = np.full((3, 70, 61), np.nan, dtype=np.float32)

        def write(tile, core, result=result):
            result[(slice(None), *tile.core.slices)] = core

        predict_tiles(
            NETWORK,
            list(grid)[::order],
            shape=(70, 61),
            read=lambda box: image[(slice(None), *box.slices)],
            write=write,
            device=CPU,
            workers=workers,
        )
        results.append(result)
    assert results[0].tobytes() == results[1].tobytes()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 4), (40, 3)])
def test_windows_are_mirrored_without_repeating_the_edge(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(3).random((2, *shape), dtype=np.float32)
    window = Box(start=(-13, -20), stop=(shape[0] + 17, shape[1] + 6))
    found = read_window(lambda box: image[(slice(None), *box.slices)], shape, window)
    expected = image
    for axis, (before, after) in ((1, (13, 17)), (2, (20, 6))):
        pads = [(0, 0)] * 3
        pads[axis] = (before, after)
        expected = np.pad(expected, pads, mode="edge" if image.shape[axis] == 1 else "reflect")
    assert np.array_equal(found, expected)


def test_failure_in_a_tile_ends_the_run() -> None:
    grid = TileGrid(shape=(64, 64), core_side=16, geometry=SPEC.geometry)

    def read(box: Box) -> NDArray[np.float32]:
        raise GeometryError("no such pixels")

    with pytest.raises(GeometryError, match="no such pixels"):
        predict_tiles(NETWORK, grid, shape=(64, 64), read=read, write=lambda t, p: None, device=CPU)


def test_a_core_of_the_wrong_phase_is_refused() -> None:
    with pytest.raises(GeometryError, match="use 16 or 20"):
        predict_image(NETWORK, np.zeros((1, 50, 50), np.float32), SPEC.geometry, core_side=18, device=CPU)

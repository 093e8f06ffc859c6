"""Tiled inference is one pass over the mirrored image, whatever the tiles."""

from dataclasses import replace

import dask.array
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unetpipe import inference
from unetpipe.errors import GeometryError, ModelError
from unetpipe.geometry import Box, TileGrid, unet_geometry
from unetpipe.inference import Forward, predict_image, predict_tiles, source_boxes
from unetpipe.mirroring import source_box, window_of
from unetpipe.networks import build_network
from unetpipe.specs import UnetSpec
from unetpipe.symmetries import GROUPS

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


def test_order_changes_nothing() -> None:
    image = np.random.default_rng(2).random((1, 70, 61), dtype=np.float32)
    grid = TileGrid(shape=(70, 61), core_side=16, geometry=SPEC.geometry)
    results = []
    for order in (1, -1):
        result = np.full((3, 70, 61), np.nan, dtype=np.float32)

        def write(core, probabilities, result=result):
            result[(slice(None), *core.slices)] = probabilities

        predict_tiles(
            Forward(members=[(NETWORK, grid)], device=CPU),
            [tile.core for tile in grid][::order],
            read=lambda window: window_of(image, window),
            write=write,
        )
        results.append(result)
    assert results[0].tobytes() == results[1].tobytes()


def test_dasks_own_overlap_finds_the_same() -> None:
    """An oracle that lays no tiles of ours: numpy mirrors the border, dask cuts chunks and their neighbours' rims."""
    context, core = SPEC.geometry.context, 32
    image = np.random.default_rng(3).random((1, 3 * core, 4 * core), dtype=np.float32)
    padded = np.pad(image[0], context, mode="reflect")
    # Outer chunks hold the mirrored border, so that all windows have the same size.
    ends = [(core + context, *[core] * (n // core - 2), core + context) for n in image.shape[1:]]
    seen: list[tuple[int, ...]] = []

    def probabilities(window: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(window.shape)
        with torch.no_grad():
            return NETWORK(torch.from_numpy(np.ascontiguousarray(window))[None, None]).softmax(1)[0].numpy()

    found = dask.array.from_array(padded, chunks=tuple(ends)).map_overlap(
        probabilities,
        depth=context,
        boundary="none",
        trim=False,
        new_axis=0,
        chunks=((SPEC.classes,), *[(core,) * len(end) for end in ends]),
        meta=np.empty((0, 0, 0), np.float32),
    )
    whole = found.compute(scheduler="synchronous")
    tiled = predict_image(NETWORK, image, SPEC.geometry, core_side=core, device=CPU)
    assert seen == [(core + 2 * context,) * 2] * 12
    assert tiled.shape == whole.shape and np.abs(tiled - whole).max() < 1e-5


def test_cores_are_read_in_order_so_that_chunks_are_shared() -> None:
    grid, seen, written = TileGrid(shape=(70, 61), core_side=8, geometry=SPEC.geometry), [], []

    def read(window: Box) -> NDArray[np.float32]:
        seen.append(window)
        return np.zeros((1, *window.shape), np.float32)

    cores = [tile.core for tile in grid]
    forward = Forward(members=[(NETWORK, grid)], device=CPU)
    watched = []
    predict_tiles(
        forward,
        cores,
        read=read,
        write=lambda core, found: written.append(core),
        watch=lambda core, seconds: watched.append(seconds),
    )
    assert written == cores
    assert seen == [tile.window for tile in grid]
    assert len(watched) == len(cores) and min(watched) > 0


class Narrow(torch.nn.Module):
    """A network that finds no memory for large windows, and says so in the words of a device."""

    def __init__(self, most: int, error: type[Exception]) -> None:
        super().__init__()
        self.most, self.error, self.refused = most, error, 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.shape[-1] > self.most:
            self.refused += 1
            raise self.error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
        return NETWORK(image)


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, torch.OutOfMemoryError])
def test_out_of_memory_halves_the_tiles_and_goes_on(error: type[Exception]) -> None:
    image = np.random.default_rng(9).random((1, 150, 131), dtype=np.float32)
    whole = predict_image(NETWORK, image, SPEC.geometry, core_side=64, device=CPU)
    network = Narrow(76, error)
    found = predict_image(network, image, SPEC.geometry, core_side=64, device=CPU)
    assert np.abs(found - whole).max() < 1e-6
    assert network.refused == 1, "the smaller tile is kept"


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError("CUDA error: out of memory")]
)
def test_out_of_memory_while_uploading_halves_the_tiles_too(error, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that has room for windows of 76 px: those of 64 px cores have 104, those of their halves 72."""
    image = np.random.default_rng(9).random((1, 150, 131), dtype=np.float32)
    whole = predict_image(NETWORK, image, SPEC.geometry, core_side=64, device=CPU)
    sides = []

    def upload(array: NDArray[np.float32], device: torch.device) -> torch.Tensor:
        sides.append(max(array.shape))
        if sides[-1] > 76:
            raise error
        return torch.from_numpy(array)

    monkeypatch.setattr(inference, "upload", upload)
    found = predict_image(NETWORK, image, SPEC.geometry, core_side=64, device=CPU)
    assert np.abs(found - whole).max() < 1e-6
    assert 72 in sides and sides.count(104) <= 10, "nine whole windows, and once more before the tile is halved"
    with pytest.raises(ModelError, match="out of memory with tiles of 50 px"):
        predict_image(NETWORK, image[:, :50, :50], replace(SPEC.geometry, tileable=False), core_side=52, device=CPU)


def test_out_of_memory_with_the_smallest_tile_ends_in_one_line() -> None:
    image = np.zeros((1, 50, 50), np.float32)
    with pytest.raises(ModelError, match="out of memory with tiles of 4 px"):
        predict_image(Narrow(10, MemoryError), image, SPEC.geometry, core_side=48, device=CPU)
    whole = replace(SPEC.geometry, tileable=False)
    with pytest.raises(ModelError, match="out of memory with tiles of 50 px"):
        predict_image(Narrow(10, MemoryError), image, whole, core_side=52, device=CPU)
    with pytest.raises(RuntimeError, match="total dims"):
        predict_image(torch.nn.Flatten(), image, SPEC.geometry, core_side=48, device=CPU)


def test_boxes_are_known_before_they_are_read() -> None:
    grids = [TileGrid(shape=(700, 333), core_side=96, geometry=unet_geometry(depth)) for depth in (2, 4)]
    forward = Forward(members=[(NETWORK, grid) for grid in grids], device=CPU)
    cores = [tile.core for tile in grids[0]][3:20:2]
    expected = [{source_box(window, (700, 333)) for window in forward.windows(core)} for core in cores]
    found = list(source_boxes(forward, cores))
    assert [{*found[2 * n : 2 * n + 2]} for n in range(len(cores))] == expected


def test_half_precision_is_close_and_does_not_depend_on_the_order() -> None:
    image = np.random.default_rng(12).random((1, 61, 45), dtype=np.float32)
    grid = TileGrid(shape=(61, 45), core_side=16, geometry=SPEC.geometry)
    forward = Forward(members=[(NETWORK, grid)], device=CPU, dtype=torch.bfloat16)
    results = []
    for order in (1, -1):
        result = np.full((3, 61, 45), np.nan, dtype=np.float32)

        def write(core, probabilities, result=result):
            result[(slice(None), *core.slices)] = probabilities

        cores = [tile.core for tile in grid][::order]
        predict_tiles(forward, cores, read=lambda window: window_of(image, window), write=write)
        results.append(result)
    assert results[0].tobytes() == results[1].tobytes()
    assert np.abs(results[0].sum(axis=0) - 1).max() < 1e-6, "float32 from the logits on"
    exact = predict_image(NETWORK, image, SPEC.geometry, core_side=16, device=CPU)
    assert 0 < np.abs(results[0] - exact).max() < 0.05, "bfloat16 has 8 bits"


def test_failure_in_a_tile_ends_the_run() -> None:
    grid = TileGrid(shape=(64, 64), core_side=16, geometry=SPEC.geometry)

    def read(window: Box) -> NDArray[np.float32]:
        raise GeometryError("no such pixels")

    with pytest.raises(GeometryError, match="no such pixels"):
        forward = Forward(members=[(NETWORK, grid)], device=CPU)
        predict_tiles(forward, [grid.tile(0).core], read=read, write=lambda core, found: None)


def test_a_core_of_the_wrong_phase_is_refused() -> None:
    with pytest.raises(GeometryError, match="use 16 or 20"):
        predict_image(NETWORK, np.zeros((1, 50, 50), np.float32), SPEC.geometry, core_side=18, device=CPU)


def test_several_networks_and_forms_are_averaged() -> None:
    """Two networks of different geometry, in all 8 forms, against the mean of 16 single predictions."""
    image = np.random.default_rng(5).random((1, 37, 50), dtype=np.float32)
    specs = [SPEC, UnetSpec(depth=1, base_width=4, classes=3)]
    networks = [build_network(spec, seed=seed).eval() for seed, spec in enumerate(specs)]
    found = np.zeros((3, 37, 50), np.float32)

    def write(core, probabilities):
        found[(slice(None), *core.slices)] = probabilities

    grids = [TileGrid(shape=(37, 50), core_side=16, geometry=spec.geometry) for spec in specs]
    members = list(zip(networks, grids, strict=True))
    predict_tiles(
        Forward(members=members, device=CPU, symmetries=GROUPS["d4"]),
        [tile.core for tile in grids[0]],
        read=lambda window: window_of(image, window),
        write=write,
    )
    single = [
        predict_image(network, image, spec.geometry, core_side=16, device=CPU, symmetries=[symmetry])
        for network, spec in zip(networks, specs, strict=True)
        for symmetry in GROUPS["d4"]
    ]
    assert np.abs(found - np.mean(single, axis=0)).max() < 1e-6


@pytest.mark.parametrize("group", ["rot4", "d4", "paper7"])
def test_turned_and_flipped_forms_do_not_depend_on_the_tiles(group: str) -> None:
    image = np.random.default_rng(6).random((1, 61, 45), dtype=np.float32)
    tiled, whole = (
        predict_image(NETWORK, image, SPEC.geometry, core_side=side, device=CPU, symmetries=GROUPS[group])
        for side in (12, 64)
    )
    assert np.abs(tiled - whole).max() < 1e-5


def test_all_forms_together_commute_with_turning_and_flipping() -> None:
    """With all 8 forms, a turned image gives the turned result, where the turned window has the same phase."""
    image = np.random.default_rng(8).random((1, 44, 44), dtype=np.float32)

    def predicted(pixels):
        return predict_image(NETWORK, pixels, SPEC.geometry, core_side=44, device=CPU, symmetries=GROUPS["d4"])

    assert np.abs(predicted(np.rot90(image, 1, (1, 2)).copy()) - np.rot90(predicted(image), 1, (1, 2))).max() < 1e-6
    assert np.abs(predicted(image[:, :, ::-1].copy()) - predicted(image)[:, :, ::-1]).max() < 1e-6

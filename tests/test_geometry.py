"""Integer geometry against brute force."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetpipe.errors import GeometryError
from unetpipe.geometry import Box, NetGeometry, TileGrid, dilated_geometry, mirror, padded_geometry, unet_geometry


def layer_by_layer(side: int, depth: int) -> int | None:
    """Output side of the network, walked layer by layer; None where a pooling would drop a pixel."""
    skips = []
    for _ in range(depth):
        side -= 4
        if side < 2 or side % 2:
            return None
        skips.append(side)
        side //= 2
    side -= 4
    for skip in reversed(skips):
        side *= 2
        if side < 1 or (skip - side) % 2:
            return None
        side -= 4
    return side if side > 0 else None


@pytest.mark.parametrize("depth", range(1, 7))
def test_legal_sizes_are_those_of_the_layers(depth: int) -> None:
    geometry = unet_geometry(depth)
    for side in range(1, 1600):
        output = layer_by_layer(side, depth)
        assert geometry.is_legal(side) == (output is not None)
        if output is not None:
            assert geometry.output_side(side) == output


@pytest.mark.parametrize(("depth", "context"), [(1, 8), (2, 20), (3, 44), (4, 92), (5, 188), (6, 380)])
def test_context_is_half_of_what_the_convolutions_take(depth: int, context: int) -> None:
    geometry = unet_geometry(depth)
    assert (geometry.context, geometry.shrink, geometry.stride) == (context, 2 * context, 2**depth)


@pytest.mark.parametrize(("output", "side"), [(512, 700), (520, 716), (696, 892), (1024, 1212), (388, 572), (4, 188)])
def test_smallest_input_for_a_wanted_output(output: int, side: int) -> None:
    assert unet_geometry(4).input_side(output) == side


@pytest.mark.parametrize(
    ("side", "nearest"), [(512, "508 or 524"), (100, "188"), (256, "252 or 268"), (570, "556 or 572")]
)
def test_illegal_size_names_the_nearest_legal_ones(side: int, nearest: str) -> None:
    with pytest.raises(GeometryError, match=f"use {nearest}"):
        unet_geometry(4).output_side(side)


@pytest.mark.parametrize("depth", range(1, 7))
def test_valid_dilated_sizes_are_those_of_the_layers(depth: int) -> None:
    def walked(side: int) -> int | None:
        for _ in range(depth):
            side -= 8
            if side < 2 or side % 2:
                return None
            side //= 2
        for _ in range(depth):
            side = 2 * (side - 4)
            if side < 1:
                return None
        return side - 4 if side > 4 else None

    geometry = dilated_geometry(depth, form="valid")
    assert geometry.shrink == 2 * geometry.context
    for side in range(1, 1600):
        output = walked(side)
        assert geometry.is_legal(side) == (output is not None)
        if output is not None:
            assert geometry.output_side(side) == output


def test_networks_that_fit_their_maps_take_any_side_and_tile_in_phase() -> None:
    geometry = padded_geometry(4, fits=True)
    assert geometry.is_legal(500) and geometry.output_side(333) == 333
    assert not geometry.is_legal(15)
    assert geometry.input_side(500) == 512
    strict = padded_geometry(4)
    assert not strict.is_legal(500) and strict.is_legal(496)


@pytest.mark.parametrize(
    "geometry", [padded_geometry(2), dilated_geometry(2, form="aligned"), dilated_geometry(2, form="valid")]
)
@given(height=st.integers(1, 90), width=st.integers(1, 90), cores=st.integers(1, 9))
def test_windows_of_all_families_are_legal_and_in_phase(geometry: NetGeometry, height, width, cores) -> None:
    for tile in TileGrid(shape=(height, width), core_side=4 * cores, geometry=geometry):
        for axis in (0, 1):
            side = tile.window.shape[axis]
            assert side % geometry.stride == geometry.residue and geometry.is_legal(side)
            assert (tile.window.start[axis] + geometry.context) % geometry.stride == 0
            first = tile.window.start[axis] + geometry.shrink // 2 + tile.crop.start[axis]
            assert first == tile.core.start[axis]
            assert geometry.output_side(side) - tile.crop.stop[axis] >= geometry.context - geometry.shrink // 2


@given(size=st.integers(1, 9), index=st.integers(-50, 50))
def test_mirror_is_the_iterated_reflection(size: int, index: int) -> None:
    while size > 1 and not 0 <= index < size:
        index = -index if index < 0 else 2 * (size - 1) - index
    expected = 0 if size == 1 else index
    assert mirror(index, size) == expected


@given(height=st.integers(1, 90), width=st.integers(1, 90), cores=st.integers(1, 9), depth=st.integers(1, 3))
def test_cores_cover_the_image_once_and_windows_fit(height: int, width: int, cores: int, depth: int) -> None:
    geometry = unet_geometry(depth)
    grid = TileGrid(shape=(height, width), core_side=cores * geometry.stride, geometry=geometry)
    tiles = list(grid)
    assert len(tiles) == len(grid)
    assert sum(t.core.shape[0] * t.core.shape[1] for t in tiles) == height * width
    assert len({t.core for t in tiles}) == len(tiles)
    for tile in tiles:
        assert tile.core.clipped((height, width)) == tile.core
        for axis in (0, 1):
            side = tile.window.shape[axis]
            assert geometry.is_legal(side)
            # The first output pixel stands `context` behind the window's start, in phase with all other tiles.
            assert tile.window.start[axis] + geometry.context + tile.crop.start[axis] == tile.core.start[axis]
            assert (tile.window.start[axis] + geometry.context) % geometry.stride == 0
            assert tile.crop.stop[axis] <= geometry.output_side(side)


@pytest.mark.parametrize("core", [0, 8, 388, 100])
def test_core_out_of_phase_is_refused(core: int) -> None:
    with pytest.raises(GeometryError, match="no multiple"):
        TileGrid(shape=(600, 600), core_side=core, geometry=unet_geometry(4))


def test_empty_image_is_refused() -> None:
    with pytest.raises(GeometryError, match="no pixel"):
        TileGrid(shape=(0, 5), core_side=16, geometry=unet_geometry(4))


def test_boxes() -> None:
    box = Box(start=(2, 3), stop=(10, 7))
    assert box.shape == (8, 4)
    assert box.grown(3).clipped((9, 20)) == Box(start=(0, 0), stop=(9, 10))
    assert box.relative_to((2, 1)) == Box(start=(0, 2), stop=(8, 6))
    assert box.clipped((1, 1)).shape == (0, 0)
    with pytest.raises(GeometryError, match="stops before"):
        Box(start=(5, 5), stop=(4, 9))

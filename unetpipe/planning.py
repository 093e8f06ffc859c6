"""How a slide is cut into tiles: the largest cores that keep to a budget of memory, and what they cost."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from unetpipe.errors import GeometryError
from unetpipe.geometry import TileGrid
from unetpipe.netspecs import NetworkSpec
from unetpipe.passes import count_pass, flops_at_the_limit

__all__ = ["CACHE_BYTES", "FORMS", "LARGE", "MOST_PX", "Plan", "plan_tiles", "shard_of"]

FORMS = {"none": 1, "rot4": 4, "d4": 8, "paper7": 7}
"""Forms in which a network sees each window, by `predict.symmetries`."""
LARGE = (2**20, 2**20)
"""A slide that is larger than all cores."""
SHARD_PX, LEAST_SHARD_PX = 1024, 384
STEP_PX = 256
MOST_PX = 4096
"""Largest planned core in px: for the network of 2015, larger ones save less than 3 % of the arithmetic."""
CACHE_BYTES = 128_000_000
"""Most bytes of decoded chunks that wait for the next window."""

# What the process is before it holds any pixel: the interpreter, torch and the other libraries.
PROGRAM_BYTES = 500_000_000
# A GPU's context and its libraries' work space.
CONTEXT_BYTES = 1_000_000_000
# What is taken for each byte of maps: on a processor the C library keeps what is freed, and maps of many sizes do not
# fill the gaps that others leave; a GPU's convolutions have work space.
HOST_SLACK, DEVICE_SLACK = 2.0, 1.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Tiles of one slide and what they cost.

    Parameters
    ----------
    core_px : int
        Side of a core.
    window_px : int
        Side of the largest window that a core needs.
    shard_px : int
        Side of the shards that results are stored in; cores are whole shards.
    cores : int
        Their number.
    host_bytes : int
        Predicted peak of this process where the processor computes.
    device_bytes : int
        Predicted peak of a GPU that computes in its place.
    flops_per_px : float
        Arithmetic of all networks per output pixel, in FLOP.
    work : float
        The same relative to an infinite tile, at least 1.
    """

    core_px: int
    window_px: int
    shard_px: int
    cores: int
    host_bytes: int
    device_bytes: int
    flops_per_px: float
    work: float


def plan_tiles(
    networks: Sequence[NetworkSpec],
    *,
    shape: tuple[int, int] = LARGE,
    memory_gb: float = 4.0,
    core_px: int | None = None,
    forms: int = 1,
) -> Plan:
    """Choose the core for a slide.

    Parameters
    ----------
    networks : sequence of NetworkSpec
        Those whose probabilities are averaged.
    shape : (int, int)
        Height and width of the slide in px; by default one that is larger than all cores.
    memory_gb : float
        What the process may take where the processor computes, in GB of 10^9 bytes.
    core_px : int, optional
        Side of a core in px where it is given: then the budget does not count.
    forms : int
        Forms in which each network sees each window.

    Returns
    -------
    Plan
        With the largest core that keeps to the budget, at most `MOST_PX`; or a smaller one that needs no more tiles.

    Raises
    ------
    GeometryError
        If the smallest core does not fit, or a given one is not legal.

    Notes
    -----
    The plan depends on nothing but its arguments, so that an interrupted run finds the tiles that it began with, on
    whatever machine. A GPU needs less than what is counted for a processor, because the windows lie elsewhere.

    Examples
    --------
    >>> from unetpipe.netspecs import UnetSpec
    >>> plan = plan_tiles([UnetSpec()])
    >>> plan.core_px, plan.window_px, round(plan.work, 2)
    (1152, 1340, 1.12)
    """
    if core_px is not None:
        return _plan(networks, shape, core_px, forms)
    sides = _candidates(networks, shape)
    fitting = [side for side in sides if _plan(networks, shape, side, forms).host_bytes <= 1e9 * memory_gb]
    if not fitting:
        needed = _plan(networks, shape, sides[0], forms).host_bytes / 1e9
        raise GeometryError(
            f"predict.memory_gb: expected at least {math.ceil(10 * needed) / 10:.1f} for cores of {sides[0]} px, the "
            f"smallest for this network and image, came {memory_gb:g}; set it higher"
        )
    largest = _plan(networks, shape, fitting[-1], forms)
    return next(plan for side in fitting if (plan := _plan(networks, shape, side, forms)).cores == largest.cores)


def shard_of(core_px: int) -> int:
    """Side of the shards of a core: itself, or above 1024 px its largest equal parts that are multiples of 128 px.

    Parameters
    ----------
    core_px : int
        Side of a core in px; above 1024, a multiple of 128.

    Examples
    --------
    >>> shard_of(384), shard_of(1152), shard_of(1536), shard_of(2560)
    (384, 384, 768, 640)
    """
    if core_px <= SHARD_PX:
        return core_px
    return next(
        core_px // n for n in range(2, core_px) if core_px // n <= SHARD_PX and core_px % (n * STEP_PX // 2) == 0
    )


def _candidates(networks: Sequence[NetworkSpec], shape: tuple[int, int]) -> list[int]:
    """Sides of cores in px, smallest first: whole steps, and halves of one; no larger than the slide needs."""
    whole = -(-max(shape) // STEP_PX) * STEP_PX
    if not all(spec.geometry.tileable for spec in networks):
        return [whole]
    stride = max(spec.geometry.stride for spec in networks)
    halves = [STEP_PX // 2**n for n in range(8, 0, -1) if STEP_PX // 2**n >= stride]
    small, large = range(STEP_PX, SHARD_PX, STEP_PX), range(2048, MOST_PX + 1, 2 * STEP_PX)
    middle = [side for side in range(SHARD_PX, 2048, STEP_PX // 2) if _is_whole_shards(side)]
    steps = [side for side in (*small, *middle, *large) if side < whole]
    return [*halves, *steps, *([whole] if whole <= MOST_PX else [])]


def _is_whole_shards(core_px: int) -> bool:
    """Whether a core can be stored in shards that are not too small: whole steps, or halves with larger ones."""
    if core_px <= SHARD_PX or core_px % STEP_PX == 0:
        return True
    return core_px % (STEP_PX // 2) == 0 and shard_of(core_px) >= LEAST_SHARD_PX


def _plan(networks: Sequence[NetworkSpec], shape: tuple[int, int], core_px: int, forms: int) -> Plan:
    """The plan for a given core."""
    if not _is_whole_shards(core_px):
        below = next(side for side in range(core_px, 0, -1) if _is_whole_shards(side))
        above = next(side for side in itertools.count(core_px) if _is_whole_shards(side))
        raise GeometryError(
            f"core of {core_px} px: expected a multiple of {STEP_PX} px, or a side that can be stored in shards of "
            f"{LEAST_SHARD_PX} px or more; use {below} or {above}"
        )
    grids = [TileGrid(shape=shape, core_side=core_px, geometry=spec.geometry) for spec in networks]
    height, width = (min(core_px, n) for n in shape)
    sides = [max(grid.tile(0).window.shape) for grid in grids]
    passes = [count_pass(spec, side) for spec, side in zip(networks, sides, strict=True)]
    pixels, window = height * width, max(sides) ** 2
    channels, classes = networks[0].channels, networks[0].classes
    flops = sum(p.flops for p in passes) / max(height, width) ** 2
    parameters = sum(4 * p.parameters for p in passes)
    maps = max(4 * p.values for p in passes)
    # Probabilities in float32, once more while they are computed, and once more where several are averaged.
    kept = parameters + 4 * classes * pixels * (2 + (len(networks) * forms > 1))
    # One window is read while another one is computed and results are encoded; what is read is copied once.
    host = 3 * 4 * channels * window + 3 * 2 * classes * pixels
    return Plan(
        core_px=core_px,
        window_px=max(sides),
        shard_px=shard_of(core_px),
        cores=len(grids[0]),
        host_bytes=PROGRAM_BYTES + CACHE_BYTES + round(HOST_SLACK * maps) + kept + host,
        device_bytes=CONTEXT_BYTES + round(DEVICE_SLACK * maps) + kept,
        flops_per_px=flops * forms,
        work=flops / sum(flops_at_the_limit(spec) for spec in networks),
    )

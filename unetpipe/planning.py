"""How a slide is cut into tiles: the largest cores that keep to a budget of memory, and what they cost."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from unetpipe.errors import GeometryError
from unetpipe.geometry import TileGrid
from unetpipe.netspecs import NetworkSpec
from unetpipe.passes import Pass, count_pass, flops_at_the_limit
from unetpipe.specs import PredictSpec

__all__ = ["CACHE_BYTES", "FORMS", "LARGE", "MOST_PX", "Plan", "plan_tiles", "plan_whole", "shard_of"]

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
# A GPU's context and its libraries' work space: in its own memory, and what its driver adds to the process, for which
# this is an allowance.
CONTEXT_BYTES, DRIVER_BYTES = 1_000_000_000, 1_500_000_000
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
    part_px : int
        Side of the tiles by which a processor computes a core: the core's, unless cores are planned for a GPU.
    host_bytes : int
        Predicted peak of this process where the processor computes; with a budget for a GPU, also where it feeds one.
    device_bytes : int
        Predicted peak of a GPU that computes in its place.
    flops_per_px : float
        Arithmetic of all networks per output pixel, in FLOP, where cores are computed as a whole.
    work : float
        The same relative to an infinite tile, at least 1.
    """

    core_px: int
    window_px: int
    shard_px: int
    cores: int
    part_px: int
    host_bytes: int
    device_bytes: int
    flops_per_px: float
    work: float


def plan_tiles(networks: Sequence[NetworkSpec], spec: PredictSpec, *, shape: tuple[int, int] = LARGE) -> Plan:
    """Choose the core for a slide.

    Parameters
    ----------
    networks : sequence of NetworkSpec
        Those whose probabilities are averaged.
    spec : PredictSpec
        Its budgets, precision and symmetries; where it has a core, the budgets do not count.
    shape : (int, int)
        Height and width of the slide in px; by default one that is larger than all cores.

    Returns
    -------
    Plan
        With the largest core that keeps to the budgets, at most `MOST_PX`; or a smaller one that needs no more tiles.

    Raises
    ------
    GeometryError
        If the smallest core does not fit, or a given one is not legal.

    Notes
    -----
    The plan depends on nothing but its arguments, so that an interrupted run finds the tiles that it began with, on
    whatever machine; what memory a machine has is therefore a setting.

    ======================  ==================================  ======================================
    held against            without ``gpu_memory_gb``           with it
    ======================  ==================================  ======================================
    ``memory_gb``           a processor that computes whole     a processor that computes cores in
                            cores                               parts, and one that feeds a GPU
    ``gpu_memory_gb``                                           a GPU that computes whole cores
    ======================  ==================================  ======================================

    Cores that are planned for a GPU thus never take more than ``memory_gb`` where there is none: its processor computes
    them in parts of equal side, as many as it takes. Networks that cannot be tiled have no parts, so that both memories
    must hold a whole image.

    Examples
    --------
    >>> from unetpipe.netspecs import UnetSpec
    >>> plan = plan_tiles([UnetSpec()], PredictSpec(memory_gb=4.0))
    >>> plan.core_px, plan.window_px, round(plan.work, 2)
    (1152, 1340, 1.12)
    >>> plan = plan_tiles([UnetSpec()], PredictSpec(memory_gb=4.0, gpu_memory_gb=16.0))
    >>> plan.core_px, plan.part_px, round(plan.work, 2)
    (3072, 1024, 1.04)
    """
    if spec.core_px is not None:
        return _plan(networks, spec, shape, spec.core_px)
    plans = [_plan(networks, spec, shape, side) for side in _candidates(networks, shape)]
    fitting = [plan for plan in plans if not _excess(plan, spec)]
    if not fitting:
        name, needed, given = _excess(plans[0], spec)[0]
        raise GeometryError(
            f"predict.{name}: expected at least {math.ceil(needed / 1e8) / 10:.1f} for cores of {plans[0].core_px} px, "
            f"the smallest for this network and image, came {given:g}; set it higher"
        )
    return next(plan for plan in fitting if plan.cores == fitting[-1].cores)


def plan_whole(network: NetworkSpec, shape: tuple[int, int]) -> Plan:
    """The plan of an image as one tile, whatever it takes.

    Parameters
    ----------
    network : NetworkSpec
        What sees it.
    shape : (int, int)
        Height and width of the image in px.

    Examples
    --------
    >>> from unetpipe.netspecs import UnetSpec
    >>> plan_whole(UnetSpec(), (700, 1500)).cores
    1
    """
    return plan_tiles([network], PredictSpec(core_px=_whole(shape)), shape=shape)


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
    whole = _whole(shape)
    if not all(spec.geometry.tileable for spec in networks):
        return [whole]
    stride = max(spec.geometry.stride for spec in networks)
    halves = [STEP_PX // 2**n for n in range(8, 0, -1) if STEP_PX // 2**n >= stride]
    small, large = range(STEP_PX, SHARD_PX, STEP_PX), range(2048, MOST_PX + 1, 2 * STEP_PX)
    middle = [side for side in range(SHARD_PX, 2048, STEP_PX // 2) if _is_whole_shards(side)]
    steps = [side for side in (*small, *middle, *large) if side < whole]
    return [*halves, *steps, *([whole] if whole <= MOST_PX else [])]


def _whole(shape: tuple[int, int]) -> int:
    """Side in px of a core that holds an image."""
    return -(-max(shape) // STEP_PX) * STEP_PX


def _is_whole_shards(core_px: int) -> bool:
    """Whether a core can be stored in shards that are not too small: whole steps, or halves with larger ones."""
    if core_px <= SHARD_PX or core_px % STEP_PX == 0:
        return True
    return core_px % (STEP_PX // 2) == 0 and shard_of(core_px) >= LEAST_SHARD_PX


def _excess(plan: Plan, spec: PredictSpec) -> list[tuple[str, int, float]]:
    """Budgets that a plan does not keep to: name, bytes that it needs, GB that are there."""
    budgets = [("memory_gb", plan.host_bytes, spec.memory_gb), ("gpu_memory_gb", plan.device_bytes, spec.gpu_memory_gb)]
    return [(name, needed, gb) for name, needed, gb in budgets if gb is not None and needed > 1e9 * gb]


def _plan(networks: Sequence[NetworkSpec], spec: PredictSpec, shape: tuple[int, int], core_px: int) -> Plan:
    """The plan for a given core."""
    if not _is_whole_shards(core_px):
        below = next(side for side in range(core_px, 0, -1) if _is_whole_shards(side))
        above = next(side for side in itertools.count(core_px) if _is_whole_shards(side))
        raise GeometryError(
            f"core of {core_px} px: expected a multiple of {STEP_PX} px, or a side that can be stored in shards of "
            f"{LEAST_SHARD_PX} px or more; use {below} or {above}"
        )
    grid = TileGrid(shape=shape, core_side=core_px, geometry=networks[0].geometry)
    sides, passes = _passes(networks, shape, core_px)
    height, width = (min(core_px, n) for n in shape)
    pixels, window = height * width, max(sides) ** 2
    channels, classes, forms = networks[0].channels, networks[0].classes, FORMS[spec.symmetries]
    flops = sum(p.flops for p in passes) / max(height, width) ** 2
    parameters = sum(4 * p.parameters for p in passes)
    # Probabilities in float32, once more while they are computed, and once more where several are averaged.
    kept = parameters + 4 * classes * pixels * (2 + (len(networks) * forms > 1))
    # One window is read while another one is computed and results are encoded; what is read is copied once.
    image, result = 4 * channels * window, 2 * classes * pixels
    program = PROGRAM_BYTES + CACHE_BYTES
    computing, part_px = program + kept + 3 * image + 3 * result, core_px
    host = computing + _maps(passes)
    if spec.gpu_memory_gb is not None and spec.core_px is None:
        # Page-locked copies are kept, and as long as a power of two: of one window, and of two results.
        feeding = program + DRIVER_BYTES + 2 * parameters + 5 * image + 7 * result
        part_px, maps = _part(networks, shape, core_px, 1e9 * spec.memory_gb - computing)
        host = max(computing + maps, feeding)
    # Beside the core that is computed, a window waits and a result is fetched.
    return Plan(
        core_px=core_px,
        window_px=max(sides),
        shard_px=shard_of(core_px),
        cores=len(grid),
        part_px=part_px,
        host_bytes=host,
        device_bytes=CONTEXT_BYTES + _device_maps(passes, spec) + kept + image + result,
        flops_per_px=flops * forms,
        work=flops / sum(flops_at_the_limit(net) for net in networks),
    )


def _passes(networks: Sequence[NetworkSpec], shape: tuple[int, int], side: int) -> tuple[list[int], list[Pass]]:
    """Sides in px of the largest windows that tiles of a side need, and a pass over each."""
    grids = [TileGrid(shape=shape, core_side=side, geometry=net.geometry) for net in networks]
    sides = [max(grid.tile(0).window.shape) for grid in grids]
    return sides, [count_pass(net, n) for net, n in zip(networks, sides, strict=True)]


def _maps(passes: Sequence[Pass]) -> int:
    """Bytes that a processor takes for maps, which one network has at a time."""
    return round(HOST_SLACK * 4 * max(p.values for p in passes))


def _device_maps(passes: Sequence[Pass], spec: PredictSpec) -> int:
    """Bytes that a GPU takes for maps; half precision halves them, and has its own copies of the parameters."""
    if spec.precision == "float32":
        return round(DEVICE_SLACK * 4 * max(p.values for p in passes))
    return round(DEVICE_SLACK * 2 * max(p.values + p.parameters for p in passes))


def _part(networks: Sequence[NetworkSpec], shape: tuple[int, int], core_px: int, room: float) -> tuple[int, int]:
    """Side in px of the largest equal parts of a core whose maps have room, or of the smallest; and their bytes."""
    stride = max(net.geometry.stride for net in networks)
    tileable = all(net.geometry.tileable for net in networks)
    for n in itertools.count(1):
        part = -(-core_px // (n * stride)) * stride
        maps = _maps(_passes(networks, shape, part)[1])
        if maps <= room or part == stride or not tileable:
            return part, maps
    raise AssertionError("the stride is a part")

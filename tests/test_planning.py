"""Plans keep to their budget, are legal, and cost what the limits say."""

import pytest

from unetpipe.errors import GeometryError
from unetpipe.geometry import TileGrid
from unetpipe.netspecs import DilatedUnetSpec, KerasUnetSpec, NetworkSpec, PaddedUnetSpec, UnetSpec
from unetpipe.passes import count_pass, flops_at_the_limit
from unetpipe.planning import MOST_PX, plan_tiles, shard_of
from unetpipe.specs import PredictSpec

NETWORKS: list[NetworkSpec] = [
    UnetSpec(),
    UnetSpec(depth=2, base_width=4, channels=3),
    UnetSpec(depth=7, base_width=2),
    PaddedUnetSpec(features=(32, 64, 128)),
    KerasUnetSpec(base_width=16),
    DilatedUnetSpec(form="valid", base_width=16),
]
SIDES = [*range(256, 1024, 256), 1024, 1152, 1280, 1536, 1792, 1920, *range(2048, MOST_PX + 1, 512)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("memory_gb", "most"), [(4.0, 1.13), (16.0, 1.07)])
def test_arithmetic_of_the_network_of_2015_beside_the_limit(memory_gb: float, most: float, channels: int) -> None:
    spec = UnetSpec(channels=channels)
    plan = plan_tiles([spec], PredictSpec(memory_gb=memory_gb))
    assert plan.work <= most
    assert plan.flops_per_px == pytest.approx(plan.work * (1_468_000 + 2 * 9 * 64 * (channels - 1)), rel=1e-3)
    by_hand = count_pass(spec, plan.window_px).flops / plan.core_px**2
    assert plan.flops_per_px == by_hand


@pytest.mark.parametrize("spec", NETWORKS, ids=lambda s: f"{s.family}-{s.depth}")
@pytest.mark.parametrize("shape", [(1, 1), (90, 300), (1100, 1100), (4443, 3567), (65536, 65536)])
def test_the_largest_legal_core_within_the_budget(spec: NetworkSpec, shape: tuple[int, int]) -> None:
    """Against every multiple of 256 px, above 2048 px of 512 px, and those of 128 px with large shards, one by one."""
    for memory_gb in (1.3, 4.0):
        plan = plan_tiles([spec], PredictSpec(memory_gb=memory_gb), shape=shape)
        grid = TileGrid(shape=shape, core_side=plan.core_px, geometry=spec.geometry)
        assert len(grid) == plan.cores and plan.host_bytes <= memory_gb * 1e9 and plan.work >= 1
        assert plan.core_px % plan.shard_px == 0 and plan.shard_px <= 1024
        for side in SIDES:
            other = plan_tiles([spec], PredictSpec(core_px=side), shape=shape)
            if other.host_bytes <= memory_gb * 1e9:
                assert other.cores >= plan.cores
                assert other.cores > plan.cores or other.core_px >= plan.core_px


def test_memory_grows_with_the_core_and_not_with_the_slide() -> None:
    peaks = [plan_tiles([UnetSpec()], PredictSpec(core_px=side)).host_bytes for side in (256, 512, 1024, 2048)]
    assert peaks == sorted(peaks)
    small, large = (plan_tiles([UnetSpec()], PredictSpec(core_px=1024), shape=(n, n)).host_bytes for n in (4096, 65536))
    assert small == large


def test_an_ensemble_needs_the_memory_of_one_and_the_arithmetic_of_all() -> None:
    one, other = UnetSpec(base_width=16), PaddedUnetSpec(features=(16, 32))
    plans = [plan_tiles(list(specs), PredictSpec(core_px=512)) for specs in ([one], [other], [one, other])]
    assert plans[2].flops_per_px == pytest.approx(plans[0].flops_per_px + plans[1].flops_per_px)
    limit = flops_at_the_limit(one) + flops_at_the_limit(other)
    assert plans[2].work == pytest.approx(plans[2].flops_per_px / limit)
    assert plans[2].host_bytes < plans[0].host_bytes + plans[1].host_bytes
    assert plan_tiles([one], PredictSpec(core_px=512, symmetries="d4")).flops_per_px == 8 * plans[0].flops_per_px


def test_a_network_that_cannot_be_tiled_gets_the_whole_image() -> None:
    spec = DilatedUnetSpec(form="printed", base_width=4)
    assert plan_tiles([spec], PredictSpec(), shape=(700, 500)).core_px == 768
    with pytest.raises(GeometryError, match=r"expected at least .* for cores of 20224 px"):
        plan_tiles([spec], PredictSpec(), shape=(20000, 20000))


def test_both_memories_by_hand() -> None:
    """A core of 32 px of a network of depth 1, whose window is 48 px."""
    spec = UnetSpec(depth=1, base_width=4, channels=3)
    parameters = 28 * 4 + 37 * 4 + 37 * 8 + 73 * 8 + (4 * 8 + 1) * 4 + 73 * 4 + 37 * 4 + 5 * 2
    # Most is there where the raised map and the skip, not yet cropped, become one; the window stays.
    values, window, pixels = 3 * 48**2 + 4 * 36**2 + 4 * 44**2 + 8 * 36**2, 48 * 48, 32 * 32
    plan = plan_tiles([spec], PredictSpec(gpu_memory_gb=8.0), shape=(32, 32))
    assert (plan.core_px, plan.window_px, plan.part_px) == (32, 48, 32)
    # A context, maps with room for work space, probabilities twice, a window that waits, a result of 2 bytes.
    by_hand = 1_000_000_000 + round(1.15 * 4 * values) + 4 * (parameters + 2 * 2 * pixels + 3 * window)
    assert plan.device_bytes == by_hand + 2 * 2 * pixels
    half = plan_tiles([spec], PredictSpec(gpu_memory_gb=8.0, precision="float16"), shape=(32, 32))
    maps = [round(1.15 * n) for n in (4 * values, 2 * (values + parameters))]
    assert plan.device_bytes - half.device_bytes == maps[0] - maps[1]
    # The program, its cache and a GPU's driver, parameters as file and network, windows of 4 and results of 2 bytes.
    feeding = 2_128_000_000 + 2 * 4 * parameters + 5 * 4 * 3 * window + 7 * 2 * 2 * pixels
    assert plan.host_bytes == half.host_bytes == feeding
    computing = 628_000_000 + 2 * 4 * values + 4 * parameters + 2 * 4 * 2 * pixels + 3 * 4 * 3 * window
    assert plan_tiles([spec], PredictSpec(), shape=(32, 32)).host_bytes == computing + 3 * 2 * 2 * pixels


@pytest.mark.parametrize("spec", NETWORKS, ids=lambda s: f"{s.family}-{s.depth}")
@pytest.mark.parametrize("shape", [(90, 300), (4443, 3567), (65536, 65536)])
def test_cores_for_a_gpu_keep_to_both_memories(spec: NetworkSpec, shape: tuple[int, int]) -> None:
    for memory_gb, gpu_gb in ((2.6, 2.5), (4.0, 80.0), (99.0, 4.0)):
        plan = plan_tiles([spec], PredictSpec(memory_gb=memory_gb, gpu_memory_gb=gpu_gb), shape=shape)
        assert plan.host_bytes <= memory_gb * 1e9 and plan.device_bytes <= gpu_gb * 1e9
        assert plan.part_px <= plan.core_px and plan.part_px % spec.geometry.stride == 0
        # Where the process has room, the GPU alone decides.
        for side in SIDES if memory_gb == 99 else ():
            other = plan_tiles([spec], PredictSpec(core_px=side), shape=shape)
            assert other.device_bytes > gpu_gb * 1e9 or other.cores >= plan.cores


def test_a_larger_gpu_takes_larger_cores_of_a_small_host() -> None:
    plans = [plan_tiles([UnetSpec()], PredictSpec(gpu_memory_gb=n)) for n in (None, 3.0, 8.0, 24.0, 141.0)]
    assert [plan.core_px for plan in plans] == [1152, 1152, 2048, 4096, 4096]
    assert plans[-1].work < 1.033 < plans[2].work < 1.07
    assert all(plan.host_bytes <= 4e9 for plan in plans)
    assert plans[0].part_px == 1152 and plans[-1].part_px == 1024
    # Half precision needs about half of it.
    half = plan_tiles([UnetSpec()], PredictSpec(gpu_memory_gb=12.0, precision="bfloat16"))
    assert half.core_px == 4096 > plan_tiles([UnetSpec()], PredictSpec(gpu_memory_gb=12.0)).core_px


def test_a_network_that_cannot_be_tiled_needs_both_memories_for_the_whole_image() -> None:
    spec = DilatedUnetSpec(form="printed", base_width=4)
    plan = plan_tiles([spec], PredictSpec(gpu_memory_gb=8.0), shape=(700, 500))
    assert plan.part_px == plan.core_px == 768
    with pytest.raises(GeometryError, match=r"predict\.memory_gb: expected .* for cores of 6144 px.*came 4"):
        plan_tiles([spec], PredictSpec(gpu_memory_gb=100.0), shape=(6000, 6000))


def test_budgets_and_cores_that_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"memory_gb: expected at least 0\.\d for cores of 16 px.*came 0\.5"):
        plan_tiles([UnetSpec(base_width=4)], PredictSpec(memory_gb=0.5))
    with pytest.raises(GeometryError, match=r"memory_gb: expected at least 2\.2 for cores of 16 px.*came 2"):
        plan_tiles([UnetSpec(base_width=4)], PredictSpec(memory_gb=2.0, gpu_memory_gb=8.0))
    with pytest.raises(GeometryError, match=r"gpu_memory_gb: expected at least 1\.2 for cores of 16 px.*came 0\.5"):
        plan_tiles([UnetSpec()], PredictSpec(gpu_memory_gb=0.5))
    with pytest.raises(GeometryError, match="use 16 or 32"):
        plan_tiles([UnetSpec()], PredictSpec(core_px=24))
    with pytest.raises(GeometryError, match="use 1024 or 1152"):
        plan_tiles([UnetSpec()], PredictSpec(core_px=1040))


@pytest.mark.parametrize("core", [16, 384, 1000, *SIDES])
def test_shards_are_equal_parts_of_a_core(core: int) -> None:
    side = shard_of(core)
    assert core % side == 0 and side <= 1024 and (side == core or side % 128 == 0)
    assert side > 256 or core <= 256 or side == core, "not many small files"

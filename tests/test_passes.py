"""Counted arithmetic and memory against what torch counts and holds."""

import json
import os
import subprocess
import sys
import weakref
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from unetpipe.netspecs import DilatedUnetSpec, KerasUnetSpec, NetworkSpec, PaddedUnetSpec, UnetSpec
from unetpipe.networks import build_network
from unetpipe.passes import count_pass, flops_at_the_limit

NETWORKS: list[NetworkSpec] = [
    UnetSpec(),
    UnetSpec(form="release", activation="leaky", channels=3, depth=3, base_width=16),
    UnetSpec(depth=1, base_width=4, classes=5),
    PaddedUnetSpec(),
    PaddedUnetSpec(up="bilinear", channels=3, head="sigmoid"),
    PaddedUnetSpec(features=(6, 10, 14)),
    KerasUnetSpec(),
    KerasUnetSpec(up_pad="symmetric", head_relu=False, depth=2),
    DilatedUnetSpec(),
    DilatedUnetSpec(form="valid", depth=3, channels=3),
    DilatedUnetSpec(form="printed", depth=2),
]
WANTED = (60, 800)


class Held(TorchDispatchMode):
    """Bytes of all tensors that are there at once."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self.sizes.pop, storage._cdata)
                self.most = max(self.most, sum(self.sizes.values()))
        return result


def measured() -> list[tuple[int, int, int]]:
    """Operations, parameters and most values held of each network and wanted side, as torch has them."""
    found = []
    for spec, wanted in product(NETWORKS, WANTED):
        with torch.device("meta"):
            network = build_network(spec, seed=0).eval()
            side = spec.geometry.input_side(wanted)
            image = torch.empty(1, spec.channels, side, side)
        with torch.inference_mode(), FlopCounterMode(display=False) as flops:
            network(image)
        with torch.inference_mode(), Held() as held:
            network(image)
        values = held.most // 4 + image.numel()
        found.append((flops.get_total_flops(), sum(p.numel() for p in network.parameters()), values))
    return found


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    """The same, from a process in which torch has exported nothing: behind that, it takes some functions apart."""
    code = "import json, test_passes; print(json.dumps(test_passes.measured()))"
    folder = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{folder.parent}"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return list(json.loads(ended.stdout))


def test_a_pass_is_counted_as_torch_counts_it(expected: list[list[int]]) -> None:
    for (spec, wanted), (flops, parameters, values) in zip(product(NETWORKS, WANTED), expected, strict=True):
        counted = count_pass(spec, spec.geometry.input_side(wanted))
        assert (counted.flops, counted.parameters) == (flops, parameters), (spec, wanted)
        assert counted.values == pytest.approx(values, rel=0.1), (spec, wanted)


def test_the_limit_is_that_of_ever_larger_windows() -> None:
    spec = UnetSpec()
    side = spec.geometry.input_side(200_000)
    assert flops_at_the_limit(spec) == pytest.approx(count_pass(spec, side).flops / (side - 184) ** 2, rel=2e-3)
    assert round(flops_at_the_limit(spec) / 1000) == 1468


@pytest.mark.parametrize(("tile", "kilo"), [(388, 1998), (516, 1853), (1028, 1650), (2052, 1556), (4100, 1511)])
def test_arithmetic_per_pixel_of_the_network_of_2015(tile: int, kilo: int) -> None:
    assert round(count_pass(UnetSpec(), tile + 184).flops / tile**2 / 1000) == kilo

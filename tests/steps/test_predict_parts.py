"""Cores that are planned for a GPU, and computed by a processor."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unetpipe.geometry import Box
from unetpipe.inference import Forward
from unetpipe.manifests import read_manifest
from unetpipe.planning import Plan, plan_tiles
from unetpipe.slides import open_plane
from unetpipe.specs import PredictSpec
from unetpipe.steps import predict as step

from .conftest import Chain


def test_a_processor_computes_them_in_parts(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one core of the image, in parts of 32 px, is what the chain's cores of 32 px are."""
    spec, parts = PredictSpec(gpu_memory_gb=8.0), list[Box]()
    whole = Forward.mean

    def in_small_parts(*args, **keys) -> Plan:
        return replace(plan_tiles(*args, **keys), part_px=32)

    def seen(self, part, core, windows):
        parts.append(part)
        return whole(self, part, core, windows)

    monkeypatch.setattr(step, "plan_tiles", in_small_parts)
    monkeypatch.setattr(Forward, "mean", seen)
    output = tmp_path / "probabilities" / "m" / "b.json"
    step.predict(chain["images/b"], [chain["models/m"]], output=output, spec=spec, code="p@1", threads=1)
    found, reference = (
        open_plane(read_manifest(path).store / "0").read_whole().astype(int)
        for path in (output, chain["probabilities/m/b"])
    )
    assert [part.shape for part in parts].count((32, 32)) == 4 and len(parts) == 9
    assert np.abs(found - reference).max() <= 1

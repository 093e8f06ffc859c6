"""Weights on disk are those of the whole image, whatever the shards."""

from pathlib import Path

import numpy as np
import pytest

from unetpipe import slides
from unetpipe.manifests import read_manifest
from unetpipe.slides import open_plane
from unetpipe.specs import WeighSpec
from unetpipe.steps.weigh import weigh
from unetpipe.weights import border_weights

from .conftest import Chain


@pytest.mark.parametrize("apply_to", ["all", "background"])
def test_shards_leave_no_seam(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apply_to: str) -> None:
    monkeypatch.setattr(slides, "CHUNK", 16)
    monkeypatch.setattr(slides, "SHARD", 32)
    output = tmp_path / "weights" / "a.json"
    weigh(chain["labels/a"], output=output, spec=WeighSpec(apply_to=apply_to), code="w@1")  # type: ignore[arg-type]
    labels = read_manifest(chain["labels/a"])
    instances, classes = (open_plane(labels.store / n / "0").read_whole() for n in ("instances", "classes"))
    expected = border_weights(np.where(classes == 1, instances, 0).astype(np.uint32))
    if apply_to == "background":
        expected[classes == 1] = 0
    found = open_plane(read_manifest(output).store / "0")
    assert found.shard_side == 32
    np.testing.assert_allclose(found.read_whole(), expected, atol=2e-6)
    assert expected.max() > 1

"""Patches are functions of (seed, sample, patch)."""

from pathlib import Path

import numpy as np
import pytest

from unetpipe import patches
from unetpipe.manifests import read_manifest
from unetpipe.patches import open_patches
from unetpipe.steps.augment import augment

from .conftest import AUGMENT, Chain


def test_patches_have_the_networks_sizes(chain: Chain) -> None:
    store = open_patches(read_manifest(chain["patches/a"]).store)
    assert len(store) == 3
    image, classes, weights = store.read(0)
    assert (image.shape, classes.shape, weights.shape) == ((1, 50, 50), (34, 34), (34, 34))
    assert set(np.unique(classes)) <= {0, 1}
    assert -1 < image.mean() < 2


def test_a_patch_does_not_depend_on_its_block(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "BLOCK", 2)
    output = tmp_path / "patches" / "a.json"
    augment(*(chain[f"{kind}/a"] for kind in ("images", "labels", "weights")), output=output, spec=AUGMENT, code="g@1")
    one, other = (open_patches(read_manifest(path).store) for path in (chain["patches/a"], output))
    for number in range(3):
        for a, b in zip(one.read(number), other.read(number), strict=True):
            assert a.tobytes() == b.tobytes()

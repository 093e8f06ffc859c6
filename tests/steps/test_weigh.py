"""Weights on disk are those of the whole image, whatever the shards."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from unetpipe import slides
from unetpipe.manifests import read_manifest
from unetpipe.slides import open_plane
from unetpipe.specs import WeighSpec, WeightForm
from unetpipe.steps.weigh import weigh, weighed
from unetpipe.weights import border_weights

from .conftest import Chain


def weighed_parts(chain: Chain, output: Path, spec: WeighSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Instances as annotated, classes, and weights as stored in small shards."""
    weigh(chain["labels/a"], output=output, spec=spec, code="w@1")
    labels = read_manifest(chain["labels/a"])
    instances, classes = (open_plane(labels.store / n / "0").read_whole() for n in ("instances", "classes"))
    found = open_plane(read_manifest(output).store / "0")
    assert found.shard_side == 32
    return instances, classes, found.read_whole()


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slides, "CHUNK", 16)
    monkeypatch.setattr(slides, "SHARD", 32)


@pytest.mark.parametrize("apply_to", ["all", "background"])
def test_shards_leave_no_seam(chain: Chain, tmp_path: Path, apply_to: Literal["all", "background"]) -> None:
    output = tmp_path / "weights" / "a.json"
    instances, classes, found = weighed_parts(chain, output, WeighSpec(apply_to=apply_to))
    expected = border_weights(np.where(classes == 1, instances, 0).astype(np.uint32))
    if apply_to == "background":
        expected[classes == 1] = 0
    np.testing.assert_array_equal(found, expected[None])
    assert expected.max() > 1


@pytest.mark.parametrize("forms", [("falk2019",), ("falk2019", "unet2015"), ("unet2015", "falk2019")])
def test_the_form_of_2019_leaves_no_seam(chain: Chain, tmp_path: Path, forms: tuple[WeightForm, ...]) -> None:
    """Beside the other or not; its own shape, whatever that of 2015 is set to."""
    spec = WeighSpec(forms=forms, w0=3.0, sigma_px=2.0)
    instances, classes, found = weighed_parts(chain, tmp_path / "weights" / "a.json", spec)
    separation = border_weights(instances, w0=50.0, sigma_px=6.0)
    distance = distance_transform_edt(instances == 0)
    outside = 0.1 + 0.9 * np.exp(-(distance**2) / 200) + separation
    expected = np.where(classes == 1, 1, outside)
    np.testing.assert_allclose(found[forms.index("falk2019")], expected, rtol=0, atol=5e-6)
    if "unet2015" in forms:
        expected = border_weights(np.where(classes == 1, instances, 0).astype(np.uint32), w0=3.0, sigma_px=2.0)
        np.testing.assert_array_equal(found[forms.index("unet2015")], expected)


def test_the_numbers_of_2019() -> None:
    """Two objects with a ridge between them, and two with a gap of one pixel: as the plugin of 2019 weighs them."""
    instances = np.zeros((4, 300), np.uint32)
    instances[:, :30], instances[:, 30:60], instances[:, 61:90] = 1, 2, 3
    classes = (instances > 0).astype(np.uint8)
    classes[:, 30] = 0
    weights = weighed(instances, classes, WeighSpec(), "falk2019")[2]
    assert weights[[30, 60, 299, 10]] == pytest.approx([50.310356, 48.293485, 0.1, 1.0], abs=5e-6)


@pytest.mark.parametrize("form", ["unet2015", "falk2019"])
def test_what_is_ignored_weighs_nothing_and_separates_nothing(form: WeightForm) -> None:
    instances = np.zeros((5, 60), np.uint32)
    instances[:, :10], instances[:, 11:20], instances[:, 21:30] = 1, 2, 3
    classes = (instances > 0).astype(np.uint8)
    classes[:, 20:] = 255
    found = weighed(instances, classes, WeighSpec(), form)
    assert not found[:, 20:].any()
    instances[:, 20:] = 0
    np.testing.assert_array_equal(
        found[:, :20], weighed(instances, (instances > 0) * np.uint8(1), WeighSpec(), form)[:, :20]
    )

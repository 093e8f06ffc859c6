"""Predicted stores do not depend on cores, interruption or threads."""

from pathlib import Path

import numpy as np
import pytest

from unetpipe.errors import GeometryError, Interrupted, ModelError
from unetpipe.manifests import read_manifest
from unetpipe.signals import asked
from unetpipe.slides import open_plane
from unetpipe.specs import IngestSpec, PredictSpec
from unetpipe.steps.ingest import ingest
from unetpipe.steps.predict import predict

from .conftest import Chain


def probabilities(chain: Chain, output: Path, core_px: int) -> np.ndarray:
    """The stored probabilities of image b."""
    predict(
        chain["images/b"], [chain["models/m"]], output=output, spec=PredictSpec(core_px=core_px), code="p@1", threads=1
    )
    return open_plane(read_manifest(output, stage="predict").store / "0").read_whole()


@pytest.mark.parametrize("core", [16, 48, 128])
def test_cores_change_nothing(chain: Chain, tmp_path: Path, core: int) -> None:
    reference = open_plane(read_manifest(chain["probabilities/m/b"]).store / "0").read_whole()
    found = probabilities(chain, tmp_path / "probabilities" / "m" / "b.json", core)
    assert np.abs(found.astype(int) - reference.astype(int)).max() <= 1
    assert (np.abs(found.astype(int).sum(axis=0) - 65535) <= 1).all()


def test_interrupted_behind_every_core_gives_the_same_bytes(chain: Chain, tmp_path: Path) -> None:
    output = tmp_path / "probabilities" / "m" / "b.json"
    stops = 0
    asked.set()
    try:
        while not output.exists() and stops < 20:
            try:
                probabilities(chain, output, 32)
            except Interrupted:
                stops += 1
    finally:
        asked.clear()
    assert stops >= 5
    probabilities(chain, output, 32)
    assert output.read_bytes() == chain["probabilities/m/b"].read_bytes()


def test_a_core_of_the_wrong_phase_and_foreign_channels_are_refused(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="use 16 or 18"):
        probabilities(chain, tmp_path / "probabilities" / "m" / "b.json", 17)
    image = tmp_path / "images" / "rgb.json"
    import tifffile

    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((9, 9, 3), np.uint8), photometric="rgb")
    ingest(tmp_path / "rgb.tif", output=image, spec=IngestSpec(), code="i@1")
    with pytest.raises(ModelError, match=r"expected 1 channel\(s\).*came 3"):
        predict(image, [chain["models/m"]], output=tmp_path / "x.json", spec=PredictSpec(), code="p@1", threads=1)

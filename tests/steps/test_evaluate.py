"""Scores of a segmentation whose truth is known."""

from pathlib import Path

import pytest

from unetpipe.errors import ConfigError
from unetpipe.manifests import read_manifest
from unetpipe.slides import open_plane
from unetpipe.specs import EvaluateSpec
from unetpipe.steps import evaluate as module
from unetpipe.steps.evaluate import evaluate

from .conftest import SIDE, Chain

NAMES = ("segmentations/m/b", "probabilities/m/b", "labels/b")


def scored(chain: Chain, output: Path) -> dict[str, dict[str, float]]:
    """Scores of the chain's segmentation."""
    evaluate(*(chain[name] for name in NAMES), output=output, spec=EvaluateSpec(), code="e@1")
    scores: dict[str, dict[str, float]] = read_manifest(output, stage="evaluate").facts["scores"]
    return scores


def test_scores_follow_from_the_pixels(chain: Chain, tmp_path: Path) -> None:
    scores = scored(chain, tmp_path / "metrics" / "m" / "b.json")
    truth, found = (
        open_plane(read_manifest(chain[name]).store / "classes" / "0").read_whole() for name in (NAMES[2], NAMES[0])
    )
    assert scores["pixel_error"]["value"] == pytest.approx((truth != found).mean())
    both, either = ((truth == 1) & (found == 1)).sum(), ((truth == 1) | (found == 1)).sum()
    assert scores["iou_class_1"]["value"] == pytest.approx(both / either)
    assert scores["pixel_error"]["n"] == SIDE**2
    assert {"seg", "f1", "v_rand_thin", "v_info_thin", "dice_class_0"} <= set(scores)
    assert (tmp_path / "metrics/m/b/scores.csv").read_text().startswith("metric,value,n,defined\n")


def test_images_that_no_memory_holds_are_refused_unless_nothing_is_thinned(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "metrics" / "m" / "b.json"
    monkeypatch.setattr(module, "machine_bytes", lambda: 40 * SIDE**2 - 1)
    with pytest.raises(ConfigError, match=r"labels/b\.json: 90 x 90 px as a whole.*set evaluate\.thin: false"):
        scored(chain, output)
    evaluate(*(chain[name] for name in NAMES), output=output, spec=EvaluateSpec(thin=False), code="e@1")
    monkeypatch.setattr(module, "machine_bytes", lambda: 40 * SIDE**2)
    assert "v_rand_thin" in scored(chain, output)


def test_cores_change_nothing(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = tmp_path / "one" / "metrics" / "m" / "b.json", tmp_path / "two" / "metrics" / "m" / "b.json"
    scored(chain, whole)
    monkeypatch.setattr(module, "CORE", 17)
    scored(chain, parts)
    assert whole.read_bytes() == parts.read_bytes()

"""Patches are functions of (seed, sample, patch)."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from unetpipe import patches
from unetpipe.draws import DrawnPatches, open_samples
from unetpipe.errors import StoreError
from unetpipe.ledgers import Ledger
from unetpipe.manifests import read_manifest
from unetpipe.patches import open_patches, patch_bytes
from unetpipe.specs import AugmentSpec
from unetpipe.steps.augment import augment

from .conftest import AUGMENT, Chain


def test_patches_have_the_networks_sizes(chain: Chain) -> None:
    store = open_patches(read_manifest(chain["patches/a"]).store)
    assert len(store) == 3
    image, classes, weights = store.read(0)
    assert (image.shape, classes.shape, weights.shape) == ((1, 50, 50), (34, 34), (1, 34, 34))
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


def made(chain: Chain, output: Path, spec: AugmentSpec = AUGMENT) -> Any:
    """The manifest of patches of a."""
    augment(*(chain[f"{kind}/a"] for kind in ("images", "labels", "weights")), output=output, spec=spec, code="g@1")
    return read_manifest(output)


def test_without_stored_patches_each_epoch_draws_what_would_have_been_stored(chain: Chain, tmp_path: Path) -> None:
    spec = replace(AUGMENT, copies=0)
    nothing = made(chain, tmp_path / "patches" / "a.json", spec)
    assert not nothing.objects and nothing.facts["count"] == 0
    kinds = (("images", "ingest"), ("labels", "annotate"), ("weights", "weigh"))
    inputs = tuple(read_manifest(chain[f"{kind}/a"], stage=stage) for kind, stage in kinds)
    drawn = DrawnPatches(open_samples([inputs], spec), spec, 50, 0)  # type: ignore[list-item]
    store = open_patches(read_manifest(chain["patches/a"]).store)
    assert len(drawn) == 1
    for epoch in range(len(store)):
        for a, b in zip(drawn.read(epoch), store.read(epoch), strict=True):
            assert a.tobytes() == b.tobytes()


def test_how_patches_are_drawn_is_known_to_what_follows(chain: Chain, tmp_path: Path) -> None:
    one, other = (
        made(chain, tmp_path / str(seed) / "patches" / "a.json", replace(AUGMENT, copies=0, seed=seed))
        for seed in (1, 2)
    )
    assert one.content != other.content


def test_no_patch_is_written_where_the_disk_cannot_hold_all(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 3 * patch_bytes(channels=1, input_px=50, output_px=34)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(
        StoreError, match=r"3 patches need .* GB, the disk has .* GB free; lower augment.copies"
    ) as told:
        made(chain, tmp_path / "patches" / "a.json")
    assert len(str(told.value)) - len(str(tmp_path)) < 250
    assert not list((tmp_path / "patches" / "a.zarr").iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    assert made(chain, tmp_path / "patches" / "a.json").facts["count"] == 3


def test_what_is_there_needs_no_room_and_is_told(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Killed(BaseException): ...

    monkeypatch.setattr(patches, "BLOCK", 2)
    output, real = tmp_path / "patches" / "a.json", Ledger.append

    def kill(ledger: Ledger, *arguments: Any, **facts: Any) -> None:
        real(ledger, *arguments, **facts)
        raise Killed

    with monkeypatch.context() as faults:
        faults.setattr(Ledger, "append", kill)
        with pytest.raises(Killed):
            made(chain, output)
    free = patch_bytes(channels=1, input_px=50, output_px=34)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with caplog.at_level(logging.INFO):
        made(chain, output)
    assert "1 patches drawn" in caplog.text and "2 were there" in caplog.text and "MB on disk" in caplog.text


def test_folded_fields_are_counted(chain: Chain, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        facts = made(chain, tmp_path / "patches" / "a.json", replace(AUGMENT, elastic_sigma_px=12.0)).facts
    assert facts["redraws"] > 0
    assert f"{facts['redraws']} folded fields" in caplog.text

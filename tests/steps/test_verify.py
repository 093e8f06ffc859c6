"""Damaged shards are found, taken back, and alone made again, with the same bytes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from unetpipe.errors import StoreError
from unetpipe.specs import IngestSpec, PredictSpec, SegmentSpec
from unetpipe.steps.ingest import ingest
from unetpipe.steps.predict import predict
from unetpipe.steps.segment import segment
from unetpipe.steps.verify import verify

from .conftest import Chain


def flip(path: Path) -> None:
    """One bit of a chunk."""
    content = bytearray(path.read_bytes())
    content[9] ^= 4
    path.write_bytes(content)


def take_another(path: Path) -> None:
    """A sound shard, but of another place."""
    twin = next(p for p in sorted(path.parents[1].rglob("[0-9]*")) if p.is_file() and p != path)
    shutil.copy(twin, path)


HARMS: list[Callable[[Path], None]] = [flip, take_another, Path.unlink, lambda path: path.write_bytes(b"")]


def files(store: Path) -> dict[str, bytes]:
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()}


class Results:
    """Probabilities of an image in 4 x 5 shards and their segmentation, in a folder of results."""

    def __init__(self, chain: Chain, folder: Path) -> None:
        self.folder = folder
        tifffile.imwrite(folder.parent / "s.tif", np.random.default_rng(2).integers(0, 255, (120, 150), np.uint8))
        self.image, self.model = folder / "images/s.json", folder / "models/m.json"
        for source in (chain.root / "models").iterdir():
            target = folder / "models" / source.name
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        for kind in ("patches", "images", "labels"):
            shutil.copytree(chain.root / kind, folder / kind)
        ingest(folder.parent / "s.tif", output=self.image, spec=IngestSpec(), code="i@1")
        self.probabilities, self.segmentation = (
            folder / kind / "m/s.json" for kind in ("probabilities", "segmentations")
        )
        self.make()

    def make(self) -> None:
        """What the command of every day does."""
        keys = {"output": self.probabilities, "spec": PredictSpec(core_px=32), "code": "p@1", "threads": 1}
        predict(self.image, [self.model], **keys)
        keys = {"output": self.segmentation, "spec": SegmentSpec(min_area_px=5), "code": "s@1"}
        segment(self.probabilities, self.image, **keys)

    def verify(self, **keys: bool) -> list[str]:
        """What is told."""
        lines: list[str] = []
        verify(self.folder, tell=lines.append, **keys)
        return [line for line in lines if "weights/a" not in line]


@pytest.fixture
def results(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    # What patches were made of is not there, and nobody's matter here.
    monkeypatch.setattr("unetpipe.steps.verify.chain_faults", lambda *arguments: iter(()))
    return Results(chain, tmp_path / "results")


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_shard_alone_is_made_again(results: Results, harm: Callable[[Path], None]) -> None:
    stores = {path: path.with_suffix(".zarr") for path in (results.probabilities, results.segmentation)}
    expected = {path: (path.read_bytes(), files(store)) for path, store in stores.items()}
    victims = [
        stores[results.probabilities] / "0/c/0/1/2",
        stores[results.segmentation] / "classes/0/c/2/3",
        stores[results.segmentation] / "instances/0/c/1/1",
    ]
    for victim in victims:
        harm(victim)
    with pytest.raises(StoreError, match="faults in"):
        results.verify()
    (*told, last) = results.verify(mend=True)
    assert len(told) >= 2 and "2 results were taken back" in last
    assert all(str(path) in last and not path.exists() for path in stores)
    times = {p: p.stat().st_mtime_ns for store in stores.values() for p in store.rglob("c/**/*") if p.is_file()}
    results.make()
    assert {path: (path.read_bytes(), files(store)) for path, store in stores.items()} == expected
    again = {p for p, time in times.items() if p.stat().st_mtime_ns != time}
    assert again == {victim for victim in victims if victim in times}, "no other shard was written"
    assert "are as they were written" in results.verify()[-1]


@pytest.mark.parametrize(
    ("harm", "finished"), [(Path.unlink, True), (lambda path: path.write_bytes(b"x"), True), (Path.unlink, False)]
)
def test_a_lost_shard_alone_is_made_again_by_the_same_command(
    results: Results, harm: Callable[[Path], None], finished: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for path, name in ((results.probabilities, "0/c/0/1/2"), (results.segmentation, "instances/0/c/1/1")):
        store, ledger = path.with_suffix(".zarr"), path.with_suffix(".ledger")
        expected = path.read_bytes(), files(store)
        harm(store / name)
        path.unlink()
        if not finished:
            lines = ledger.read_text().splitlines(keepends=True)
            ledger.write_text("".join(line for line in lines if "closing" not in line))
        times = {p: p.stat().st_mtime_ns for p in store.rglob("c/**/*") if p.is_file() and p != store / name}
        results.make()
        assert (path.read_bytes(), files(store)) == expected
        assert {p: p.stat().st_mtime_ns for p in times} == times, "no other shard was written"
        assert "computing these shards again" in caplog.text


def test_what_is_more_than_damaged_shards_is_not_mended(results: Results) -> None:
    flip(results.probabilities.with_suffix(".zarr") / "0/c/0/0/0")
    (results.probabilities.with_suffix(".zarr") / "0/zarr.json").unlink()
    flip(results.image.with_suffix(".zarr") / "0/c/0/0/0")
    with pytest.raises(StoreError, match="2 faults"):
        results.verify(mend=True)
    assert results.probabilities.exists() and results.image.exists()


def test_every_other_file_is_read_too(results: Results) -> None:
    names = ["objects.csv", "objects.parquet", "objects.geojson.gz", "classes/zarr.json", "classes/0/zarr.json"]
    files = [results.segmentation.with_suffix(".zarr") / name for name in names]
    for path in [*files, results.model.with_suffix("") / "card.json"]:
        content = path.read_bytes()
        # What has the same size is seen by its content alone.
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        with pytest.raises(StoreError, match="1 faults"):
            results.verify()
        path.write_bytes(content)
    results.verify()

"""Pyramids in one pass, interrupted anywhere: the same pixels, the same ledger, nothing made twice."""

import hashlib
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from imagefiles import exact_level
from unetpipe import slides
from unetpipe.geometry import Box
from unetpipe.ledgers import Ledger, open_ledger
from unetpipe.pyramids import level_shapes
from unetpipe.slides import create_plane
from unetpipe.specs import WeighSpec
from unetpipe.writing import write_levels, write_missing


class Killed(BaseException): ...


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slides, "CHUNK", 8)
    monkeypatch.setattr(slides, "SHARD", 16)


def levels_of(folder: Path, shape: tuple[int, ...]) -> list[slides.Plane]:
    """The empty planes of a pyramid down to 8 px."""
    shapes = [(*shape[:-2], *one) for one in level_shapes(shape[-2:], smallest=8)]  # type: ignore[arg-type]
    return [create_plane(folder / str(i), shape=one, dtype=np.uint8) for i, one in enumerate(shapes)]


def written(
    output: Path, pixels: np.ndarray, *, row_by_row: bool, kill_behind: int | None = None
) -> tuple[list[slides.Plane], list[Box]]:
    """A pyramid, and the boxes of the finest level that were asked for."""
    asked: list[Box] = []

    def make(box: Box) -> np.ndarray:
        asked.append(box)
        return np.ascontiguousarray(pixels[(..., *box.slices)])

    with open_ledger(output, stage="weigh", spec=WeighSpec(), code="w@1") as ledger:
        levels = levels_of(ledger.store, pixels.shape)
        if kill_behind is not None:
            limited(ledger, kill_behind)
        write_levels(levels, make, ledger, row_by_row=row_by_row)
        ledger.publish({})
    return levels, asked


def limited(ledger: Ledger, units: int) -> None:
    """Let a ledger die behind a number of units."""
    real = ledger.append

    def append(*arguments: Any) -> None:
        real(*arguments)
        if len(ledger.units) >= units:
            raise Killed

    ledger.append = append  # type: ignore[method-assign]


BOTH_ORDERS = pytest.mark.parametrize("row_by_row", [True, False], ids=["in rows", "by quarters"])


@BOTH_ORDERS
@pytest.mark.parametrize("shape", [(70, 100), (3, 33, 17), (1, 64), (5, 5), (2, 16, 48), (100, 9)])
def test_levels_are_area_means_and_the_source_is_read_once(
    tmp_path: Path, shape: tuple[int, ...], row_by_row: bool
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    levels, asked = written(tmp_path / "weights" / "a.json", pixels, row_by_row=row_by_row)
    for level, plane in enumerate(levels):
        np.testing.assert_array_equal(plane.read_whole(), exact_level(pixels, level))
    shards = [box for _, box in levels[0].iter_shards()]
    assert (asked if row_by_row else sorted(asked, key=lambda box: box.start)) == shards


def test_shards_are_made_quarter_by_quarter(tmp_path: Path) -> None:
    _, asked = written(tmp_path / "weights" / "a.json", np.zeros((48, 80), np.uint8), row_by_row=False)
    places = [(box.start[0] // 16, box.start[1] // 16) for box in asked]
    upper = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    assert places == [*upper, (2, 0), (2, 1), (2, 2), (2, 3), (0, 4), (1, 4), (2, 4)]


@BOTH_ORDERS
def test_killed_behind_any_unit_it_goes_on_and_gives_the_same_bytes(tmp_path: Path, row_by_row: bool) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 70), dtype=np.uint8)
    undisturbed = tmp_path / "0" / "weights" / "a.json"
    levels, _ = written(undisturbed, pixels, row_by_row=not row_by_row)
    units = sum(len(list(plane.iter_shards())) for plane in levels)
    for count in range(1, units, 4):
        output = tmp_path / str(count) / "weights" / "a.json"
        with pytest.raises(Killed):
            written(output, pixels, row_by_row=row_by_row, kill_behind=count)
        _, asked = written(output, pixels, row_by_row=row_by_row)
        assert len(asked) < 15, "what is there is not made again"
        assert output.read_bytes() == undisturbed.read_bytes()
        digests = [
            hashlib.sha256(
                b"".join(p.read_bytes() for p in sorted(one.with_suffix(".zarr").rglob("c/**/*")) if p.is_file())
            )
            for one in (output, undisturbed)
        ]
        assert digests[0].hexdigest() == digests[1].hexdigest()


def test_memory_holds_three_shards_of_each_level_or_half_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unetpipe import writing

    held = []
    real = writing._Pyramid.finish

    def finish(self: Any, *arguments: Any) -> None:
        real(self, *arguments)
        held.append(sum(half.nbytes for parts in self.waiting.values() for _, half in parts if half is not None))

    monkeypatch.setattr(writing._Pyramid, "finish", finish)
    for height in (64, 256):
        written(tmp_path / str(height) / "weights" / "a.json", np.zeros((height, 256), np.uint8), row_by_row=True)
        # 8 x 128 sums of 4 bytes of the next level, half of that of the one behind it, and so on.
        assert max(held) <= 4 * 8 * 128 * 2
    held.clear()
    for side in (256, 1024):
        written(tmp_path / str(side) / "images" / "a.json", np.zeros((64, side), np.uint8), row_by_row=False)
        # Sums of 4 bytes of four, for the last one is there before they are put together; however wide.
        assert max(held) <= 4 * 8 * 8 * 4 * 3


def test_a_writer_that_fails_is_told_and_records_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> str:
        raise OSError("full")

    monkeypatch.setattr(slides.Plane, "write_shard", fail)
    with open_ledger(tmp_path / "weights" / "a.json", stage="weigh", spec=WeighSpec(), code="w@1") as ledger:
        plane = create_plane(ledger.store / "0", shape=(40, 40), dtype=np.uint8)
        with pytest.raises(OSError, match="full"):
            write_missing(plane, lambda box: np.zeros(box.shape, np.uint8), ledger)
        assert not ledger.units


def test_a_fourth_shard_is_begun_while_the_first_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = {f"0/0/{i}": Event() for i in range(5)}
    made: list[str] = []
    real = slides.Plane.write_shard

    def write_shard(plane: slides.Plane, box: Box, block: np.ndarray) -> str:
        begun[f"0/0/{box.start[1] // 16}"].set()
        return real(plane, box, block)

    def make(box: Box) -> np.ndarray:
        made.append(f"0/0/{box.start[1] // 16}")
        assert len(made) - len(ledger.units) <= 4, "more blocks in memory than one being made and three being written"
        return np.zeros(box.shape, np.uint8)

    def append(name: str, *arguments: Any) -> None:
        assert name != "0/0/0" or (made[-1] == "0/0/3" and begun["0/0/3"].wait(30)), "the pool has nothing to do"
        recorded(name, *arguments)

    monkeypatch.setattr(slides.Plane, "write_shard", write_shard)
    with open_ledger(tmp_path / "weights" / "a.json", stage="weigh", spec=WeighSpec(), code="w@1") as ledger:
        recorded = ledger.append
        monkeypatch.setattr(ledger, "append", append)
        write_missing(create_plane(ledger.store / "0", shape=(16, 80), dtype=np.uint8), make, ledger)
        assert sorted(ledger.units) == sorted(begun)


def test_only_what_is_missing_is_made(tmp_path: Path) -> None:
    made = []

    def make(box: Box) -> np.ndarray:
        made.append(box)
        return np.full(box.shape, 7, np.uint8)

    with open_ledger(tmp_path / "weights" / "a.json", stage="weigh", spec=WeighSpec(), code="w@1") as ledger:
        plane = create_plane(ledger.store / "0", shape=(40, 40), dtype=np.uint8)
        (first, box), *rest = plane.iter_shards()
        ledger.append(first, plane.write_shard(box, np.zeros(box.shape, np.uint8)))
        write_missing(plane, make, ledger)
        assert made == [one for _, one in rest]
        assert plane.read_whole().sum() == 7 * (40 * 40 - 16 * 16)

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from unetpipe.errors import AnnotationError, ConfigError
from unetpipe.metrics import thinning
from unetpipe.metrics.partitions import v_info, v_rand
from unetpipe.metrics.scores import macro_mean, ratio
from unetpipe.metrics.tables import Contingency, contingency, pooled
from unetpipe.metrics.thinning import THRESHOLDS, best, thin_tables, thinned


def _cells(border: int) -> NDArray[np.uint32]:
    """6 x 6 cells of period 21 with `border` px between them, an odd number."""
    inside = np.zeros(6 * 21, bool)
    for start in range(0, 6 * 21, 21):
        inside[start + border // 2 + 1 : start + 21 - border // 2] = True
    labels, _ = ndimage.label(inside[:, None] & inside)
    return labels.astype(np.uint32)


def test_thick_borders_score_perfectly_once_thinned() -> None:
    truth, prediction = _cells(1), _cells(7)
    thick, thin = (contingency(truth, labels) for labels in (prediction, thinned(prediction > 0)))
    assert v_rand(thick).split.value == 38620 / 160000
    assert v_rand(thick).merge.value == 1
    assert v_rand(thin).f.value == v_info(thin).f.value == 1


def test_regions_keep_their_seeds_and_lines_part_them() -> None:
    mask = np.random.default_rng(0).random((60, 70)) > 0.7
    seeds, count = ndimage.label(mask)
    labels = thinned(mask)
    assert np.array_equal(labels[mask], seeds[mask])
    for one, other in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        assert not np.any((one != other) & (one != 0) & (other != 0))
    around = np.stack([np.pad(labels, 1)[y : y + 60, x : x + 70] for y, x in ((0, 1), (1, 0), (1, 2), (2, 1))])
    fewest, most = np.where(around > 0, around, count + 1).min(0), around.max(0)
    assert np.all((fewest < most)[(labels == 0) & (most > 0)])
    # As many pieces as labels, and each label in use: every region is in one piece.
    assert ndimage.label(labels > 0)[1] == count == labels.max()
    assert set(np.unique(labels)) == set(range(count + 1))


def test_corners_do_not_join() -> None:
    assert np.unique(thinned(np.eye(3, dtype=bool))).tolist() == [0, 1, 2, 3]


def test_a_stump_of_border_vanishes_but_a_full_border_stays() -> None:
    mask = np.ones((9, 9), bool)
    mask[4, :5] = False
    assert np.array_equal(thinned(mask), np.ones((9, 9)))
    mask[4] = False
    assert thinned(mask)[:, 0].tolist() == [1, 1, 1, 1, 0, 2, 2, 2, 2]


def test_extremes() -> None:
    assert not thinned(np.zeros((3, 4), bool)).any()
    assert np.array_equal(thinned(np.ones((3, 4), bool)), np.ones((3, 4)))


def test_a_sweep_finds_the_threshold_that_parts_the_cells() -> None:
    truth = _cells(1)
    # Borders of 0.55 between cells of 0.9: apart from 0.6 on, one object below, nothing at 1.
    probability = np.where(_cells(7) > 0, 0.9, 0.55).astype(np.float32)
    tables = thin_tables(truth, probability)
    scores = [v_rand(table).f for table in tables]
    assert len(tables) == len(THRESHOLDS)
    assert {table.total for table in tables} == {truth.size}
    assert best(scores).threshold == 0.6 and best(scores).score.value == 1
    assert [score.value == 1 for score in scores] == [at in (0.6, 0.7, 0.8) for at in THRESHOLDS]


def test_slices_can_be_averaged_or_pooled() -> None:
    truth = _cells(1)
    sweeps = [thin_tables(truth, np.where(_cells(7) > 0, 0.9, low), thresholds=(0.3, 0.6)) for low in (0.2, 0.4)]
    averaged = best([macro_mean(v_rand(t).f for t in tables) for tables in zip(*sweeps, strict=True)], (0.3, 0.6))
    joined = best([v_rand(pooled(tables)).f for tables in zip(*sweeps, strict=True)], (0.3, 0.6))
    assert averaged.threshold == joined.threshold == 0.6
    assert averaged.score == ratio(2, 2, n=2)
    assert joined.score == ratio(1, 1, n=2 * np.count_nonzero(truth))


def test_void_pixels_are_thinned_but_not_counted() -> None:
    truth = _cells(1)
    valid = np.zeros(truth.shape, bool)
    valid[:30] = True
    (table,) = thin_tables(truth, (_cells(7) > 0).astype(np.float32), thresholds=(0.5,), valid=valid)
    assert table.total == valid.sum() and v_rand(table).f.value == 1


def test_cores_change_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    truth = ndimage.label(rng.random((61, 70)) > 0.4)[0].astype(np.uint32)
    probability, valid = rng.random(truth.shape), rng.random(truth.shape) > 0.1
    counted = []

    def counting(one: NDArray[np.uint32], other: NDArray[np.uint32], **keys: NDArray[np.bool_]) -> Contingency:
        counted.append(one.shape)
        return contingency(one, other, **keys)

    monkeypatch.setattr(thinning, "contingency", counting)
    for core_px in (1, 17, 64):
        tables = thin_tables(truth, probability, thresholds=(0.3, 0.6), valid=valid, core_px=core_px)
        assert max(max(shape) for shape in counted) <= core_px
        counted.clear()
        for table, threshold in zip(tables, (0.3, 0.6), strict=True):
            whole = contingency(truth, thinned(probability > threshold), valid=valid)
            for part in ("truth_id", "prediction_id", "count"):
                assert np.array_equal(getattr(table, part), getattr(whole, part))


def test_best_prefers_the_first_and_what_is_defined() -> None:
    scores = [ratio(0, 0, n=0), ratio(1, 2, n=2), ratio(2, 4, n=4)]
    assert best(scores, (0.1, 0.2, 0.3)).threshold == 0.2
    assert not best([ratio(0, 0, n=0)], (0.1,)).score.defined
    with pytest.raises(ConfigError, match="expected one each"):
        best(scores, (0.1, 0.2))
    with pytest.raises(ConfigError, match="at least one"):
        best([], ())


def test_shapes_must_agree() -> None:
    with pytest.raises(AnnotationError, match="equal shapes"):
        thin_tables(np.zeros((2, 2), np.uint32), np.zeros((2, 3)))


def test_a_real_annotation_agrees_with_itself(data_folder: Path) -> None:
    path = data_folder / "isbi2012" / "train-labels.tif"
    if not path.exists():
        pytest.skip("no ISBI 2012 labels in the data folder")
    mask = tifffile.imread(path, key=0) > 0
    truth = ndimage.label(mask)[0].astype(np.uint32)
    (table,) = thin_tables(truth, mask.astype(np.float32), thresholds=(0.5,))
    assert v_rand(table).f.value == v_info(table).f.value == 1

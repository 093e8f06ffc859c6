from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unetpipe.errors import AnnotationError, ConfigError
from unetpipe.metrics.tables import Contingency, confusion, contingency, merged, pooled, sums_by_id


def _labels(seed: int, shape: tuple[int, int], highest: int) -> NDArray[np.uint32]:
    return np.random.default_rng(seed).integers(0, highest + 1, shape).astype(np.uint32)


def _slow(
    truth: NDArray[np.uint32], prediction: NDArray[np.uint32], valid: NDArray[np.bool_]
) -> dict[tuple[int, int], int]:
    return Counter(zip(truth[valid].tolist(), prediction[valid].tolist(), strict=True))


def _as_dict(table: Contingency) -> dict[tuple[int, int], int]:
    pairs = zip(table.truth_id.tolist(), table.prediction_id.tolist(), strict=True)
    return dict(zip(pairs, table.count.tolist(), strict=True))


@st.composite
def _cuts(draw: st.DrawFn, length: int) -> list[slice]:
    inner = draw(st.sets(st.integers(1, length - 1), max_size=4))
    return [slice(a, b) for a, b in pairwise([0, *sorted(inner), length])]


def test_confusion_equals_counting_by_hand() -> None:
    truth = np.array([[0, 0, 1], [2, 2, 255]], np.uint8)
    prediction = np.array([[0, 2, 1], [2, 0, 255]], np.uint8)
    table = confusion(truth, prediction, 3)
    assert table.dtype == np.int64
    assert table.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_confusion_of_parts_sums_to_the_whole() -> None:
    rng = np.random.default_rng(3)
    truth = rng.choice(np.array([0, 1, 2, 255], np.uint8), (37, 53))
    prediction = rng.integers(0, 3, (37, 53)).astype(np.uint8)
    parts = [confusion(truth[rows], prediction[rows], 3) for rows in (slice(0, 5), slice(5, 37))]
    assert np.array_equal(np.sum(parts, axis=0), confusion(truth, prediction, 3))
    assert np.array_equal(confusion(truth.T, prediction.T, 3), confusion(truth, prediction, 3))


@pytest.mark.parametrize(("truth", "prediction"), [(3, 0), (0, 3), (254, 0), (0, 255)])
def test_confusion_refuses_classes_that_are_not_counted(truth: int, prediction: int) -> None:
    with pytest.raises(AnnotationError, match="expected 0 to 2"):
        confusion(np.full((1, 2), truth, np.uint8), np.full((1, 2), prediction, np.uint8), 3)


def test_confusion_refuses_what_it_cannot_compare() -> None:
    classes = np.zeros((2, 2), np.uint8)
    with pytest.raises(AnnotationError, match="equal shapes"):
        confusion(classes, classes[:1], 2)
    with pytest.raises(AnnotationError, match="uint8"):
        confusion(classes, classes.astype(np.int64), 2)  # type: ignore[arg-type]
    for n_classes in (0, 256):
        with pytest.raises(ConfigError, match="1 to 255"):
            confusion(classes, classes, n_classes)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), highest=st.sampled_from([1, 5, 3000]), masked=st.booleans(), data=st.data())
def test_contingency_equals_slow_counting_however_it_is_cut(
    seed: int, highest: int, masked: bool, data: st.DataObject
) -> None:
    shape = 23, 31
    truth, prediction = _labels(seed, shape, highest), _labels(seed + 1, shape, highest)
    valid = _labels(seed + 2, shape, 1).astype(bool) if masked else np.ones(shape, bool)
    whole = contingency(truth, prediction, valid=valid if masked else None)
    assert _as_dict(whole) == _slow(truth, prediction, valid)
    cores = [(rows, columns) for rows in data.draw(_cuts(shape[0])) for columns in data.draw(_cuts(shape[1]))]
    cores = data.draw(st.permutations(cores))
    parts = [contingency(truth[core], prediction[core], valid=valid[core]) for core in cores]
    assert merged(parts) == whole


def test_contingency_takes_any_ids_and_grows() -> None:
    truth = np.arange(90_000, dtype=np.uint32).reshape(300, 300)
    prediction = np.uint32(2**32 - 1) - truth.T
    table = contingency(truth, prediction)
    assert table.count.size == table.total == 90_000
    assert table.prediction_id[0] == 2**32 - 1
    assert _as_dict(table) == _slow(truth, prediction, np.ones((300, 300), bool))


def test_contingency_takes_read_only_and_strided_arrays_and_none_at_all() -> None:
    truth = _labels(5, (20, 30), 4)
    frozen = truth.copy()
    frozen.flags.writeable = False
    assert contingency(frozen[::2, ::3], frozen[::2, ::3]) == contingency(truth[::2, ::3], truth[::2, ::3])
    assert contingency(truth[:0], truth[:0]).total == contingency(truth[:, :0], truth[:, :0]).total == 0


def test_contingency_refuses_what_it_cannot_compare() -> None:
    labels = np.zeros((2, 2), np.uint32)
    with pytest.raises(AnnotationError, match="equal shapes"):
        contingency(labels, labels[:1])
    with pytest.raises(AnnotationError, match="equal shapes"):
        contingency(labels, labels, valid=np.ones((1, 1), bool))
    with pytest.raises(AnnotationError, match="uint32"):
        contingency(labels.astype(np.int32), labels)  # type: ignore[arg-type]
    with pytest.raises(AnnotationError, match="bool"):
        contingency(labels, labels, valid=labels)  # type: ignore[arg-type]


def test_a_table_is_checked_at_birth() -> None:
    ids, counts = np.array([2, 1], np.uint32), np.array([1, 1], np.int64)
    with pytest.raises(AnnotationError, match="ascending"):
        Contingency(truth_id=ids, prediction_id=ids, count=counts)
    with pytest.raises(AnnotationError, match="equal lengths"):
        Contingency(truth_id=ids[:1], prediction_id=ids, count=counts)


def test_sum_is_of_equal_ids_but_pool_keeps_images_apart() -> None:
    one = contingency(_labels(1, (9, 9), 3), _labels(2, (9, 9), 3))
    other = contingency(_labels(3, (9, 9), 3), _labels(4, (9, 9), 3))
    assert (one + other).total == pooled([one, other]).total == one.total + other.total
    assert one + other == other + one != one
    assert np.unique(pooled([one, other]).truth_id).tolist() == list(range(7))
    assert pooled([one, merged([])]) == pooled([one])
    background = _as_dict(pooled([one, other]))[0, 0]
    assert background == _as_dict(one)[0, 0] + _as_dict(other)[0, 0]


def test_pool_does_not_invent_a_background() -> None:
    full = contingency(np.full((2, 2), 9, np.uint32), np.full((2, 2), 4, np.uint32))
    assert _as_dict(pooled([full, full])) == {(1, 1): 4, (2, 2): 4}


def test_sums_by_id_of_nothing_is_nothing() -> None:
    ids, sums = sums_by_id(np.zeros(0, np.uint32), np.zeros(0, np.int64))
    assert ids.size == sums.size == 0

"""Integer tables of which truth meets which prediction; they add up over the cores of an image and over samples."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from unetpipe.errors import AnnotationError, ConfigError
from unetpipe.specs import IGNORE

__all__ = ["Contingency", "confusion", "contingency", "merged", "pooled", "sums_by_id"]


Id = TypeVar("Id", np.uint32, np.uint64)
Scalar = TypeVar("Scalar", bound=np.generic)


def confusion(truth: NDArray[np.uint8], prediction: NDArray[np.uint8], n_classes: int) -> NDArray[np.int64]:
    """Count the pixels of each pair of true and predicted class.

    Parameters
    ----------
    truth : (Y, X) uint8
        True classes below `n_classes`; 255 is ignored, whatever was predicted there.
    prediction : (Y, X) uint8
        Predicted classes below `n_classes`.
    n_classes : int
        Number of classes K, 1 to 255.

    Returns
    -------
    (K, K) int64
        Pixels by true class (row) and predicted class (column). The tables of several cores and samples are summed.

    Raises
    ------
    AnnotationError
        If the shapes differ, an array is not uint8, or a counted class is not below K.
    ConfigError
        If K is outside 1 to 255.

    Notes
    -----
    One pass in O(pixels); extra memory is one table of 256 x 256 counts.

    Examples
    --------
    >>> truth = np.array([[0, 0, 1, 255]], np.uint8)
    >>> confusion(truth, np.array([[0, 1, 1, 1]], np.uint8), 2).tolist()
    [[1, 1], [0, 1]]
    """
    if not 1 <= n_classes <= IGNORE:
        raise ConfigError(f"confusion table of {n_classes} classes: expected 1 to {IGNORE}")
    _check(truth, prediction, np.dtype(np.uint8))
    counts: NDArray[np.int64] = _count_classes(_read_only(truth), _read_only(prediction))
    table = counts[:n_classes, :n_classes]
    strangers = int(counts[:IGNORE].sum() - table.sum())
    if strangers:
        largest = max(int(index.max()) for index in np.nonzero(counts[:IGNORE]))
        raise AnnotationError(
            f"{strangers} pixels have a class that is not counted, the largest is {largest}: expected 0 to "
            f"{n_classes - 1}, or a truth of {IGNORE} where it is unknown; check the list of classes"
        )
    return np.ascontiguousarray(table)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contingency:
    """Pixels shared by each pair of true and predicted object that meet, in memory proportional to those pairs.

    Parameters
    ----------
    truth_id, prediction_id : (N,) uint32
        The two labels of each pair, ascending by truth and then prediction; 0 is background, and kept.
    count : (N,) int64
        Pixels of the pair, at least 1.

    Raises
    ------
    AnnotationError
        If the arrays differ in length or are not in order.

    Notes
    -----
    Adding two tables means that equal ids are the same object: use it for the cores of one image. For several images
    take `pooled`, which keeps their objects apart.

    Examples
    --------
    >>> one = contingency(np.array([[1, 1, 0]], np.uint32), np.array([[7, 0, 0]], np.uint32))
    >>> (one + one).count.tolist(), (one + one) == one
    ([2, 2, 2], False)
    """

    truth_id: NDArray[np.uint32]
    prediction_id: NDArray[np.uint32]
    count: NDArray[np.int64]

    def __post_init__(self) -> None:
        sizes = self.truth_id.size, self.prediction_id.size, self.count.size
        keys = _packed(self.truth_id, self.prediction_id) if len(set(sizes)) == 1 else None
        if keys is None or bool(np.any(keys[1:] <= keys[:-1])):
            raise AnnotationError(
                f"contingency table with columns of {sizes} rows: expected equal lengths and pairs in ascending order; "
                "build it with contingency()"
            )

    @property
    def total(self) -> int:
        """Number of pixels counted."""
        return int(self.count.sum())

    def __add__(self, other: "Contingency") -> "Contingency":
        return merged((self, other))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Contingency):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in ("truth_id", "prediction_id", "count")
        )

    __hash__ = None  # type: ignore[assignment]


def contingency(
    truth_labels: NDArray[np.uint32], predicted_labels: NDArray[np.uint32], *, valid: NDArray[np.bool_] | None = None
) -> Contingency:
    """Count the pixels shared by each pair of true and predicted object.

    Parameters
    ----------
    truth_labels, predicted_labels : (Y, X) uint32
        Instance labels, 0 is background.
    valid : (Y, X) bool, optional
        Pixels to count; all where not given. An object keeps only its valid pixels.

    Returns
    -------
    Contingency
        Including the pairs with background on either side.

    Raises
    ------
    AnnotationError
        If the shapes differ, or an array has another dtype.

    Notes
    -----
    Runs of equal pairs along a row go into a hash table at once: O(pixels) time, O(pairs) memory. The result does not
    depend on how an image is cut into cores.

    Examples
    --------
    >>> table = contingency(np.array([[1, 1, 2, 0]], np.uint32), np.array([[5, 5, 5, 5]], np.uint32))
    >>> table.truth_id.tolist(), table.prediction_id.tolist(), table.count.tolist()
    ([0, 1, 2], [5, 5, 5], [1, 2, 1])
    """
    _check(truth_labels, predicted_labels, np.dtype(np.uint32))
    counted = np.zeros((1, 1), np.bool_) if valid is None else valid
    if valid is not None:
        _check(valid, valid, np.dtype(np.bool_))
        _check_shapes(truth_labels, valid, "valid mask")
    arrays = _read_only(truth_labels), _read_only(predicted_labels), _read_only(counted)
    keys, counts = _count_pairs(*arrays, valid is not None)
    order = np.argsort(keys)
    return _unpacked(keys[order], counts[order])


def merged(tables: Iterable[Contingency]) -> Contingency:
    """Sum of the tables of the cores of one image; equal ids are the same object.

    Parameters
    ----------
    tables : iterable of Contingency
        In any order; none give the empty table.

    Examples
    --------
    >>> merged([]).total
    0
    """
    parts = list(tables)
    if not parts:
        return _unpacked(np.zeros(0, np.uint64), np.zeros(0, np.int64))
    keys = np.concatenate([_packed(part.truth_id, part.prediction_id) for part in parts])
    return _unpacked(*sums_by_id(keys, np.concatenate([part.count for part in parts])))


def pooled(tables: Iterable[Contingency]) -> Contingency:
    """Table of several images as one: objects of different images stay different, background stays background.

    Parameters
    ----------
    tables : iterable of Contingency
        One per image. Ids are renumbered in this order, so no metric depends on it.

    Examples
    --------
    >>> one = contingency(np.array([[9, 9, 0]], np.uint32), np.array([[7, 0, 0]], np.uint32))
    >>> both = pooled([one, one])
    >>> both.truth_id.tolist(), both.prediction_id.tolist(), both.count.tolist()
    ([0, 1, 1, 2, 2], [0, 0, 1, 0, 2], [2, 1, 1, 1, 1])
    """
    renumbered, truth_used, prediction_used = [], 0, 0
    for table in tables:
        truth_id, truth_used = _renumbered(table.truth_id, truth_used)
        prediction_id, prediction_used = _renumbered(table.prediction_id, prediction_used)
        # Only the background changes its rank among the ids, and it stays first: the order of the rows holds.
        renumbered.append(Contingency(truth_id=truth_id, prediction_id=prediction_id, count=table.count))
    return merged(renumbered)


def sums_by_id(ids: NDArray[Id], counts: NDArray[np.int64]) -> tuple[NDArray[Id], NDArray[np.int64]]:
    """Sum of the counts of each id.

    Parameters
    ----------
    ids : (N,) uint32 or uint64
    counts : (N,) int64

    Returns
    -------
    (M,) of the ids' dtype, (M,) int64
        The different ids in ascending order, and their sums.

    Examples
    --------
    >>> ids, sums = sums_by_id(np.array([3, 1, 3], np.uint32), np.array([10, 20, 30]))
    >>> ids.tolist(), sums.tolist()
    ([1, 3], [20, 40])
    """
    unique, inverse = np.unique(ids, return_inverse=True)
    sums = np.zeros(unique.size, np.int64)
    np.add.at(sums, inverse, counts)
    return unique, sums


def _renumbered(ids: NDArray[np.uint32], used: int) -> tuple[NDArray[np.uint32], int]:
    """(N,) ids -> (N,) ids with the nonzero ones renumbered from `used` + 1, and the last number used."""
    unique, inverse = np.unique(ids, return_inverse=True)
    has_background = int(unique.size > 0 and unique[0] == 0)
    numbers = np.arange(unique.size, dtype=np.uint32) + np.uint32(used + 1 - has_background)
    numbers[:has_background] = 0
    return numbers[inverse], used + unique.size - has_background


def _packed(truth_id: NDArray[np.uint32], prediction_id: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Two (N,) uint32 -> (N,) uint64 whose order is that of the pairs."""
    return (truth_id.astype(np.uint64) << np.uint64(32)) | prediction_id.astype(np.uint64)


def _unpacked(keys: NDArray[np.uint64], counts: NDArray[np.int64]) -> Contingency:
    """(N,) ascending packed pairs and (N,) counts -> table."""
    truth_id, prediction_id = (keys >> np.uint64(32)).astype(np.uint32), keys.astype(np.uint32)
    return Contingency(truth_id=truth_id, prediction_id=prediction_id, count=counts)


def _check(truth: NDArray[np.generic], prediction: NDArray[np.generic], dtype: np.dtype[np.generic]) -> None:
    """Refuse arrays that are not (Y, X) of one shape and of `dtype`."""
    if truth.dtype != dtype or prediction.dtype != dtype or truth.ndim != 2:
        raise AnnotationError(
            f"cannot compare a truth of {truth.ndim} axes, {truth.dtype}, and a prediction of {prediction.ndim} axes, "
            f"{prediction.dtype}: expected two (Y, X) arrays of {dtype}; convert them first"
        )
    _check_shapes(truth, prediction, "prediction")


def _check_shapes(truth: NDArray[np.generic], other: NDArray[np.generic], name: str) -> None:
    """Refuse arrays of different shapes."""
    if truth.shape != other.shape:
        raise AnnotationError(
            f"truth of {truth.shape} px and {name} of {other.shape} px: expected equal shapes; "
            "read both at the same level and from the same box"
        )


def _read_only(array: NDArray[Scalar]) -> NDArray[Scalar]:
    """(Y, X) -> the same pixels, C-contiguous and read-only, so that each kernel is compiled for one type only."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


@njit(cache=True, nogil=True)
def _count_classes(truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Two (Y, X) uint8 -> (256, 256) int64 counts."""
    counts = np.zeros((256, 256), np.int64)
    for y in range(truth.shape[0]):
        for x in range(truth.shape[1]):
            counts[truth[y, x], prediction[y, x]] += 1
    return counts


@njit(cache=True, nogil=True)
def _slot(keys: NDArray[np.uint64], counts: NDArray[np.int64], key: np.uint64) -> np.uint64:
    """Where `key` is, or belongs, in an open hash table of 2^k slots; a count of 0 marks a free slot."""
    mask = np.uint64(keys.size - 1)
    spread = (key ^ (key >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    slot = (spread >> np.uint64(32)) & mask
    while counts[slot] and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@njit(cache=True, nogil=True)
def _with_room(
    keys: NDArray[np.uint64], counts: NDArray[np.int64], needed: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The same hash table, with at least twice as many slots as the entries it needs to take."""
    size = keys.size
    while size < 2 * needed:
        size *= 4
    if size == keys.size:
        return keys, counts
    new_keys, new_counts = np.zeros(size, np.uint64), np.zeros(size, np.int64)
    for old in np.flatnonzero(counts):
        slot = _slot(new_keys, new_counts, keys[old])
        new_keys[slot], new_counts[slot] = keys[old], counts[old]
    return new_keys, new_counts


@njit(cache=True, nogil=True)
def _add(keys: NDArray[np.uint64], counts: NDArray[np.int64], key: np.uint64, run: int) -> int:
    """Add a run of `key` to a hash table in place; 1 if the key is new."""
    if run == 0:
        return 0
    slot = _slot(keys, counts, key)
    new = 1 if counts[slot] == 0 else 0
    keys[slot] = key
    counts[slot] += run
    return new


@njit(cache=True, nogil=True)
def _count_row(
    truth: NDArray[np.uint32],
    prediction: NDArray[np.uint32],
    valid: NDArray[np.bool_],
    masked: bool,
    keys: NDArray[np.uint64],
    counts: NDArray[np.int64],
) -> int:
    """Add three (X,) rows to a hash table in place; number of new keys."""
    used, run, current = 0, 0, np.uint64(0)
    for x in range(truth.size):
        if masked and not valid[x]:
            continue
        key = (np.uint64(truth[x]) << np.uint64(32)) | np.uint64(prediction[x])
        if key != current:
            used += _add(keys, counts, current, run)
            current, run = key, 0
        run += 1
    return used + _add(keys, counts, current, run)


@njit(cache=True, nogil=True)
def _count_pairs(
    truth: NDArray[np.uint32], prediction: NDArray[np.uint32], valid: NDArray[np.bool_], masked: bool
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Two (Y, X) labels and a (Y, X) mask, read where `masked` -> packed pairs and counts, in no order."""
    keys, counts, used = np.zeros(1024, np.uint64), np.zeros(1024, np.int64), 0
    for y in range(truth.shape[0]):
        # Growing between rows only, outside the loop over pixels, is what keeps that loop fast.
        keys, counts = _with_room(keys, counts, used + truth.shape[1])
        used += _count_row(truth[y], prediction[y], valid[y if masked else 0], masked, keys, counts)
    taken = np.flatnonzero(counts)
    return keys[taken], counts[taken]

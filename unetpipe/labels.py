"""Instances, classes and what lies between them: the annotation as arrays.

`labels` are instances (uint32, 0 = background), `classes` are semantic (uint8, 0 = background, 255 = nobody annotated
this pixel). Pixels are neighbours over their four sides: a contact over a corner joins nothing.
"""

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unetpipe.errors import AnnotationError, ConfigError
from unetpipe.specs import IGNORE

__all__ = [
    "Ridge",
    "carve",
    "class_counts",
    "compact",
    "instances_of_classes",
    "instances_of_mask",
    "one_sided_ridge",
    "symmetric_ridge",
]

Ridge: TypeAlias = Literal["symmetric", "one_sided", "none"]

_FOUR = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=bool)
_ROWS_PER_COUNT = 256


def instances_of_mask(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Number the 4-connected parts of a mask.

    Parameters
    ----------
    mask : (Y, X) bool
        True on objects.

    Returns
    -------
    (Y, X) uint32
        1, 2, ... in raster order of each part's first pixel, 0 where the mask is False.

    Raises
    ------
    AnnotationError
        If `mask` is not a two-dimensional bool array.

    Notes
    -----
    One pass, O(Y X) time; no memory beyond the result and a table of the provisional parts. Cells that touch over a
    corner only stay apart, which 8-connected labelling would merge.

    Examples
    --------
    >>> instances_of_mask(np.eye(3, dtype=bool)).max()
    np.uint32(3)
    """
    _check_plane("mask", mask, "bool")
    return _parts(mask)


def instances_of_classes(classes: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Number the 4-connected parts of equal class.

    Parameters
    ----------
    classes : (Y, X) uint8
        Class indices; 0 is background, 255 is ignored.

    Returns
    -------
    (Y, X) uint32
        1, 2, ... class by class, within a class in raster order of each part's first pixel; 0 on background and
        on ignored pixels.

    Raises
    ------
    AnnotationError
        If `classes` is not a two-dimensional uint8 array.

    Notes
    -----
    One labelling per class that occurs: O(K Y X) time.

    Examples
    --------
    >>> instances_of_classes(np.array([[2, 1, 1, 0, 255, 1]], dtype=np.uint8))
    array([[3, 1, 1, 0, 0, 2]], dtype=uint32)
    """
    _check_plane("classes", classes, "uint8")
    labels = np.zeros(classes.shape, dtype=np.uint32)
    found = 0
    present = np.flatnonzero(_histogram(classes))
    for value in present[(present != 0) & (present != IGNORE)]:
        parts = _parts(classes == value)
        inside = parts != 0
        labels[inside] = parts[inside] + np.uint32(found)
        found += int(parts.max())
    return labels


def symmetric_ridge(labels: NDArray[np.uint32], *, classes: NDArray[np.uint8] | None = None) -> NDArray[np.bool_]:
    """Find the pixels of both instances where two of them touch: a gap of 2 px.

    Parameters
    ----------
    labels : (Y, X) uint32
        Instances, 0 is background.
    classes : (Y, X) uint8, optional
        If given, only instances of the same class are parted.

    Returns
    -------
    (Y, X) bool
        True on each labelled pixel whose 3 x 3 neighbourhood holds another instance; nowhere on the background.

    Raises
    ------
    AnnotationError
        If an array is not two-dimensional, not of integers, or the shapes differ.

    Notes
    -----
    Does not depend on the order of the instances: mirrored or renumbered labels give the mirrored or the same ridge.
    O(Y X) time; memory: a few bool planes.

    Examples
    --------
    >>> symmetric_ridge(np.array([[1, 1, 2, 2, 0, 3]], dtype=np.uint32)).astype(int)
    array([[0, 1, 1, 0, 0, 0]])
    """
    ridge = np.zeros(labels.shape, dtype=np.bool_)
    for earlier, later, touch in _contacts(labels, classes):
        ridge[earlier] |= touch
        ridge[later] |= touch
    return ridge


def one_sided_ridge(labels: NDArray[np.uint32], *, classes: NDArray[np.uint8] | None = None) -> NDArray[np.bool_]:
    """Find the pixels that touch another instance among their neighbours that come first: a gap of 1 to 2 px.

    Parameters
    ----------
    labels : (Y, X) uint32
        Instances, 0 is background.
    classes : (Y, X) uint8, optional
        If given, only instances of the same class are parted.

    Returns
    -------
    (Y, X) bool
        True on each labelled pixel one of whose four neighbours that come before it in raster order (west, north-west,
        north, north-east) belongs to another instance.

    Raises
    ------
    AnnotationError
        If an array is not two-dimensional, not of integers, or the shapes differ.

    Notes
    -----
    The rule of the plugin of Falk et al. Neighbours are looked up in the labels as given, also where they are ridge
    themselves. A contact along a row takes 1 px, from the lower instance; one along a column takes 1 px of the right
    instance and, by its north-eastern neighbour, 1 px of the left one below the first row. So this ridge does not
    turn with the image.

    References
    ----------
    Falk et al. 2019, doi:10.1038/s41592-018-0261-2.

    Examples
    --------
    >>> one_sided_ridge(np.array([[1, 1, 2, 2, 0, 3]], dtype=np.uint32)).astype(int)
    array([[0, 0, 1, 0, 0, 0]])
    """
    ridge = np.zeros(labels.shape, dtype=np.bool_)
    for _, later, touch in _contacts(labels, classes):
        ridge[later] |= touch
    return ridge


def carve(classes: NDArray[np.uint8], labels: NDArray[np.uint32], *, ridge: Ridge) -> NDArray[np.uint8]:
    """Turn the ridge between touching instances of one class into background.

    Parameters
    ----------
    classes : (Y, X) uint8
        Class indices; 0 is background, 255 is ignored.
    labels : (Y, X) uint32
        The instances of the same image.
    ridge : {"symmetric", "one_sided", "none"}
        1 px taken from each of both, what `one_sided_ridge` takes, or nothing.

    Returns
    -------
    (Y, X) uint8
        A new array: `classes` with 0 on the ridge. Ignored pixels stay ignored.

    Raises
    ------
    AnnotationError
        If the shapes differ or a type is wrong.
    ConfigError
        If `ridge` is unknown.

    Notes
    -----
    Instances of different classes keep their contact: the class parts them already. Parts made by
    `instances_of_mask` and `instances_of_classes` touch over corners only; a ridge then cuts diagonal lines of
    one pixel, so "none" suits them.

    Examples
    --------
    >>> labels = np.array([[1, 1, 2, 2, 3]], dtype=np.uint32)
    >>> carve(np.array([[1, 1, 1, 1, 2]], dtype=np.uint8), labels, ridge="symmetric")
    array([[1, 0, 0, 1, 2]], dtype=uint8)
    """
    _check_plane("classes", classes, "uint8")
    _check_same_shape(labels, classes)
    if ridge == "none":
        return classes.copy()
    if ridge == "symmetric":
        cut = symmetric_ridge(labels, classes=classes)
    elif ridge == "one_sided":
        cut = one_sided_ridge(labels, classes=classes)
    else:
        raise ConfigError(f"ridge is {ridge!r}: expected symmetric, one_sided or none")
    carved = classes.copy()
    carved[cut & (classes != IGNORE)] = 0
    return carved


def class_counts(classes: NDArray[np.uint8], n_classes: int) -> NDArray[np.int64]:
    """Count the pixels of each class; ignored pixels are not counted.

    Parameters
    ----------
    classes : (Y, X) uint8
        Class indices below `n_classes`, or 255 for ignored.
    n_classes : int
        Number of classes, background included, 1 to 255.

    Returns
    -------
    (n_classes,) int64
        Pixels per class; integers, so that counts of images and blocks add up exactly.

    Raises
    ------
    AnnotationError
        If `classes` is not a two-dimensional uint8 array, or holds a value that is no class.
    ConfigError
        If `n_classes` is out of range.

    Notes
    -----
    O(Y X) time; some 256 rows of temporary memory.

    Examples
    --------
    >>> class_counts(np.array([[0, 0, 1, 255]], dtype=np.uint8), 3)
    array([2, 1, 0])
    """
    _check_plane("classes", classes, "uint8")
    if not 1 <= n_classes <= IGNORE:
        raise ConfigError(f"n_classes is {n_classes}: expected 1 to {IGNORE}, background included")
    counts = _histogram(classes)
    foreign = np.flatnonzero(counts[n_classes:IGNORE])
    if foreign.size:
        value = n_classes + int(foreign[0])
        raise AnnotationError(
            f"classes hold the value {value} on {counts[value]} pixels: expected 0 to {n_classes - 1}, or {IGNORE} "
            "for ignored; raise n_classes or correct the annotation"
        )
    return counts[:n_classes]


def compact(labels: NDArray[Any]) -> NDArray[np.uint32]:
    """Bring an instance map of any integer type to uint32, keeping its values where they fit.

    Parameters
    ----------
    labels : (Y, X) integers
        Instances of any signed or unsigned type; 0 is background.

    Returns
    -------
    (Y, X) uint32
        The same values; only if one exceeds 2^32 - 1, all are renumbered 1, 2, ... in order of value. The array
        itself, not a copy, where it is uint32 already.

    Raises
    ------
    AnnotationError
        If the array is not two-dimensional, holds floats or bools, or a negative value.

    Notes
    -----
    An instance in several pieces stays one: what belongs together is the annotator's decision.
    O(Y X) time, O(Y X log(Y X)) where values are renumbered.

    Examples
    --------
    >>> compact(np.array([[0, 7, 300]], dtype=np.int64))
    array([[  0,   7, 300]], dtype=uint32)
    >>> compact(np.array([[0, 7, 2**40]], dtype=np.int64))
    array([[0, 1, 2]], dtype=uint32)
    """
    _check_plane("labels", labels, "integers")
    lowest, highest = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if lowest < 0:
        raise AnnotationError(
            f"labels hold the negative value {lowest}: expected 0 for background and positive instance numbers"
        )
    if highest <= np.iinfo(np.uint32).max:
        return labels.astype(np.uint32, copy=False)
    values = np.unique(labels)
    ranks = np.searchsorted(values[values != 0], labels) + 1
    return np.where(labels == 0, 0, ranks).astype(np.uint32)


def _parts(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """(Y, X) bool -> (Y, X) uint32: 4-connected parts in raster order."""
    parts = np.empty(mask.shape, dtype=np.uint32)
    ndimage.label(mask, structure=_FOUR, output=parts)
    return parts


def _contacts(
    labels: NDArray[np.uint32], classes: NDArray[np.uint8] | None
) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice], NDArray[np.bool_]]]:
    """Yield, for east, south, south-east and south-west: the earlier window, the later one, where instances touch."""
    _check_plane("labels", labels, "integers")
    if classes is not None:
        _check_same_shape(labels, classes)
    every, head, tail = slice(None), slice(None, -1), slice(1, None)
    for earlier, later in (
        ((every, head), (every, tail)),
        ((head, every), (tail, every)),
        ((head, head), (tail, tail)),
        ((head, tail), (tail, head)),
    ):
        one, other = labels[earlier], labels[later]
        touch = (one != other) & (one != 0) & (other != 0)
        if classes is not None:
            touch &= classes[earlier] == classes[later]
        yield earlier, later, touch


def _histogram(classes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(Y, X) uint8 -> (256,) int64 counts; by rows, since bincount copies its input to eight bytes per pixel."""
    counts = np.zeros(256, dtype=np.int64)
    for y in range(0, classes.shape[0], _ROWS_PER_COUNT):
        counts += np.bincount(classes[y : y + _ROWS_PER_COUNT].ravel(), minlength=256)
    return counts


def _check_plane(name: str, array: NDArray[Any], kind: str) -> None:
    """Raise AnnotationError unless the array is (Y, X) and of the type, or of any integer type."""
    fits = array.dtype.kind in "iu" if kind == "integers" else array.dtype == np.dtype(kind)
    if array.ndim != 2 or not fits:
        raise AnnotationError(
            f"{name} is of shape {array.shape} and type {array.dtype}: expected (Y, X) {kind}; "
            "choose one plane and convert it"
        )


def _check_same_shape(labels: NDArray[Any], classes: NDArray[Any]) -> None:
    """Raise AnnotationError unless both are of one image."""
    if labels.shape != classes.shape:
        raise AnnotationError(
            f"labels are of shape {labels.shape}, classes of {classes.shape}: expected one image; "
            "check that both annotations belong to it"
        )

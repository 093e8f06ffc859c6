"""From probabilities to the mask of a class: thresholds, and holes filled whatever the cores."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.instances import CoreComponents, resolve
from unetpipe.labelling import Connectivity

__all__ = ["decided", "filled"]


def decided(probabilities: NDArray[Any], *, least: Mapping[int, int]) -> NDArray[np.uint8]:
    """Choose a class for each pixel.

    Parameters
    ----------
    probabilities : (K, Y, X) unsigned integers
        Of the classes, as they are stored.
    least : mapping of int to int
        Thresholds, at least 1, of some classes but the first.

    Returns
    -------
    (Y, X) uint8

    Notes
    -----
    Of the classes that have a threshold and reach it, the most probable. Where none does, the most probable of the
    classes without a threshold. The lower index wins a tie. Without thresholds that is the most probable class.

    Examples
    --------
    >>> pixel = np.array([[[50]], [[30]], [[20]]], np.uint16)
    >>> [decided(pixel, least=least).item() for least in ({}, {1: 30}, {1: 31}, {1: 30, 2: 10})]
    [0, 1, 0, 1]
    """
    free = [k for k in range(len(probabilities)) if k not in least]
    classes = np.full(probabilities.shape[1:], free[0], np.uint8)
    best = probabilities[free[0]].copy()
    # In turn: numpy's argmax over few classes takes five times as long.
    for k in free[1:]:
        np.copyto(classes, np.uint8(k), where=probabilities[k] > best)
        np.maximum(best, probabilities[k], out=best)
    best[:] = 0
    for k in sorted(least):
        reached = np.where(probabilities[k] >= least[k], probabilities[k], 0)
        np.copyto(classes, np.uint8(k), where=reached > best)
        np.maximum(best, reached, out=best)
    return classes


def filled(
    background: Sequence[CoreComponents],
    *,
    connectivity: Connectivity,
    taken: Sequence[NDArray[np.uint32]] = (),
) -> tuple[NDArray[np.bool_], ...]:
    """Find which parts of the background are holes.

    Parameters
    ----------
    background : sequence of CoreComponents
        The components of all pixels outside the objects, of all cores in raster order.
    connectivity : 4 or 8
        That of the background: 8 where objects are 4-connected, 4 where they are 8-connected.
    taken : sequence of (T,) uint32, optional
        For each core, labels of its background that other objects lie in: these parts are no holes.

    Returns
    -------
    tuple of (M,) bool, one per core
        By label of the core's background, whether these pixels belong to objects whose holes are filled. True for 0,
        which stands for the objects themselves.

    Raises
    ------
    GeometryError
        If the cores do not cover one rectangle.

    Notes
    -----
    A hole is a component of the background that does not touch the image's border. Objects that lie inside a hole are
    joined with the one around it.

    Examples
    --------
    A square of 3 x 3 px without its middle:

    >>> from unetpipe.geometry import Box
    >>> from unetpipe.instances import core_components
    >>> from unetpipe.labelling import label_core
    >>> labels, count = label_core(np.pad([[True]], 1), connectivity=8)
    >>> core = core_components(labels, count, core=Box(start=(0, 0), stop=(3, 3)), image_width=3)
    >>> [table.tolist() for table in filled([core], connectivity=8)]
    [[True, True]]
    """
    parts = resolve(background, connectivity=connectivity)
    height, width = background[-1].core.stop if background else (0, 0)
    belongs = np.ones(parts.count + 1, np.bool_)
    for record, lookup in zip(background, parts.lookups, strict=True):
        (top, left), (bottom, right) = record.core.start, record.core.stop
        edges = (record.top, top == 0), (record.bottom, bottom == height), (record.left, left == 0)
        for edge, at_border in (*edges, (record.right, right == width)):
            if at_border:
                belongs[lookup[edge]] = False
    for labels, lookup in zip(taken, parts.lookups, strict=False):
        belongs[lookup[labels]] = False
    belongs[0] = True
    return tuple(belongs[lookup] for lookup in parts.lookups)

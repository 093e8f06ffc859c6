"""Flips and quarter turns for test-time augmentation: exact in geometry, undone before probabilities are averaged."""

from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["GROUPS", "Symmetry", "applied", "undone"]

# Quarter turns counterclockwise, then whether left and right are swapped.
Symmetry: TypeAlias = tuple[int, bool]

IDENTITY: tuple[Symmetry, ...] = ((0, False),)
TURNS: tuple[Symmetry, ...] = tuple((turns, False) for turns in range(4))
ALL: tuple[Symmetry, ...] = TURNS + tuple((turns, True) for turns in range(4))
# The paper averages 7 rotated versions and does not say which: here all 8 but the last.
GROUPS: dict[str, tuple[Symmetry, ...]] = {"none": IDENTITY, "rot4": TURNS, "d4": ALL, "paper7": ALL[:7]}


def applied(image: Tensor, symmetry: Symmetry) -> Tensor:
    """Turn and flip an image.

    Parameters
    ----------
    image : (..., Y, X) tensor
        Any content.
    symmetry : (int, bool)
        Quarter turns counterclockwise, then whether left and right are swapped.

    Returns
    -------
    Tensor
        (..., Y, X), or (..., X, Y) behind an odd number of quarter turns.

    Examples
    --------
    >>> applied(torch.tensor([[1, 2], [3, 4]]), (1, False)).tolist()
    [[2, 4], [1, 3]]
    """
    turns, flip = symmetry
    turned = torch.rot90(image, turns, (-2, -1))
    return turned.flip(-1) if flip else turned


def undone(image: Tensor, symmetry: Symmetry) -> Tensor:
    """Undo `applied`.

    Parameters
    ----------
    image : (..., Y, X) tensor
        What was turned and flipped.
    symmetry : (int, bool)
        By what.

    Returns
    -------
    Tensor
        As it was before.

    Examples
    --------
    >>> undone(torch.tensor([[2, 4], [1, 3]]), (1, False)).tolist()
    [[1, 2], [3, 4]]
    """
    turns, flip = symmetry
    return torch.rot90(image.flip(-1) if flip else image, -turns, (-2, -1))

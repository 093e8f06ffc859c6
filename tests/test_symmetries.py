"""Flips and quarter turns are undone exactly, and are what their names say."""

import typing

import pytest
import torch

from unetpipe.specs import PredictSpec
from unetpipe.symmetries import GROUPS, applied, undone


@pytest.mark.parametrize("symmetry", GROUPS["d4"])
def test_undone_is_the_inverse(symmetry: tuple[int, bool]) -> None:
    image = torch.arange(2 * 3 * 5).reshape(2, 3, 5)
    assert torch.equal(undone(applied(image, symmetry), symmetry), image)


def test_the_eight_forms_differ_and_are_a_group() -> None:
    image = torch.arange(9).reshape(3, 3)
    forms = {tuple(applied(image, s).flatten().tolist()) for s in GROUPS["d4"]}
    twice = {tuple(applied(applied(image, a), b).flatten().tolist()) for a in GROUPS["d4"] for b in GROUPS["d4"]}
    assert len(forms) == 8
    assert twice == forms


def test_groups_have_the_sizes_that_their_names_promise() -> None:
    assert [len(GROUPS[name]) for name in ("none", "rot4", "d4", "paper7")] == [1, 4, 8, 7]
    assert all(group[0] == (0, False) and len(set(group)) == len(group) for group in GROUPS.values())
    field = next(f for f in PredictSpec.__dataclass_fields__.values() if f.name == "symmetries")
    assert set(typing.get_args(field.type)) == set(GROUPS)

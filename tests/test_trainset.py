"""What a training takes from all of its inputs together."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from unetpipe.errors import ModelError
from unetpipe.specs import TrainSpec, UnetSpec
from unetpipe.trainset import class_weights

SPEC = TrainSpec(network=UnetSpec(classes=2))


def patches(*counts: list[int]) -> list[Any]:
    """Manifests of `augment`, as far as they are looked at here."""
    return [SimpleNamespace(path="p.json", facts={"class_counts": one}) for one in counts]


@pytest.mark.parametrize(("balance", "expected"), [(True, [100 / (2 * 40), 100 / (2 * 60)]), (False, [1.0, 1.0])])
@pytest.mark.parametrize("order", [1, -1])
def test_the_balance_is_that_of_the_whole_training_set(balance: bool, expected: list[float], order: int) -> None:
    """40 and 60 pixels of 100; image by image it would be 2/3 and 2, and 3 and 0.6."""
    found = class_weights(patches([30, 10], [10, 50])[::order], replace(SPEC, balance=balance))
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_class_that_one_image_lacks_counts_where_it_is() -> None:
    assert class_weights(patches([30, 0], [0, 10]), SPEC) == pytest.approx([40 / 60, 40 / 20], rel=1e-12)


def test_weights_that_are_whole_already_get_nothing_added() -> None:
    assert class_weights(patches([30, 10], [10, 50]), replace(SPEC, pixel_weights="falk2019")) == [0.0, 0.0]


@pytest.mark.parametrize("order", [1, -1])
def test_every_image_has_the_classes_of_the_network(order: int) -> None:
    with pytest.raises(ModelError, match=r"expected 2 classes as the network has, came 3; set network.classes to 3"):
        class_weights(patches([30, 10], [10, 50, 1])[::order], SPEC)

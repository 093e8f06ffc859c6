"""Specs are checked at birth and have one text."""

import dataclasses
import json

import pytest

from unetpipe import specs
from unetpipe.errors import ConfigError
from unetpipe.specs import AugmentSpec, TrainSpec, UnetSpec, WeighSpec, canonical_json

KINDS = [v for name, v in vars(specs).items() if name.endswith("Spec") and isinstance(v, type)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_is_documented_and_every_default_is_legal(kind: type) -> None:
    for field in dataclasses.fields(kind):
        assert field.metadata["meaning"]
    assert json.loads(canonical_json(kind())) == json.loads(json.dumps(dataclasses.asdict(kind())))


@pytest.mark.parametrize(
    ("kind", "keys", "said"),
    [
        (WeighSpec, {"sigma_px": 0.0}, "sigma_px: expected a value above 0, came 0"),
        (WeighSpec, {"w0": float("nan")}, "w0: expected"),
        (WeighSpec, {"w0": float("inf")}, "w0: expected a finite number"),
        (UnetSpec, {"depth": 0}, "depth: expected a value at least 1, came 0"),
        (AugmentSpec, {"grey_black": 0.5}, "grey_black: expected a value at most 0.4, came 0.5"),
        (TrainSpec, {"steps": -1}, "steps"),
        (TrainSpec, {"average": 1.0}, "average: expected a value at most 0.99999, came 1"),
        (
            TrainSpec,
            {"loss": "binary_cross_entropy", "network": UnetSpec(classes=3)},
            "loss: binary_cross_entropy is for 2 classes, came 3; use cross_entropy",
        ),
    ],
)
def test_bounds(kind: type, keys: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        kind(**keys)


def test_the_text_does_not_know_the_order_of_the_keys() -> None:
    assert canonical_json({"b": 1, "a": 2}) == canonical_json({"a": 2, "b": 1}) == '{"a":2,"b":1}'

"""Network specs: what they refuse, what their heads give, and their way through JSON."""

import dataclasses
import json

import pytest

from unetpipe.errors import ConfigError
from unetpipe.netspecs import FAMILIES, DilatedUnetSpec, KerasUnetSpec, PaddedUnetSpec, UnetSpec, network_spec
from unetpipe.specs import canonical_json


@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_is_documented_and_the_name_is_the_default(family: str) -> None:
    kind = FAMILIES[family]
    assert all(field.metadata["meaning"] for field in dataclasses.fields(kind))
    assert kind().family == family


@pytest.mark.parametrize("family", FAMILIES)
def test_specs_survive_json(family: str) -> None:
    spec = FAMILIES[family](channels=3)
    assert network_spec(json.loads(canonical_json(spec))) == spec


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sigmoid_head_is_for_two_classes(family: str) -> None:
    kind = FAMILIES[family]
    assert kind(head="sigmoid").logit_channels == 1
    assert kind(head="softmax", classes=5).logit_channels == 5
    with pytest.raises(ConfigError, match="head: sigmoid is for 2 classes, came 3 classes; use head: softmax"):
        kind(head="sigmoid", classes=3)


def test_heads_by_default() -> None:
    assert [kind().head for kind in FAMILIES.values()] == ["softmax", "softmax", "softmax", "sigmoid"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"family": "unte"}, "expected one of unet, padded_unet, dilated_unet, keras_unet, came 'unte'"),
        ({}, "came None"),
        ({"family": "unet", "features": [3]}, "network of family unet: got an unexpected keyword argument 'features'"),
        ({"family": "unet", "depth": 0}, "depth: expected a value at least 1"),
    ],
)
def test_plain_data_that_is_no_network(data: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        network_spec(data)


@pytest.mark.parametrize(
    ("spec", "context", "minimum", "tileable"),
    [
        (UnetSpec(), 92, 188, True),
        (UnetSpec(form="release"), 92, 188, True),
        (PaddedUnetSpec(), 96, 16, True),
        (PaddedUnetSpec(up="bilinear"), 112, 16, True),
        (PaddedUnetSpec(up="bilinear", align_corners=True), 112, 16, False),
        (PaddedUnetSpec(align_corners=True), 96, 16, True),
        (DilatedUnetSpec(), 128, 1, True),
        (DilatedUnetSpec(form="valid"), 122, 248, True),
        (DilatedUnetSpec(form="printed"), 0, 233, False),
        (KerasUnetSpec(), 112, 16, True),
    ],
)
def test_geometry_of_the_published_sizes(spec: UnetSpec, context: int, minimum: int, tileable: bool) -> None:
    geometry = spec.geometry
    assert (geometry.context, geometry.minimum, geometry.tileable) == (context, minimum, tileable)

"""One frozen value per network family: its form, its sizes, and the geometry that follows from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from unetpipe.errors import ConfigError
from unetpipe.fields import Checked, key
from unetpipe.geometry import NetGeometry, dilated_geometry, padded_geometry, unet_geometry

__all__ = [
    "FAMILIES",
    "DilatedUnetSpec",
    "KerasUnetSpec",
    "NetworkSpec",
    "PaddedUnetSpec",
    "UnetSpec",
    "network_spec",
]

HEAD = "logits: one per class (softmax), or a single one for two classes (sigmoid), which stands for the pair [0, z]"
Head: TypeAlias = Literal["softmax", "sigmoid"]


class Headed(Checked):
    """What all networks share: the channels that their heads give."""

    __slots__ = ()
    head: Head
    classes: int

    def __post_init__(self) -> None:
        # No super(): slotted dataclasses are made anew, and its cell would hold the class before that.
        Checked.__post_init__(self)
        if self.head == "sigmoid" and self.classes != 2:
            raise ConfigError(f"head: sigmoid is for 2 classes, came {self.classes} classes; use head: softmax")

    @property
    def logit_channels(self) -> int:
        """Channels of the logits: one per class with a softmax head, 1 with a sigmoid head."""
        return self.classes if self.head == "softmax" else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class UnetSpec(Headed):
    """The network of 2015: valid convolutions, widths doubling with each of `depth` poolings."""

    family: Literal["unet"] = key("unet", "network family")
    form: Literal["paper", "release"] = key(
        "paper",
        "as drawn in the paper, or as the authors released it: ReLU behind the up-convolutions, and a last "
        "up-convolution that keeps its channels",
    )
    depth: int = key(4, "number of poolings", at_least=1, at_most=7)
    base_width: int = key(64, "feature channels of the first level", at_least=1)
    activation: Literal["relu", "leaky"] = key(
        "relu", "ReLU, or LeakyReLU of slope 0.1, which the 2019 plugin has behind up-convolutions too"
    )
    init: Literal["release", "literal"] = key(
        "release", "initial variance 2/N of an up-convolution: N is 4 times its outputs (release), or its inputs"
    )
    channels: int = key(1, "channels of the image", at_least=1)
    classes: int = key(2, "classes; follows from the list of classes", at_least=2, at_most=254)
    head: Head = key("softmax", HEAD)
    dropout: float = key(0.5, "dropout behind the last two encoder levels", at_least=0, at_most=0.95)

    @property
    def geometry(self) -> NetGeometry:
        """Legal sizes, stride and context of this network."""
        return unet_geometry(self.depth)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedUnetSpec(Headed):
    """The padded form with batch norm that many public weights have: output as large as the input."""

    family: Literal["padded_unet"] = key("padded_unet", "network family")
    features: tuple[int, ...] = key(
        (64, 128, 256, 512), "feature channels of each level; the bottleneck has twice the last", at_least=2
    )
    up: Literal["transposed", "bilinear"] = key(
        "transposed", "up-sampling by a transposed convolution, or bilinear with half the channels below"
    )
    align_corners: bool = key(
        False, "bilinear only: true as published, where the result depends on the size, so that it cannot be tiled"
    )
    fit: Literal["pad", "resize"] = key(
        "pad", "what makes odd sizes fit the skip: one row or column of zeros, or bilinear stretching"
    )
    channels: int = key(1, "channels of the image", at_least=1)
    classes: int = key(2, "classes; follows from the list of classes", at_least=2, at_most=254)
    head: Head = key("softmax", HEAD)

    def __post_init__(self) -> None:
        Headed.__post_init__(self)
        if not 1 <= len(self.features) <= 7:
            raise ConfigError(f"features: expected 1 to 7 levels, came {len(self.features)}")

    @property
    def depth(self) -> int:
        """Number of poolings."""
        return len(self.features)

    @property
    def geometry(self) -> NetGeometry:
        """Legal sizes, stride and context of this network."""
        bilinear = self.up == "bilinear"
        tileable = not (bilinear and self.align_corners)
        return padded_geometry(self.depth, spread=int(bilinear), fits=True, tileable=tileable)


@dataclass(frozen=True, slots=True, kw_only=True)
class DilatedUnetSpec(Headed):
    """Dilated convolutions in the encoder, skips taken behind the poolings."""

    family: Literal["dilated_unet"] = key("dilated_unet", "network family")
    form: Literal["printed", "valid", "aligned"] = key(
        "aligned",
        "padded so that all maps lie on each other (aligned); only what is computed without padding (valid); or as "
        "published, maps stretched over each other: off by many pixels, and not to be tiled (printed)",
    )
    depth: int = key(4, "number of poolings", at_least=1, at_most=7)
    base_width: int = key(64, "feature channels of the first level", at_least=1)
    channels: int = key(1, "channels of the image", at_least=1)
    classes: int = key(2, "classes; follows from the list of classes", at_least=2, at_most=254)
    head: Head = key("softmax", HEAD)
    dropout: float = key(0.5, "dropout in the last encoder level and in the centre", at_least=0, at_most=0.95)

    @property
    def geometry(self) -> NetGeometry:
        """Legal sizes, stride and context of this network."""
        return dilated_geometry(self.depth, form=self.form)


@dataclass(frozen=True, slots=True, kw_only=True)
class KerasUnetSpec(Headed):
    """The form known from Keras: padded, nearest up-sampling and a 2x2 convolution, a sigmoid head."""

    family: Literal["keras_unet"] = key("keras_unet", "network family")
    depth: int = key(4, "number of poolings", at_least=1, at_most=7)
    base_width: int = key(64, "feature channels of the first level", at_least=1)
    up_pad: Literal["printed", "symmetric"] = key(
        "printed", "padding of the 2x2 convolutions: below and right as published, or the same on all sides"
    )
    head_relu: bool = key(
        True, "the published 3x3 convolution to 2 channels with ReLU before the last layer, which can die; false: none"
    )
    channels: int = key(1, "channels of the image", at_least=1)
    classes: int = key(2, "classes; follows from the list of classes", at_least=2, at_most=254)
    head: Head = key("sigmoid", HEAD)
    dropout: float = key(0.5, "dropout behind the last two encoder levels", at_least=0, at_most=0.95)

    @property
    def geometry(self) -> NetGeometry:
        """Legal sizes, stride and context of this network; the context is that of the far side, the larger one."""
        return padded_geometry(self.depth, spread=1, head=int(self.head_relu))


NetworkSpec: TypeAlias = UnetSpec | PaddedUnetSpec | DilatedUnetSpec | KerasUnetSpec

FAMILIES: dict[str, type[NetworkSpec]] = {
    "unet": UnetSpec,
    "padded_unet": PaddedUnetSpec,
    "dilated_unet": DilatedUnetSpec,
    "keras_unet": KerasUnetSpec,
}


def network_spec(data: Mapping[str, Any]) -> NetworkSpec:
    """The spec that a manifest or a card holds as plain JSON data.

    Parameters
    ----------
    data : mapping
        The keys of a spec, with `family`; lists stand for tuples.

    Returns
    -------
    NetworkSpec

    Raises
    ------
    ConfigError
        If the family or a key is not known, or a value is out of its bounds.

    Examples
    --------
    >>> network_spec({"family": "padded_unet", "features": [4, 8]}).depth
    2
    """
    family = FAMILIES.get(data.get("family", ""))
    if family is None:
        raise ConfigError(f"network family: expected one of {', '.join(FAMILIES)}, came {data.get('family')!r:.40}")
    keys: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
    try:
        return family(**keys)
    except TypeError as error:
        raise ConfigError(f"network of family {data['family']}: {str(error).partition('() ')[2]}") from None

"""The padded U-Net with batch norm: same size out as in, transposed or bilinear up-sampling.

Modules stand in the order and under the names that public weights of this family have.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetpipe.errors import ModelError
from unetpipe.netspecs import PaddedUnetSpec
from unetpipe.networks.initialisation import uniform_fan_in

__all__ = ["PaddedUnet", "build", "from_indexed_names", "to_indexed_names"]


def build(spec: PaddedUnetSpec, *, seed: int) -> "PaddedUnet":
    """The network of a spec with its initial parameters.

    Parameters
    ----------
    spec : PaddedUnetSpec
        Form and sizes.
    seed : int
        Seed of the initial parameters.

    Returns
    -------
    PaddedUnet

    Examples
    --------
    >>> sum(p.numel() for p in build(PaddedUnetSpec(features=(4,)), seed=1).parameters())
    1682
    """
    network = PaddedUnet(spec)
    uniform_fan_in(network, seed=seed)
    return network


class DoubleConv(nn.Module):
    """Two padded 3x3 convolutions, each with batch norm and ReLU: (N, C, n, n) -> (N, K, n, n)."""

    def __init__(self, channels: int, width: int, middle: int | None = None) -> None:
        super().__init__()
        middle = middle or width
        self.double_conv = nn.Sequential(
            nn.Conv2d(channels, middle, 3, padding=1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, n, n) -> (N, K, n, n)."""
        convolved: Tensor = self.double_conv(features)
        return convolved


class Down(nn.Module):
    """2x2 pooling and two convolutions: (N, C, n, n) -> (N, K, n // 2, n // 2)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(channels, width))

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, n, n) -> (N, K, n // 2, n // 2)."""
        convolved: Tensor = self.maxpool_conv(features)
        return convolved


class Up(nn.Module):
    """Up-sampling, fit to the skip, and two convolutions."""

    def __init__(self, channels: int, skip: int, width: int, spec: PaddedUnetSpec) -> None:
        super().__init__()
        self.fit = spec.fit
        if spec.up == "bilinear":
            joined = skip + channels
            self.up: nn.Module = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=spec.align_corners)
            self.conv = DoubleConv(joined, width, joined // 2)
        else:
            self.up = nn.ConvTranspose2d(channels, skip, 2, stride=2)
            self.conv = DoubleConv(2 * skip, width)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Skip (N, S, m, m) and map below (N, C, n, n), taken from the end of a list -> (N, K, m, m).

        The skip stands in front of what was raised.
        """
        features: Tensor = self.up(maps.pop())
        features = fitted(features, maps[-1], self.fit)
        features = torch.cat([maps.pop(), features], dim=1)
        # One by one: called as a whole, they would hold their input until the end, half of the peak memory.
        for layer in self.conv.double_conv:
            features = layer(features)
        return features


def fitted(raised: Tensor, skip: Tensor, fit: str) -> Tensor:
    """(N, C, n, n) with the height and width of the skip, which has at most one pixel more."""
    (height, width), (h, w) = skip.shape[-2:], raised.shape[-2:]
    if (height, width) == (h, w):
        return raised
    if fit == "pad":
        top, left = (height - h) // 2, (width - w) // 2
        return F.pad(raised, (left, width - w - left, top, height - h - top))
    # Antialiasing, which published code has without saying so, does nothing where a map grows.
    return F.interpolate(raised, size=(height, width), mode="bilinear", align_corners=False, antialias=False)


class OutConv(nn.Module):
    """The head, a 1x1 convolution: (N, C, n, n) -> (N, L, n, n)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, n, n) -> (N, L, n, n)."""
        logits: Tensor = self.conv(features)
        return logits


class PaddedUnet(nn.Module):
    """Encoder ``inc``, ``down1`` ..., decoder ``up1`` ..., head ``outc``.

    Parameters
    ----------
    spec : PaddedUnetSpec
        Features of each level, up-sampling, fit, channels C, classes K and head.

    Notes
    -----
    With features 64, 128, 256, 512 and transposed up-sampling there are 31,037,633 parameters for C = 3 and one logit,
    and 118 entries of state. Bilinear up-sampling has no parameters, so that the level below gives half its channels:
    17,262,977 parameters, 110 entries. Transposed up-sampling takes any list of features; where each is twice the one
    before, the network is the published one.
    """

    def __init__(self, spec: PaddedUnetSpec) -> None:
        super().__init__()
        self.spec = spec
        features, bilinear = spec.features, spec.up == "bilinear"
        self.inc = DoubleConv(spec.channels, features[0])
        bottleneck = 2 * features[-1] // (2 if bilinear else 1)
        for level, width in enumerate([*features[1:], bottleneck]):
            self.add_module(f"down{level + 1}", Down(features[level], width))
        below = bottleneck
        for number, level in enumerate(reversed(range(spec.depth)), start=1):
            width = features[level] // (2 if bilinear and level else 1)
            self.add_module(f"up{number}", Up(below, features[level], width, spec))
            below = width
        self.outc = OutConv(features[0], spec.logit_channels)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, L, n, n) of an image (N, C, n, n).

        Raises
        ------
        GeometryError
            If a side is below 2^depth.
        ModelError
            In training, if the batch norm of the bottleneck would get a single value per channel.
        """
        for side in image.shape[-2:]:
            self.spec.geometry.output_side(int(side))
        if self.training:
            check_values(image, self.spec.depth)
        numbers = range(1, self.spec.depth + 1)
        maps: list[Tensor] = [self.inc(image)]
        for number in numbers:
            maps.append(self.get_submodule(f"down{number}")(maps[-1]))
        for number in numbers:
            maps.append(self.get_submodule(f"up{number}")(maps))
        logits: Tensor = self.outc(maps.pop())
        return logits


def check_values(image: Tensor, depth: int) -> None:
    """Refuse a batch that is a single pixel at the bottleneck: its variance is not defined."""
    batch, _, height, width = image.shape
    if batch * (height >> depth) * (width >> depth) == 1:
        raise ModelError(
            f"training on one patch of {height} x {width} px: expected more than one value per channel in the batch "
            f"norm of the bottleneck, came one; use patches of at least {2 << depth} px"
        )


def indexed_prefixes(depth: int) -> dict[str, str]:
    """Prefixes of the form with lists of modules, in its order, to those of `PaddedUnet`."""
    prefixes = {}
    for number in range(depth):
        prefixes[f"ups.{2 * number}."] = f"up{number + 1}.up."
        prefixes[f"ups.{2 * number + 1}.conv."] = f"up{number + 1}.conv.double_conv."
    prefixes["downs.0.conv."] = "inc.double_conv."
    for level in range(1, depth):
        prefixes[f"downs.{level}.conv."] = f"down{level}.maxpool_conv.1.double_conv."
    prefixes["bottleneck.conv."] = f"down{depth}.maxpool_conv.1.double_conv."
    prefixes["final_conv."] = "outc.conv."
    return prefixes


def from_indexed_names(state: Mapping[str, Tensor], *, depth: int = 4) -> dict[str, Tensor]:
    """The state of the form with lists of modules (``downs``, ``ups``, ``bottleneck``) under the names used here.

    Parameters
    ----------
    state : mapping of str to Tensor
        Parameters and buffers, as ``downs.0.conv.0.weight``.
    depth : int
        Number of poolings.

    Returns
    -------
    dict of str to Tensor
        The same tensors, as ``inc.double_conv.0.weight``, for a network with transposed up-sampling.

    Raises
    ------
    ModelError
        If a name does not belong to that form.

    Examples
    --------
    >>> list(from_indexed_names({"ups.2.bias": torch.zeros(1)}))
    ['up2.up.bias']
    """
    return renamed(state, indexed_prefixes(depth))


def to_indexed_names(state: Mapping[str, Tensor], *, depth: int = 4) -> dict[str, Tensor]:
    """The state of a network with transposed up-sampling under the names of the form with lists of modules.

    Parameters
    ----------
    state : mapping of str to Tensor
        Parameters and buffers, as ``inc.double_conv.0.weight``.
    depth : int
        Number of poolings.

    Returns
    -------
    dict of str to Tensor
        The same tensors, as ``downs.0.conv.0.weight``.

    Raises
    ------
    ModelError
        If a name does not belong to this network.

    Examples
    --------
    >>> list(to_indexed_names({"up2.up.bias": torch.zeros(1)}))
    ['ups.2.bias']
    """
    return renamed(state, {ours: theirs for theirs, ours in indexed_prefixes(depth).items()})


def renamed(state: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """The same tensors in the same order, with one prefix for another in each name."""
    result = {}
    for name, value in state.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if prefix is None:
            raise ModelError(f"parameter {name!r:.80}: expected a name that begins with {', '.join(prefixes)[:150]}")
        result[prefixes[prefix] + name.removeprefix(prefix)] = value
    return result

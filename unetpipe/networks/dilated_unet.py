"""A U-Net with dilated convolutions in the encoder and skips taken behind the poolings, in three forms."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetpipe.netspecs import DilatedUnetSpec
from unetpipe.networks.initialisation import uniform_fan_in

__all__ = ["DilatedUnet", "build"]


def build(spec: DilatedUnetSpec, *, seed: int) -> "DilatedUnet":
    """The network of a spec with its initial parameters.

    Parameters
    ----------
    spec : DilatedUnetSpec
        Form and sizes.
    seed : int
        Seed of the initial parameters.

    Returns
    -------
    DilatedUnet

    Examples
    --------
    >>> sum(p.numel() for p in build(DilatedUnetSpec(base_width=4), seed=1).parameters())
    121658
    """
    network = DilatedUnet(spec)
    uniform_fan_in(network, seed=seed)
    return network


def double_conv(channels: int, width: int, *, dilation: int, spec: DilatedUnetSpec) -> list[nn.Module]:
    """Two 3x3 convolutions, each with ReLU; padded by their dilation in the aligned form."""
    padding = dilation if spec.form == "aligned" else 0
    return [
        nn.Conv2d(channels, width, 3, dilation=dilation, padding=padding),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, dilation=dilation, padding=padding),
        nn.ReLU(inplace=True),
    ]


def raising(channels: int, width: int) -> list[nn.Module]:
    """A 2x2 up-convolution with ReLU: (N, C, n, n) -> (N, K, 2 n, 2 n)."""
    return [nn.ConvTranspose2d(channels, width, 2, stride=2), nn.ReLU(inplace=True)]


class Encoder(nn.Module):
    """Two convolutions of dilation 2, and a pooling that rounds up."""

    def __init__(self, channels: int, width: int, spec: DilatedUnetSpec, *, dropout: bool) -> None:
        super().__init__()
        layers = double_conv(channels, width, dilation=2, spec=spec)
        layers += [nn.Dropout(spec.dropout)] if dropout else []
        self.down = nn.Sequential(*layers, nn.MaxPool2d(2, stride=2, ceil_mode=True))

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, n, n) -> (N, K, m, m)."""
        pooled: Tensor = self.down(features)
        return pooled


class Decoder(nn.Module):
    """Two convolutions and an up-convolution, which `DilatedUnet` calls one by one."""

    def __init__(self, channels: int, features: int, width: int, spec: DilatedUnetSpec) -> None:
        super().__init__()
        self.up = nn.Sequential(*double_conv(channels, features, dilation=1, spec=spec), *raising(features, width))


class DilatedUnet(nn.Module):
    """Encoder ``enc1`` ..., ``center``, decoder ... ``dec1``, head ``final``, as the published code names them.

    Parameters
    ----------
    spec : DilatedUnetSpec
        Form, depth d, base width, channels C, classes K, head and dropout.

    Notes
    -----
    The skip of a level is taken behind its pooling, so that it has half the resolution of the decoder's map, and is
    up-sampled. Parameters are as many as those of the network of 2015, 31,030,658 for C = 1, K = 2, in all forms:

    - printed: maps are stretched over each other, and the output over the input, although their fields of view
      differ: of 572 px, the last map sees the centres 122 to 461 only.
    - valid: the skip is doubled bilinearly and cropped to the field of view of the decoder's map, and the output is
      what is computed, 122 px less on each side.
    - aligned: convolutions are padded by their dilation, and what is doubled is cut by the one row or column that a
      pooling of an odd side has added.
    """

    def __init__(self, spec: DilatedUnetSpec) -> None:
        super().__init__()
        self.spec = spec
        widths = [spec.base_width * 2**level for level in range(spec.depth)]
        for level, (channels, width) in enumerate(zip([spec.channels, *widths], widths, strict=False), start=1):
            self.add_module(f"enc{level}", Encoder(channels, width, spec, dropout=level == spec.depth))
        last = widths[-1]
        self.center = nn.Sequential(
            *double_conv(last, 2 * last, dilation=1, spec=spec), nn.Dropout(spec.dropout), *raising(2 * last, last)
        )
        for level in range(spec.depth, 1, -1):
            width = widths[level - 1]
            self.add_module(f"dec{level}", Decoder(2 * width, width, width // 2, spec))
        self.dec1 = nn.Sequential(*double_conv(2 * widths[0], widths[0], dilation=1, spec=spec))
        self.final = nn.Conv2d(widths[0], spec.logit_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, L, m, m) of an image (N, C, n, n) whose sides are legal; m = n but in the valid form.

        Raises
        ------
        GeometryError
            If a side is not legal; the message names the nearest legal ones.
        """
        for side in image.shape[-2:]:
            self.spec.geometry.output_side(int(side))
        maps = [image]
        for level in range(1, self.spec.depth + 1):
            maps.append(self.get_submodule(f"enc{level}")(maps[-1]))
        features: Tensor = self.center(maps[-1])
        for level in range(self.spec.depth, 0, -1):
            features, skip = self.joined(features, maps.pop(), maps[-1])
            features = torch.cat([features, skip], dim=1)
            del skip
            decoder = self.get_submodule(f"dec{level}")
            # One by one: called as a whole, they would hold their input until the end, half of the peak memory.
            for layer in decoder.up if isinstance(decoder, Decoder) else self.dec1:
                features = layer(features)
        logits: Tensor = self.final(features)
        return stretched(logits, image) if self.spec.form == "printed" else logits

    def joined(self, raised: Tensor, skip: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's map and the skip with one size; `above` is what the skip was convolved and pooled from."""
        if self.spec.form == "printed":
            return raised, stretched(skip, raised)
        doubled = F.interpolate(skip, scale_factor=2, mode="bilinear", align_corners=False)
        if self.spec.form == "valid":
            return raised, centre_crop(doubled, raised)
        height, width = above.shape[-2:]
        return raised[..., :height, :width], doubled[..., :height, :width]


def stretched(features: Tensor, like: Tensor) -> Tensor:
    """(N, C, n, n) with the height and width of `like`, corner pixels on corner pixels."""
    return F.interpolate(features, size=like.shape[-2:], mode="bilinear", align_corners=True)


def centre_crop(skip: Tensor, like: Tensor) -> Tensor:
    """The middle of (N, C, n, n) with the height and width of `like`.

    With legal sizes that is the part with the same field of view: both margins are 16 * 2^(d-k) - 12 px at level k.
    """
    (height, width), (h, w) = skip.shape[-2:], like.shape[-2:]
    y, x = (height - h) // 2, (width - w) // 2
    return skip[..., y : y + h, x : x + w]

"""The U-Net of 2015: valid convolutions, cropped skips, two dropouts, He initialisation."""

import torch
from torch import Tensor, nn

from unetpipe.netspecs import UnetSpec
from unetpipe.networks.initialisation import he_normal

__all__ = ["Unet", "build"]

# Slope of the 2019 plugin's LeakyReLU.
SLOPE = 0.1


def build(spec: UnetSpec, *, seed: int) -> "Unet":
    """The network of a spec with its initial parameters.

    Parameters
    ----------
    spec : UnetSpec
        Form and sizes.
    seed : int
        Seed of the initial parameters.

    Returns
    -------
    Unet

    Examples
    --------
    >>> sum(p.numel() for p in build(UnetSpec(base_width=4), seed=1).parameters())
    121658
    """
    network = Unet(spec)
    he_normal(network, seed=seed, literal=spec.init == "literal")
    return network


def activation(spec: UnetSpec) -> nn.Module:
    """What stands behind every convolution but the head."""
    return nn.ReLU(inplace=True) if spec.activation == "relu" else nn.LeakyReLU(SLOPE, inplace=True)


class DoubleConv(nn.Sequential):
    """Two valid 3x3 convolutions, each with its activation: (N, C, n, n) -> (N, K, n - 4, n - 4)."""

    def __init__(self, channels: int, width: int, spec: UnetSpec) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 3),
            activation(spec),
            nn.Conv2d(width, width, 3),
            activation(spec),
        )


class Unet(nn.Module):
    """Contracting path, bottleneck, expanding path, 1x1 head.

    Parameters
    ----------
    spec : UnetSpec
        Form, depth d, base width, activation, channels C, classes K, head and dropout.

    Notes
    -----
    Widths double with each level: 64, 128, 256, 512 and 1024 at the bottleneck for the paper's sizes, which give 23
    convolutions and 31,030,658 parameters for C = 1, K = 2. Dropout stands behind the second ReLU of the last encoder
    level, before both its pooling and its skip, and behind that of the bottleneck. Each up-convolution halves the
    channels, and its result is put in front of the centre crop of the skip.

    The authors' release differs from the drawing: ReLU behind the up-convolutions, and the last of them keeps its 128
    channels, which gives 31,100,354 parameters. The plugin of 2019 has LeakyReLU everywhere, behind the up-convolutions
    too, and no dropout.

    References
    ----------
    Ronneberger, Fischer, Brox 2015, doi:10.1007/978-3-319-24574-4_28.
    Falk et al. 2019, doi:10.1038/s41592-018-0261-2.
    """

    def __init__(self, spec: UnetSpec) -> None:
        super().__init__()
        self.spec = spec
        widths = [spec.base_width * 2**level for level in range(spec.depth + 1)]
        raised = widths[:-1] if spec.form == "paper" else [widths[1], *widths[1:-1]]
        self.encoder = nn.ModuleList(
            DoubleConv(channels, width, spec) for channels, width in zip([spec.channels, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, up, 2, stride=2)
            for width, up in zip(reversed(widths[:-1]), reversed(raised), strict=True)
        )
        self.decoder = nn.ModuleList(
            DoubleConv(up + width, width, spec)
            for width, up in zip(reversed(widths[:-1]), reversed(raised), strict=True)
        )
        self.head = nn.Conv2d(widths[0], spec.logit_channels, 1)
        plain = spec.form == "paper" and spec.activation == "relu"
        self.raised = nn.Identity() if plain else activation(spec)
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, L, m, m) of an image (N, C, n, n) whose sides are legal.

        Raises
        ------
        GeometryError
            If a side is not legal; the message names the nearest legal ones.
        """
        geometry = self.spec.geometry
        for side in image.shape[-2:]:
            geometry.output_side(int(side))
        skips: list[Tensor] = []
        features = image
        for level, convolutions in enumerate(self.encoder):
            features = convolutions(self.pool(features) if level else features)
            if level >= self.spec.depth - 1:
                features = self.dropout(features)
            skips.append(features)
        skips.pop()
        for up, convolutions in zip(self.up, self.decoder, strict=True):
            features = self.raised(up(features))
            features = torch.cat([features, centre_crop(skips.pop(), features)], dim=1)
            # One by one: called as a whole, they would hold their input until the end, half of the peak memory.
            for layer in convolutions.children():
                features = layer(features)
        logits: Tensor = self.head(features)
        return logits


def centre_crop(skip: Tensor, like: Tensor) -> Tensor:
    """The middle of (N, C, n, n) with the height and width of `like`; exact, since both margins are even."""
    (height, width), (h, w) = skip.shape[-2:], like.shape[-2:]
    y, x = (height - h) // 2, (width - w) // 2
    return skip[..., y : y + h, x : x + w]

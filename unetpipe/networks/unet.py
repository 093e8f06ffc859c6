"""The U-Net of 2015: valid convolutions, cropped skips, two dropouts, He initialisation."""

import torch
from torch import Tensor, nn

from unetpipe.specs import UnetSpec

__all__ = ["Unet", "build"]


def build(spec: UnetSpec, *, seed: int) -> "Unet":
    """The network of a spec with its initial parameters."""
    network = Unet(spec)
    initialise(network, seed=seed)
    return network


class DoubleConv(nn.Sequential):
    """Two valid 3x3 convolutions, each with ReLU: (N, C, n, n) -> (N, K, n - 4, n - 4)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 3),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3),
            nn.ReLU(inplace=True),
        )


class Unet(nn.Module):
    """Contracting path, bottleneck, expanding path, 1x1 head.

    Parameters
    ----------
    spec : UnetSpec
        Depth d, base width, channels C, classes K and dropout.

    Notes
    -----
    Widths double with each level: 64, 128, 256, 512 and 1024 at the bottleneck for the paper's sizes, which give 23
    convolutions and 31,030,658 parameters for C = 1, K = 2. Dropout stands behind the second ReLU of the last encoder
    level, before both its pooling and its skip, and behind that of the bottleneck. Each up-convolution halves the
    channels, and its result is put in front of the centre crop of the skip.

    References
    ----------
    Ronneberger, Fischer, Brox 2015, doi:10.1007/978-3-319-24574-4_28.
    """

    def __init__(self, spec: UnetSpec) -> None:
        super().__init__()
        self.spec = spec
        widths = [spec.base_width * 2**level for level in range(spec.depth + 1)]
        self.encoder = nn.ModuleList(
            DoubleConv(channels, width) for channels, width in zip([spec.channels, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * width, width, 2, stride=2) for width in reversed(widths[:-1]))
        self.decoder = nn.ModuleList(DoubleConv(2 * width, width) for width in reversed(widths[:-1]))
        self.head = nn.Conv2d(widths[0], spec.classes, 1)
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, K, m, m) of an image (N, C, n, n) whose sides are legal.

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
            raised = up(features)
            features = convolutions(torch.cat([raised, centre_crop(skips.pop(), raised)], dim=1))
        logits: Tensor = self.head(features)
        return logits


def centre_crop(skip: Tensor, like: Tensor) -> Tensor:
    """The middle of (N, C, n, n) with the height and width of `like`; exact, since both margins are even."""
    (height, width), (h, w) = skip.shape[-2:], like.shape[-2:]
    y, x = (height - h) // 2, (width - w) // 2
    return skip[..., y : y + h, x : x + w]


def initialise(network: nn.Module, *, seed: int) -> None:
    """Draw all weights from N(0, 2 / fan_in) and set all biases to zero.

    Notes
    -----
    The fan-in of an up-convolution is taken as in the 2015 release, 4 times its output channels.

    References
    ----------
    He et al. 2015, doi:10.1109/ICCV.2015.123.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

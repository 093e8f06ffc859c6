"""The U-Net known from Keras: padded, nearest up-sampling with a 2x2 convolution, and a sigmoid head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetpipe.netspecs import KerasUnetSpec
from unetpipe.networks.initialisation import keras_initial

__all__ = ["KerasUnet", "build"]


def build(spec: KerasUnetSpec, *, seed: int) -> "KerasUnet":
    """The network of a spec with its initial parameters.

    Parameters
    ----------
    spec : KerasUnetSpec
        Form and sizes.
    seed : int
        Seed of the initial parameters.

    Returns
    -------
    KerasUnet

    Examples
    --------
    >>> sum(p.numel() for p in build(KerasUnetSpec(depth=1, base_width=2), seed=1).parameters())
    469
    """
    network = KerasUnet(spec)
    keras_initial(network, seed=seed, last=network.last)
    return network


class DoubleConv(nn.Sequential):
    """Two padded 3x3 convolutions, each with ReLU: (N, C, n, n) -> (N, K, n, n)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
        )


class Raise(nn.Module):
    """Nearest up-sampling, a 2x2 convolution and ReLU: (N, C, n, n) -> (N, K, 2 n, 2 n)."""

    def __init__(self, channels: int, width: int, up_pad: str) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.conv = nn.Conv2d(channels, width, 2)
        self.up_pad = up_pad

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, n, n) -> (N, K, 2 n, 2 n)."""
        raised: Tensor = self.up(features)
        raised = F.pad(raised, (0, 1, 0, 1) if self.up_pad == "printed" else (1, 1, 1, 1))
        raised = self.conv(raised)
        # Padded on all sides: the mean of the four placements of the kernel that cover a pixel.
        return F.relu(raised if self.up_pad == "printed" else F.avg_pool2d(raised, 2, stride=1))


class KerasUnet(nn.Module):
    """Encoder, bottleneck, decoder, a convolution to two channels if wanted, and the last layer.

    Parameters
    ----------
    spec : KerasUnetSpec
        Depth d, base width, padding of the 2x2 convolutions, channels C, classes K, heads and dropout.

    Notes
    -----
    24 convolutions and 31,031,685 parameters for C = 1 and one logit. Dropout stands behind the second ReLU of the
    last encoder level, before both its pooling and its skip, and behind that of the bottleneck. A 2x2 convolution
    padded below and right shifts features by half a pixel of its level, so that the network does not commute with
    flips; padded on all sides it does not shift.

    The ReLU in front of the last layer can die: once both of its channels are zero everywhere, no gradient passes, and
    only the bias of the last layer is still trained.
    """

    def __init__(self, spec: KerasUnetSpec) -> None:
        super().__init__()
        self.spec = spec
        widths = [spec.base_width * 2**level for level in range(spec.depth + 1)]
        self.encoder = nn.ModuleList(
            DoubleConv(channels, width) for channels, width in zip([spec.channels, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(Raise(2 * width, width, spec.up_pad) for width in reversed(widths[:-1]))
        self.decoder = nn.ModuleList(DoubleConv(2 * width, width) for width in reversed(widths[:-1]))
        self.head = nn.Sequential()
        if spec.head_relu:
            self.head = nn.Sequential(nn.Conv2d(widths[0], 2, 3, padding=1), nn.ReLU(inplace=True))
        self.last = nn.Conv2d(2 if spec.head_relu else widths[0], spec.logit_channels, 1)
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, L, n, n) of an image (N, C, n, n) whose sides are multiples of 2^depth.

        Raises
        ------
        GeometryError
            If a side is not legal; the message names the nearest legal ones.
        """
        for side in image.shape[-2:]:
            self.spec.geometry.output_side(int(side))
        skips: list[Tensor] = []
        features = image
        for level, convolutions in enumerate(self.encoder):
            features = convolutions(self.pool(features) if level else features)
            if level >= self.spec.depth - 1:
                features = self.dropout(features)
            skips.append(features)
        skips.pop()
        for up, convolutions in zip(self.up, self.decoder, strict=True):
            features = up(features)
            features = torch.cat([skips.pop(), features], dim=1)
            # One by one: called as a whole, they would hold their input until the end, half of the peak memory.
            for layer in convolutions.children():
                features = layer(features)
        logits: Tensor = self.last(self.head(features))
        return logits

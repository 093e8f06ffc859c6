"""What one pass of a network computes and holds in memory, counted layer by layer from its spec alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from unetpipe.netspecs import DilatedUnetSpec, KerasUnetSpec, NetworkSpec, PaddedUnetSpec, UnetSpec

__all__ = ["Pass", "count_pass", "flops_at_the_limit"]

# A map: channels and side in px.
Map = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One window through a network that only predicts.

    Parameters
    ----------
    flops : int
        Multiplications and additions of all convolutions.
    values : int
        Most numbers held at once: maps, the window and the logits, without the parameters.
    parameters : int
        Numbers that the network has learnt.
    """

    flops: int
    values: int
    parameters: int


class _Count:
    """A pass while it is counted: sums, the peak, and the skips that wait."""

    def __init__(self, spec: NetworkSpec, side: int) -> None:
        self.flops = self.parameters = self.peak = 0
        self.skips: list[Map] = []
        self.image: Map = (spec.channels, side)

    def hold(self, *maps: Map) -> None:
        """Take note of maps that are there at once, beside the window and the skips."""
        self.peak = max(self.peak, sum(c * n * n for c, n in (self.image, *self.skips, *maps)))

    def conv(self, x: Map, width: int, kernel: int, loss: int, *beside: Map, norm: bool = False) -> Map:
        """A convolution whose map has `loss` px less per side; each pixel of the result is one product per input."""
        y = (width, x[1] - loss)
        self.flops += 2 * kernel**2 * x[0] * width * y[1] ** 2
        # A norm has two parameters per channel in place of the convolution's bias.
        self.parameters += kernel**2 * x[0] * width + width * (2 if norm else 1)
        self.hold(x, y, *beside)
        if norm:
            self.hold(y, y, *beside)
        return y

    def up(self, x: Map, width: int) -> Map:
        """A transposed convolution of 2x2: each pixel of the input gives four."""
        y = (width, 2 * x[1])
        self.flops += 2 * x[0] * width * y[1] ** 2
        self.parameters += 4 * x[0] * width + width
        self.hold(x, y)
        return y

    def double(self, x: Map, widths: tuple[int, int], loss: int, *, norm: bool = False, beside: bool = False) -> Map:
        """Two 3x3 convolutions; `beside`: whether their input is held until the end."""
        middle = self.conv(x, widths[0], 3, loss, norm=norm)
        return self.conv(middle, widths[1], 3, loss, *([x] if beside else []), norm=norm)

    def join(self, x: Map, skip: Map) -> Map:
        """A map and a skip, cropped to it, as one map."""
        y = (x[0] + skip[0], x[1])
        self.hold(x, skip, y)
        return y


def count_pass(spec: NetworkSpec, side: int) -> Pass:
    """Count a pass over a square window.

    Parameters
    ----------
    spec : NetworkSpec
        The network.
    side : int
        Side of the window in px, legal for the network.

    Returns
    -------
    Pass

    Notes
    -----
    Convolutions alone count as arithmetic, a product and its addition as 2. Batch norm, ReLU and pooling are a
    thousandth of it.

    Examples
    --------
    >>> counted = count_pass(UnetSpec(), 572)
    >>> round(counted.flops / 1e9, 2), counted.parameters
    (300.86, 31030658)
    """
    return _counted(spec, side)


@cache
def _counted(spec: NetworkSpec, side: int) -> Pass:
    spec.geometry.output_side(side)
    count = _Count(spec, side)
    logits = _WALKS[spec.family](spec, count)
    count.hold(logits)
    return Pass(flops=count.flops, values=count.peak, parameters=count.parameters)


def flops_at_the_limit(spec: NetworkSpec) -> float:
    """Arithmetic per output pixel of an infinite window.

    Parameters
    ----------
    spec : NetworkSpec
        The network.

    Returns
    -------
    float
        In FLOP per px.

    Notes
    -----
    The side n of a window enters the arithmetic as a n^2 + b n + c, so that three windows tell a, and a is wanted.

    Examples
    --------
    >>> round(flops_at_the_limit(UnetSpec()) / 1000)
    1468
    """
    net = spec.geometry
    # Steps of two strides keep what is odd at a level odd; a network that fits any side keeps to the stride, too.
    step = 2 * net.stride
    first = net.input_side(8 * step)
    a, b, c = (count_pass(spec, first + i * step).flops for i in range(3))
    return (a - 2 * b + c) / (2 * step**2)


def _unet(spec: UnetSpec, count: _Count) -> Map:
    """The network of 2015: valid convolutions."""
    x = count.image
    for level in range(spec.depth + 1):
        width = spec.base_width * 2**level
        x = count.double((x[0], x[1] // 2) if level else x, (width, width), 2, beside=True)
        count.skips.append(x)
    count.skips.pop()
    for level in reversed(range(spec.depth)):
        width = spec.base_width * 2**level
        raised = count.up(x, 2 * width if spec.form == "release" and not level else width)
        x = count.double(count.join(raised, count.skips.pop()), (width, width), 2)
    return count.conv(x, spec.logit_channels, 1, 0)


def _padded_unet(spec: PaddedUnetSpec, count: _Count) -> Map:
    """The padded form with batch norm."""
    bilinear = spec.up == "bilinear"
    x = count.image
    for level, width in enumerate([*spec.features, 2 * spec.features[-1] // (2 if bilinear else 1)]):
        x = count.double((x[0], x[1] // 2) if level else x, (width, width), 0, norm=True, beside=True)
        count.skips.append(x)
    count.skips.pop()
    for level in reversed(range(spec.depth)):
        width = spec.features[level]
        raised = (x[0], 2 * x[1]) if bilinear else count.up(x, width)
        joined = count.join(raised, count.skips.pop())
        last = width // (2 if bilinear and level else 1)
        x = count.double(joined, (joined[0] // 2 if bilinear else last, last), 0, norm=True)
    return count.conv(x, spec.logit_channels, 1, 0)


def _keras_unet(spec: KerasUnetSpec, count: _Count) -> Map:
    """The padded form with nearest up-sampling."""
    x = count.image
    for level in range(spec.depth + 1):
        width = spec.base_width * 2**level
        x = count.double((x[0], x[1] // 2) if level else x, (width, width), 0, beside=True)
        count.skips.append(x)
    count.skips.pop()
    for level in reversed(range(spec.depth)):
        width = spec.base_width * 2**level
        # The kernel of 2x2 gives one pixel less than it is given: one is padded, or two whose means lie between.
        extra = 1 if spec.up_pad == "printed" else 2
        near, wide = (x[0], 2 * x[1]), (x[0], 2 * x[1] + extra)
        count.hold(x, near, wide)
        count.conv(wide, width, 2, 1, x)
        x = count.double(count.join((width, near[1]), count.skips.pop()), (width, width), 0)
    if spec.head_relu:
        x = count.conv(x, 2, 3, 0)
    return count.conv(x, spec.logit_channels, 1, 0)


def _dilated_unet(spec: DilatedUnetSpec, count: _Count) -> Map:
    """Dilated convolutions in the encoder, skips behind the poolings."""
    inner, outer = (0, 0) if spec.form == "aligned" else (2, 4)
    x, sides = count.image, list[int]()
    for level in range(spec.depth):
        width = spec.base_width * 2**level
        sides.append(x[1])
        x = count.double(x, (width, width), outer, beside=True)
        x = (width, -(-x[1] // 2))
        count.skips.append(x)
    x = count.up(count.double(x, (2 * x[0], 2 * x[0]), inner), x[0])
    for level in reversed(range(spec.depth)):
        width = spec.base_width * 2**level
        skip = count.skips.pop()
        x = (x[0], min(x[1], sides[level])) if spec.form == "aligned" else x
        doubled = (skip[0], x[1] if spec.form == "printed" else 2 * skip[1])
        x = count.double(count.join(x, doubled), (width, width), inner)
        x = count.up(x, width // 2) if level else x
    logits = count.conv(x, spec.logit_channels, 1, 0)
    if spec.form == "printed":
        count.hold(logits, (logits[0], count.image[1]))
    return logits


_WALKS: dict[str, Callable[[Any, _Count], Map]] = {
    "unet": _unet,
    "padded_unet": _padded_unet,
    "keras_unet": _keras_unet,
    "dilated_unet": _dilated_unet,
}

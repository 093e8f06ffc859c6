"""Initial parameters: the rules that published networks start from, each drawn from a generator of its own."""

import math

import torch
from torch import Tensor, nn

__all__ = ["he_normal", "keras_initial", "uniform_fan_in"]

# Standard deviation of a standard normal that is cut off at 2: Keras divides by it, so that the variance is as wanted.
CUT_DEVIATION = 0.87962566103423978


def convolutions(network: nn.Module) -> list[nn.Conv2d | nn.ConvTranspose2d]:
    """All convolutions, in the order of the modules."""
    return [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))]


def he_normal(network: nn.Module, *, seed: int, literal: bool = False) -> None:
    """Draw all weights from N(0, 2 / N) and set all biases to zero.

    Parameters
    ----------
    network : nn.Module
        Changed in place.
    seed : int
        Seed of the draws.
    literal : bool
        N of a 2x2 up-convolution: the inputs that one of its outputs really has, C, as the formula says; else
        4 times its output channels, as in the 2015 release.

    Notes
    -----
    N of any other convolution is k * k * C, with C input channels and a k x k kernel.

    References
    ----------
    He et al. 2015, doi:10.1109/ICCV.2015.123.

    Examples
    --------
    >>> layer = nn.Conv2d(64, 64, 3)
    >>> he_normal(layer, seed=1)
    >>> round(float(layer.weight.detach().std()) / math.sqrt(2 / 576), 1)
    1.0
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in convolutions(network):
        nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu", generator=generator)
        if literal and isinstance(layer, nn.ConvTranspose2d):
            with torch.no_grad():
                layer.weight *= math.sqrt(fan_in(layer.weight) / layer.in_channels)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def uniform_fan_in(network: nn.Module, *, seed: int) -> None:
    """Draw all weights and biases from U(-a, a) with a = 1 / sqrt(N), PyTorch's rule.

    Parameters
    ----------
    network : nn.Module
        Changed in place; batch norms keep weight 1 and bias 0.
    seed : int
        Seed of the draws.

    Notes
    -----
    N = k * k * C for a k x k convolution of C channels, and k * k times the outputs for an up-convolution. The
    variance is 1 / (3 N).

    Examples
    --------
    >>> layer = nn.Conv2d(4, 64, 3)
    >>> uniform_fan_in(layer, seed=1)
    >>> bool(layer.weight.abs().max() <= 1 / 6)
    True
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in convolutions(network):
        limit = 1 / math.sqrt(fan_in(layer.weight))
        nn.init.uniform_(layer.weight, -limit, limit, generator=generator)
        if layer.bias is not None:
            nn.init.uniform_(layer.bias, -limit, limit, generator=generator)


def keras_initial(network: nn.Module, *, seed: int, last: nn.Conv2d) -> None:
    """Draw weights as Keras's ``he_normal`` does, those of the last layer as ``glorot_uniform``; biases are zero.

    Parameters
    ----------
    network : nn.Module
        Changed in place.
    seed : int
        Seed of the draws.
    last : nn.Conv2d
        The layer that gives the logits, a part of the network.

    Notes
    -----
    ``he_normal`` is a normal distribution cut off at two of its standard deviations, and widened so that its variance
    is 2 / N all the same. ``glorot_uniform`` is U(-a, a) with a = sqrt(6 / (N + M)), M = k * k * outputs.

    References
    ----------
    He et al. 2015, doi:10.1109/ICCV.2015.123. Glorot, Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html.

    Examples
    --------
    >>> layer, last = nn.Conv2d(8, 32, 3), nn.Conv2d(32, 1, 1)
    >>> keras_initial(nn.Sequential(layer, last), seed=1, last=last)
    >>> bool(layer.weight.abs().max() <= 2 * math.sqrt(2 / 72) / 0.8796)
    True
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in convolutions(network):
        if layer is last:
            nn.init.xavier_uniform_(layer.weight, generator=generator)
        else:
            deviation = math.sqrt(2 / fan_in(layer.weight)) / CUT_DEVIATION
            nn.init.trunc_normal_(layer.weight, 0.0, deviation, -2 * deviation, 2 * deviation, generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def fan_in(weight: Tensor) -> int:
    """Elements of (out, in, k, k) per entry of the first axis but one: k * k * in."""
    return weight[0].numel()

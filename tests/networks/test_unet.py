"""The network of 2015: counts, sizes, and a forward pass by hand."""

import numpy as np
import pytest
import torch
from scipy.signal import correlate
from torch import nn

from unetpipe.errors import GeometryError
from unetpipe.netspecs import UnetSpec
from unetpipe.networks import build_network
from unetpipe.networks.unet import Unet


def on_paper(**keys: object) -> Unet:
    """A network without memory for its parameters."""
    with torch.device("meta"):
        return Unet(UnetSpec(**keys))


@pytest.mark.parametrize(
    ("keys", "parameters"),
    [
        ({}, 31_030_658),
        ({"channels": 3}, 31_031_810),
        ({"classes": 3}, 31_030_723),
        ({"depth": 1}, 402_690),
        ({"depth": 2}, 1_861_762),
        ({"depth": 3}, 7_696_258),
        ({"depth": 5}, 124_361_090),
        ({"base_width": 4}, 121_658),
        ({"base_width": 16}, 1_940_834),
        ({"head": "sigmoid"}, 31_030_593),
        ({"channels": 3, "head": "sigmoid"}, 31_031_745),
        ({"activation": "leaky"}, 31_030_658),
        ({"form": "release"}, 31_100_354),
    ],
)
def test_number_of_parameters(keys: dict[str, object], parameters: int) -> None:
    assert sum(p.numel() for p in on_paper(**keys).parameters()) == parameters


def test_23_convolutions() -> None:
    assert sum(isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)) for m in on_paper().modules()) == 23


def test_sizes_of_the_figure() -> None:
    network, sizes = on_paper(), []
    for block in (*network.encoder, *(block[-1] for block in network.decoder)):
        block.register_forward_hook(lambda module, args, out: sizes.append(out.shape[-1]))
    assert network(torch.zeros(1, 1, 572, 572, device="meta")).shape == (1, 2, 388, 388)
    assert sizes == [568, 280, 136, 64, 28, 52, 100, 196, 388]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_geometry_is_that_of_the_module(depth: int) -> None:
    network = on_paper(depth=depth, base_width=1)
    geometry = network.spec.geometry
    for side in range(1, 160):
        if geometry.is_legal(side):
            output = network(torch.zeros(1, 1, side, side, device="meta"))
            assert output.shape[-1] == geometry.output_side(side)
        else:
            with pytest.raises(GeometryError, match="use"):
                network(torch.zeros(1, 1, side, side, device="meta"))


def test_dropout_stands_at_two_places_and_in_the_skip() -> None:
    network = build_network(UnetSpec(depth=2, base_width=4), seed=1).train()
    dropped = []
    assert isinstance(network, Unet)
    network.dropout.register_forward_hook(lambda module, args, out: dropped.append(out))
    network(torch.rand(1, 1, 44, 44))
    assert [d.shape[1] for d in dropped] == [8, 16]
    # What reaches the second decoder block as skip is the dropped map: half of it is exactly zero where ReLU is not.
    assert 0.3 < (dropped[0] == 0).float().mean() < 0.95


def test_initialisation_has_the_variance_of_the_release() -> None:
    network = build_network(UnetSpec(depth=2, base_width=32), seed=3)
    for module in network.modules():
        if isinstance(module, nn.ConvTranspose2d):
            fan_in = 4 * module.out_channels
        elif isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
            fan_in = module.in_channels * 9
        else:
            continue
        assert module.weight.var().item() == pytest.approx(2 / fan_in, rel=0.1)
        assert not module.bias.any()


def test_literal_initialisation_counts_the_inputs_that_there_are() -> None:
    """Twice the variance of the release in up-convolutions, the same in all others."""
    release, literal = (build_network(UnetSpec(depth=2, base_width=16, init=i), seed=3) for i in ("release", "literal"))
    for one, other in zip(release.modules(), literal.modules(), strict=True):
        if isinstance(one, nn.ConvTranspose2d):
            torch.testing.assert_close(other.weight, one.weight * 2**0.5)
            assert other.weight.var().item() == pytest.approx(2 / one.in_channels, rel=0.1)
        elif isinstance(one, nn.Conv2d):
            assert torch.equal(one.weight, other.weight)


def test_the_release_joins_128_and_64_channels_last() -> None:
    network = on_paper(form="release")
    assert [(up.in_channels, up.out_channels) for up in network.up] == [(1024, 512), (512, 256), (256, 128), (128, 128)]
    assert network.decoder[-1][0].in_channels == 192


def active(values: np.ndarray, slope: float) -> np.ndarray:
    """ReLU, or LeakyReLU of a slope."""
    return np.where(values > 0, values, slope * values)


def conv(image: np.ndarray, layer: nn.Conv2d) -> np.ndarray:
    """Valid convolution of (C, Y, X) by scipy, in float64."""
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    out = np.stack([sum(correlate(c, w, mode="valid") for c, w in zip(image, k, strict=True)) for k in weight])
    return out + bias[:, None, None]


@pytest.mark.parametrize(
    ("keys", "slope", "raised_slope"),
    [({}, 0.0, 1.0), ({"form": "release"}, 0.0, 0.0), ({"activation": "leaky", "dropout": 0}, 0.1, 0.1)],
)
def test_forward_is_that_of_a_slow_reference(keys: dict[str, object], slope: float, raised_slope: float) -> None:
    """A slope of 1 is no activation: the paper draws none behind the up-convolutions."""
    network = build_network(UnetSpec(depth=1, base_width=3, channels=2, classes=3, **keys), seed=5).eval()
    assert isinstance(network, Unet)
    for parameter in network.parameters():
        parameter.data += 0.01

    def double(features: np.ndarray, block: nn.Sequential) -> np.ndarray:
        return active(conv(active(conv(features, block[0]), slope), block[2]), slope)

    image = np.random.default_rng(0).random((2, 22, 22))
    skip = double(image, network.encoder[0])
    deep = double(skip.reshape(3, 9, 2, 9, 2).max(axis=(2, 4)), network.encoder[1])
    up = network.up[0]
    kernel, bias = up.weight.detach().double().numpy(), up.bias.detach().double().numpy()
    raised = np.einsum("iyx,ioab->oyaxb", deep, kernel).reshape(-1, 10, 10) + bias[:, None, None]
    assert (raised < 0).any()
    joined = np.concatenate([active(raised, raised_slope), skip[:, 4:14, 4:14]])
    expected = conv(double(joined, network.decoder[0]), network.head)
    with torch.no_grad():
        found = network(torch.from_numpy(image).float()[None])[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)

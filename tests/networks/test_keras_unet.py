"""The network known from Keras: counts, a forward pass by hand, its one-sided padding, its head that can die."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.signal import correlate
from torch import nn

from unetpipe.netspecs import KerasUnetSpec
from unetpipe.networks import build_network
from unetpipe.networks.keras_unet import KerasUnet
from unetpipe.trainstate import FLAT, logit_deviation

Array = NDArray[np.float64]


def on_paper(**keys: object) -> KerasUnet:
    """A network without memory for its parameters."""
    with torch.device("meta"):
        return KerasUnet(KerasUnetSpec(**keys))


@pytest.mark.parametrize(
    ("keys", "parameters"),
    [
        ({}, 31_031_685),
        ({"channels": 3}, 31_032_837),
        # Without the 3x3 convolution to 2 channels: 64 * 9 * 2 + 2 less, and 64 + 1 for 2 + 1 in the last layer.
        ({"head_relu": False}, 31_031_685 - 1154 + 62),
        ({"head": "softmax"}, 31_031_685 + 3),
        ({"up_pad": "symmetric"}, 31_031_685),
    ],
)
def test_number_of_parameters(keys: dict[str, object], parameters: int) -> None:
    assert sum(p.numel() for p in on_paper(**keys).parameters()) == parameters


def test_24_convolutions() -> None:
    assert sum(isinstance(m, nn.Conv2d) for m in on_paper().modules()) == 24


@pytest.mark.parametrize("up_pad", ["printed", "symmetric"])
def test_sizes(up_pad: str) -> None:
    network, sizes = on_paper(up_pad=up_pad), []
    for block in (*network.encoder, *network.up, *(block[-1] for block in network.decoder)):
        block.register_forward_hook(lambda module, args, out: sizes.append(out.shape[-1]))
    assert network(torch.zeros(1, 1, 256, 256, device="meta")).shape == (1, 1, 256, 256)
    assert sizes == [256, 128, 64, 32, 16, 32, 32, 64, 64, 128, 128, 256, 256]


def same(image: Array, conv: nn.Conv2d, *, relu: bool = True) -> Array:
    """Padded convolution of (C, Y, X) by scipy; a 2x2 kernel is padded below and right."""
    kernels, bias = conv.weight.detach().double().numpy(), conv.bias.detach().double().numpy()
    before, after = {1: (0, 0), 2: (0, 1), 3: (1, 1)}[kernels.shape[-1]]
    padded = np.pad(image, ((0, 0), (before, after), (before, after)))
    out = np.stack([sum(correlate(c, w, mode="valid") for c, w in zip(padded, k, strict=True)) for k in kernels])
    out += bias[:, None, None]
    return np.maximum(out, 0) if relu else out


@pytest.mark.parametrize("head_relu", [True, False])
def test_forward_is_that_of_a_slow_reference(head_relu: bool) -> None:
    spec = KerasUnetSpec(depth=1, base_width=3, channels=2, head_relu=head_relu)
    network = build_network(spec, seed=5).eval()
    assert isinstance(network, KerasUnet)
    for parameter in network.parameters():
        parameter.data += 0.05
    image = np.random.default_rng(0).random((2, 12, 16))
    skip = same(same(image, network.encoder[0][0]), network.encoder[0][2])
    pooled = skip.reshape(3, 6, 2, 8, 2).max(axis=(2, 4))
    deep = same(same(pooled, network.encoder[1][0]), network.encoder[1][2])
    raised = same(deep.repeat(2, axis=1).repeat(2, axis=2), network.up[0].conv)
    decoded = same(same(np.concatenate([skip, raised]), network.decoder[0][0]), network.decoder[0][2])
    if head_relu:
        decoded = same(decoded, network.head[0])
    expected = same(decoded, network.last, relu=False)
    with torch.no_grad():
        found = network(torch.from_numpy(image).float()[None])[0].numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("up_pad", "commutes"), [("printed", False), ("symmetric", True)])
@pytest.mark.parametrize("axis", [2, 3])
def test_flips_commute_with_symmetric_padding_only(up_pad: str, commutes: bool, axis: int) -> None:
    """With kernels that a flip does not change, only the padding can tell left from right."""
    network = build_network(KerasUnetSpec(depth=2, base_width=2, up_pad=up_pad), seed=2).double().eval()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.copy_(layer.weight.abs().mean(dim=(2, 3), keepdim=True).expand_as(layer.weight))
        image = torch.from_numpy(np.random.default_rng(3).random((1, 1, 32, 32)))
        straight, flipped = network(image), network(image.flip(axis)).flip(axis)
    difference = (straight - flipped).abs().max() / straight.std()
    assert difference < 1e-12 if commutes else difference > 1e-2


def test_symmetric_padding_is_the_mean_over_the_four_placements() -> None:
    network = build_network(KerasUnetSpec(depth=1, base_width=2, up_pad="symmetric"), seed=2)
    assert isinstance(network, KerasUnet)
    raise_ = network.up[0]
    features = torch.rand(1, 4, 5, 5)
    large = torch.nn.functional.interpolate(features, scale_factor=2.0, mode="nearest")
    with torch.no_grad():
        placed = [
            raise_.conv(torch.nn.functional.pad(large, (left, 1 - left, top, 1 - top)))
            for left in (0, 1)
            for top in (0, 1)
        ]
        torch.testing.assert_close(raise_(features), (sum(placed) / 4).relu())


def test_initialisation_is_that_of_keras() -> None:
    network = build_network(KerasUnetSpec(depth=1, base_width=32, head_relu=False), seed=3)
    assert isinstance(network, KerasUnet)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            n = layer.weight[0].numel()
            assert not layer.bias.any()
            if layer is network.last:
                assert layer.weight.abs().max() <= math.sqrt(6 / (32 + 1))
            elif layer.weight.numel() > 4000:
                assert layer.weight.var().item() == pytest.approx(2 / n, rel=0.05)
                widest = layer.weight.abs().max().item()
                assert 1.9 < widest / (math.sqrt(2 / n) / 0.87962566) <= 2.0001


def test_a_dead_head_is_seen() -> None:
    network = build_network(KerasUnetSpec(depth=1, base_width=2), seed=1).eval()
    assert isinstance(network, KerasUnet)
    image = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        network.head[0].bias.fill_(5.0)
        assert logit_deviation(network(image)) > FLAT
        network.head[0].bias.fill_(-1e3)
    logits = network(image)
    assert logit_deviation(logits) < FLAT
    # Why it stays dead: only the bias of the last layer still gets a gradient.
    logits.sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is not None and p.grad.any()] == ["last.bias"]


def test_dropout_stands_in_front_of_pooling_and_skip() -> None:
    network = build_network(KerasUnetSpec(depth=2, base_width=4), seed=1).train()
    dropped = []
    assert isinstance(network, KerasUnet)
    network.dropout.register_forward_hook(lambda module, args, out: dropped.append(out))
    entering = []
    network.decoder[0][0].register_forward_pre_hook(lambda module, args: entering.append(args[0]))
    network(torch.rand(1, 1, 32, 32))
    assert [d.shape[1] for d in dropped] == [8, 16]
    assert torch.equal(entering[0][:, :8], dropped[0])

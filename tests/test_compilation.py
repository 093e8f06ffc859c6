"""A compiled network is the same function of the same parameters."""

import copy
import shutil

import pytest
import torch
from torch import nn

from unetpipe.compilation import compiled
from unetpipe.netspecs import PaddedUnetSpec
from unetpipe.networks import build_network


@pytest.mark.slow
def test_outputs_gradients_and_batch_statistics_agree_and_names_stay() -> None:
    """Building takes most of a minute, however small the network."""
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    network = build_network(PaddedUnetSpec(features=(2,)), seed=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    other, before = copy.deepcopy(network), copy.deepcopy(network.state_dict())
    image = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    form = compiled(network, image)
    assert form is not None and form is not network
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    assert list(network.state_dict()) == list(before)
    assert all(p.grad is None for p in network.parameters())
    logits, expected = form(image), other.train()(image)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    for found in (logits, expected):
        found.square().sum().backward()
    for p, q in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-4)
    for one, two in zip(network.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("error", [RuntimeError("no compiler"), ImportError("no triton"), OSError("no file")])
def test_what_cannot_be_compiled_leaves_no_trace(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = copy.deepcopy(network.state_dict())

    def half_way(image: torch.Tensor) -> torch.Tensor:
        network(image).sum().backward()
        raise error

    monkeypatch.setattr(torch, "compile", lambda network, **keys: half_way)
    assert compiled(network, torch.rand(1, 1, 8, 8)) is None
    assert caplog.messages == [f"compile: going on without: {type(error).__name__}: {error}"]
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    assert all(p.grad is None for p in network.parameters())


def test_out_of_memory_is_another_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU has an error of its own for it; a processor's allocator says it in words, here its own."""

    def refuse(image: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    def ask_for_too_much(image: torch.Tensor) -> torch.Tensor:
        return torch.empty(2**55)

    for call in (refuse, ask_for_too_much):
        monkeypatch.setattr(torch, "compile", lambda network, call=call, **keys: call)
        with pytest.raises(RuntimeError, match=r"out of memory|can't allocate memory"):
            compiled(nn.Conv2d(1, 2, 3), torch.rand(1, 1, 8, 8))

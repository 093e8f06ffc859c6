"""What all families promise: sizes, context, equivariance, tiles that equal one pass, gradients everywhere."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unetpipe.errors import GeometryError
from unetpipe.inference import predict_image
from unetpipe.netspecs import DilatedUnetSpec, KerasUnetSpec, NetworkSpec, PaddedUnetSpec, UnetSpec
from unetpipe.networks import build_network

CPU = torch.device("cpu")
FORMS: dict[str, NetworkSpec] = {
    "paper": UnetSpec(depth=2, base_width=3),
    "release": UnetSpec(depth=2, base_width=3, form="release", init="literal"),
    "leaky": UnetSpec(depth=2, base_width=3, activation="leaky", dropout=0, head="sigmoid"),
    "transposed": PaddedUnetSpec(features=(3, 6)),
    "free features": PaddedUnetSpec(features=(4, 3, 5), fit="resize", head="sigmoid"),
    "bilinear": PaddedUnetSpec(features=(3, 6), up="bilinear"),
    "valid": DilatedUnetSpec(depth=2, base_width=3, form="valid", classes=3),
    "aligned": DilatedUnetSpec(depth=2, base_width=3),
    "keras": KerasUnetSpec(depth=2, base_width=4),
    "keras symmetric": KerasUnetSpec(depth=2, base_width=4, up_pad="symmetric", head_relu=False, head="softmax"),
}
STRETCHING: dict[str, NetworkSpec] = {
    "align corners": PaddedUnetSpec(features=(3, 6), up="bilinear", align_corners=True),
    "printed": DilatedUnetSpec(depth=2, base_width=3, form="printed"),
}
ALL = FORMS | STRETCHING


def lively(spec: NetworkSpec, seed: int = 1) -> nn.Module:
    """A network in evaluation mode whose every layer has something to say."""
    network = build_network(spec, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.uniform_(-0.2, 0.2, generator=generator)
                layer.running_var.uniform_(0.05, 0.1, generator=generator)
                layer.bias.uniform_(0, 0.4, generator=generator)
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                layer.weight *= 1.7 if spec.family == "dilated_unet" else 1.0
                if layer.bias is not None:
                    layer.bias += 0.1
    return network


def forward(network: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        return network(image)


# --- which input pixels an output pixel depends on, by gradients that cannot cancel -------------------------------


def transparent(spec: NetworkSpec) -> nn.Module:
    """The network in float64 with positive weights and mean pooling: a gradient is zero only without a path."""
    network = build_network(spec, seed=0).double().eval()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                layer.weight.fill_(4 / layer.weight[0].numel())
                if layer.bias is not None:
                    layer.bias.zero_()
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.MaxPool2d):
                setattr(parent, name, nn.AvgPool2d(2, ceil_mode=child.ceil_mode))
    return network


def field_of_view(network: nn.Module, side: int, pixels: range) -> list[tuple[int, int]]:
    """First and last input row that reach each output row."""
    image = torch.ones(1, 1, side, side, dtype=torch.float64, requires_grad=True)
    logits = network(image)
    found = []
    for pixel in pixels:
        (gradient,) = torch.autograd.grad(logits[0, 0, pixel, pixel], image, retain_graph=True)
        rows, columns = (gradient[0, 0].sum(dim=axis).nonzero()[:, 0].tolist() for axis in (1, 0))
        assert (rows[0], rows[-1]) == (columns[0], columns[-1])
        found.append((rows[0], rows[-1]))
    return found


def rims(spec: NetworkSpec) -> tuple[int, int]:
    """Width of the rim that the padding reaches, near and far, from the fields of view of one period of pixels."""
    stride, context = spec.geometry.stride, spec.geometry.context
    middle = range(context, context + stride)
    near, far = [], []
    for pixel, (first, last) in zip(
        middle, field_of_view(transparent(spec), 2 * context + stride, middle), strict=True
    ):
        # The nearest window's edge, on the pooling grid, behind which this pixel does depend on something.
        near.append(pixel + 1 - (first // stride + 1) * stride)
        far.append(last // stride * stride - pixel)
    return max(near), max(far)


ONE = {"base_width": 1}


@pytest.mark.parametrize(
    ("spec", "near", "far"),
    [
        (PaddedUnetSpec(features=(2, 2, 2, 2)), 94, 94),
        (PaddedUnetSpec(features=(2, 2, 2, 2), up="bilinear"), 109, 109),
        (PaddedUnetSpec(features=(2,)), 8, 8),
        (PaddedUnetSpec(features=(2, 2), up="bilinear"), 25, 25),
        (DilatedUnetSpec(**ONE), 126, 126),
        (DilatedUnetSpec(depth=2, **ONE), 26, 26),
        (KerasUnetSpec(**ONE), 95, 110),
        (KerasUnetSpec(head_relu=False, **ONE), 94, 109),
        (KerasUnetSpec(up_pad="symmetric", **ONE), 110, 110),
        (KerasUnetSpec(depth=2, **ONE), 23, 26),
    ],
)
def test_context_is_the_rim_that_padding_reaches(spec: NetworkSpec, near: int, far: int) -> None:
    geometry = spec.geometry
    assert rims(spec) == (near, far)
    assert geometry.context % geometry.stride == 0
    assert geometry.context - geometry.stride < max(near, far) <= geometry.context


@pytest.mark.parametrize("spec", [UnetSpec(depth=3, **ONE), UnetSpec(depth=2, form="release", **ONE)])
@pytest.mark.parametrize("dilated", [False, True])
def test_valid_forms_use_each_pixel_of_their_window(spec: UnetSpec, dilated: bool) -> None:
    chosen = DilatedUnetSpec(depth=spec.depth, form="valid", **ONE) if dilated else spec
    geometry = chosen.geometry
    output = 2 * geometry.stride + geometry.output_side(geometry.minimum)
    side = geometry.input_side(output)
    seen = field_of_view(transparent(chosen), side, range(output))
    assert (min(first for first, _ in seen), max(last for _, last in seen)) == (0, side - 1)
    assert seen[0][0] == 0
    assert seen[-1][1] == side - 1
    # The middle of what an output pixel sees is where it lies, `context` behind the window's start.
    offsets = [(first + last) / 2 - pixel - geometry.context for pixel, (first, last) in enumerate(seen)]
    assert np.mean(offsets[: geometry.stride]) == pytest.approx(0)
    assert np.abs(offsets).max() < geometry.stride


@pytest.mark.parametrize("side", [60, 64, 76])
def test_with_aligned_corners_the_context_still_holds_what_a_pixel_sees(side: int) -> None:
    spec = STRETCHING["align corners"]
    seen = field_of_view(transparent(spec), side, range(side))
    assert max(max(p - first, last - p) for p, (first, last) in enumerate(seen)) <= spec.geometry.context + 3


# --- sizes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_legal_sizes_are_those_that_the_module_takes(name: str) -> None:
    network, geometry = lively(ALL[name]), ALL[name].geometry
    for side in range(1, 90):
        image = torch.zeros(1, 1, side, 60 if geometry.fits else side)
        if geometry.is_legal(side):
            output = forward(network, image)
            assert output.shape[1:3] == (ALL[name].logit_channels, geometry.output_side(side))
        else:
            with pytest.raises(GeometryError, match=f"side of {side} px .* use "):
                forward(network, image)


@pytest.mark.parametrize(
    ("spec", "side", "said"),
    [
        (KerasUnetSpec(), 250, "use 240 or 256"),
        (DilatedUnetSpec(form="valid"), 572, "expected 8 modulo 16, at least 248; use 568 or 584"),
        (DilatedUnetSpec(form="printed"), 232, "expected at least 233; use 233"),
        (PaddedUnetSpec(), 15, "expected at least 16; use 16"),
    ],
)
def test_illegal_sizes_name_the_nearest_legal_ones(spec: NetworkSpec, side: int, said: str) -> None:
    with pytest.raises(GeometryError, match=said):
        spec.geometry.output_side(side)


# --- shifts and tiles ---------------------------------------------------------------------------------------------


def shifted_pair(spec: NetworkSpec, shift: int) -> tuple[Tensor, Tensor]:
    """The same output pixels from two windows, the second `shift` px further on."""
    network, geometry = lively(spec), spec.geometry
    side = geometry.input_side(3 * 8 + 2 * geometry.context)
    image = torch.from_numpy(np.random.default_rng(3).random((1, 1, side + shift, side + shift), dtype=np.float32))
    one = forward(network, image[..., :side, :side])
    other = forward(network, image[..., shift:, shift:])
    rim = geometry.context - geometry.shrink // 2
    stop = one.shape[-1] - rim
    return (
        one[..., rim + shift : stop, rim + shift : stop],
        other[..., rim : stop - shift, rim : stop - shift],
    )


@pytest.mark.parametrize("name", FORMS)
def test_shifts_by_the_stride_shift_the_output(name: str) -> None:
    one, other = shifted_pair(FORMS[name], FORMS[name].geometry.stride)
    assert one.std() > 1e-3
    torch.testing.assert_close(one, other, atol=1e-5 * float(one.abs().max()), rtol=0)


@pytest.mark.parametrize("name", FORMS)
def test_shifts_by_less_do_not(name: str) -> None:
    one, other = shifted_pair(FORMS[name], 1)
    assert (one - other).abs().max() > 0.02 * one.std()


@pytest.mark.parametrize("name", STRETCHING)
def test_what_stretches_is_not_equivariant_to_any_shift(name: str) -> None:
    one, other = shifted_pair(STRETCHING[name], 4)
    assert (one - other).abs().max() > 0.02 * one.std()


def one_pass(network: nn.Module, spec: NetworkSpec, image: NDArray[np.float32], surplus: int) -> NDArray[np.float32]:
    """Probabilities from one pass over the image mirrored by numpy, with `surplus` strides more than needed around."""
    geometry = spec.geometry
    near = geometry.context + surplus * geometry.stride
    padded, cut = image, near - geometry.shrink // 2
    for axis in (1, 2):
        size = image.shape[axis]
        side = geometry.input_side(size + 2 * cut)
        pads = [(0, 0)] * 3
        pads[axis] = (near, side - size - near)
        padded = np.pad(padded, pads, mode="edge" if size == 1 else "reflect")
    logits = forward(network, torch.from_numpy(np.ascontiguousarray(padded))[None])[0]
    height, width = image.shape[1:]
    logits = logits[:, cut : cut + height, cut : cut + width]
    if spec.head == "sigmoid":
        foreground = logits[0].sigmoid()
        return torch.stack([1 - foreground, foreground]).numpy()
    return logits.softmax(0).numpy()


@pytest.mark.parametrize("name", FORMS)
def test_tiled_equals_one_pass(name: str) -> None:
    """Also with more context than is needed: the padding of padded networks reaches nothing that is kept."""
    spec = FORMS[name]
    network, rng = lively(spec), np.random.default_rng(5)
    for _ in range(10):
        height, width = (int(n) for n in rng.integers(1, 70, 2))
        core = spec.geometry.stride * int(rng.integers(1, 12))
        image = rng.random((1, height, width), dtype=np.float32)
        tiled = predict_image(network, image, spec.geometry, core_side=core, device=CPU)
        whole = one_pass(network, spec, image, int(rng.integers(0, 3)))
        assert tiled.shape == (spec.classes, height, width)
        np.testing.assert_allclose(tiled, whole, atol=2e-5)


@pytest.mark.parametrize("name", STRETCHING)
def test_what_stretches_is_refused_in_tiles_and_rightly_so(name: str) -> None:
    spec = STRETCHING[name]
    network, image = lively(spec), np.random.default_rng(6).random((1, 128, 128), dtype=np.float32)
    with pytest.raises(GeometryError, match=r"cannot be tiled; set predict\.core_px to \d+ or more"):
        predict_image(network, image, spec.geometry, core_side=64, device=CPU)
    whole = predict_image(network, image, spec.geometry, core_side=128, device=CPU)
    np.testing.assert_allclose(whole, one_pass(network, spec, image, 0), atol=2e-5)
    forced = dataclasses.replace(spec.geometry, tileable=True)
    assert np.abs(predict_image(network, image, forced, core_side=64, device=CPU) - whole).max() > 1e-3


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_gradient_reaches_every_parameter(name: str) -> None:
    network = lively(ALL[name]).train()
    side = ALL[name].geometry.input_side(30)
    image = torch.from_numpy(np.random.default_rng(8).random((2, 1, side, side), dtype=np.float32))
    network(image).square().sum().backward()
    untouched = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not untouched


@pytest.mark.parametrize("name", ALL)
def test_images_of_a_batch_do_not_see_each_other(name: str) -> None:
    network, side = lively(ALL[name]), ALL[name].geometry.input_side(20)
    batch = torch.from_numpy(np.random.default_rng(9).random((3, 1, side, side), dtype=np.float32))
    order = [2, 0, 1]
    torch.testing.assert_close(forward(network, batch)[order], forward(network, batch[order]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_same_seed_same_parameters_and_no_global_draw_counts(name: str) -> None:
    torch.manual_seed(1)
    one = build_network(ALL[name], seed=4).state_dict()
    torch.manual_seed(2)
    same, other = (build_network(ALL[name], seed=seed).state_dict() for seed in (4, 5))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)

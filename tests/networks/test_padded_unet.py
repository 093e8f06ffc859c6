"""The padded network with batch norm: public names, counts, sizes, and the same function under other names."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from slowlayers import Array, conv, norm, pool, raised, relu, resized
from torch import Tensor, nn

from unetpipe.errors import ConfigError, ModelError
from unetpipe.netspecs import PaddedUnetSpec
from unetpipe.networks import build_network
from unetpipe.networks.padded_unet import PaddedUnet, fitted, from_indexed_names, to_indexed_names


def on_paper(**keys: object) -> PaddedUnet:
    """A network without memory for its parameters."""
    with torch.device("meta"):
        return PaddedUnet(PaddedUnetSpec(**keys))


@pytest.mark.parametrize(
    ("up", "channels", "head", "parameters"),
    [
        ("transposed", 1, "sigmoid", 31_036_481),
        ("transposed", 1, "softmax", 31_036_546),
        ("transposed", 3, "sigmoid", 31_037_633),
        ("transposed", 3, "softmax", 31_037_698),
        ("bilinear", 1, "sigmoid", 17_261_825),
        ("bilinear", 1, "softmax", 17_261_890),
        ("bilinear", 3, "sigmoid", 17_262_977),
        ("bilinear", 3, "softmax", 17_263_042),
    ],
)
def test_number_of_parameters(up: str, channels: int, head: str, parameters: int) -> None:
    network = on_paper(up=up, channels=channels, head=head)
    assert sum(p.numel() for p in network.parameters()) == parameters
    buffers = 11_794 if up == "transposed" else 8_850
    assert sum(b.numel() for b in network.buffers()) == buffers


def public_names(*, bilinear: bool) -> list[str]:
    """Names of the public weights of this family, in their order."""
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    double = [f"double_conv.{i}.{n}" for i in (0, 3) for n in ["weight", *(f"+{m}" for m in norm)]]
    double = [n.replace("0.+", "1.").replace("3.+", "4.") for n in double]
    names = [f"inc.{n}" for n in double]
    names += [f"down{k}.maxpool_conv.1.{n}" for k in range(1, 5) for n in double]
    for k in range(1, 5):
        names += [] if bilinear else [f"up{k}.up.weight", f"up{k}.up.bias"]
        names += [f"up{k}.conv.{n}" for n in double]
    return [*names, "outc.conv.weight", "outc.conv.bias"]


def test_public_weights_would_load() -> None:
    transposed, bilinear = public_names(bilinear=False), public_names(bilinear=True)
    assert (len(transposed), len(bilinear)) == (118, 110)
    state = on_paper().state_dict()
    assert list(state) == transposed
    assert state["up1.up.weight"].shape == (1024, 512, 2, 2)
    assert state["up4.conv.double_conv.0.weight"].shape == (64, 128, 3, 3)
    state = on_paper(up="bilinear").state_dict()
    assert list(state) == bilinear
    shapes = {
        "down4.maxpool_conv.1.double_conv.3.weight": (512, 512, 3, 3),
        "up1.conv.double_conv.0.weight": (512, 1024, 3, 3),
        "up1.conv.double_conv.3.weight": (256, 512, 3, 3),
        "up3.conv.double_conv.3.weight": (64, 128, 3, 3),
        "up4.conv.double_conv.0.weight": (64, 128, 3, 3),
        "up4.conv.double_conv.3.weight": (64, 64, 3, 3),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


@pytest.mark.parametrize("up", ["transposed", "bilinear"])
@pytest.mark.parametrize(("height", "width"), [(500, 333), (17, 31), (16, 16)])
def test_any_size_comes_out_as_it_went_in(up: str, height: int, width: int) -> None:
    network = on_paper(up=up).eval()
    assert network(torch.zeros(1, 1, height, width, device="meta")).shape == (1, 2, height, width)


def indexed(state: dict[str, Tensor], image: Tensor, depth: int) -> Tensor:
    """The network as published with lists of modules, layer by layer from its state, in evaluation mode."""

    def double(features: Tensor, name: str) -> Tensor:
        for i in (0, 3):
            features = F.conv2d(features, state[f"{name}.conv.{i}.weight"], padding=1)
            norm = [state[f"{name}.conv.{i + 1}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
            features = F.relu(F.batch_norm(features, *norm))
        return features

    skips, features = [], image
    for level in range(depth):
        features = double(features, f"downs.{level}")
        skips.insert(0, features)
        features = F.max_pool2d(features, 2, 2)
    features = double(features, "bottleneck")
    for i in range(0, 2 * depth, 2):
        features = F.conv_transpose2d(features, state[f"ups.{i}.weight"], state[f"ups.{i}.bias"], stride=2)
        skip = skips[i // 2]
        if features.shape != skip.shape:
            features = F.interpolate(features, skip.shape[2:], mode="bilinear", antialias=True)
        features = double(torch.cat((skip, features), dim=1), f"ups.{i + 1}")
    return F.conv2d(features, state["final_conv.weight"], state["final_conv.bias"])


def trained(**keys: object) -> nn.Module:
    """A small network whose batch norms have seen something."""
    network = build_network(PaddedUnetSpec(**keys), seed=3)
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1)) * 3)
    return network.eval()


@pytest.mark.parametrize(("height", "width"), [(16, 24), (19, 13)])
@pytest.mark.parametrize(
    "keys", [{}, {"up": "bilinear"}, {"up": "bilinear", "align_corners": True}], ids=["transposed", "edges", "corners"]
)
def test_forward_is_that_of_a_slow_reference(keys: dict[str, object], height: int, width: int) -> None:
    """Odd sides, too, of which the last row or column has no level below it."""
    network = trained(features=(3, 6), **keys)
    state = network.state_dict()

    def double(image: Array, name: str) -> Array:
        for i in (0, 3):
            name_of_conv, name_of_norm = f"{name}.double_conv.{i}", f"{name}.double_conv.{i + 1}"
            image = relu(norm(conv(image, state, name_of_conv, padding=1), state, name_of_norm))
        return image

    image = np.random.default_rng(3).random((1, height, width))
    maps = [double(image, "inc")]
    for level in (1, 2):
        maps.append(double(pool(maps[-1]), f"down{level}.maxpool_conv.1"))
    found = maps.pop()
    for level in (1, 2):
        if "up" in keys:
            doubled = tuple(2 * n for n in found.shape[1:])
            found = resized(found, doubled, corners="align_corners" in keys)
        else:
            found = raised(found, state, f"up{level}.up")
        skip = maps.pop()
        # At most one more, which comes behind.
        missing = [(0, n - m) for n, m in zip(skip.shape, found.shape, strict=True)]
        found = np.pad(found, [(0, 0), *missing[1:]])
        found = double(np.concatenate([skip, found]), f"up{level}.conv")
    expected = conv(found, state, "outc.conv")
    with torch.no_grad():
        logits = network(torch.from_numpy(image[None].astype(np.float32)))[0].numpy()
    np.testing.assert_allclose(logits, expected, atol=2e-5)


@pytest.mark.parametrize(("height", "width"), [(32, 48), (64, 16)])
@pytest.mark.parametrize("features", [(3, 6, 12, 24), (4, 3, 5)])
def test_the_form_with_lists_of_modules_is_the_same_function(
    height: int, width: int, features: tuple[int, ...]
) -> None:
    network, depth = trained(features=features), len(features)
    state = to_indexed_names(network.state_dict(), depth=depth)
    assert f"ups.{2 * depth - 1}.conv.4.running_var" in state
    assert from_indexed_names(state, depth=depth).keys() == network.state_dict().keys()
    image = torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(network(image), indexed(state, image, depth))


def test_odd_sizes_are_resized_as_published_with_antialiasing() -> None:
    network = trained(features=(3, 6, 12), fit="resize")
    state = to_indexed_names(network.state_dict(), depth=3)
    image = torch.rand(1, 1, 45, 31, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(network(image), indexed(state, image, 3), atol=1e-5, rtol=1e-5)


def test_odd_sizes_are_padded_behind() -> None:
    raised = torch.arange(1.0, 5).reshape(1, 1, 2, 2)
    assert fitted(raised, torch.zeros(1, 1, 3, 2), "pad")[0, 0].tolist() == [[1, 2], [3, 4], [0, 0]]
    assert fitted(raised, torch.zeros(1, 1, 2, 3), "pad")[0, 0].tolist() == [[1, 2, 0], [3, 4, 0]]
    assert fitted(raised, torch.zeros(1, 1, 3, 2), "resize")[0, 0, :, 0].tolist() == pytest.approx([1, 2, 3])


def test_a_foreign_name_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'encoder\.0\.weight': expected a name that begins with ups\.0\."):
        from_indexed_names({"encoder.0.weight": torch.zeros(1)})


@pytest.mark.parametrize(("height", "width", "batch"), [(16, 16, 1), (31, 20, 1), (16, 32, 1), (16, 16, 2)])
def test_one_value_per_channel_is_no_batch(height: int, width: int, batch: int) -> None:
    network, image = build_network(PaddedUnetSpec(features=(2, 2, 2, 2)), seed=1), torch.rand(batch, 1, height, width)
    assert network.eval()(image).shape == (batch, 2, height, width)
    if batch * (height // 16) * (width // 16) > 1:
        network.train()(image)
    else:
        with pytest.raises(ModelError, match=f"patch of {height} x {width} px: .* at least 32 px") as caught:
            network.train()(image)
        assert len(str(caught.value)) < 300


def test_training_and_evaluation_differ_by_the_batch_norm_only() -> None:
    network = trained(features=(3, 6))
    image = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        before = network(image)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 1.0
        moving = network.train()(image)
        again = network.eval()(image)
    assert (moving - before).abs().max() > 1e-4
    # With the batch's own statistics kept, only Bessel's correction of the variance is left between the two.
    torch.testing.assert_close(moving, again, atol=0.05 * float(moving.abs().max()), rtol=0)


@pytest.mark.parametrize("features", [(), (4,) * 8, (1, 2)])
def test_features_that_cannot_be(features: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="features: expected"):
        PaddedUnetSpec(features=features)


@pytest.mark.parametrize(("up", "fit"), list(itertools.product(["transposed", "bilinear"], ["pad", "resize"])))
def test_initial_parameters_keep_the_signal(up: str, fit: str) -> None:
    network = build_network(PaddedUnetSpec(features=(8, 16), up=up, fit=fit), seed=1)
    weight = network.get_parameter("down2.maxpool_conv.1.double_conv.3.weight")
    assert weight.var().item() == pytest.approx(1 / (3 * weight[0].numel()), rel=0.1)
    assert all(layer.weight.eq(1).all() for layer in network.modules() if isinstance(layer, nn.BatchNorm2d))

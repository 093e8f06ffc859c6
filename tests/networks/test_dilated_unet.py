"""The dilated network in three forms: counts, sizes, where things appear, and a second writing of the printed one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from slowlayers import Array, conv, pool, raised, relu, resized
from torch import Tensor, nn

from unetpipe.netspecs import DilatedUnetSpec
from unetpipe.networks import build_network
from unetpipe.networks.dilated_unet import DilatedUnet


def on_paper(**keys: object) -> DilatedUnet:
    """A network without memory for its parameters."""
    with torch.device("meta"):
        return DilatedUnet(DilatedUnetSpec(**keys)).eval()


@pytest.mark.parametrize("form", ["printed", "valid", "aligned"])
@pytest.mark.parametrize(
    ("keys", "parameters"),
    [
        ({"head": "sigmoid"}, 31_030_593),
        ({}, 31_030_658),
        ({"channels": 3, "head": "sigmoid"}, 31_031_745),
        ({"channels": 3}, 31_031_810),
        ({"channels": 3, "classes": 21}, 31_033_045),
    ],
)
def test_number_of_parameters(form: str, keys: dict[str, object], parameters: int) -> None:
    assert sum(p.numel() for p in on_paper(form=form, **keys).parameters()) == parameters


def sizes(form: str, side: int) -> list[int]:
    """Sides behind each encoder level, the centre, each decoder level; then that of the output."""
    network, found = on_paper(form=form, base_width=1), []
    names = [*(f"enc{k}" for k in range(1, 5)), "center", *(f"dec{k}" for k in range(4, 0, -1))]
    for name in names:
        block = network.get_submodule(name)
        if name.startswith("dec"):
            # Its layers are called one by one.
            block = [*(block.up if hasattr(block, "up") else block)][-1]
        block.register_forward_hook(lambda module, args, out: found.append(out.shape[-1]))
    found.append(network(torch.zeros(1, 1, side, side, device="meta")).shape[-1])
    return found


@pytest.mark.parametrize(
    ("form", "side", "expected"),
    [
        ("printed", 572, [282, 137, 65, 29, 50, 92, 176, 344, 340, 572]),
        ("valid", 584, [288, 140, 66, 29, 50, 92, 176, 344, 340, 340]),
        ("valid", 248, [120, 56, 24, 8, 8, 8, 8, 8, 4, 4]),
        ("aligned", 572, [286, 143, 72, 36, 72, 144, 286, 572, 572, 572]),
        ("aligned", 1, [1, 1, 1, 1, 2, 2, 2, 2, 1, 1]),
    ],
)
def test_sizes(form: str, side: int, expected: list[int]) -> None:
    assert sizes(form, side) == expected


@pytest.mark.parametrize(("side", "last"), [(512, 276), (388, 148), (256, 20), (233, 4)])
def test_sizes_of_the_last_map_as_printed(side: int, last: int) -> None:
    assert sizes("printed", side)[-2:] == [last, side]


@pytest.mark.parametrize("depth", range(1, 6))
def test_smallest_side_as_printed(depth: int) -> None:
    """The convolutions themselves, without the check in front of them, take the smallest legal side and no less."""
    spec = DilatedUnetSpec(depth=depth, base_width=1, form="printed")

    def works(side: int) -> bool:
        for _ in range(depth):
            side = -(-(side - 8) // 2)
        for _ in range(depth):
            side = 2 * (side - 4) if side > 4 else 0
        return side > 4

    assert next(side for side in range(1, 2000) if works(side)) == spec.geometry.minimum


def test_printed_form_is_that_of_a_second_writing() -> None:
    """In the published order of layers, from the names of its state alone."""
    network = build_network(DilatedUnetSpec(base_width=2, form="printed", channels=3), seed=4).eval()
    state = network.state_dict()
    image = torch.rand(1, 3, 240, 251, generator=torch.Generator().manual_seed(1))

    def conv(features: Tensor, name: str, dilation: int = 1) -> Tensor:
        return F.relu(F.conv2d(features, state[f"{name}.weight"], state[f"{name}.bias"], dilation=dilation))

    def up(features: Tensor, name: str) -> Tensor:
        return F.relu(F.conv_transpose2d(features, state[f"{name}.weight"], state[f"{name}.bias"], stride=2))

    def stretch(features: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(features, like.shape[2:], mode="bilinear", align_corners=True)

    maps, features = [], image
    for level in range(1, 5):
        features = conv(conv(features, f"enc{level}.down.0", 2), f"enc{level}.down.2", 2)
        features = F.max_pool2d(features, 2, stride=2, ceil_mode=True)
        maps.append(features)
    features = up(conv(conv(features, "center.0"), "center.2"), "center.5")
    for level in range(4, 1, -1):
        features = torch.cat([features, stretch(maps[level - 1], features)], 1)
        features = up(conv(conv(features, f"dec{level}.up.0"), f"dec{level}.up.2"), f"dec{level}.up.4")
    features = conv(conv(torch.cat([features, stretch(maps[0], features)], 1), "dec1.0"), "dec1.2")
    expected = stretch(F.conv2d(features, state["final.weight"], state["final.bias"]), image)
    with torch.no_grad():
        assert torch.equal(network(image), expected)


@pytest.mark.parametrize("form", ["printed", "valid", "aligned"])
def test_forward_is_that_of_a_slow_reference(form: str) -> None:
    spec = DilatedUnetSpec(depth=2, base_width=2, channels=2, form=form)
    network = build_network(spec, seed=6).eval()
    state = network.state_dict()
    side = 76 if form == "valid" else 75
    image = np.random.default_rng(1).random((2, side, side))

    def twice(found: Array, names: tuple[str, str], dilation: int) -> Array:
        for name in names:
            padding = dilation if form == "aligned" else 0
            found = relu(conv(found, state, name, padding=padding, dilation=dilation))
        return found

    def cropped(large: Array, like: Array) -> Array:
        y, x = ((n - m) // 2 for n, m in zip(large.shape[1:], like.shape[1:], strict=True))
        return large[:, y : y + like.shape[1], x : x + like.shape[2]]

    maps = [image]
    for level in (1, 2):
        found = twice(maps[-1], (f"enc{level}.down.0", f"enc{level}.down.2"), 2)
        maps.append(pool(found, ceil=True))
    # Between them and the up-convolution stands the dropout, which does nothing here.
    found = relu(raised(twice(maps[-1], ("center.0", "center.2"), 1), state, "center.5"))
    for level in (2, 1):
        skip, above = maps.pop(), maps[-1]
        doubled = tuple(2 * n for n in skip.shape[1:])
        if form == "printed":
            skip = resized(skip, found.shape[1:], corners=True)
        elif form == "valid":
            skip = cropped(resized(skip, doubled, corners=False), found)
        else:
            height, width = above.shape[1:]
            skip, found = resized(skip, doubled, corners=False)[:, :height, :width], found[:, :height, :width]
        joined = np.concatenate([found, skip])
        if level == 2:
            found = relu(raised(twice(joined, ("dec2.up.0", "dec2.up.2"), 1), state, "dec2.up.4"))
        else:
            found = twice(joined, ("dec1.0", "dec1.2"), 1)
    expected = conv(found, state, "final")
    expected = resized(expected, image.shape[1:], corners=True) if form == "printed" else expected
    with torch.no_grad():
        logits = network(torch.from_numpy(image[None].astype(np.float32)))[0].numpy()
    assert logits.shape == expected.shape
    np.testing.assert_allclose(logits, expected, atol=2e-5)


# --- where things appear ------------------------------------------------------------------------------------------


def one_path(form: str, path: int) -> nn.Module:
    """A network of depth 3 in which only the skip of level `path` is heard (4: only the centre), all kernels alike."""
    network = build_network(DilatedUnetSpec(depth=3, base_width=1, form=form), seed=0).double().eval()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                layer.weight.fill_(1 / layer.weight[0].numel())
                layer.bias.zero_()
        for level in (1, 2, 3):
            weight = network.get_parameter("dec1.0.weight" if level == 1 else f"dec{level}.up.0.weight")
            half = weight.shape[1] // 2
            weight[:, half:] *= level == path
            weight[:, :half] *= level != path
    return network


def shift_of_a_dot(form: str, path: int, centre: int, side: int) -> float:
    """Px between a bright dot and the centre of what it changes, mean over all places in a period of the pooling."""
    network = one_path(form, path)
    margin = network.spec.geometry.shrink // 2
    shifts = []
    with torch.no_grad():
        dark = network(torch.zeros(1, 1, side, side, dtype=torch.float64))
        for place in range(centre, centre + 8):
            image = torch.zeros(1, 1, side, side, dtype=torch.float64)
            image[0, 0, place, place] = 1.0
            change = (network(image) - dark)[0, 0].sum(dim=1).numpy()
            where = np.arange(len(change)) + margin
            shifts.append(float((where * change).sum() / change.sum()) - place if change.sum() > 0 else np.inf)
    return float(np.mean(shifts))


SIDES = {"printed": 248, "valid": 248, "aligned": 203}


@pytest.mark.parametrize("form", ["valid", "aligned"])
@pytest.mark.parametrize("path", [1, 2, 3, 4])
@pytest.mark.parametrize("centre", [96, 117])
def test_things_appear_where_they_are(form: str, path: int, centre: int) -> None:
    assert abs(shift_of_a_dot(form, path, centre, SIDES[form])) < 0.51


@pytest.mark.parametrize("path", [1, 2, 3, 4])
def test_things_do_not_appear_where_they_are_as_printed(path: int) -> None:
    assert abs(shift_of_a_dot("printed", path, 80, SIDES["printed"])) > 1


def test_printed_skips_do_not_even_agree_with_each_other() -> None:
    shifts = [shift_of_a_dot("printed", path, 80, SIDES["printed"]) for path in (1, 2, 3, 4)]
    assert np.ptp(shifts) > 10


@pytest.mark.parametrize("form", ["valid", "aligned", "printed"])
def test_an_edge_appears_where_it_is(form: str) -> None:
    """Through the finest skip: the steepest place of the output lies within 1 px of the edge, or does not."""
    network, side, edge = one_path(form, 1), SIDES[form], 84
    image = torch.zeros(1, 1, side, side, dtype=torch.float64)
    image[..., edge:] = 1
    with torch.no_grad():
        profile = network(image)[0, 0, side // 4].numpy()
    steep = np.diff(profile)
    # The edge lies between pixels edge - 1 and edge, as the step i does between i and i + 1.
    found = float(np.flatnonzero(steep > 0.99 * steep.max()).mean()) + network.spec.geometry.shrink // 2 + 1
    assert (abs(found - edge) <= 1) == (form != "printed")


def test_dropout_stands_in_the_last_level_and_the_centre() -> None:
    network = DilatedUnet(DilatedUnetSpec(base_width=1))
    places = [name for name, layer in network.named_modules() if isinstance(layer, nn.Dropout)]
    assert places == ["enc4.down.4", "center.4"]

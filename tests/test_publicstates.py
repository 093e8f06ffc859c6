"""Public state dicts are recognised by names and shapes, and nothing else is taken for one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unetpipe.errors import ConfigError, ModelError
from unetpipe.netspecs import PaddedUnetSpec
from unetpipe.networks.padded_unet import PaddedUnet
from unetpipe.publicstates import recognised

State = dict[str, Tensor]


def double(prefix: str, channels: int, middle: int, width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of two convolutions without bias, each with batch norm."""
    shapes: dict[str, tuple[int, ...]] = {}
    for first, (c, k) in ((0, (channels, middle)), (3, (middle, width))):
        shapes[f"{prefix}.{first}.weight"] = (k, c, 3, 3)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{prefix}.{first + 1}.{part}"] = (k,)
        shapes[f"{prefix}.{first + 1}.num_batches_tracked"] = ()
    return shapes


def numbered(
    channels: int = 3, classes: int = 1, *, bilinear: bool = False, base: int = 4
) -> dict[str, tuple[int, ...]]:
    """Shapes of the form with numbered attributes: widths b, 2b, 4b, 8b and 16b, as it is published."""
    b, half = base, 2 if bilinear else 1
    shapes = double("inc.double_conv", channels, b, b)
    for level, width in enumerate((2 * b, 4 * b, 8 * b, 16 * b // half), start=1):
        shapes |= double(f"down{level}.maxpool_conv.1.double_conv", b * 2 ** (level - 1), width, width)
    for number, joined in enumerate((16 * b, 8 * b, 4 * b, 2 * b), start=1):
        width = joined // 2 // (half if number < 4 else 1)
        if not bilinear:
            shapes |= {f"up{number}.up.weight": (joined, joined // 2, 2, 2), f"up{number}.up.bias": (joined // 2,)}
        shapes |= double(f"up{number}.conv.double_conv", joined, joined // 2 if bilinear else width, width)
    return shapes | {"outc.conv.weight": (classes, b, 1, 1), "outc.conv.bias": (classes,)}


def listed(features: tuple[int, ...], channels: int = 3, classes: int = 1) -> dict[str, tuple[int, ...]]:
    """Shapes of the form with lists of modules, in its own order: up-sampling and convolutions take turns."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, width in enumerate(reversed(features)):
        shapes |= {f"ups.{2 * number}.weight": (2 * width, width, 2, 2), f"ups.{2 * number}.bias": (width,)}
        shapes |= double(f"ups.{2 * number + 1}.conv", 2 * width, width, width)
    for level, (c, width) in enumerate(zip([channels, *features], features, strict=False)):
        shapes |= double(f"downs.{level}.conv", c, width, width)
    shapes |= double("bottleneck.conv", features[-1], 2 * features[-1], 2 * features[-1])
    return shapes | {"final_conv.weight": (classes, features[0], 1, 1), "final_conv.bias": (classes,)}


def filled(shapes: dict[str, tuple[int, ...]]) -> State:
    """Tensors of these shapes; counts are 7, variances are positive."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.tensor(7) if name.endswith("tracked") else torch.rand(shape, generator=generator) + 0.1
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize(("bilinear", "entries"), [(False, 118), (True, 110)])
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_numbered_names(bilinear: bool, entries: int, classes: int) -> None:
    state = filled(numbered(3, classes, bilinear=bilinear))
    assert len(state) == entries
    spec, found = recognised(state)
    assert spec == PaddedUnetSpec(
        features=(4, 8, 16, 32),
        up="bilinear" if bilinear else "transposed",
        align_corners=bilinear,
        channels=3,
        classes=max(classes, 2),
        head="sigmoid" if classes == 1 else "softmax",
    )
    assert list(found) == list(state) == list(PaddedUnet(spec).state_dict())
    assert all(torch.equal(found[name], state[name]) for name in state)
    PaddedUnet(spec).load_state_dict(found)
    assert spec.geometry.tileable is not bilinear


def test_the_published_sizes_have_the_published_number_of_parameters() -> None:
    for bilinear, count in ((False, 31_037_633), (True, 17_262_977)):
        shapes = numbered(base=64, bilinear=bilinear)
        learned = [
            torch.Size(s).numel() for name, s in shapes.items() if "running" not in name and "tracked" not in name
        ]
        assert sum(learned) == count


def test_align_corners_is_told_and_counts_for_bilinear_networks_only() -> None:
    state = filled(numbered(bilinear=True))
    assert recognised(state, align_corners=False)[0].geometry.tileable
    assert not recognised(filled(numbered()), align_corners=True)[0].align_corners


@pytest.mark.parametrize("features", [(4, 8, 16, 32), (5, 10), (6,)])
def test_names_of_lists(features: tuple[int, ...]) -> None:
    state = filled(listed(features, channels=2, classes=3))
    spec, found = recognised(state)
    assert spec == PaddedUnetSpec(features=features, fit="resize", channels=2, classes=3)
    PaddedUnet(spec).load_state_dict(found)
    assert torch.equal(found["inc.double_conv.0.weight"], state["downs.0.conv.0.weight"])
    assert torch.equal(found["up1.up.bias"], state["ups.0.bias"])
    assert torch.equal(found["up1.conv.double_conv.4.running_var"], state["ups.1.conv.4.running_var"])
    bottleneck = f"down{len(features)}.maxpool_conv.1.double_conv.3.weight"
    assert torch.equal(found[bottleneck], state["bottleneck.conv.3.weight"])


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: {"epoch": 3, "state_dict": state, "optimizer": {}},
        lambda state: {"model_state_dict": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
        lambda state: state | {"mask_values": [0, 255]},
        lambda state: {name: v.half() if v.ndim else v for name, v in state.items()},
    ],
)
def test_what_training_scripts_put_around_a_state(wrapped: Callable[[State], dict[str, object]]) -> None:
    state = filled(numbered())
    found = recognised(wrapped(state))[1]
    assert found.keys() == state.keys()
    assert all(torch.allclose(found[name], state[name], atol=1e-3) for name in state)
    assert {value.dtype for value in found.values()} == {torch.float32, torch.int64}
    assert not any(value.requires_grad for value in found.values())


def changed(**changes: Tensor | None) -> State:
    """A numbered state with one entry set or left out."""
    state = filled(numbered()) | {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in state.items() if value is not None}


CYCLE: dict[str, object] = {}
CYCLE["state_dict"] = CYCLE


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([1, 2], "expected a state dict, came list"),
        ({}, "unknown family.*came 0 entries"),
        (CYCLE, "entry 'state_dict': expected a dense tensor, came dict"),
        ({"layer1.0.conv1.weight": torch.zeros(1)}, "unknown family.*came 1 entries from 'layer1.0.conv1.weight' on"),
        ({"inc.double_conv.0.weight": torch.zeros(4)}, r"inc.double_conv.0.weight.*four axes, came shape \(4,\)"),
        ({"inc.double_conv.0.weight": torch.zeros(4, 1, 3, 3)}, "outc.conv.weight.*came none"),
        (changed(up2__up__bias=None), r"118 entries of a transposed.*4, 8, 16, 32, came 1 missing \('up2.up.bias'\)"),
        (changed(inc__double_conv__0__bias=torch.zeros(4)), r"came 1 unexpected \('inc.double_conv.0.bias'\)"),
        (changed(up1__up__weight=None), r"bilinear.*7 unexpected"),
        (changed(down4__maxpool_conv__1__double_conv__3__weight=None), "transposed padded U-Net of features 4, 8, 16,"),
        (changed(up3__up__weight=torch.zeros(8, 16, 2, 2)), r"up3.up.weight: expected shape \(16, 8, 2, 2\).*came"),
        (changed(outc__conv__bias=torch.tensor([torch.nan])), "outc.conv.bias: expected finite numbers"),
        (changed(outc__conv__bias=torch.tensor([1])), "outc.conv.bias: expected floating point.*int64"),
        (changed(outc__conv__bias=torch.zeros(1).to_sparse()), "outc.conv.bias.*dense"),
        (changed(outc__conv__bias=torch.zeros(1, device="meta")), "outc.conv.bias.*dense"),
        (changed(outc__conv__bias=torch.zeros(1).expand(10**9)), "outc.conv.bias.*dense"),
        (
            {"downs.0.conv.0.weight": torch.zeros(4, 1, 3, 3), "attention.0.weight": torch.zeros(1)},
            "attention.0.weight",
        ),
    ],
)
def test_other_states_are_refused_by_name(document: object, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        recognised(document)
    assert len(str(caught.value)) <= 300


def test_sizes_beyond_the_family_are_refused() -> None:
    with pytest.raises(ConfigError, match="features: expected 1 to 7 levels, came 8"):
        recognised(filled(listed((2,) * 8)))

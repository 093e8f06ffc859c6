"""A program from a file computes what the network computes."""

import importlib.util
import zipfile
from io import BytesIO

import pytest
import torch
from torch import nn

from unetpipe import programs
from unetpipe.errors import ConfigError, ModelError
from unetpipe.netspecs import DilatedUnetSpec, KerasUnetSpec, NetworkSpec, PaddedUnetSpec, UnetSpec
from unetpipe.networks import build_network
from unetpipe.programs import (
    largest_difference,
    load_onnx_program,
    load_torch_program,
    onnx_program,
    random_images,
    torch_program,
)

SPECS: dict[str, NetworkSpec] = {
    "paper": UnetSpec(depth=1, base_width=4),
    "release": UnetSpec(depth=1, base_width=4, form="release", activation="leaky", channels=3, classes=3),
    "transposed": PaddedUnetSpec(features=(4, 8), fit="resize"),
    "bilinear": PaddedUnetSpec(features=(4, 8), up="bilinear"),
    "align corners": PaddedUnetSpec(features=(4, 8), up="bilinear", align_corners=True),
    "keras": KerasUnetSpec(depth=1, base_width=4),
    "symmetric": KerasUnetSpec(depth=1, base_width=4, up_pad="symmetric", head_relu=False),
    "aligned": DilatedUnetSpec(depth=1, base_width=4),
    "valid": DilatedUnetSpec(depth=1, base_width=4, form="valid"),
    "printed": DilatedUnetSpec(depth=1, base_width=4, form="printed"),
}
CARD = '{"µ": "a \\"card\\""}'
MISSING = [name for name in programs.ONNX_PACKAGES if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


def network_of(spec: NetworkSpec) -> nn.Module:
    """A network with batch norms that have seen something."""
    network = build_network(spec, seed=3)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(len(name)))
    return network.eval()


@pytest.mark.parametrize("name", SPECS)
def test_a_torch_program_computes_the_networks_logits_for_any_number_of_windows(name: str) -> None:
    spec = SPECS[name]
    network, side = network_of(spec), spec.geometry.input_side(8)
    run, card = load_torch_program(torch_program(network, channels=spec.channels, side=side, card=CARD))
    assert card == CARD
    for count in (1, 2, 5):
        images = random_images(spec.channels, side, count=count, seed=count)
        assert run(images).shape == network(images).shape == (count, spec.logit_channels, *run(images).shape[2:])
        assert largest_difference(run, network, images) <= 1e-6
    with pytest.raises(RuntimeError, match="shape"):
        run(random_images(spec.channels, side + spec.geometry.stride))


def test_a_torch_program_is_the_same_bytes_again_and_names_no_folder_of_this_machine() -> None:
    spec = SPECS["transposed"]
    files = [torch_program(network_of(spec), channels=1, side=16, card=CARD) for _ in range(2)]
    assert files[0] == files[1]
    with zipfile.ZipFile(BytesIO(files[0])) as archive:
        texts = [archive.read(name) for name in archive.namelist()]
    assert not any(b".py" in text or b"unetpipe/" in text for text in texts)


@needs_onnx
@pytest.mark.parametrize("name", SPECS)
def test_an_onnx_program_computes_the_networks_logits_for_any_number_of_windows(name: str) -> None:
    spec = SPECS[name]
    network, side = network_of(spec), spec.geometry.input_side(8)
    run, card = load_onnx_program(onnx_program(network, channels=spec.channels, side=side, card=CARD))
    assert card == CARD
    for count in (1, 2, 5):
        assert largest_difference(run, network, random_images(spec.channels, side, count=count)) <= 1e-5


def test_without_its_packages_onnx_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "ONNX_PACKAGES", ("torch", "onnx_of_another_world"))
    with pytest.raises(ConfigError, match=r"missing: onnx_of_another_world; .*unetpipe\[onnx\]"):
        onnx_program(nn.Conv2d(1, 1, 1), channels=1, side=4, card="{}")
    with pytest.raises(ConfigError, match="missing: onnx_of_another_world"):
        load_onnx_program(b"")


def test_what_no_onnx_file_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "ONNX_PACKAGES", ())
    monkeypatch.setattr(programs, "ONNX_LIMIT", 39)
    with pytest.raises(ModelError, match="use format torch"):
        onnx_program(nn.Conv2d(1, 1, 3), channels=1, side=4, card="{}")


def test_differences_are_seen() -> None:
    images = random_images(1, 4)
    assert torch.equal(images, random_images(1, 4)) and not torch.equal(images, random_images(1, 4, seed=1))
    plain = nn.Identity()
    assert largest_difference(plain, plain, images) == 0.0
    assert largest_difference(lambda x: x + 0.5, plain, images) == pytest.approx(0.5)
    assert largest_difference(lambda x: x * torch.nan, plain, images) == float("inf")
    assert largest_difference(lambda x: x[..., :3], plain, images) == float("inf")

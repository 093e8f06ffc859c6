"""Networks as programs for other software: torch.export and ONNX, each with a card inside that says how to use it."""

import importlib.util
import io
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from unetpipe.errors import ConfigError, ModelError

__all__ = [
    "CARD",
    "check_onnx",
    "largest_difference",
    "load_onnx_program",
    "load_torch_program",
    "onnx_program",
    "random_images",
    "torch_program",
]

# Key of the card in the metadata of all formats.
CARD = "unetpipe"
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
# A protobuf, which an ONNX file is, holds no more bytes.
ONNX_LIMIT = 2**31 - 2**20

Program = Callable[[Tensor], Tensor]


def torch_program(network: nn.Module, *, channels: int, side: int, card: str) -> bytes:
    """A network as the content of a ``.pt2`` file of torch.export, which needs no code of unetpipe.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, on the CPU.
    channels : int
        Channels C of the image.
    side : int
        Side n of the window in px, legal for the network.
    card : str
        JSON text, which stands in the extra file ``unetpipe``.

    Returns
    -------
    bytes
        Takes (N, C, n, n) float32 with any N from 1 on, and returns logits. Equal networks and cards give equal bytes.

    Examples
    --------
    >>> content = torch_program(nn.Conv2d(1, 2, 3).eval(), channels=1, side=8, card="{}")
    >>> run, card = load_torch_program(content)
    >>> run(torch.zeros(3, 1, 8, 8)).shape, card
    (torch.Size([3, 2, 6, 6]), '{}')
    """
    file = io.BytesIO()
    torch.export.save(captured(network, channels, side), file, extra_files={CARD: card})
    return file.getvalue()


def captured(network: nn.Module, channels: int, side: int) -> torch.export.ExportedProgram:
    """The graph of a network for one side of the window and any number of windows."""
    # Two windows, because one would be taken for a constant.
    example = torch.zeros(2, channels, side, side)
    with torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    program.example_inputs = None
    for node in program.graph.nodes:
        # It would tell others the folders of this machine.
        node.meta.pop("stack_trace", None)
    return program


def load_torch_program(content: bytes) -> tuple[Program, str]:
    """The function and the card in a file that `torch_program` has made.

    Parameters
    ----------
    content : bytes
        Of the file.

    Returns
    -------
    program : callable
        (N, C, n, n) -> (N, L, m, m) float32.
    card : str
        JSON text.
    """
    extra = {CARD: ""}
    module = torch.export.load(io.BytesIO(content), extra_files=extra).module()
    card: str | bytes = extra[CARD]
    return module, card if isinstance(card, str) else card.decode()


def check_onnx() -> None:
    """Make sure that all packages are installed that ONNX needs.

    Raises
    ------
    ConfigError
        If not; the message names them and the extra that installs them.
    """
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"format onnx: expected the packages {', '.join(ONNX_PACKAGES)}, missing: {', '.join(missing)}; "
            "install the extra: pip install 'unetpipe[onnx]', or from a checkout: pip install '.[onnx]'"
        )


def onnx_program(network: nn.Module, *, channels: int, side: int, card: str) -> bytes:
    """A network as the content of an ``.onnx`` file with input ``image`` and output ``logits``.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, on the CPU.
    channels : int
        Channels C of the image.
    side : int
        Side n of the window in px, legal for the network.
    card : str
        JSON text, which stands in the metadata property ``unetpipe``.

    Returns
    -------
    bytes
        Takes (N, C, n, n) float32 with any N from 1 on, and returns logits.

    Raises
    ------
    ConfigError
        If the packages for ONNX are not installed.
    ModelError
        If the parameters are too large for the format.
    """
    check_onnx()
    size = sum(value.nbytes for value in network.state_dict().values())
    if size > ONNX_LIMIT:
        raise ModelError(f"network of {size / 2**30:.1f} GiB: an ONNX file holds at most 2 GiB; use format torch")
    with warnings.catch_warnings():
        # The exporter warns of its own dependencies; what it makes is held against the network.
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            captured(network, channels, side),
            dynamo=True,
            input_names=["image"],
            output_names=["logits"],
            verbose=False,
        )
    program.model.metadata_props[CARD] = card
    content: bytes = program.model_proto.SerializeToString()
    return content


def load_onnx_program(content: bytes) -> tuple[Program, str]:
    """The function and the card in a file that `onnx_program` has made; computed by onnxruntime on the CPU.

    Parameters
    ----------
    content : bytes
        Of the file.

    Returns
    -------
    program : callable
        (N, C, n, n) -> (N, L, m, m) float32.
    card : str
        JSON text.

    Raises
    ------
    ConfigError
        If the packages for ONNX are not installed.
    """
    check_onnx()
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"image": images.numpy()})[0])

    return run, str(session.get_modelmeta().custom_metadata_map[CARD])


def random_images(channels: int, side: int, *, count: int = 1, seed: int = 0) -> Tensor:
    """Images (N, C, n, n) of independent values from U(0, 1), the range of normalised intensities.

    Parameters
    ----------
    channels, side, count : int
        C, n and N.
    seed : int
        Seed of the values.
    """
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def largest_difference(program: Program, network: nn.Module, images: Tensor) -> float:
    """How far a program is from its network.

    Parameters
    ----------
    program : callable
        (N, C, n, n) -> (N, L, m, m).
    network : nn.Module
        In evaluation mode, on the CPU.
    images : (N, C, n, n) float32 tensor
        What both are given.

    Returns
    -------
    float
        Largest difference of two logits, divided by the largest absolute logit if that is above 1, since rounding
        errors grow with it; infinite if shapes differ, or if any value is not finite.

    Examples
    --------
    >>> largest_difference(lambda x: x + 8.0, nn.Identity(), torch.tensor([[[[32.0]]]]))
    0.25
    """
    expected, found = network(images), program(images)
    if expected.shape != found.shape:
        return float("inf")
    difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))
    return difference if difference < float("inf") else float("inf")

"""Public state dicts of the padded U-Net: which network they belong to, and under which names we know its tensors."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from unetpipe.errors import ModelError
from unetpipe.netspecs import PaddedUnetSpec
from unetpipe.networks.padded_unet import PaddedUnet, from_indexed_names

__all__ = ["recognised"]

# Under these, training scripts store the state beside other things.
HOLDERS = ("state_dict", "model_state_dict", "model")
# Before each name: of a network trained on several devices, or compiled.
WRAPPERS = ("module.", "_orig_mod.")
# Values of the masks that a network was trained on, which its scripts put among the tensors.
NOT_TENSORS = frozenset({"mask_values"})

FIRST = "inc.double_conv.0.weight"
FIRST_INDEXED = "downs.0.conv.0.weight"


def recognised(document: object, *, align_corners: bool = True) -> tuple[PaddedUnetSpec, dict[str, Tensor]]:
    """The network that a public state dict belongs to, with all its tensors.

    Parameters
    ----------
    document : mapping of str to Tensor
        A state dict, or a mapping that holds one under ``state_dict``, ``model_state_dict`` or ``model``. Names are
        those of the form with numbered attributes (``inc``, ``down1``, ``up1``, ``outc``), or of that with lists
        (``downs``, ``ups``, ``bottleneck``, ``final_conv``).
    align_corners : bool
        For bilinear networks, since no tensor tells it.

    Returns
    -------
    spec : PaddedUnetSpec
        Sizes from the shapes. A single logit stands for two classes with a sigmoid head. The form with lists
        stretches odd sizes to the skip, the other one pads them.
    state : dict of str to Tensor
        On the CPU, under the names of `PaddedUnet`; float32, but for the counts of batches.

    Raises
    ------
    ModelError
        If it is something else: the message names the first entry that is missing, unexpected or of another shape.

    Examples
    --------
    >>> spec, _ = recognised(PaddedUnet(PaddedUnetSpec(features=(4, 8), up="bilinear")).state_dict())
    >>> spec.features, spec.up, spec.align_corners
    ((4, 8), 'bilinear', True)
    """
    state = tensors_of(document)
    fit: Literal["pad", "resize"] = "pad"
    if FIRST_INDEXED in state:
        depth = counted(state, "downs.{}.conv.0.weight", start=0)
        state, fit = from_indexed_names(state, depth=depth), "resize"
    if FIRST not in state:
        raise ModelError(
            f"state dict of an unknown family: expected an entry {FIRST} or {FIRST_INDEXED}, came {len(state)} "
            f"entries from {next(iter(state), '')!r:.60} on; import takes the padded U-Net with batch norm"
        )
    spec = spec_of(state, fit=fit, align_corners=align_corners)
    check(state, spec)
    return spec, {name: plain(name, value) for name, value in state.items()}


def tensors_of(document: object) -> dict[str, Tensor]:
    """The tensors of a state dict by name, without what wrappers put before each of them."""
    if not isinstance(document, Mapping):
        raise ModelError(f"expected a state dict, came {type(document).__name__}; save network.state_dict()")
    holder = next((document[name] for name in HOLDERS if isinstance(document.get(name), Mapping)), document)
    state = {}
    for key, value in holder.items():
        name = str(key)
        for wrapper in WRAPPERS:
            name = name.removeprefix(wrapper)
        if name in NOT_TENSORS and not isinstance(value, Tensor):
            continue
        if not isinstance(value, Tensor) or not is_dense(value):
            raise ModelError(f"entry {name!r:.80}: expected a dense tensor, came {type(value).__name__}")
        state[name] = value
    return state


def is_dense(value: Tensor) -> bool:
    """Whether a tensor holds a number for each of its elements."""
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        return False
    return value.untyped_storage().nbytes() >= value.nbytes


def counted(state: Mapping[str, Tensor], pattern: str, *, start: int) -> int:
    """How many numbers from `start` on give a name that is there."""
    number = start
    while pattern.format(number) in state:
        number += 1
    return number - start


def spec_of(state: Mapping[str, Tensor], *, fit: Literal["pad", "resize"], align_corners: bool) -> PaddedUnetSpec:
    """The spec that the shapes of a state tell."""
    depth = counted(state, "down{}.maxpool_conv.1.double_conv.3.weight", start=1)
    channels, first = side(state, FIRST, 1), side(state, FIRST, 0)
    below = [side(state, f"down{level}.maxpool_conv.1.double_conv.3.weight", 0) for level in range(1, depth)]
    logits = side(state, "outc.conv.weight", 0)
    bilinear = "up1.up.weight" not in state
    return PaddedUnetSpec(
        features=(first, *below),
        up="bilinear" if bilinear else "transposed",
        align_corners=bilinear and align_corners,
        fit=fit,
        channels=channels,
        classes=max(logits, 2),
        head="sigmoid" if logits == 1 else "softmax",
    )


def side(state: Mapping[str, Tensor], name: str, axis: int) -> int:
    """Length of one axis of the weight of a convolution."""
    value = state.get(name)
    if value is None or value.ndim != 4:
        came = "none" if value is None else f"shape {tuple(value.shape)}"
        raise ModelError(f"entry {name}: expected the weight of a convolution, of four axes, came {came}")
    return value.shape[axis]


def check(state: Mapping[str, Tensor], spec: PaddedUnetSpec) -> None:
    """Hold names and shapes against those of the network."""
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in PaddedUnet(spec).state_dict().items()}
    kind = f"{spec.up} padded U-Net of features {', '.join(map(str, spec.features))}"
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    if missing or unexpected:
        faults = [
            f"{len(names)} {fault} ({names[0]!r:.60}{', ...' if len(names) > 1 else ''})"
            for fault, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise ModelError(f"expected the {len(expected)} entries of a {kind}, came {' and '.join(faults)}")
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise ModelError(f"entry {name}: expected shape {shape} as a {kind} has, came {tuple(state[name].shape)}")


def plain(name: str, value: Tensor) -> Tensor:
    """A tensor as the network has it."""
    if name.endswith("num_batches_tracked"):
        return value.detach().to(torch.int64)
    if not value.is_floating_point():
        raise ModelError(f"entry {name}: expected floating point numbers, came {value.dtype}")
    result = value.detach().to(torch.float32).contiguous()
    if not math.isfinite(float(result.abs().max())):
        raise ModelError(
            f"entry {name}: expected finite numbers, came infinite ones or none (NaN); its training failed"
        )
    return result

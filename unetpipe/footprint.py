"""The memory that a training step takes, predicted from the settings alone."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unetpipe.devices import DTYPES
from unetpipe.losses import loss
from unetpipe.networks import build_network
from unetpipe.specs import TrainSpec

__all__ = ["is_out_of_memory", "out_of_memory", "step_bytes"]

# Numbers that an optimiser keeps for each parameter.
MOMENTA = {"sgd": 1, "rmsprop": 2, "adam": 2, "adamw": 2}
# Maps that are there at once, beside those that are kept, while one is made or its gradient computed.
AT_ONCE = 2


def step_bytes(spec: TrainSpec, side: int, *, copied: bool = False) -> int:
    """Memory that a training step needs on its device, without what libraries take for themselves.

    Parameters
    ----------
    spec : TrainSpec
        Network, optimiser, average and precision count.
    side : int
        Side of what the network sees of a patch in px, legal for it.
    copied : bool
        Whether the state is copied first, as it is where several steps are looked at together.

    Returns
    -------
    int
        Bytes.

    Notes
    -----
    4 bytes for each parameter, its gradient, each of its momenta and its average, and twice that but for the gradient
    with a copy; all maps that the gradient needs, counted in a forward pass that computes nothing; and beside them two
    of the largest map, or of the logits while the loss is computed. Maps but for those of the loss take half of that in
    half precision, which has its own copies of the parameters. Patches of a step come one behind the other, so their
    number does not count.

    On a CPU, peaks of what was allocated in float32 lie within 20 % of this.

    Examples
    --------
    >>> from unetpipe.specs import UnetSpec
    >>> round(step_bytes(TrainSpec(network=UnetSpec()), 572) / 1e9, 1)
    1.3
    """
    with torch.device("meta"):
        network = build_network(spec.network, seed=0)
        image = torch.empty(1, spec.network.channels, side, side)
    parameters = sum(4 * p.numel() for p in network.parameters())
    state = 1 + MOMENTA[spec.optimiser] + (1 if spec.average else 0)
    copies = 1 + state * (2 if copied else 1)
    sizes = [0]
    for module in network.train().modules():
        module.register_forward_hook(lambda module, inputs, output: sizes.append(output.nbytes))
    kept, logits = kept_by(lambda: network(image), network)
    kept_by_loss, _ = kept_by(lambda: loss_of(logits.detach().requires_grad_(), spec), network)
    while_computing, while_losing = AT_ONCE * max(sizes), kept_by_loss + AT_ONCE * logits.nbytes
    if spec.precision in DTYPES:
        kept, while_computing, copies_in_half = kept // 2, while_computing // 2, parameters // 2
        return kept + max(while_computing, while_losing) + copies * parameters + copies_in_half
    return kept + max(while_computing, while_losing) + copies * parameters


def loss_of(logits: Tensor, spec: TrainSpec) -> Tensor:
    """The loss of logits (1, L, m, m)."""
    classes = torch.empty(logits[:, 0].shape, dtype=torch.uint8, device=logits.device)
    return loss(logits, classes, torch.empty_like(logits[:, 0]), kind=spec.loss, reduction=spec.reduction)


def kept_by(call: Callable[[], Tensor], network: nn.Module) -> tuple[int, Tensor]:
    """Bytes of all that the gradient of a call needs beside the parameters, and what the call gives."""
    kept: dict[int, torch.UntypedStorage] = {}
    own = {p.untyped_storage()._cdata for p in network.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = call()
    return sum(storage.nbytes() for storage in kept.values()), result


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory is used up; the CPU's allocator and CUDA's libraries say so in words only.

    Examples
    --------
    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    words = ("can't allocate memory", "STATUS_ALLOC_FAILED", "CUDA error: out of memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(word in str(error) for word in words)


def out_of_memory(spec: TrainSpec, side: int, used: int, there: int, *, copied: bool = False) -> str:
    """What to say of a training for which the memory does not suffice.

    Parameters
    ----------
    spec : TrainSpec
        What was trained.
    side : int
        Side of what the network sees of a patch in px.
    used : int
        Most bytes that the training had.
    there : int
        Bytes that the device has.
    copied : bool
        As in `step_bytes`.

    Returns
    -------
    str
        One line.

    Examples
    --------
    >>> from unetpipe.specs import UnetSpec
    >>> out_of_memory(TrainSpec(network=UnetSpec()), 572, 7 * 10**9, 8 * 10**9)[:87]
    'train: out of memory: had 7.00 of 8.00 GB; a step of this network on 572 x 572 px needs'
    """
    width = "network.features" if hasattr(spec.network, "features") else "network.base_width"
    halve = "" if spec.precision in DTYPES else ", or set precision: bfloat16"
    needed = step_bytes(spec, side, copied=copied)
    return (
        f"train: out of memory: had {used / 1e9:.2f} of {there / 1e9:.2f} GB; a step of this network on "
        f"{side} x {side} px needs about {needed / 1e9:.2f} GB; lower augment.input_px or {width}{halve}, or run fewer "
        "jobs at once"
    )

"""Training from top to bottom: a loop over steps whose state can be saved and taken up again, bit for bit."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unetpipe.errors import ModelError
from unetpipe.losses import pixel_weights, weighted_cross_entropy
from unetpipe.signals import stop_asked, stop_if_asked
from unetpipe.specs import TrainSpec

__all__ = ["Patches", "TrainingState", "fit", "patch_index", "start"]

log = logging.getLogger(__name__)

Validate = Callable[[nn.Module], dict[str, float]]
Save = Callable[["TrainingState"], None]


class Patches(Protocol):
    """Anything that gives patch number i as image (C, n, n), classes (m, m) and separation weights (m, m)."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]: ...


@dataclass(slots=True)
class TrainingState:
    """Everything that the next step depends on, besides the spec and the data.

    Attributes
    ----------
    network : nn.Module
        With its current parameters.
    optimiser : torch.optim.SGD
        With its momenta.
    step : int
        Number of steps done.
    loss_sum : float
        Sum of the losses since the last validation.
    history : list of dict
        One row per validation: step, learning rate, training loss, and what validation gave.
    best : dict of str to Tensor
        Parameters of the best validation so far; empty before the first.
    """

    network: nn.Module
    optimiser: torch.optim.SGD
    step: int = 0
    loss_sum: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)


def start(network: nn.Module, spec: TrainSpec, device: torch.device) -> TrainingState:
    """The state before the first step: the network on its device, with an optimiser of its own."""
    network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.SGD(network.parameters(), lr=spec.learning_rate, momentum=spec.momentum)
    return TrainingState(network, optimiser)


def fit(
    state: TrainingState,
    spec: TrainSpec,
    patches: Patches,
    *,
    class_weights: Sequence[float],
    validate: Validate | None,
    save: Save,
    device: torch.device,
) -> None:
    """Train from the state's step to the last one.

    Parameters
    ----------
    state : TrainingState
        Where to begin; changed in place.
    spec : TrainSpec
        Steps, learning rate, momentum, reduction, intervals and seed.
    patches : Patches
        Training patches, drawn by (seed, step) alone.
    class_weights : sequence of float
        w_c of each class over the whole training set.
    validate : callable or None
        Gives the metrics of the network on the validation images; ``iou`` decides which parameters are best.
    save : callable
        Makes the state durable; called behind every validation, at intervals of time, and at the end.
    device : torch.device
        Where the network is.

    Raises
    ------
    ModelError
        If the loss is not finite.
    Interrupted
        If a stop was asked for; the state has been saved.

    Notes
    -----
    Patch, dropout and learning rate of a step are functions of (seed, step): only the state is needed to go on.
    """
    balance = torch.tensor(class_weights, dtype=torch.float32, device=device)
    saved = time.monotonic()
    while state.step < spec.steps:
        state.loss_sum += train_step(state, spec, patches, balance, device)
        state.step += 1
        due = state.step % spec.validate_every == 0 or state.step == spec.steps
        if due:
            close_interval(state, spec, validate)
        if due or stop_asked() or time.monotonic() - saved >= spec.checkpoint_s:
            save(state)
            stop_if_asked()
            saved = time.monotonic()


def train_step(state: TrainingState, spec: TrainSpec, patches: Patches, balance: Tensor, device: torch.device) -> float:
    """One optimiser step on one patch; returns its loss."""
    image, classes, separation = (
        torch.from_numpy(a)[None].to(device) for a in patches.read(patch_index(spec.seed, state.step, len(patches)))
    )
    state.network.train()
    # Dropout draws from torch's global generator: seeding it by the step makes it a function of (seed, step).
    torch.manual_seed(int(np.random.SeedSequence((spec.seed, state.step)).generate_state(1)[0]))
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(spec, state.step)
    logits = state.network(image.to(memory_format=torch.channels_last))
    classes, separation = centre(classes, logits), centre(separation, logits)
    weights = pixel_weights(classes, separation, balance)
    loss = weighted_cross_entropy(logits, classes, weights, reduction=spec.reduction)
    value = loss.item()
    if not np.isfinite(value):
        raise ModelError(
            f"training: loss is {value} at step {state.step + 1}; the last checkpoint is kept; "
            f"lower learning_rate (now {spec.learning_rate:g}) or use reduction: mean"
        )
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    state.optimiser.step()
    return value


def centre(target: Tensor, logits: Tensor) -> Tensor:
    """The middle of (N, Y, X) that has the logits' height and width."""
    height, width = logits.shape[-2:]
    y, x = (target.shape[-2] - height) // 2, (target.shape[-1] - width) // 2
    return target[..., y : y + height, x : x + width]


def patch_index(seed: int, step: int, n_patches: int) -> int:
    """Patch of a step: every epoch runs through all patches in an order of its own.

    Examples
    --------
    >>> sorted(patch_index(7, step, 5) for step in range(5, 10))
    [0, 1, 2, 3, 4]
    """
    epoch, position = divmod(step, n_patches)
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch)))).permutation(n_patches)
    return int(order[position])


def learning_rate(spec: TrainSpec, step: int) -> float:
    """Learning rate of a step, counted from 0."""
    if spec.schedule == "constant":
        return spec.learning_rate
    return spec.learning_rate * float((1 - step / spec.steps) ** 0.9)


def close_interval(state: TrainingState, spec: TrainSpec, validate: Validate | None) -> None:
    """Validate, add a row to the history, and keep the parameters if they are the best so far."""
    since = state.step - int(state.history[-1]["step"] if state.history else 0)
    row: dict[str, Any] = {
        "step": state.step,
        "learning_rate": learning_rate(spec, state.step - 1),
        "loss": state.loss_sum / since,
    }
    if validate is not None:
        state.network.eval()
        row |= validate(state.network)
    best_before = max((past.get("iou", -1.0) for past in state.history), default=-1.0)
    if validate is None or row["iou"] > best_before or not state.best:
        state.best = {name: value.detach().cpu().clone() for name, value in state.network.state_dict().items()}
    state.history.append(row)
    state.loss_sum = 0.0
    log.info(
        "step %d of %d: %s", state.step, spec.steps, ", ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "step")
    )

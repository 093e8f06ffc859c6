"""The state of a training: everything that the next step depends on, besides the settings and the data."""

import copy
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from unetpipe.devices import check_precision
from unetpipe.ranks import count, from_first
from unetpipe.specs import TrainSpec

__all__ = [
    "MOST_FLAT",
    "TrainingState",
    "follow_average",
    "follow_first",
    "judge",
    "logit_deviation",
    "restore",
    "snapshot",
    "start",
]

# A gradient is an outlier if it is longer than both: this times the median of the last ones ...
FAR_ABOVE_MEDIAN = 100.0
# ... and this times the longest of them. Where most patches are empty, a single median would call all others outliers.
FAR_ABOVE_LONGEST = 10.0
WINDOW = 64
ENOUGH = 16
# Logits that spread less than this are the same everywhere ...
FLAT = 1e-6
# ... and a network whose logits were so in this many steps in a row is dead.
MOST_FLAT = 100


@dataclass(slots=True)
class TrainingState:
    """Everything that the next step depends on, besides the spec and the data.

    Attributes
    ----------
    network : nn.Module
        With its current parameters.
    average : nn.Module or None
        The same network with the running average of its parameters and buffers; None if there is none.
    optimiser : torch.optim.Optimizer
        With its momenta.
    scaler : torch.amp.GradScaler
        Scale of the loss; in use for float16 only.
    step : int
        Number of steps done.
    loss_sum : float
        Sum of the losses since the last validation.
    losses : int
        How many losses that sum holds; skipped steps are left out.
    norms : list of float
        Lengths of the last 64 gradients that were used and not zero.
    skipped : int
        Steps skipped in a row.
    flat : int
        Steps in a row whose logits were the same everywhere, up to 100, where it stays; skipped steps say nothing.
    anchor : int
        Step of the last validation that did not lie among skipped steps, where a lost training goes back to; 0 for
        the first state.
    retreats : int
        How often the training went back; each halves the learning rate.
    history : list of dict
        One row per validation: step, learning rate, training loss, and what validation gave.
    best : dict of str to Tensor
        Parameters of the best validation so far; empty before the first.
    circumstances : list of dict
        What equal bits depend on, of each kind of run that had a part in this state.
    compiled : callable or None
        The network's compiled form, with the same parameters; None if there is none.
    """

    network: nn.Module
    average: nn.Module | None
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    loss_sum: float = 0.0
    losses: int = 0
    norms: list[float] = field(default_factory=list)
    skipped: int = 0
    flat: int = 0
    anchor: int = 0
    retreats: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    circumstances: list[dict[str, Any]] = field(default_factory=list)
    compiled: Callable[[Tensor], Tensor] | None = None

    @property
    def trained(self) -> Callable[[Tensor], Tensor]:
        """What computes the logits in training: the network, or its compiled form where there is one."""
        return self.network if self.compiled is None else self.compiled

    @property
    def judged(self) -> nn.Module:
        """The network that is validated and kept: the average where there is one."""
        return self.network if self.average is None else self.average


# What of the state is plain JSON data.
PLAIN = (
    "step", "loss_sum", "losses", "norms", "skipped", "flat", "anchor", "retreats", "history", "circumstances",
)  # fmt: skip


def start(network: nn.Module, spec: TrainSpec, device: torch.device) -> TrainingState:
    """The state before the first step.

    Parameters
    ----------
    network : nn.Module
        With its initial parameters; moved to the device.
    spec : TrainSpec
        Optimiser, average and precision.
    device : torch.device
        Where to train.

    Returns
    -------
    TrainingState

    Raises
    ------
    ConfigError
        If the device cannot compute in the precision that was asked for.
    """
    check_precision(spec.precision, device, stage="train")
    network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(network).requires_grad_(False).eval() if spec.average else None
    scaler = torch.amp.GradScaler(device.type, enabled=spec.precision == "float16")
    return TrainingState(network, average, build_optimiser(network, spec), scaler)


def build_optimiser(network: nn.Module, spec: TrainSpec) -> torch.optim.Optimizer:
    """The optimiser of a spec, over all parameters."""
    common: dict[str, Any] = {"lr": spec.learning_rate, "weight_decay": spec.weight_decay}
    if spec.optimiser == "sgd":
        return torch.optim.SGD(network.parameters(), momentum=spec.momentum, **common)
    if spec.optimiser == "rmsprop":
        return torch.optim.RMSprop(network.parameters(), momentum=spec.momentum, **common)
    if spec.optimiser == "adam":
        return torch.optim.Adam(network.parameters(), **common)
    return torch.optim.AdamW(network.parameters(), **common)


def follow_average(state: TrainingState, decay: float) -> None:
    """Take the network as it is behind the state's step into the running average.

    Parameters
    ----------
    state : TrainingState
        Its `step` is the number of this step, counted from 1; its average is changed in place.
    decay : float
        In (0, 1).

    Notes
    -----
    a_n = sum_k d^(n-k) w_k / sum_k d^(n-k) over the steps k = 1 to n: the initial parameters do not enter. Computed as
    a_n = a_(n-1) + (w_n - a_(n-1)) (1 - d) / (1 - d^n). Buffers of batch normalisation are averaged too, counters are
    copied.

    References
    ----------
    Kingma, Ba 2015, arXiv:1412.6980, section 3, for the correction of the start.
    """
    if state.average is None:
        return
    pairs = list(zip(state.average.state_dict().values(), state.network.state_dict().values(), strict=True))
    real = [pair for pair in pairs if pair[0].is_floating_point()]
    weight = (1 - decay) / (1 - decay**state.step)
    torch._foreach_lerp_([mean for mean, _ in real], [now.detach() for _, now in real], weight)
    for mean, now in pairs:
        if not mean.is_floating_point():
            mean.copy_(now)


def logit_deviation(logits: Tensor) -> Tensor:
    """How far the logits differ between pixels.

    Parameters
    ----------
    logits : (N, L, m, m) float tensor
        Of a batch with any structure in its images.

    Returns
    -------
    () float32 tensor
        Standard deviation over batch and pixels of the channel where it is largest.

    Examples
    --------
    >>> logit_deviation(torch.tensor([[[[1.0, 3.0]], [[5.0, 5.0]]]]))
    tensor(1.)
    """
    return logits.detach().float().std(dim=(0, 2, 3), correction=0).amax()


def judge(state: TrainingState, loss: float, norm: float, deviation: float = math.inf) -> bool:
    """Whether a step may be used; the state takes note of it.

    Parameters
    ----------
    state : TrainingState
        Its sums, its window of norms and its count of skipped steps are changed.
    loss : float
        Loss of the step.
    norm : float
        Length of its gradient.
    deviation : float
        How far its logits differed between pixels.

    Returns
    -------
    bool
        False if one of them is not finite, or if the gradient is longer than 100 times the median and longer than
        10 times the longest of the last 64 that were used, once there are 16.

    Notes
    -----
    Gradients of length 0, of patches that are ignored altogether, say nothing about the scale and stay out of the
    window. With a scaled loss, an infinite gradient lowers the scale and is not held against the training.
    """
    finite = math.isfinite(loss) and math.isfinite(norm)
    if finite and not is_outlier(norm, state.norms):
        state.norms = [*state.norms, norm][-WINDOW:] if norm > 0 else state.norms
        state.loss_sum, state.losses, state.skipped = state.loss_sum + loss, state.losses + 1, 0
        # Whoever is dead stays dead, so that it does not count when somebody looks.
        state.flat = min(state.flat + 1, MOST_FLAT) if deviation < FLAT or state.flat == MOST_FLAT else 0
        return True
    rescales = state.scaler.is_enabled() and math.isfinite(loss) and not finite and state.scaler.get_scale() > 1
    state.skipped += 0 if rescales else 1
    return False


def is_outlier(norm: float, norms: list[float]) -> bool:
    """Whether a gradient is far longer than those before it."""
    if len(norms) < ENOUGH:
        return False
    return norm > max(FAR_ABOVE_MEDIAN * statistics.median(norms), FAR_ABOVE_LONGEST * max(norms))


def snapshot(state: TrainingState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state as named tensors and plain JSON data, for `restore`.

    Parameters
    ----------
    state : TrainingState
        Any; `best` is left out.

    Returns
    -------
    tensors : dict of str to Tensor
        The state's own tensors, not copies: ``network.*``, ``average.*``, ``optimiser.NUMBER.*``.
    plain : dict
        Everything else.
    """
    tensors = {f"network.{name}": value for name, value in state.network.state_dict().items()}
    if state.average is not None:
        tensors |= {f"average.{name}": value for name, value in state.average.state_dict().items()}
    numbers: dict[str, Any] = {}
    for number, entry in state.optimiser.state_dict()["state"].items():
        for name, value in entry.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"optimiser.{number}.{name}"] = value
    plain = {name: copy.copy(getattr(state, name)) for name in PLAIN}
    return tensors, plain | {"optimiser": numbers, "scaler": state.scaler.state_dict()}


def restore(state: TrainingState, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Put a snapshot into a state that was started with the same settings.

    Parameters
    ----------
    state : TrainingState
        Changed in place; `best` stays.
    tensors, plain : dict
        As from `snapshot`; names that it does not make are passed over.
    """
    state.network.load_state_dict(part(tensors, "network."))
    if state.average is not None:
        state.average.load_state_dict(part(tensors, "average."))
    parameters = [p for group in state.optimiser.param_groups for p in group["params"]]
    entries: dict[int, dict[str, Any]] = {}
    for name, value in (part(tensors, "optimiser.") | part(plain["optimiser"], "optimiser.")).items():
        number, _, quantity = name.partition(".")
        entries.setdefault(int(number), {})[quantity] = like(value, parameters[int(number)])
    state.optimiser.load_state_dict({**state.optimiser.state_dict(), "state": entries})
    state.scaler.load_state_dict(plain["scaler"])
    for name in PLAIN:
        setattr(state, name, copy.copy(plain[name]))


def follow_first(state: TrainingState) -> None:
    """Put the state of the first process into that of every other; its best parameters stay with it alone."""
    if count() > 1:
        tensors, plain = snapshot(state)
        restore(state, *from_first(({name: value.detach().cpu() for name, value in tensors.items()}, plain)))


def part(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    """What lies behind a prefix."""
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def like(value: Any, parameter: Tensor) -> Any:
    """A copy of an optimiser's value, in its parameter's place and order of memory, which its speed depends on."""
    if isinstance(value, Tensor) and value.shape == parameter.shape and value.is_floating_point():
        return torch.empty_like(parameter).copy_(value)
    return value.clone() if isinstance(value, Tensor) else value

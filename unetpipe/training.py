"""Training, to be read from top to bottom.

`fit` is the whole of it, a loop: train some steps, go back if they were lost, tell how far it is, validate, save, and
stop if that was asked for. What it calls follows, each function before those that it calls itself. The state, which can
be saved behind any step and taken up again bit for bit, has its own module, `trainstate`.
"""

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from unetpipe.compilation import compiled
from unetpipe.devices import DTYPES, set_tensorfloat32
from unetpipe.errors import Interrupted, ModelError
from unetpipe.feed import Feed, Patches
from unetpipe.losses import loss as patch_loss
from unetpipe.losses import pixel_weights
from unetpipe.pace import Pace
from unetpipe.ranks import add_up, any_of, count, from_first, is_own
from unetpipe.schedules import best_row, is_exhausted, learning_rate
from unetpipe.signals import stop_asked
from unetpipe.specs import TrainSpec
from unetpipe.trainstate import MOST_FLAT, TrainingState, follow_average, judge, logit_deviation, restore, snapshot

__all__ = ["fit", "steps_at_once"]

log = logging.getLogger(__name__)

# What `fit` is given to do with a network or a state, told among its parameters.
Validate = Callable[[nn.Module], dict[str, float]]
Save = Callable[[TrainingState], None]
Recall = Callable[[TrainingState, int], None]
Watch = Callable[[TrainingState, int], None]

# Steps in a row that may be skipped before the training goes back.
MOST_SKIPPED = 3
# Steps that are looked at together where a look makes the device wait.
AT_ONCE = 32


def fit(
    state: TrainingState,
    spec: TrainSpec,
    patches: Patches,
    *,
    class_weights: Sequence[float],
    validate: Validate | None,
    save: Save,
    device: torch.device,
    recall: Recall | None = None,
    watch: Watch | None = None,
    workers: int = 0,
    drawn: bool = False,
    look_every: int | None = None,
) -> Pace:
    """Train from the state's step to the last one.

    Parameters
    ----------
    state : TrainingState
        Where to begin; changed in place.
    spec : TrainSpec
        How to train.
    patches : Patches
        Training patches, drawn by (seed, step) alone.
    class_weights : sequence of float
        w_c of each class over the whole training set.
    validate : callable or None
        Gives the scores of a network on the validation images; ``spec.best_by`` decides which parameters are best.
        Of several processes, the first one's counts. May raise `Interrupted`.
    save : callable
        Makes the state durable; called behind every validation, at intervals of time, and where a stop was asked for.
    device : torch.device
        Where the network is.
    recall : callable, optional
        Puts back the state as it was saved behind a given step, or the first one for step 0; without it, a training
        that gets lost ends at once.
    watch : callable, optional
        Called with the state and the number of pixels trained on in this run, whenever the losses are looked at.
    workers : int
        Threads that read patches ahead.
    drawn : bool
        Whether the patches of each epoch are new ones.
    look_every : int, optional
        Steps whose losses are looked at together; by default as `steps_at_once` has it.

    Returns
    -------
    Pace
        How fast this run was.

    Raises
    ------
    ModelError
        If losses or gradients stay unusable, or the logits the same everywhere.
    Interrupted
        If a stop was asked for; the state has been saved.

    Notes
    -----
    A step is `accumulate` patches and one change of the parameters. Patches, dropout and learning rate of a step are
    functions of (seed, step) and of the validations before it: only the state is needed to go on, and neither the
    threads nor the looks nor the interruptions change a bit.

    A step whose loss or gradient is not finite, or whose gradient is far longer than the last ones, changes nothing.
    Behind more than three of them in a row, the training goes back to its last validation with half the learning
    rate; the second time, it ends.

    Processes that share the training (`ranks`) share the patches of each step. They stop at the same step, and change
    nothing but the order in which gradients are added up.
    """
    set_tensorfloat32(spec.precision == "tensorfloat32")
    balance = torch.tensor(class_weights, dtype=torch.float32, device=device)
    at_once = look_every or steps_at_once(spec, device)
    ahead = {"draws": spec.steps * spec.accumulate, "workers": workers, "accumulate": spec.accumulate}
    saved = time.monotonic()
    with Feed(patches, seed=spec.seed, device=device, drawn=drawn, **ahead) as feed:
        if spec.compile and state.step < spec.steps:
            image = feed.take(state.step * spec.accumulate)[0]
            state.compiled = compiled(state.network, image, dtype=DTYPES.get(spec.precision))
        pace = Pace(feed, spec.accumulate, state.step)
        while not is_finished(state, spec):
            validation = next_validation(state, spec)
            if state.step < validation:
                advance(state, spec, feed, balance, until=min(validation, state.step + at_once))
                if state.skipped > MOST_SKIPPED:
                    retreat(state, recall)
                    save(state)
                    pace.start(state.step)
                    continue
                check_alive(state, spec)
                if watch is not None:
                    watch(state, feed.pixels * count())

            # The clock stands still until the state is saved.
            pace.stop(state.step)
            stops = any_of(stop_asked())
            # Before a validation, too, which may take long.
            if stops or time.monotonic() - saved >= spec.checkpoint_s:
                save(state)
                saved = time.monotonic()
            if state.step == validation and not stops:
                stops = not close_interval(state, spec, validate, pace)
                save(state)
                saved = time.monotonic()
            if stops:
                raise Interrupted("stopped on request; finished work is saved, the same command goes on")
            pace.start(state.step)
    return pace


def steps_at_once(spec: TrainSpec, device: torch.device) -> int:
    """Steps that are trained before any of them is looked at.

    Parameters
    ----------
    spec : TrainSpec
        Its precision counts: a scaled loss is looked at in each step anyway.
    device : torch.device
        A processor waits for each step anyway.

    Returns
    -------
    int
        1 or 32.
    """
    return 1 if device.type == "cpu" or spec.precision == "float16" else AT_ONCE


def is_finished(state: TrainingState, spec: TrainSpec) -> bool:
    """Whether the last validation was the last one."""
    return last_validation(state) == spec.steps or is_exhausted(spec, state.history)


def next_validation(state: TrainingState, spec: TrainSpec) -> int:
    """Step of the next validation: the state's own, where that was saved before it was validated."""
    return min(spec.steps, (last_validation(state) // spec.validate_every + 1) * spec.validate_every)


def last_validation(state: TrainingState) -> int:
    """Step of the last validation, 0 before the first."""
    return int(state.history[-1]["step"]) if state.history else 0


def advance(state: TrainingState, spec: TrainSpec, feed: Feed, balance: Tensor, *, until: int) -> None:
    """Train up to a step, or until too many in a row had to be skipped.

    Several steps are looked at together, for each look makes a GPU wait. If one of them was not to be used, all are
    taken back and repeated with a look at each.
    """
    if until > state.step + 1:
        tensors, plain = snapshot(state)
        before = {name: value.detach().clone() for name, value in tensors.items()}
        measured: list[Tensor] = []
        while state.step < until and not (measured and any_of(stop_asked())):
            measured.append(train_step(state, spec, feed, balance, look=False))
        if all(judge(state, *numbers) for numbers in torch.stack(measured).tolist()):
            return
        restore(state, before, plain)
    while state.step < until and state.skipped <= MOST_SKIPPED:
        train_step(state, spec, feed, balance, look=True)


def train_step(state: TrainingState, spec: TrainSpec, feed: Feed, balance: Tensor, *, look: bool) -> Tensor:
    """One step; returns what `judge` decides by, here if looked at: (3,) loss, gradient length, logit deviation."""
    for group in state.optimiser.param_groups:
        group["lr"] = rate(state, spec, state.step)
    # Batch statistics change while the logits are computed: a step that is not used gives them back, and several
    # processes add up what each has changed.
    buffers = [buffer.clone() for buffer in state.network.buffers()] if look or count() > 1 else []
    sums = gradient(state, spec, feed, balance)
    sums = add_up(sums, state.network, buffers, patches=spec.accumulate // count())
    state.scaler.unscale_(state.optimiser)
    norm = clipped_norm(state.network, spec.clip_norm)
    measured = torch.stack([sums[0], norm, sums[1]])

    if not look or judge(state, *measured.tolist()):
        state.scaler.step(state.optimiser)
    else:
        for buffer, before in zip(state.network.buffers(), buffers, strict=True):
            buffer.copy_(before)
    state.scaler.update()
    state.step += 1
    follow_average(state, spec.average)
    return measured


def rate(state: TrainingState, spec: TrainSpec, step: int) -> float:
    """Learning rate of a step, counted from 0; each retreat has halved it."""
    return learning_rate(spec, step, state.history) * 0.5**state.retreats


def gradient(state: TrainingState, spec: TrainSpec, feed: Feed, balance: Tensor) -> Tensor:
    """Leave the gradient of a step's patches in the parameters; returns their loss and mean deviation of logits, (2,).

    Of several processes, each leaves what its own patches add to both.
    """
    state.network.train()
    state.optimiser.zero_grad(set_to_none=True)
    share = 1.0 if spec.reduction == "sum" else 1.0 / spec.accumulate
    sums = torch.zeros(2, device=balance.device)
    draws = range(state.step * spec.accumulate, (state.step + 1) * spec.accumulate)
    for draw in [draw for draw in draws if is_own(draw, spec.accumulate)]:
        image, classes, separation = feed.take(draw)
        # Dropout draws from torch's global generator: seeding it by the draw makes it a function of (seed, step).
        torch.manual_seed(int(np.random.SeedSequence((spec.seed, draw)).generate_state(1)[0]))
        with torch.autocast(balance.device.type, DTYPES.get(spec.precision), enabled=spec.precision in DTYPES):
            logits = state.trained(image)
        logits, classes, separation = centred(logits, classes, separation)
        weights = pixel_weights(classes, separation, balance)
        loss = share * patch_loss(logits, classes, weights, kind=spec.loss, reduction=spec.reduction)
        state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        sums += torch.stack([loss.detach(), logit_deviation(logits) / spec.accumulate])
    return sums


def centred(*maps: Tensor) -> list[Tensor]:
    """The middles of maps (..., Y, X), as large as the smallest: what a network has computed, and what is known."""
    side = min(one.shape[-1] for one in maps)
    starts = [(one.shape[-1] - side) // 2 for one in maps]
    return [one[..., a : a + side, a : a + side] for one, a in zip(maps, starts, strict=True)]


def clipped_norm(network: nn.Module, longest: float) -> Tensor:
    """Length of the gradient over all parameters; the gradient is shortened to `longest`, if that is not 0."""
    parameters = list(network.parameters())
    # The same number everywhere, to the last bit, however different the GPUs are that share the training.
    norm = from_first(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
    if longest:
        torch.nn.utils.clip_grads_with_norm_(parameters, longest, norm)
    return norm


def retreat(state: TrainingState, recall: Recall | None) -> None:
    """Go back to the last validation with half the learning rate; the second time, give up."""
    lost = (
        f"training: the loss is not finite, or its gradient far longer than before, in {state.skipped} steps in a row "
        f"up to step {state.step}"
    )
    if recall is None or state.retreats:
        raise ModelError(
            f"{lost}; the last checkpoint is kept; lower learning_rate, set clip_norm, or check the images"
        )
    log.warning("%s; going back to step %d with half the learning rate, once", lost, state.anchor)
    recall(state, state.anchor)
    state.retreats += 1


def check_alive(state: TrainingState, spec: TrainSpec) -> None:
    """End a training whose network has given the same logits everywhere for too long."""
    if state.flat < MOST_FLAT:
        return
    remedy = "take another seed or a lower learning_rate, and check the images"
    if getattr(spec.network, "head_relu", False):
        remedy = "set network.head_relu: false, or take another seed"
    raise ModelError(
        f"training: no logit differs between pixels in {state.flat} steps in a row by step {state.step}: the head "
        f"is dead and learns no more; {remedy}"
    )


def close_interval(state: TrainingState, spec: TrainSpec, validate: Validate | None, pace: Pace) -> bool:
    """Validate, add a row to the history, and keep the parameters if they are the best so far.

    If a stop is asked for meanwhile, nothing of this happens: False.
    """
    learned = {"learning_rate": rate(state, spec, state.step - 1), "loss": state.loss_sum / max(state.losses, 1)}
    scores = scored(state, spec, validate)
    row = from_first(None if scores is None else {"step": state.step, **learned, **scores})
    if row is None:
        return False
    state.history.append(row)
    state.loss_sum, state.losses = 0.0, 0
    # Among skipped steps, the training may be lost already: nothing to go back to.
    state.anchor = state.anchor if state.skipped else state.step
    if best_row(state.history, spec.best_by) == len(state.history) - 1:
        state.best = {name: value.detach().cpu().clone() for name, value in state.judged.state_dict().items()}
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "step")
    log.info("step %d of %d: %s; %s", state.step, spec.steps, numbers, pace.tell())
    return True


def scored(state: TrainingState, spec: TrainSpec, validate: Validate | None) -> dict[str, float] | None:
    """What validation gives, nothing without one; None if a stop was asked for meanwhile."""
    if validate is None:
        return {}
    state.judged.eval()
    # In the arithmetic in which it will predict, whatever that of the training.
    set_tensorfloat32(False)
    try:
        return validate(state.judged)
    except Interrupted:
        return None
    finally:
        set_tensorfloat32(spec.precision == "tensorfloat32")

"""The losses against their closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unetpipe.errors import AnnotationError, ModelError
from unetpipe.losses import (
    binary_cross_entropy,
    class_balance,
    cross_entropy,
    focal,
    loss,
    pixel_weights,
    soft_dice,
)

KINDS = ["cross_entropy", "binary_cross_entropy", "dice", "cross_entropy_dice", "focal"]
REDUCTIONS = ["sum", "mean", "weighted_mean"]
CASES = [
    (kind, channels, reduction)
    for kind, channels, reduction in itertools.product(KINDS, [1, 2, 3], REDUCTIONS)
    if not (kind == "binary_cross_entropy" and channels == 3)
]


def sample(channels: int = 3, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Random logits, classes with an ignored row, and weights."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, channels, 5, 7, generator=generator, dtype=dtype)
    truth = torch.randint(0, max(channels, 2), (2, 5, 7), generator=generator).to(torch.uint8)
    truth[:, 2] = 255
    return logits.requires_grad_(), truth, torch.rand(2, 5, 7, generator=generator) * 9


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_uniform_logits_cost_log_k_per_weight(classes: int) -> None:
    _, truth, weights = sample(classes)
    found = cross_entropy(torch.zeros(2, classes, 5, 7), truth, weights, reduction="sum")
    assert found.item() == pytest.approx(math.log(classes) * weights[truth != 255].sum().item(), rel=1e-6)


@pytest.mark.parametrize("kind", ["cross_entropy", "binary_cross_entropy"])
def test_one_logit_of_zero_costs_log_2_per_weight(kind: str) -> None:
    _, truth, weights = sample(1)
    found = loss(torch.zeros(2, 1, 5, 7), truth, weights, kind=kind, reduction="sum")
    assert found.item() == pytest.approx(math.log(2) * weights[truth != 255].sum().item(), rel=1e-6)


def test_gradient_is_weight_times_difference() -> None:
    logits, truth, weights = sample()
    cross_entropy(logits, truth, weights, reduction="sum").backward()
    onehot = torch.nn.functional.one_hot(torch.where(truth == 255, 0, truth).long(), 3).permute(0, 3, 1, 2)
    expected = torch.where(truth == 255, 0, weights)[:, None] * (logits.detach().softmax(1) - onehot)
    torch.testing.assert_close(logits.grad, expected, atol=1e-6, rtol=1e-5)


def test_binary_gradient_is_weight_times_difference() -> None:
    z, truth, weights = sample(1)
    binary_cross_entropy(z, truth, weights, reduction="sum").backward()
    expected = torch.where(truth == 255, 0, weights * (z.detach()[:, 0].sigmoid() - truth.float()))
    torch.testing.assert_close(z.grad[:, 0], expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("kind", "channels", "reduction"), CASES)
def test_gradients_are_those_of_the_finite_differences(kind: str, channels: int, reduction: str) -> None:
    logits, truth, weights = sample(channels, torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: loss(x, truth, weights.double(), kind=kind, reduction=reduction), logits, eps=1e-6, atol=1e-7
    )


@pytest.mark.parametrize(("kind", "channels", "reduction"), CASES)
def test_ignored_pixels_have_no_gradient_and_no_say(kind: str, channels: int, reduction: str) -> None:
    logits, truth, weights = sample(channels)
    found = loss(logits, truth, weights, kind=kind, reduction=reduction)
    found.backward()
    assert logits.grad[:, :, 2].abs().max() == 0
    assert logits.grad.abs().max() > 0
    other, elsewhere = logits.detach().clone(), weights.clone()
    other[:, :, 2], elsewhere[:, 2] = 50.0, 1e6
    assert torch.equal(loss(other, truth, elsewhere, kind=kind, reduction=reduction), found)


@pytest.mark.parametrize(("kind", "channels", "reduction"), CASES)
def test_all_ignored_is_zero_with_zero_gradient(kind: str, channels: int, reduction: str) -> None:
    logits, truth, weights = sample(channels)
    found = loss(logits, torch.full_like(truth, 255), weights, kind=kind, reduction=reduction)
    found.backward()
    assert found.item() == 0.0
    assert not logits.grad.any()


@pytest.mark.parametrize(("kind", "channels", "reduction"), CASES)
def test_one_logit_stands_for_a_pair(kind: str, channels: int, reduction: str) -> None:
    z, truth, weights = sample(1)
    pair = torch.cat([torch.zeros_like(z), z], dim=1)
    one, two = (loss(x, truth, weights, kind=kind, reduction=reduction) for x in (z, pair))
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("channels", [1, 2])
def test_binary_cross_entropy_is_the_softmax_of_the_pair(channels: int, reduction: str) -> None:
    logits, truth, weights = sample(channels)
    binary = binary_cross_entropy(logits, truth, weights, reduction=reduction)
    torch.testing.assert_close(binary, cross_entropy(logits, truth, weights, reduction=reduction))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_focal_without_focus_is_cross_entropy(reduction: str) -> None:
    logits, truth, weights = sample()
    plain = cross_entropy(logits, truth, weights, reduction=reduction)
    torch.testing.assert_close(focal(logits, truth, weights, reduction=reduction, gamma=0.0), plain)


def test_focal_by_hand() -> None:
    """Probabilities 3/4 and 1/4 of the true class: (1/4)^2 ln(4/3) + (3/4)^2 ln 4."""
    logits = torch.tensor([0.0, math.log(3.0)]).repeat(2, 1).T.reshape(1, 2, 1, 2)
    found = focal(logits, torch.tensor([[[1, 0]]], dtype=torch.uint8), torch.ones(1, 1, 2), reduction="sum")
    assert found.item() == pytest.approx(math.log(4 / 3) / 16 + 9 * math.log(4) / 16, rel=1e-6)


def test_reductions_differ_by_their_divisors() -> None:
    logits, truth, weights = sample()
    total, mean, weighted = (cross_entropy(logits, truth, weights, reduction=r).item() for r in REDUCTIONS)
    assert mean == pytest.approx(total / 70)
    assert weighted == pytest.approx(total / weights[truth != 255].sum().item())
    twice = cross_entropy(logits, truth, 2 * weights, reduction="weighted_mean").item()
    assert twice == pytest.approx(weighted)


def test_dice_by_hand() -> None:
    """Probability 3/4 of class 1 on pixels of class 1, 1 (weight 2) and 0.

    Class 1: 2 (0.75 + 1.5) + 1 = 5.5 over (3 + 3 + 1) = 7. Class 0: 2 * 0.25 + 1 = 1.5 over (1 + 1 + 1) = 3.
    """
    logits = torch.tensor([0.0, math.log(3.0)]).reshape(1, 2, 1, 1).expand(1, 2, 1, 3)
    truth = torch.tensor([[[1, 1, 0]]], dtype=torch.uint8)
    found = soft_dice(logits, truth, torch.tensor([[[1.0, 2.0, 1.0]]]), reduction="mean")
    assert found.item() == pytest.approx(((1 - 5.5 / 7) + (1 - 1.5 / 3)) / 2, rel=1e-6)


def test_dice_of_an_empty_mask_found_empty_is_zero() -> None:
    certain = torch.tensor([200.0, -200.0]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4).clone().requires_grad_()
    found = soft_dice(certain, torch.zeros(1, 4, 4, dtype=torch.uint8), torch.ones(1, 4, 4), reduction="mean")
    found.backward()
    assert found.item() == 0.0
    assert torch.isfinite(certain.grad).all()


def test_dice_is_taken_per_patch_and_summed_or_averaged() -> None:
    logits, truth, weights = sample()
    each = [soft_dice(logits[i : i + 1], truth[i : i + 1], weights[i : i + 1], reduction="mean") for i in range(2)]
    total, mean, weighted = (soft_dice(logits, truth, weights, reduction=r) for r in REDUCTIONS)
    torch.testing.assert_close(total, each[0] + each[1])
    torch.testing.assert_close(mean, (each[0] + each[1]) / 2)
    assert torch.equal(mean, weighted)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_sum_of_two_losses_is_their_sum(reduction: str) -> None:
    logits, truth, weights = sample()
    both, first, second = (
        loss(logits, truth, weights, kind=kind, reduction=reduction)
        for kind in ("cross_entropy_dice", "cross_entropy", "dice")
    )
    torch.testing.assert_close(both, first + second)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_computed_with_in_float32(kind: str) -> None:
    logits, truth, weights = sample(2)
    half = logits.detach().to(torch.bfloat16)
    found = loss(half, truth, weights, kind=kind, reduction="mean")
    assert found.dtype == torch.float32
    assert torch.equal(found, loss(half.float(), truth, weights, kind=kind, reduction="mean"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [-300.0, 300.0])
def test_extreme_logits_cost_finite_amounts(kind: str, size: float) -> None:
    _, truth, weights = sample(1)
    z = torch.full((2, 1, 5, 7), size, requires_grad=True)
    found = loss(z, truth, weights, kind=kind, reduction="mean")
    found.backward()
    assert torch.isfinite(found) and torch.isfinite(z.grad).all()


def test_binary_cross_entropy_refuses_more_classes() -> None:
    with pytest.raises(ModelError, match="expected logits of 1 or 2 channels, came 3"):
        binary_cross_entropy(*sample(3), reduction="mean")


def test_pixel_weights_by_hand() -> None:
    classes = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)
    separation = torch.tensor([[[9.0, 0.5, 9.0]]])
    found = pixel_weights(classes, separation, torch.tensor([0.75, 1.5]))
    assert found.tolist() == [[[9.75, 2.0, 0.0]]]


def test_balance_of_hand_worked_counts():
    np.testing.assert_allclose(class_balance(np.array([50, 50])), [1, 1])
    np.testing.assert_allclose(class_balance(np.array([60, 30, 10])), [100 / 180, 100 / 90, 100 / 30])
    np.testing.assert_allclose(class_balance(np.array([8, 0, 2])), [10 / 24, 0, 10 / 6])


@given(st.lists(st.integers(1, 2**60), min_size=1, max_size=8))
def test_balance_gives_every_class_the_same_share_and_a_mean_of_one(counts):
    shares = class_balance(np.array(counts)) * np.array(counts, dtype=float) / sum(counts)
    np.testing.assert_allclose(shares, 1 / len(counts))


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([0, 0], "at least one annotated pixel"),
        (np.array([], dtype=np.int64), "at least one annotated pixel"),
        ([3, -3], "none negative"),
        ([0.5, 0.5], "integers"),
    ],
)
def test_counts_that_do_not_fit_are_refused_in_one_line(counts, said):
    with pytest.raises(AnnotationError, match=said) as caught:
        class_balance(np.asarray(counts))
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 300

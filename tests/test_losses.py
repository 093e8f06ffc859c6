"""The loss against its closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unetpipe.errors import AnnotationError
from unetpipe.losses import class_balance, pixel_weights, weighted_cross_entropy


def sample(classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Random logits, classes with ignored pixels, and weights."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, 5, 7, generator=generator, dtype=torch.float32)
    truth = torch.randint(0, classes, (2, 5, 7), generator=generator).to(torch.uint8)
    truth[:, 2] = 255
    return logits.requires_grad_(), truth, torch.rand(2, 5, 7, generator=generator) * 9


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_uniform_logits_cost_log_k_per_weight(classes: int) -> None:
    _, truth, weights = sample(classes)
    loss = weighted_cross_entropy(torch.zeros(2, classes, 5, 7), truth, weights, reduction="sum")
    assert loss.item() == pytest.approx(math.log(classes) * weights[truth != 255].sum().item(), rel=1e-6)


def test_gradient_is_weight_times_difference() -> None:
    logits, truth, weights = sample()
    weighted_cross_entropy(logits, truth, weights, reduction="sum").backward()
    onehot = torch.nn.functional.one_hot(torch.where(truth == 255, 0, truth).long(), 3).permute(0, 3, 1, 2)
    expected = torch.where(truth == 255, 0, weights)[:, None] * (logits.detach().softmax(1) - onehot)
    torch.testing.assert_close(logits.grad, expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(logits.grad[:, :, 2], torch.zeros(2, 3, 7))


def test_reductions_differ_by_their_divisors() -> None:
    logits, truth, weights = sample()
    total, mean, weighted = (
        weighted_cross_entropy(logits, truth, weights, reduction=r).item() for r in ("sum", "mean", "weighted_mean")
    )
    assert mean == pytest.approx(total / 70)
    assert weighted == pytest.approx(total / weights[truth != 255].sum().item())
    twice = weighted_cross_entropy(logits, truth, 2 * weights, reduction="weighted_mean").item()
    assert twice == pytest.approx(weighted)


@pytest.mark.parametrize("reduction", ["sum", "mean", "weighted_mean"])
def test_all_ignored_is_zero_with_zero_gradient(reduction: str) -> None:
    logits, truth, weights = sample()
    loss = weighted_cross_entropy(logits, torch.full_like(truth, 255), weights, reduction=reduction)
    loss.backward()
    assert loss.item() == 0.0
    assert not logits.grad.any()


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

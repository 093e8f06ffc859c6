"""Losses on logits with a weight for every pixel, and the balance of classes that enters the weights.

A head of one channel z stands for the pair [0, z] of background and foreground. Half-precision logits are computed with
in float32. Pixels of class 255 are ignored: they cost nothing and get no gradient.
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from unetpipe.errors import AnnotationError, ModelError
from unetpipe.networks import class_logits
from unetpipe.specs import IGNORE

__all__ = [
    "binary_cross_entropy",
    "class_balance",
    "cross_entropy",
    "focal",
    "loss",
    "pixel_weights",
    "soft_dice",
]

Kind = Literal["cross_entropy", "binary_cross_entropy", "dice", "cross_entropy_dice", "focal"]
Reduction = Literal["sum", "mean", "weighted_mean"]

# Dice counts one pixel of weight 1 more in both its terms: empty against empty is then a perfect score.
SMOOTHING = 1.0


def loss(logits: Tensor, classes: Tensor, weights: Tensor, *, kind: Kind, reduction: Reduction) -> Tensor:
    """Loss of a batch of patches.

    Parameters
    ----------
    logits : (N, K, Y, X) or (N, 1, Y, X) float tensor
        The network's output.
    classes : (N, Y, X) uint8 tensor
        True classes; 255 = ignored.
    weights : (N, Y, X) float32 tensor
        Loss weight of each pixel, at least 0; not used where the class is ignored.
    kind : {"cross_entropy", "binary_cross_entropy", "dice", "cross_entropy_dice", "focal"}
        The functions below; cross_entropy_dice is the sum of the two.
    reduction : {"sum", "mean", "weighted_mean"}
        Sum of w*l as in the paper, that sum over the number of pixels, or over the sum of the weights. Dice is a ratio
        of sums: there, it is the sum or (for both others) the mean over the patches.

    Returns
    -------
    Tensor
        One number, at least 0; 0 if every pixel is ignored.

    Raises
    ------
    ModelError
        If binary cross-entropy meets more than two classes.

    Notes
    -----
    Under "sum" cross-entropy grows with the number of pixels and Dice does not: their sum balances the two under the
    other reductions only.

    Examples
    --------
    Two pixels with equal logits: cross-entropy ln 2 each, Dice as in `soft_dice`, 0.6931 + 0.3333:

    >>> logits, classes = torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]], dtype=torch.uint8)
    >>> round(loss(logits, classes, torch.ones(1, 1, 2), kind="cross_entropy_dice", reduction="mean").item(), 4)
    1.0265
    """
    if kind == "cross_entropy":
        return cross_entropy(logits, classes, weights, reduction=reduction)
    if kind == "binary_cross_entropy":
        return binary_cross_entropy(logits, classes, weights, reduction=reduction)
    if kind == "dice":
        return soft_dice(logits, classes, weights, reduction=reduction)
    if kind == "focal":
        return focal(logits, classes, weights, reduction=reduction)
    return cross_entropy(logits, classes, weights, reduction=reduction) + soft_dice(
        logits, classes, weights, reduction=reduction
    )


def cross_entropy(logits: Tensor, classes: Tensor, weights: Tensor, *, reduction: Reduction) -> Tensor:
    """Softmax cross-entropy, each pixel times its weight.

    Parameters
    ----------
    logits : (N, K, Y, X) or (N, 1, Y, X) float tensor
        The network's output.
    classes : (N, Y, X) uint8 tensor
        True classes; 255 = ignored.
    weights : (N, Y, X) float32 tensor
        Loss weight of each pixel, at least 0; not used where the class is ignored.
    reduction : {"sum", "mean", "weighted_mean"}
        Sum of w*l as in the paper, that sum over the number of pixels (ignored ones too), or over the sum of the
        weights.

    Returns
    -------
    Tensor
        One number; 0 if every pixel is ignored.

    Notes
    -----
    E = -sum_x w(x) log p_c(x)(x), with p the softmax over the K classes and c(x) the true class. The gradient with
    respect to the logits is w (p - onehot(c)) under "sum".

    References
    ----------
    Ronneberger, Fischer, Brox 2015, doi:10.1007/978-3-319-24574-4_28.

    Examples
    --------
    Two classes with equal logits cost ln 2 = 0.6931 per unit of weight:

    >>> logits, classes = torch.zeros(1, 2, 1, 2), torch.zeros(1, 1, 2, dtype=torch.uint8)
    >>> round(cross_entropy(logits, classes, torch.tensor([[[1.0, 3.0]]]), reduction="sum").item(), 4)
    2.7726
    """
    targets, weights = valid_targets(classes, weights)
    return reduced(-true_log_probabilities(logits, targets), weights, reduction)


def binary_cross_entropy(logits: Tensor, classes: Tensor, weights: Tensor, *, reduction: Reduction) -> Tensor:
    """Sigmoid cross-entropy of two classes, each pixel times its weight.

    Parameters
    ----------
    logits : (N, 1, Y, X) or (N, 2, Y, X) float tensor
        z; of two channels, z is the second minus the first.
    classes : (N, Y, X) uint8 tensor
        0, 1, or 255 = ignored.
    weights : (N, Y, X) float32 tensor
        Loss weight of each pixel, at least 0; not used where the class is ignored.
    reduction : {"sum", "mean", "weighted_mean"}
        As for `cross_entropy`.

    Returns
    -------
    Tensor
        One number; 0 if every pixel is ignored.

    Raises
    ------
    ModelError
        If there are more than two channels.

    Notes
    -----
    -log s for class 1 and -log(1 - s) for class 0, with s = 1 / (1 + exp(-z)): the softmax cross-entropy of [0, z].

    Examples
    --------
    z = ln 3, a probability of 3/4 for class 1, costs ln 4 = 1.3863 where class 0 is true:

    >>> z, classes = torch.tensor([[[[3.0]]]]).log(), torch.zeros(1, 1, 1, dtype=torch.uint8)
    >>> round(binary_cross_entropy(z, classes, torch.ones(1, 1, 1), reduction="sum").item(), 4)
    1.3863
    """
    if logits.shape[1] > 2:
        raise ModelError(
            f"binary cross-entropy: expected logits of 1 or 2 channels, came {logits.shape[1]}; use loss: cross_entropy"
        )
    z = class_logits(logits).diff(dim=1)[:, 0]
    targets, weights = valid_targets(classes, weights)
    losses = F.binary_cross_entropy_with_logits(z, targets.to(z.dtype), reduction="none")
    return reduced(losses, weights, reduction)


def focal(logits: Tensor, classes: Tensor, weights: Tensor, *, reduction: Reduction, gamma: float = 2.0) -> Tensor:
    """Focal loss: cross-entropy that counts pixels less, the surer they are.

    Parameters
    ----------
    logits : (N, K, Y, X) or (N, 1, Y, X) float tensor
        The network's output.
    classes : (N, Y, X) uint8 tensor
        True classes; 255 = ignored.
    weights : (N, Y, X) float32 tensor
        Loss weight of each pixel, at least 0; not used where the class is ignored.
    reduction : {"sum", "mean", "weighted_mean"}
        As for `cross_entropy`.
    gamma : float
        How much less, 0 or at least 1; 0 gives cross-entropy.

    Returns
    -------
    Tensor
        One number; 0 if every pixel is ignored.

    Notes
    -----
    -(1 - p_c)^gamma log p_c, with p the softmax and c the true class. The balance of classes is the weights' affair.

    References
    ----------
    Lin, Goyal, Girshick, He, Dollár 2017, doi:10.1109/ICCV.2017.324.

    Examples
    --------
    Two classes with equal logits cost 0.5^2 ln 2 = 0.1733 per unit of weight:

    >>> logits, classes = torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.uint8)
    >>> round(focal(logits, classes, torch.ones(1, 1, 1), reduction="sum").item(), 4)
    0.1733
    """
    targets, weights = valid_targets(classes, weights)
    log_p = true_log_probabilities(logits, targets)
    return reduced(-((-torch.expm1(log_p)) ** gamma) * log_p, weights, reduction)


def soft_dice(logits: Tensor, classes: Tensor, weights: Tensor, *, reduction: Reduction) -> Tensor:
    """One minus the Dice coefficient of probabilities, for each patch and class, background too.

    Parameters
    ----------
    logits : (N, K, Y, X) or (N, 1, Y, X) float tensor
        The network's output.
    classes : (N, Y, X) uint8 tensor
        True classes; 255 = ignored.
    weights : (N, Y, X) float32 tensor
        What each pixel counts in all sums, at least 0; not used where the class is ignored.
    reduction : {"sum", "mean", "weighted_mean"}
        The mean over the classes of a patch is summed over the patches, or averaged (both others).

    Returns
    -------
    Tensor
        One number, in [0, 1) if averaged; 0 if every pixel is ignored.

    Notes
    -----
    1 - (2 sum_x w p_k y_k + 1) / (sum_x w p_k + sum_x w y_k + 1) for class k, with p the softmax and y the truth as 0
    and 1. The two ones, a pixel of weight 1, define it where a class is absent: 0 if it is not predicted either.
    Weights that are all multiplied by one factor change nothing but the share of these ones.

    References
    ----------
    Milletari, Navab, Ahmadi 2016, doi:10.1109/3DV.2016.79, who square the terms of the divisor.

    Examples
    --------
    Two pixels, one of each class, with equal logits: 1 - (2 * 0.5 + 1) / (1 + 1 + 1) for each class:

    >>> logits, classes = torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]], dtype=torch.uint8)
    >>> round(soft_dice(logits, classes, torch.ones(1, 1, 2), reduction="mean").item(), 4)
    0.3333
    """
    targets, weights = valid_targets(classes, weights)
    probabilities = torch.softmax(class_logits(logits), dim=1)
    k = torch.arange(probabilities.shape[1], device=targets.device)[:, None, None]
    weights = weights[:, None]
    truth = (targets[:, None] == k) * weights
    common = (probabilities * truth).sum(dim=(2, 3))
    both = (probabilities * weights).sum(dim=(2, 3)) + truth.sum(dim=(2, 3))
    per_patch = (1 - (2 * common + SMOOTHING) / (both + SMOOTHING)).mean(dim=1)
    return per_patch.sum() if reduction == "sum" else per_patch.mean()


def valid_targets(classes: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(N, Y, X) class indices and weights, both 0 where ignored."""
    valid = classes != IGNORE
    return torch.where(valid, classes, 0).long(), torch.where(valid, weights, 0.0)


def true_log_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """(N, Y, X) log of the true class's softmax."""
    # gather and not nll_loss, which has no deterministic form for images on a GPU.
    return F.log_softmax(class_logits(logits), dim=1).gather(1, targets[:, None])[:, 0]


def reduced(losses: Tensor, weights: Tensor, reduction: Reduction) -> Tensor:
    """(N, Y, X) losses times weights to one number."""
    total = (losses * weights).sum()
    if reduction == "sum":
        return total
    if reduction == "mean":
        return total / weights.numel()
    return total / weights.sum().clamp(min=torch.finfo(torch.float32).tiny)


def pixel_weights(classes: Tensor, separation: Tensor, class_weights: Tensor) -> Tensor:
    """Loss weight of each pixel: w_c of its class plus the separation term; 0 where ignored.

    Parameters
    ----------
    classes : (N, Y, X) uint8 tensor
        True classes; 255 = ignored.
    separation : (N, Y, X) float32 tensor
        The separation term.
    class_weights : (K,) float32 tensor
        w_c of the whole training set.

    Returns
    -------
    (N, Y, X) float32 tensor
    """
    valid = classes != IGNORE
    return torch.where(valid, class_weights[torch.where(valid, classes, 0).long()] + separation, 0.0)


def class_balance(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weigh classes by their inverse frequency.

    Parameters
    ----------
    counts : (K,) integers
        Pixels per class over the whole training set, ignored ones left out, as from `labels.class_counts`.

    Returns
    -------
    (K,) float64
        Weight per class; 0 for a class without pixels, which no pixel will ever ask for.

    Raises
    ------
    AnnotationError
        If `counts` is not a (K,) array of integers, one is negative, or all are zero.

    Notes
    -----
    w(k) = N / (K N_k), with N_k pixels of class k, N of all, K classes. The mean over all pixels is 1 if every class
    occurs. Meant for counts of a whole training set, never of a patch.

    References
    ----------
    Ronneberger, Fischer, Brox 2015, doi:10.1007/978-3-319-24574-4_28; the normalisation is not given there.

    Examples
    --------
    >>> class_balance(np.array([75, 25]))
    array([0.66666667, 2.        ])
    """
    if counts.ndim != 1 or not np.issubdtype(counts.dtype, np.integer):
        raise AnnotationError(f"counts are of shape {counts.shape} and type {counts.dtype}: expected (K,) integers")
    total = sum(map(int, counts))
    if total == 0 or counts.min() < 0:
        raise AnnotationError(
            f"class counts are {counts.tolist()}: expected none negative and at least one annotated pixel; "
            "check the training annotations and their ignore value"
        )
    present = counts > 0
    weights = np.zeros(counts.shape, dtype=np.float64)
    weights[present] = total / (counts.size * counts[present].astype(np.float64))
    return weights

"""Loss on logits with a weight for every pixel, and the balance of classes that enters it."""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from unetpipe.errors import AnnotationError

__all__ = ["class_balance", "pixel_weights", "weighted_cross_entropy"]

IGNORED = 255


def weighted_cross_entropy(
    logits: Tensor, classes: Tensor, weights: Tensor, *, reduction: Literal["sum", "mean", "weighted_mean"]
) -> Tensor:
    """Softmax cross-entropy, each pixel times its weight.

    Parameters
    ----------
    logits : (N, K, Y, X) float tensor
        The network's output.
    classes : (N, Y, X) uint8 tensor
        True classes; 255 = ignored.
    weights : (N, Y, X) float32 tensor
        Loss weight of each pixel, at least 0; not used where the class is ignored.
    reduction : {"sum", "mean", "weighted_mean"}
        Sum of w*l as in the paper, that sum over the number of pixels, or over the sum of the weights.

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
    >>> round(weighted_cross_entropy(logits, classes, torch.tensor([[[1.0, 3.0]]]), reduction="sum").item(), 4)
    2.7726
    """
    valid = classes != IGNORED
    targets = torch.where(valid, classes, 0).long()
    weights = torch.where(valid, weights, 0.0)
    # gather and not nll_loss, which has no deterministic form for images on a GPU.
    losses = -F.log_softmax(logits.float(), dim=1).gather(1, targets[:, None])[:, 0]
    total = (losses * weights).sum()
    if reduction == "sum":
        return total
    divisor = weights.new_tensor(weights.numel()) if reduction == "mean" else weights.sum()
    return total / divisor.clamp(min=torch.finfo(torch.float32).tiny)


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
    valid = classes != IGNORED
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

"""Networks, one file per family, imported when one of its networks is built; and what their logits mean."""

import importlib
from typing import cast

import torch
from torch import Tensor, nn

from unetpipe.netspecs import NetworkSpec

__all__ = ["build_network", "class_logits"]


def build_network(spec: NetworkSpec, *, seed: int) -> nn.Module:
    """Build and initialise the network of a spec.

    Parameters
    ----------
    spec : NetworkSpec
        Family, form and sizes.
    seed : int
        Seed of the initial parameters.

    Returns
    -------
    nn.Module
        Takes (N, C, n, n) float32 and returns logits (N, L, m, m), L being the spec's `logit_channels`.

    Examples
    --------
    >>> from unetpipe.netspecs import KerasUnetSpec
    >>> network = build_network(KerasUnetSpec(depth=1, base_width=2), seed=1)
    >>> sum(p.numel() for p in network.parameters())
    469
    """
    family = importlib.import_module(f"unetpipe.networks.{spec.family}")
    return cast(nn.Module, family.build(spec, seed=seed))


def class_logits(logits: Tensor) -> Tensor:
    """One logit per class.

    Parameters
    ----------
    logits : (N, L, Y, X) float tensor
        Of a network: one per class, or a single one z for two classes.

    Returns
    -------
    (N, K, Y, X) tensor
        At least float32; z has become the pair [0, z], whose softmax is its sigmoid.

    Examples
    --------
    >>> class_logits(torch.full((1, 1, 1, 1), 3.0)).flatten().tolist()
    [0.0, 3.0]
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits

"""Networks, one file per family; the family's file is imported when one of its networks is built."""

import importlib
from typing import cast

from torch import nn

from unetpipe.netspecs import NetworkSpec

__all__ = ["build_network"]


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

"""Networks, one file per family; the family's file is imported when one of its networks is built."""

import importlib
from typing import cast

from torch import nn

from unetpipe.specs import UnetSpec

__all__ = ["build_network"]


def build_network(spec: UnetSpec, *, seed: int) -> nn.Module:
    """Build and initialise the network of a spec.

    Parameters
    ----------
    spec : UnetSpec
        Family and sizes.
    seed : int
        Seed of the initial parameters.

    Returns
    -------
    nn.Module
        Takes (N, C, n, n) float32 and returns logits (N, K, m, m).
    """
    family = importlib.import_module(f"unetpipe.networks.{spec.family}")
    return cast(nn.Module, family.build(spec, seed=seed))

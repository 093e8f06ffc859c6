"""The network as torch.compile builds it, where that works."""

import logging
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from unetpipe.footprint import is_out_of_memory

__all__ = ["compiled"]

log = logging.getLogger(__name__)


def compiled(
    network: nn.Module, image: Tensor, *, dtype: torch.dtype | None = None
) -> Callable[[Tensor], Tensor] | None:
    """A network's compiled form, tried on an image forward and backward.

    Parameters
    ----------
    network : nn.Module
        Stays as it is: the compiled form computes with its parameters and buffers, under their names.
    image : (N, C, n, n) float32 tensor
        Like all that will come; other sizes are compiled anew.
    dtype : torch.dtype, optional
        Of autocast; none if None.

    Returns
    -------
    callable or None
        Takes images and returns logits as the network does; None, with one warning, where it cannot be compiled, for
        want of a compiler as a rule.

    Notes
    -----
    Results differ from those of the plain network by rounding, and by other masks of dropout.
    """
    before = [buffer.clone() for buffer in network.buffers()]
    network.train()
    form: Callable[[Tensor], Tensor] | None = None
    try:
        with warnings.catch_warnings():
            # The compiler's own modules warn of each other.
            warnings.simplefilter("ignore")
            form = torch.compile(network, dynamic=False)
            with torch.autocast(image.device.type, dtype, enabled=dtype is not None):
                logits = form(image)
            logits.float().sum().backward()  # type: ignore[no-untyped-call]
    except (RuntimeError, ImportError, OSError) as error:
        # Without the compiler, it would run out all the same.
        if is_out_of_memory(error):
            raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        log.warning("compile: going on without: %s: %.150s", type(error).__name__, reason)
        form = None
    for buffer, value in zip(network.buffers(), before, strict=True):
        buffer.copy_(value)
    network.zero_grad(set_to_none=True)
    return form

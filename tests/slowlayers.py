"""Layers once more, slowly: scipy's correlation and numpy's sums in float64, on single images (C, Y, X)."""

import numpy as np
from numpy.typing import NDArray
from scipy.signal import correlate
from torch import Tensor, nn

Array = NDArray[np.float64]
State = dict[str, Tensor]


def values(state: State, name: str) -> Array:
    """A parameter in float64."""
    found: Array = state[name].detach().double().numpy()
    return found


def conv(image: Array, state: State, name: str, *, padding: int = 0, dilation: int = 1) -> Array:
    """A convolution, with a bias where there is one."""
    kernels = values(state, f"{name}.weight")
    side = (kernels.shape[-1] - 1) * dilation + 1
    spread = np.zeros((*kernels.shape[:2], side, side))
    spread[..., ::dilation, ::dilation] = kernels
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    out = np.stack([sum(correlate(c, k, mode="valid") for c, k in zip(padded, row, strict=True)) for row in spread])
    return out + values(state, f"{name}.bias")[:, None, None] if f"{name}.bias" in state else out


def norm(image: Array, state: State, name: str) -> Array:
    """A batch norm that has learned."""
    mean, variance, weight, bias = (
        values(state, f"{name}.{part}")[:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (image - mean) / np.sqrt(variance + nn.BatchNorm2d(1).eps) * weight + bias


def pool(image: Array, *, ceil: bool = False) -> Array:
    """The largest of each 2 x 2; a last row or column alone is dropped, or counts by itself."""
    height, width = (n + n % 2 if ceil else n - n % 2 for n in image.shape[1:])
    whole = np.full((len(image), height, width), -np.inf)
    part = image[:, :height, :width]
    whole[:, : part.shape[1], : part.shape[2]] = part
    return whole.reshape(len(image), height // 2, 2, width // 2, 2).max(axis=(2, 4))


def raised(image: Array, state: State, name: str) -> Array:
    """An up-convolution: each pixel becomes 2 x 2."""
    kernels = values(state, f"{name}.weight")
    out = np.einsum("cyx,ckij->kyixj", image, kernels)
    out = out.reshape(kernels.shape[1], 2 * image.shape[1], 2 * image.shape[2])
    return out + values(state, f"{name}.bias")[:, None, None]


def resized(image: Array, shape: tuple[int, ...], *, corners: bool) -> Array:
    """Bilinear, with corner pixels on corner pixels or with equal pixel edges."""
    along_y, along_x = (weights(n, m, corners=corners) for n, m in zip(image.shape[1:], shape, strict=True))
    return along_y @ image @ along_x.T


def weights(before: int, after: int, *, corners: bool) -> Array:
    """(after, before) shares of the pixels of a line in those of a longer one."""
    out = np.zeros((after, before))
    for i in range(after):
        at = i * (before - 1) / max(after - 1, 1) if corners else (i + 0.5) * before / after - 0.5
        at = min(max(at, 0), before - 1)
        low = min(int(at), before - 1)
        out[i, low] += 1 - (at - low)
        out[i, min(low + 1, before - 1)] += at - low
    return out


def relu(image: Array) -> Array:
    """What is above 0."""
    return np.maximum(image, 0)

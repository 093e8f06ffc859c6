"""Overlap-tile inference: every output pixel is computed once, and the result does not depend on the tiles.

Windows start on the network's stride counted from one origin, and are mirrored outside the image only. Tiles are mapped
by dask: while the network computes one, the next is read and the last is written.
"""

import os
import threading
from collections.abc import Callable, Iterable

import dask
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unetpipe.geometry import Box, NetGeometry, Tile, TileGrid, mirror

__all__ = ["choose_device", "predict_image", "predict_tiles", "read_window", "usable_threads"]

ReadBox = Callable[[Box], NDArray[np.float32]]
WriteTile = Callable[[Tile, NDArray[np.float32]], None]


def usable_threads(wanted: int) -> int:
    """The wanted number of threads, at most the processors this process may use."""
    return max(1, min(wanted, len(os.sched_getaffinity(0))))


def choose_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def read_window(read: ReadBox, shape: tuple[int, int], window: Box) -> NDArray[np.float32]:
    """Read a window that may reach outside the image, where the image is mirrored without repeating its edge.

    Parameters
    ----------
    read : callable
        Gives the (C, y, x) float32 pixels of a box inside the image.
    shape : (int, int)
        Height and width of the image in px.
    window : Box
        What is wanted, of any size and place.

    Returns
    -------
    (C, Y, X) float32 array
        The reflection is iterated where the image is smaller than the margin.
    """
    sources = [
        [mirror(i, size) for i in range(a, b)] for a, b, size in zip(window.start, window.stop, shape, strict=True)
    ]
    start = (min(sources[0]), min(sources[1]))
    inside = Box(start=start, stop=(max(sources[0]) + 1, max(sources[1]) + 1))
    pixels = read(inside)
    if inside == window:
        return pixels
    rows, columns = (np.array(s) - origin for s, origin in zip(sources, start, strict=True))
    return pixels[:, rows[:, None], columns]


def predict_tiles(
    network: nn.Module,
    tiles: Iterable[Tile],
    *,
    shape: tuple[int, int],
    read: ReadBox,
    write: WriteTile,
    device: torch.device,
    workers: int = 2,
) -> None:
    """Compute the class probabilities of every tile's core.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, on `device`; returns logits.
    tiles : iterable of Tile
        What is left to be done, in any order.
    shape : (int, int)
        Height and width of the image in px.
    read : callable
        Gives the normalised (C, y, x) float32 pixels of a box inside the image; called from several threads.
    write : callable
        Takes a tile and the (K, y, x) float32 probabilities of its core; called from one thread at a time.
    device : torch.device
        Where the network is.
    workers : int
        Tiles in flight; the network computes one at a time.

    Notes
    -----
    Plain mapping, one task per core: dask's own overlap makes 14 tasks per chunk and decodes each chunk several times.
    """
    computing, writing = threading.Lock(), threading.Lock()

    def run(tile: Tile) -> None:
        window = read_window(read, shape, tile.window)
        with computing:
            probabilities = probabilities_of(network, window, device)
        core = np.ascontiguousarray(probabilities[(slice(None), *tile.crop.slices)])
        with writing:
            write(tile, core)

    tasks = [dask.delayed(run)(tile) for tile in tiles]
    dask.compute(*tasks, scheduler="threads", num_workers=workers)


@torch.inference_mode()
def probabilities_of(network: nn.Module, window: NDArray[np.float32], device: torch.device) -> NDArray[np.float32]:
    """Softmax of the network's logits for one window: (C, n, n) -> (K, m, m)."""
    batch = torch.from_numpy(np.ascontiguousarray(window))[None].to(device, memory_format=torch.channels_last)
    logits = network(batch)
    probabilities: NDArray[np.float32] = torch.softmax(logits.float(), dim=1)[0].cpu().numpy()
    return probabilities


def predict_image(
    network: nn.Module, image: NDArray[np.float32], geometry: NetGeometry, *, core_side: int, device: torch.device
) -> NDArray[np.float32]:
    """Class probabilities of a whole image in memory, by the same tiles as `predict_tiles`.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, on `device`.
    image : (C, Y, X) float32 array
        Normalised intensities.
    geometry : NetGeometry
        The network's.
    core_side : int
        Side of a core in px, a multiple of the stride.
    device : torch.device
        Where the network is.

    Returns
    -------
    (K, Y, X) float32 array
        Probabilities in [0, 1] that sum to 1 over the classes.
    """
    shape = (image.shape[1], image.shape[2])
    grid = TileGrid(shape=shape, core_side=core_side, geometry=geometry)
    result: NDArray[np.float32] | None = None

    def write(tile: Tile, core: NDArray[np.float32]) -> None:
        nonlocal result
        if result is None:
            result = np.empty((core.shape[0], *shape), dtype=np.float32)
        result[(slice(None), *tile.core.slices)] = core

    predict_tiles(
        network, grid, shape=shape, read=lambda box: image[(slice(None), *box.slices)], write=write, device=device
    )
    assert result is not None
    return result

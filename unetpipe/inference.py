"""Overlap-tile inference: every output pixel is computed once, and the result does not depend on the tiles.

Windows start on the network's stride counted from one origin, and are mirrored outside the image only. Tiles are mapped
by dask: while the network computes one, the next is read and the last is written.
"""

import threading
from collections.abc import Callable, Iterable, Sequence

import dask
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unetpipe.geometry import Box, NetGeometry, TileGrid, mirror
from unetpipe.networks import class_logits
from unetpipe.symmetries import GROUPS, Symmetry, applied, undone

__all__ = ["predict_image", "predict_tiles", "read_window"]

ReadBox = Callable[[Box], NDArray[np.float32]]
WriteCore = Callable[[Box, NDArray[np.float32]], None]
Member = tuple[nn.Module, TileGrid]


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
    members: Sequence[Member],
    cores: Iterable[Box],
    *,
    read: ReadBox,
    write: WriteCore,
    device: torch.device,
    symmetries: Sequence[Symmetry] = GROUPS["none"],
    workers: int = 2,
) -> None:
    """Compute the class probabilities of every core.

    Parameters
    ----------
    members : sequence of (nn.Module, TileGrid)
        Networks in evaluation mode, on `device`, whose logits are one per class, or a single one for two classes; each
        with the grid of its own geometry over the image. Their probabilities are averaged.
    cores : iterable of Box
        What is left to be done, in any order.
    read : callable
        Gives the normalised (C, y, x) float32 pixels of a box inside the image; called from several threads.
    write : callable
        Takes a core and its (K, y, x) float32 probabilities; called from one thread at a time.
    device : torch.device
        Where the networks are.
    symmetries : sequence of (int, bool)
        Forms in which each network sees each window; their probabilities are averaged too.
    workers : int
        Cores in flight; one is computed at a time.

    Notes
    -----
    Plain mapping, one task per core: dask's own overlap makes 14 tasks per chunk and decodes each chunk several times.

    Windows are as long as their phase demands on both sides, so that turned and flipped ones pool in one phase too.
    """
    computing, writing = threading.Lock(), threading.Lock()

    def run(core: Box) -> None:
        tiles = [grid.tile_of(core) for _, grid in members]
        windows = {window: read_window(read, members[0][1].shape, window) for window in {t.window for t in tiles}}
        total: Tensor | None = None
        with computing:
            for (network, _), tile in zip(members, tiles, strict=True):
                for symmetry in symmetries:
                    found = probabilities_of(network, windows[tile.window], symmetry, device)
                    part = found[(slice(None), *tile.crop.slices)]
                    total = part if total is None else total + part
            assert total is not None
            mean = (total / (len(members) * len(symmetries))).cpu().numpy()
        with writing:
            write(core, np.ascontiguousarray(mean))

    tasks = [dask.delayed(run)(core) for core in cores]
    dask.compute(*tasks, scheduler="threads", num_workers=workers)


@torch.inference_mode()
def probabilities_of(
    network: nn.Module, window: NDArray[np.float32], symmetry: Symmetry, device: torch.device
) -> Tensor:
    """Probabilities of the classes for one window, seen in one form: (C, n, n) -> (K, m, m)."""
    batch = applied(torch.from_numpy(np.ascontiguousarray(window))[None], symmetry)
    logits = network(batch.to(device, memory_format=torch.channels_last))
    return undone(torch.softmax(class_logits(logits), dim=1)[0], symmetry)


def predict_image(
    network: nn.Module,
    image: NDArray[np.float32],
    geometry: NetGeometry,
    *,
    core_side: int,
    device: torch.device,
    symmetries: Sequence[Symmetry] = GROUPS["none"],
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
    symmetries : sequence of (int, bool)
        As in `predict_tiles`.

    Returns
    -------
    (K, Y, X) float32 array
        Probabilities in [0, 1] that sum to 1 over the classes.
    """
    shape = (image.shape[1], image.shape[2])
    grid = TileGrid(shape=shape, core_side=core_side, geometry=geometry)
    result: NDArray[np.float32] | None = None

    def write(core: Box, probabilities: NDArray[np.float32]) -> None:
        nonlocal result
        if result is None:
            result = np.empty((probabilities.shape[0], *shape), dtype=np.float32)
        result[(slice(None), *core.slices)] = probabilities

    predict_tiles(
        [(network, grid)],
        (tile.core for tile in grid),
        read=lambda box: image[(slice(None), *box.slices)],
        write=write,
        device=device,
        symmetries=symmetries,
    )
    assert result is not None
    return result

"""Overlap-tile inference: every output pixel is computed once, and the result does not depend on the tiles.

Windows start on the network's stride counted from one origin, and are mirrored outside the image only. Tiles are mapped
by dask: while the network computes one, the next is read and the last is written.

Notes
-----
Windows go through the network one by one. Tiles are as large as the memory allows, so that there is no stack of small
ones: an image that is smaller than a tile has one only, workers of a cluster get whole cores, networks of an ensemble
have parameters of their own, and validations take 512 px, for which the network of 2015 makes 0.5 TFLOP each. Turned
and flipped forms of a small window could be a batch; but on a processor, a batch gives other bits than its images one
by one (seen at 188 and 252 px, not at 700 px), and a window that is small enough for it is soon done.

Networks are not compiled as those in training may be: for a window of 700 px on a processor, torch.compile saves 4 % of
the time and takes a minute to begin with, and windows at the border of an image are of sizes of their own.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import dask.threaded
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unetpipe.devices import download, mark, seconds_between, upload
from unetpipe.errors import ModelError
from unetpipe.footprint import is_out_of_memory
from unetpipe.geometry import Box, NetGeometry, TileGrid
from unetpipe.mirroring import source_box, window_of
from unetpipe.networks import class_logits
from unetpipe.symmetries import GROUPS, Symmetry, applied, undone

__all__ = ["Forward", "Member", "predict_image", "predict_tiles", "source_boxes"]

ReadWindow: TypeAlias = Callable[[Box], NDArray[np.float32]]
WriteCore: TypeAlias = Callable[[Box, NDArray[Any]], None]
Member: TypeAlias = tuple[nn.Module, TileGrid]
Seen: TypeAlias = Tensor | NDArray[np.float32]

# A core is read, computed or written: one each at a time.
STAGES = 3


def source_boxes(forward: "Forward", cores: Iterable[Box]) -> Iterator[Box]:
    """What the windows of `predict_tiles` show of the image, in that order.

    Parameters
    ----------
    forward : Forward
        The networks.
    cores : iterable of Box
        As they are given to `predict_tiles`.

    Yields
    ------
    Box
        Inside the image.
    """
    shape = forward.members[0][1].shape

    @cache
    def spans(axis: int, first: int, last: int) -> list[tuple[int, int]]:
        """First and last row, or column, of what is read; cores share theirs with many others."""
        core = Box(start=(first, 0), stop=(last, 1)) if axis == 0 else Box(start=(0, first), stop=(1, last))
        boxes = [source_box(window, shape) for window in forward.windows(core)]
        return [(box.start[axis], box.stop[axis]) for box in boxes]

    for core in cores:
        (top, left), (bottom, right) = core.start, core.stop
        for (y0, y1), (x0, x1) in zip(spans(0, top, bottom), spans(1, left, right), strict=True):
            yield Box(start=(y0, x0), stop=(y1, x1))


@dataclass(slots=True, kw_only=True)
class Forward:
    """Networks that give the class probabilities of a core; where memory runs out, by smaller tiles from then on.

    Parameters
    ----------
    members : sequence of (nn.Module, TileGrid)
        Networks in evaluation mode, on `device`, whose logits are one per class, or a single one for two classes; each
        with the grid of its own geometry over the image. Their probabilities are averaged.
    device : torch.device
        Where the networks are.
    symmetries : sequence of (int, bool)
        Forms in which each network sees each window; their probabilities are averaged too.
    side : int
        Side of the largest tile in px; larger cores are computed in parts.
    dtype : torch.dtype, optional
        Half precision of the networks' convolutions; the probabilities are computed in float32 whatever it is.

    Notes
    -----
    Windows are as long as their phase demands on both sides, so that turned and flipped ones pool in one phase too.
    """

    members: Sequence[Member]
    device: torch.device
    symmetries: Sequence[Symmetry] = GROUPS["none"]
    side: int = 2**31
    dtype: torch.dtype | None = None

    def windows(self, core: Box) -> list[Box]:
        """What is read of the image, which it may reach out of, to compute a core: one window per geometry."""
        return [grid.tile_of(core).window for grid in dict.fromkeys(grid for _, grid in self.members)]

    def uploaded(self, windows: Mapping[Box, NDArray[np.float32]]) -> Mapping[Box, Seen]:
        """Windows on the device; as they came if its memory does not suffice for them, to go there part by part."""
        try:
            return {window: upload(pixels, self.device) for window, pixels in windows.items()}
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        return windows

    def finished(self, core: Box, windows: Mapping[Box, Seen], finish: Callable[[Tensor], Tensor]) -> Tensor:
        """What a function makes of the (K, y, x) float32 probabilities of a core, of its (C, n, m) windows.

        Raises
        ------
        ModelError
            If the memory does not even suffice for the smallest tile.
        """
        while True:
            try:
                return finish(self.in_parts(core, windows))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # Behind the handler: the error holds all tensors that it came through.
            nets = [grid.geometry for _, grid in self.members]
            stride, side = max(net.stride for net in nets), min(self.side, max(core.shape))
            half = side // 2 // stride * stride
            if half < stride or not all(net.tileable for net in nets):
                raise ModelError(
                    f"prediction: out of memory with tiles of {side} px, the smallest for this network; use a narrower "
                    "one (network.base_width or network.features), or run fewer jobs at once"
                )
            self.side = half
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def in_parts(self, core: Box, windows: Mapping[Box, Seen]) -> Tensor:
        """The probabilities of a core, tile by tile where it is larger than one."""
        if max(core.shape) <= self.side:
            return self.mean(core, core, windows)
        whole: Tensor | None = None
        for y in range(core.start[0], core.stop[0], self.side):
            for x in range(core.start[1], core.stop[1], self.side):
                stop = (min(y + self.side, core.stop[0]), min(x + self.side, core.stop[1]))
                part = Box(start=(y, x), stop=stop)
                found = self.mean(part, core, windows)
                whole = found.new_empty((found.shape[0], *core.shape)) if whole is None else whole
                whole[(slice(None), *part.relative_to(core.start).slices)] = found
        assert whole is not None
        return whole

    def mean(self, part: Box, core: Box, windows: Mapping[Box, Seen]) -> Tensor:
        """The probabilities of a part of a core, averaged over networks and forms."""
        total: Tensor | None = None
        for network, grid in self.members:
            window, tile = grid.tile_of(core).window, grid.tile_of(part)
            seen = windows[window][(slice(None), *tile.window.relative_to(window.start).slices)]
            seen = seen if isinstance(seen, Tensor) else upload(seen, self.device)
            for symmetry in self.symmetries:
                batch = applied(seen[None], symmetry).contiguous(memory_format=torch.channels_last)
                with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
                    logits = network(batch)
                found = undone(torch.softmax(class_logits(logits.float()), dim=1)[0], symmetry)
                found = found[(slice(None), *tile.crop.slices)]
                total = found if total is None else total + found
        assert total is not None
        return total / (len(self.members) * len(self.symmetries))


def predict_tiles(
    forward: Forward,
    cores: Sequence[Box],
    *,
    read: ReadWindow,
    write: WriteCore,
    finish: Callable[[Tensor], Tensor] = lambda probabilities: probabilities,
    watch: Callable[[Box, float], None] = lambda core, seconds: None,
) -> None:
    """Compute the class probabilities of every core.

    Parameters
    ----------
    forward : Forward
        The networks.
    cores : sequence of Box
        What is left to be done; done in this order.
    read : callable
        Gives the normalised (C, y, x) float32 pixels of a window, as `read_window` mirrors them; called from one thread
        at a time.
    write : callable
        Takes a core and what `finish` has made of its probabilities; called from one thread at a time.
    finish : callable
        Called with the (K, y, x) float32 probabilities of a core, where the networks are.
    watch : callable
        Called behind `write` with each core and the seconds for which it was computed.

    Notes
    -----
    Plain mapping, one task per core: dask's own overlap makes 14 tasks per chunk and decodes each chunk several times.
    A task that has read waits for the networks without letting another one read, and so on, so that one core at most
    waits before each stage.
    """
    reading, computing, writing = (threading.Lock() for _ in range(STAGES))
    failed, order = threading.Event(), iter(cores)

    def run() -> None:
        held, is_done = handed(None, reading), False
        try:
            if failed.is_set():
                return
            # Tasks begin in any order; cores in theirs, because neighbours share what is decoded.
            core = next(order)
            pixels = {window: read(window) for window in forward.windows(core)}
            windows = forward.uploaded(pixels)
            held = handed(held, computing)
            begun = mark(forward.device)
            with torch.inference_mode():
                fetch = download(forward.finished(core, windows, finish))
            ended = mark(forward.device)
            del windows, pixels
            held = handed(held, writing)
            if not failed.is_set():
                write(core, fetch())
                watch(core, seconds_between(begun, ended))
            is_done = True
        finally:
            # The others stop where they are, so that whoever waits for the end need not wait for them, too.
            if not is_done:
                failed.set()
            held.release()

    with ThreadPoolExecutor(STAGES, thread_name_prefix="cores") as pool:
        graph = {f"core-{number}": (run,) for number in range(len(cores))}
        dask.threaded.get(graph, list(graph), pool=pool)


def handed(held: "threading.Lock | None", wanted: threading.Lock) -> threading.Lock:
    """The wanted lock, as soon as it is free; until then the one that is held stays so."""
    wanted.acquire()
    if held is not None:
        held.release()
    return wanted


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
        As in `Forward`.

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
        Forward(members=[(network, grid)], device=device, symmetries=symmetries),
        [tile.core for tile in grid],
        read=lambda window: window_of(image, window),
        write=write,
    )
    assert result is not None
    return result

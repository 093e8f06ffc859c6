"""Windows that overlap, read with every chunk decoded once: a chunk waits in memory for the last box that meets it."""

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from unetpipe.geometry import Box
from unetpipe.mirroring import read_window
from unetpipe.shards import FAULTS, ShardTable, helper_threads, in_threads
from unetpipe.slides import Plane

__all__ = ["SharedReader"]

# Row and column of a chunk.
Place: TypeAlias = tuple[int, int]

# Chunks smaller than this are read in blocks of several.
LEAST_SIDE = 256


class SharedReader:
    """Reads windows of a plane that are known beforehand.

    Parameters
    ----------
    plane : Plane
        What is read.
    boxes : iterable of Box
        Inside the plane: all that will be read, each as often as it will be. Best read in raster order.
    most_bytes : int
        Bytes of decoded chunks that may wait; what finds no place is decoded again.

    Attributes
    ----------
    decoded : int
        Chunks that were decoded so far.

    Notes
    -----
    A row of windows shares with the next one the chunks in which they overlap: for windows of depth 4 on an RGB slide
    of 65,536 px width, two rows of chunks of 256 px, 101 MB. Where they would exceed `most_bytes`, they are decoded
    once more.

    Called from one thread at a time.
    """

    def __init__(self, plane: Plane, boxes: Iterable[Box], *, most_bytes: int) -> None:
        self.plane = plane
        self.side = tuple(-(-LEAST_SIDE // n) * n for n in plane.chunk_shape)
        # Else by way of `Plane.read`, to boxes of other sizes at the border.
        self.is_direct = plane.is_own and self.side == plane.chunk_shape
        self.uses = np.zeros([-(-n // side) for n, side in zip(plane.shape, self.side, strict=True)], np.int32)
        for box in boxes:
            self.uses[self.met(box)] += 1
        self.most_bytes = most_bytes
        self.decoded = self.bytes = 0
        self.waiting: dict[Place, NDArray[Any]] = {}
        self.free: list[NDArray[Any]] = []
        self.tables: dict[Place, ShardTable] = {}
        self.pool = helper_threads()

    def met(self, box: Box) -> tuple[slice, slice]:
        """Rows and columns of the chunks that meet a box."""
        (y0, x0), (y1, x1), (height, width) = box.start, box.stop, self.side
        return slice(y0 // height, -(-y1 // height)), slice(x0 // width, -(-x1 // width))

    def read(self, window: Box) -> NDArray[Any]:
        """The pixels of a window, mirrored outside the plane.

        Parameters
        ----------
        window : Box
            One whose pixels, as `source_box` gives them, are among the boxes.

        Raises
        ------
        StoreError
            If a chunk is damaged.
        """
        return read_window(self.fill, window, self.plane.array.shape, self.plane.dtype)

    def fill(self, box: Box, out: NDArray[Any]) -> None:
        """Put the pixels of a box into an array."""
        rows, columns = self.met(box)
        places = [(y, x) for y in range(rows.start, rows.stop) for x in range(columns.start, columns.stop)]

        def copy(place: Place) -> None:
            chunk = self.waiting.get(place)
            if chunk is None:
                chunk = new[place] = self.decode(place)
            # In plain numbers: thousands of boxes would take as long as copying pixels.
            at = place[0] * self.side[0], place[1] * self.side[1]
            y0, x0 = max(box.start[0], at[0]), max(box.start[1], at[1])
            y1, x1 = min(box.stop[0], at[0] + self.side[0]), min(box.stop[1], at[1] + self.side[1])
            met = chunk[..., y0 - at[0] : y1 - at[0], x0 - at[1] : x1 - at[1]]
            out[..., y0 - box.start[0] : y1 - box.start[0], x0 - box.start[1] : x1 - box.start[1]] = met

        new: dict[Place, NDArray[Any]] = {}
        in_threads(copy, places, self.pool)
        self.decoded += len(new)
        self.keep(places, new)

    def decode(self, place: Place) -> NDArray[Any]:
        """The pixels of a chunk, which may reach beyond the plane."""
        box = self.chunk_box(place)
        if not self.is_direct:
            return self.plane.read(box)
        try:
            chunk = self.free.pop()
        except IndexError:
            chunk = self.plane.new_chunk()
        try:
            self.plane.read_chunk(place, self.tables, chunk)
        except FAULTS as error:
            raise self.plane.damage(box, error) from None
        return chunk

    def chunk_box(self, place: Place) -> Box:
        """The box of a chunk."""
        (y, x), (height, width) = place, self.side
        whole = Box(start=(y * height, x * width), stop=((y + 1) * height, (x + 1) * width))
        return whole.clipped(self.plane.shape)

    def keep(self, places: list[Place], new: dict[Place, NDArray[Any]]) -> None:
        """Keep new chunks that other boxes need, if there is room; the memory of the others is used again."""
        left = []
        for place in places:
            self.uses[place] -= 1
            if self.uses[place] <= 0 and place in self.waiting:
                left.append(self.waiting.pop(place))
                self.bytes -= left[-1].nbytes
        for place, chunk in new.items():
            if self.uses[place] > 0 and self.bytes + chunk.nbytes <= self.most_bytes:
                self.waiting[place] = chunk
                self.bytes += chunk.nbytes
            else:
                left.append(chunk)
        if self.is_direct:
            self.free += left

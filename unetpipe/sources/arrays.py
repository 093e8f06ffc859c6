"""Zarr folders (OME-Zarr 0.4 and 0.5, plain arrays) and NumPy files as sources."""

import ast
import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from unetpipe.geometry import Box
from unetpipe.sources.bounds import COMPRESSORS, BoundedStore
from unetpipe.sources.files import source_files
from unetpipe.sources.ngff import StoredArray, chunk_codecs, stored_array
from unetpipe.sources.refusals import (
    DECODE_LIMIT,
    check_box,
    check_cost,
    check_declared_size,
    check_level,
    chosen_plane,
    damage_reported,
    refusal,
)

__all__ = ["ArraySource", "likely_axes"]

_KINDS = ("b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")
_MOST_CHANNELS = 4
_NPY_HEADER_LIMIT = 10_000
# Codecs that hold more of a chunk than once.
_COPYING = ("gzip", "zlib", "bz2", "lzma", "delta", "shuffle", "transpose")
_KEPT_BYTES = 64 * 2**20
# Zarr decodes ten chunks at once.
_LARGE_COST = DECODE_LIMIT // 32


def likely_axes(shape: Sequence[int]) -> tuple[str, ...]:
    """Axes of an array that does not name them.

    Parameters
    ----------
    shape : sequence of int
        Its shape.

    Returns
    -------
    tuple of str
        y and x; a last axis of at most 4 is the channel, else an axis of at most 4 in front of y and x; all other
        axes, in front, count planes.

    Examples
    --------
    >>> likely_axes((512, 700, 3)), likely_axes((2, 512, 700)), likely_axes((24, 512, 700))
    (('y', 'x', 'c'), ('c', 'y', 'x'), ('i', 'y', 'x'))
    """
    inner: tuple[str, ...] = ("y", "x")
    if len(shape) > 2 and shape[-1] <= _MOST_CHANNELS:
        inner = ("y", "x", "c")
    elif len(shape) > 2 and shape[-3] <= _MOST_CHANNELS:
        inner = ("c", "y", "x")
    return ("i",) * (len(shape) - len(inner)) + inner


def _npy_header(file: BinaryIO) -> dict[str, Any]:
    """The dictionary at the start of a .npy file, as numpy.lib.format describes it."""
    start = file.read(12)
    width = 2 if start[6:7] == b"\1" else 4
    length = int.from_bytes(start[8 : 8 + width], "little")
    if length > _NPY_HEADER_LIMIT:
        raise ValueError(f"its header declares {length} bytes")
    file.seek(8 + width)
    header = ast.literal_eval(file.read(length).decode("utf-8" if start[6:7] == b"\3" else "latin-1"))
    if not isinstance(header["shape"], tuple) or not all(isinstance(n, int) for n in header["shape"]):
        raise ValueError(f"it declares the shape {header['shape']!r:.40}")
    return dict(header)


class _NpyArray:
    """A .npy file read run by run; it is not mapped, since a mapped file that shrinks kills the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            header = _npy_header(file)
            self.offset = file.tell()
        columns_first, self.dtype = header["fortran_order"], np.dtype(header["descr"])
        shape = self.shape = tuple(header["shape"])
        self.pieces = (1,) * len(shape)
        self.axes = likely_axes(shape)
        self.order = -1 if columns_first else 1
        self.stored: tuple[int, ...] = self.shape[:: self.order]
        axes = self.axes[:: self.order]
        self.depth = max(axes.index("y"), axes.index("x")) if len(axes) == len(shape) else 0
        declared, found = math.prod(self.shape) * self.dtype.itemsize, path.stat().st_size - self.offset
        if found < declared:
            raise ValueError(f"truncated: it declares {declared} bytes of pixels and has {found}")

    def __getitem__(self, index: tuple[Any, ...]) -> NDArray[Any]:
        """Pixels by one integer or slice per axis; the second of y and x, and what follows, is read in one run."""
        stored = index[:: self.order]
        outer, inner = stored[: self.depth], stored[self.depth :]
        steps = [range(n)[i] if isinstance(i, slice) else (i,) for i, n in zip(outer, self.stored, strict=False)]
        with self.path.open("rb") as file:
            runs = np.stack([self._run(file, at, inner) for at in product(*steps)])
        sizes = [len(step) for step, i in zip(steps, outer, strict=True) if isinstance(i, slice)]
        pixels = runs.reshape(*sizes, *runs.shape[1:])
        return pixels.T if self.order < 0 else pixels

    def _run(self, file: BinaryIO, at: tuple[int, ...], inner: tuple[Any, ...]) -> NDArray[Any]:
        """The pixels of one row."""
        behind = self.stored[len(at) + 1 :]
        first = int(np.ravel_multi_index((*at, inner[0].start), self.stored[: len(at) + 1])) * math.prod(behind)
        nbytes = (inner[0].stop - inner[0].start) * math.prod(behind) * self.dtype.itemsize
        file.seek(self.offset + first * self.dtype.itemsize)
        data = file.read(nbytes)
        if len(data) < nbytes:
            raise ValueError("the file has shrunk")
        pixels: NDArray[Any] = np.frombuffer(data, self.dtype).reshape(-1, *behind)
        return pixels[(slice(None), *inner[1:])]


class _ZarrArray:
    """One plane of a Zarr array; chunks that are large or that a box cuts are decoded one by one and kept for the next.

    Kept are 64 MiB, or what meets one row of the image if that is more, at most 512 MiB together with what it takes to
    decode the next chunk.
    """

    def __init__(self, array: Any, axes: tuple[str, ...], cost: int) -> None:
        self.array, self.axes, self.cost = array, axes, cost
        self.shape, self.dtype = array.shape, array.dtype
        self.pieces = array.chunks
        self.kept: OrderedDict[tuple[int, ...], NDArray[Any]] = OrderedDict()

    def __getitem__(self, index: tuple[Any, ...]) -> NDArray[Any]:
        """Pixels by one integer or slice per axis."""
        spans = [(i.start, i.stop) if isinstance(i, slice) else (i, i + 1) for i in index]
        sides = list(zip(index, spans, self.array.chunks, self.shape, strict=True))
        is_cut = any(a % c or (b % c and b < n) for i, (a, b), c, n in sides if isinstance(i, slice))
        if not is_cut and self.cost <= _LARGE_COST:
            return np.asarray(self.array[index])
        out = np.empty([b - a for i, (a, b) in zip(index, spans, strict=True) if isinstance(i, slice)], self.dtype)
        for place in product(*(range(a // c, -(-b // c)) for _, (a, b), c, _ in sides)):
            into, part, whole = [], [], []
            for k, (i, (a, b), c, n) in zip(place, sides, strict=True):
                start, stop = k * c, min(k * c + c, n)
                whole.append(slice(start, stop) if isinstance(i, slice) else i)
                if isinstance(i, slice):
                    into.append(slice(max(a, start) - a, min(b, stop) - a))
                    part.append(slice(max(a, start) - start, min(b, stop) - start))
            out[tuple(into)] = self._chunk(place, tuple(whole))[tuple(part)]
        return out

    def _chunk(self, place: tuple[int, ...], whole: tuple[Any, ...]) -> NDArray[Any]:
        """What a chunk holds of the plane, from memory or decoded."""
        if place in self.kept:
            self.kept.move_to_end(place)
            return self.kept[place]
        sides = zip(self.axes, self.shape, self.array.chunks, strict=True)
        row = math.prod(-(-n // c) for name, n, c in sides if name in "cx")
        limit = max(_KEPT_BYTES, min(DECODE_LIMIT, (row + 1) * self.cost))
        # Room is made before it is needed.
        while self.kept and sum(kept.nbytes for kept in self.kept.values()) + self.cost > limit:
            self.kept.popitem(last=False)
        self.kept[place] = np.asarray(self.array[whole])
        return self.kept[place]


def _open_zarr(path: Path, found: StoredArray) -> _ZarrArray:
    """The array, after a look at what reading it would cost."""
    # Before anything is opened: who opens a pipe waits for ever.
    sizes = [file.stat().st_size for file in source_files(found.folder).values() if file.name[0] not in ".z"]
    array = zarr.open_array(store=str(found.folder), mode="r")
    stored = sum(sizes)
    if not stored:
        raise refusal(path, "holds no pixels: an unfinished or incomplete copy")
    check_declared_size(path, declared=math.prod(array.shape) * array.dtype.itemsize, stored=stored)
    # A shard is decoded chunk by chunk, but its index at once, 16 bytes for each.
    per_shard = math.prod(-(-s // c) for s, c in zip(array.shards, array.chunks, strict=True)) if array.shards else 0
    names = chunk_codecs(found.folder)
    decoded = math.prod(array.chunks) * array.dtype.itemsize
    # Differences may be stored in a wider type.
    widest = math.prod(array.chunks) * 8 if "delta" in names else decoded
    what = f"has chunks of {array.chunks} px; write smaller ones"
    held = min(max(sizes), decoded) + 3 * 16 * per_shard + widest - decoded
    # As measured: one for the chunk, one for the part of it that is wanted, which may be all.
    factor = 2.0 + sum(name in _COPYING for name in names) / 2
    check_cost(path, what, decoded=decoded, stored=held, factor=factor)
    # No codec makes much more of a chunk than it was; what is longer would be decoded before it is found wrong.
    most = 2 * math.prod(array.shards or array.chunks) * array.dtype.itemsize + 32 * per_shard + 2**16
    if max(sizes) > most:
        raise refusal(
            path, f"has a chunk of {max(sizes)} bytes, which may hold {most} at most: a damaged or hostile one"
        )
    store = BoundedStore(
        LocalStore(found.folder, read_only=True),
        [name for name in names if name in COMPRESSORS],
        widest,
        per_shard,
    )
    axes = found.axes or likely_axes(array.shape)
    return _ZarrArray(zarr.open_array(store=store, mode="r"), axes, round(factor * decoded) + held)


class ArraySource:
    """One plane of a Zarr array or of a .npy file as a source.

    Parameters
    ----------
    path : Path
        A folder (see `stored_array`) or a .npy file. Axes that nothing names are taken by `likely_axes`.
    plane : int, optional
        Which one through all axes but channel, y and x, the last of them fastest; needed where there are several.
    level : int
        Which level of an OME-Zarr, 0 the finest.

    Raises
    ------
    SourceError
        If it is damaged, hostile, truncated or without pixels, holds what is not read, or has several planes and none
        is named.

    Attributes
    ----------
    folder : Path or None
        The array's folder; None for a .npy file.
    axes : tuple of str
        Names of its axes.
    fixed : dict of int to int
        Position on each axis but channel, y and x.
    stored_dtype : numpy.dtype
        Type of the stored values, byte order included.

    Notes
    -----
    Chunks that are not stored have the array's fill value, as the format has it: writers leave out what is empty.
    Chunks of a Zarr array are kept while boxes that follow each other need them, so that each is decoded about once.
    """

    def __init__(self, path: Path, *, plane: int | None, level: int) -> None:
        self.path = path
        with damage_reported(path):
            self.folder: Path | None = None
            if path.is_dir():
                found = stored_array(path, level)
                self.folder = found.folder
                self._array: Any = _open_zarr(path, found)
                self.pixel_sides_um, names, shapes = found.pixel_sides_um, found.channel_names, found.shapes
            else:
                self._array, names, shapes = _NpyArray(path), (), ()
                self.pixel_sides_um = None
            self._describe(self._array.axes, plane)
            self._shapes = shapes or (tuple(self._array.shape),)
            check_level(path, self.levels, level)
        self.channel_names = names if any(names) and len(names) == self.channels else ()

    @property
    def levels(self) -> list[tuple[int, int]]:
        """Height and width of each level in px; see `unetpipe.sources.Source`."""
        y, x = (self.axes.index(name) for name in "yx")
        return [(shape[y], shape[x]) for shape in self._shapes]

    def _describe(self, axes: tuple[str, ...], plane: int | None) -> None:
        """Facts from shape and axes, held against what is read."""
        sizes, dtype = tuple(self._array.shape), np.dtype(self._array.dtype)
        if dtype.str[1:] not in _KINDS:
            raise refusal(self.path, f"holds {dtype} values; expected bool, integers or floats of up to 64 bits")
        if len(axes) != len(sizes) or any(axes.count(name) != 1 for name in "yx") or axes.count("c") > 1:
            raise refusal(
                self.path, f"has the axes {', '.join(axes)} of sizes {sizes}; expected y, x and at most one c"
            )
        if min(sizes) < 1:
            raise refusal(self.path, f"declares an array of {sizes}: no pixels")
        counted = [(name, n) for name, n in zip(axes, sizes, strict=True) if name not in ("c", "y", "x")]
        self.plane_axes = tuple(("images" if name == "i" else name, n) for name, n in counted)
        number = chosen_plane(self.path, self.plane_axes, plane)
        at = np.unravel_index(number, [n for _, n in counted]) if counted else ()
        planar = [k for k, name in enumerate(axes) if name not in ("c", "y", "x")]
        self.axes, self.fixed = axes, {k: int(i) for k, i in zip(planar, at, strict=True)}
        self.stored_dtype = dtype
        self.shape = (sizes[axes.index("y")], sizes[axes.index("x")])
        self.channels = sizes[axes.index("c")] if "c" in axes else 1
        self.row_by_row = self._array.pieces[axes.index("x")] >= self.shape[1]
        kept: dict[str, Any] = {"b1": np.uint8, "f2": np.float32}
        self.dtype: np.dtype[Any] = np.dtype(kept.get(dtype.str[1:], dtype.newbyteorder("=")))

    def read(self, box: Box) -> NDArray[Any]:
        """Pixels of a box, (C, Y, X); see `unetpipe.sources.Source`."""
        check_box(box, self.shape)
        if self._array is None:
            raise refusal(self.path, "is closed")
        out = np.empty((self.channels, *box.shape), self.dtype)
        if not out.size:
            return out
        ranges = {"y": box.slices[0], "x": box.slices[1], "c": slice(0, self.channels)}
        index = tuple(self.fixed.get(k, ranges.get(name)) for k, name in enumerate(self.axes))
        free = [name for name in self.axes if name in ranges]
        with damage_reported(self.path):
            block = np.asarray(self._array[index])
            out[:] = block.transpose([free.index(name) for name in "cyx" if name in free])
        return out

    def close(self) -> None:
        """Let go of the array."""
        self._array = None

    def __enter__(self) -> "ArraySource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""What an unfinished stage has found out core by core, so that a restart reads what was computed; and its progress."""

import hashlib
import io
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.geometry import Box
from unetpipe.manifests import write_file
from unetpipe.progress import TileProgress
from unetpipe.signals import stop_if_asked

__all__ = ["Unfinished"]

Arrays = Mapping[str, NDArray[Any]]

_DIGEST_BYTES = hashlib.sha256().digest_size

log = logging.getLogger(__name__)


class Unfinished:
    """Arrays of cores, in small durable files that tell when they are damaged.

    Parameters
    ----------
    folder : Path
        For these files, in the stage's store: so that it is emptied with it, where the work is another.
    progress : TileProgress
        Is told of each core, for each turn over all cores.
    turns : int
        How often the stage goes over the image, at least 1.
    """

    def __init__(self, folder: Path, progress: TileProgress, *, turns: int) -> None:
        self.folder, self.progress, self.turns = folder, progress, turns

    def each(self, name: str, cores: Iterable[Box], make: Callable[[Box], Arrays]) -> Iterator[dict[str, NDArray[Any]]]:
        """Find out something of each core, in turn: kept ones are read, others are made and kept.

        Parameters
        ----------
        name : str
            Of what is found out; a folder.
        cores : iterable of Box
            No two of them begin in the same place.
        make : callable
            From a core to its arrays, the same ones each time.

        Yields
        ------
        dict of str to array

        Raises
        ------
        Interrupted
            If a stop was asked for, between two cores.
        """
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        for core in cores:
            path = self.folder / name / "-".join(map(str, core.start))
            arrays = kept(path)
            is_new = arrays is None
            if arrays is None:
                arrays = dict(make(core))
                keep(path, arrays)
            self.passed(core, is_new=is_new)
            yield arrays

    def passed(self, core: Box, *, is_new: bool) -> None:
        """Take note that a core is durable, computed just now or before.

        Raises
        ------
        Interrupted
            If a stop was asked for.
        """
        if is_new:
            self.progress.show(core.shape[0] * core.shape[1] // self.turns)
        else:
            self.progress.skip()
        stop_if_asked()

    def remove(self) -> None:
        """Forget all cores: what they were kept for is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)


def keep(path: Path, arrays: Arrays) -> None:
    """Write arrays durably, behind the SHA-256 of all that follows."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    content = buffer.getvalue()
    write_file(path, hashlib.sha256(content).digest() + content)


def kept(path: Path) -> dict[str, NDArray[Any]] | None:
    """The arrays of a file; None where it is not there, or damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(content[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
        log.warning("%s: damaged; computing it again", path)
        return None
    with np.load(io.BytesIO(content[_DIGEST_BYTES:])) as file:
        return dict(file)

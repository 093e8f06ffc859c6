"""Label images on disk: a plane of labels becomes a pyramid that viewers open."""

from itertools import pairwise
from typing import Any

from numpy.typing import NDArray

from unetpipe.geometry import Box
from unetpipe.ledgers import Ledger
from unetpipe.multiscales import write_multiscale
from unetpipe.pyramids import level_shapes, nearest
from unetpipe.slides import Plane, create_plane

__all__ = ["write_label_pyramid"]


def write_label_pyramid(plane: Plane, ledger: Ledger, name: str, keys: dict[str, Any]) -> None:
    """Write the coarser levels of a label image, shard by shard, and its metadata.

    Parameters
    ----------
    plane : Plane
        The labels, (Y, X), of any integer type: level 0, at ``name/0`` in the ledger's store.
    ledger : Ledger
        Takes each shard as a unit; those that it has are not written again.
    name : str
        Folder of the pyramid in the store.
    keys : dict
        What else `write_multiscale` is to say: pixel size, factor, number of classes.

    Notes
    -----
    A coarse pixel has the label of the first of its 2 x 2 px, so that no label is invented.
    """
    group, shapes = ledger.store / name, level_shapes(plane.shape)
    coarse = [create_plane(group / str(i), shape=shape, dtype=plane.dtype) for i, shape in enumerate(shapes) if i]
    for finer, coarser in pairwise([plane, *coarse]):
        for unit, box in coarser.iter_shards():
            if f"{name}/{unit}" not in ledger:
                ledger.append(f"{name}/{unit}", coarser.write_shard(box, coarser_block(finer, box)))
    write_multiscale(group, name=name, shapes=list(shapes), centred=False, label=True, **keys)


def coarser_block(finer: Plane, box: Box) -> NDArray[Any]:
    """The labels of a box in the next coarser level, made of the finer one."""
    start, stop = (box.start[0] * 2, box.start[1] * 2), (box.stop[0] * 2, box.stop[1] * 2)
    return nearest(finer.read(Box(start=start, stop=stop).clipped(finer.shape)))

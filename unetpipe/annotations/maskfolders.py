"""Folders of one binary mask per object, as in the Data Science Bowl 2018: ``ID/images/ID.png``, ``ID/masks/*.png``."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from unetpipe.annotations.maps import MapTruth, check_size
from unetpipe.annotations.shapes import Shape, refused
from unetpipe.geometry import Box
from unetpipe.polygons import rectangles
from unetpipe.sources.files import source_files
from unetpipe.sources.images import open_source
from unetpipe.specs import AnnotateSpec

__all__ = ["iter_masks", "mask_folders"]

_PIXELS_AT_ONCE = 2**22


def mask_folders(keys: Mapping[PurePosixPath, str]) -> dict[PurePosixPath, PurePosixPath]:
    """Which image has a folder of one mask per object, told by the names.

    Parameters
    ----------
    keys : mapping of PurePosixPath to str
        Paths of images, and what the name of each has in common with those of its annotations.

    Returns
    -------
    dict of PurePosixPath to PurePosixPath
        The only file of each folder ``images``, and the folder ``masks`` beside it; not where a file in it annotates
        the image by its name; none at all where no such folder has several files.

    Examples
    --------
    >>> keys = {"7/images/7.png": "7/7", "7/masks/a.png": "7/a", "7/masks/b.png": "7/b"}
    >>> found = mask_folders({PurePosixPath(path): key for path, key in keys.items()})
    >>> {str(image): str(folder) for image, folder in found.items()}
    {'7/images/7.png': '7/masks'}
    """
    inside = defaultdict[PurePosixPath, list[PurePosixPath]](list)
    for path in keys:
        inside[path.parent].append(path)
    found, several = dict[PurePosixPath, PurePosixPath](), False
    for folder, masks in inside.items():
        images = inside.get(folder.parent / "images", []) if folder.name == "masks" else []
        if len(images) == 1 and keys[images[0]] not in {keys[mask] for mask in masks}:
            found[images[0]] = folder
            several |= len(masks) > 1
    return found if several else {}


def iter_masks(folder: Path, spec: AnnotateSpec, *, shape: tuple[int, int], notes: Counter[str]) -> Iterator[Shape]:
    """Read the objects of a folder, one mask at a time.

    Parameters
    ----------
    folder : Path
        Image files of 0 and one other value, all of the image's size; hidden files do not count.
    spec : AnnotateSpec
        Of kind instances.
    shape : (int, int)
        Height and width of the image in px.
    notes : Counter of str
        Counts what is left out: masks without a pixel.

    Yields
    ------
    Shape
        One per mask, of class 1, in the order of the sorted names; its runs along the rows as rectangles.

    Raises
    ------
    AnnotationError
        If `spec` asks for anything but instances, a mask has another size, or more than one value beside 0.
    SourceError
        If a file is no image, or damaged.
    """
    if spec.kind != "instances" or spec.colours is not None or spec.overlay:
        raise refused(
            folder,
            "holds one mask per object, which are instances; set annotate.kind to instances, and leave "
            "annotate.colours and annotate.overlay out",
        )
    for name, path in source_files(folder).items():
        with open_source(path, plane=spec.plane, palette="indices") as source:
            check_size(source, shape)
            runs, values = _runs(MapTruth(source, spec), shape)
        if len(values) > 1:
            raise refused(
                folder / name,
                f"expected the mask of one object, 0 and one other value, came {len(values)} others "
                f"({', '.join(map(str, sorted(values)[:4]))}); save it without smoothing, or name one label image",
            )
        if len(runs):
            area = float((runs[:, 3] - runs[:, 1]).sum())
            yield Shape(value=1, parts=(rectangles(runs),), area=area)
        else:
            notes["masks without a pixel were left out"] += 1


def _runs(mask: MapTruth, shape: tuple[int, int]) -> tuple[NDArray[np.int64], set[int]]:
    """Runs of a mask along its rows as boxes, (N, 4) of y, x, y + 1 and the end in x; and its values but 0."""
    height, width = shape
    found, values, step = [np.zeros((0, 4), np.int64)], set[int](), max(_PIXELS_AT_ONCE // width, 1)
    for top in range(0, height, step):
        block = mask.values(Box(start=(top, 0), stop=(min(top + step, height), width)))
        values |= set(np.unique(block).tolist()) - {0}
        if len(values) > 1:
            break
        # An edge of a run is where a row changes, seen from outside of it.
        edges = np.diff((block != 0).astype(np.int8), axis=1, prepend=0, append=0)
        (rows, starts), (_, stops) = np.nonzero(edges == 1), np.nonzero(edges == -1)
        found.append(np.stack([rows + top, starts, rows + top + 1, stops], axis=1))
    return np.concatenate(found), values

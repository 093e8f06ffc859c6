"""COCO object annotations: polygons and run lengths of one image among many.

Coordinates are pixels of the image, (0, 0) being the outer corner of the first pixel: they are taken as they are. Run
lengths count pixels down the columns, the first column first.
"""

import difflib
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.annotations.jsonitems import iter_items
from unetpipe.annotations.shapes import ClassNames, Shape, polygon_of, refused, shape_of
from unetpipe.polygons import Rings, rectangles
from unetpipe.specs import IGNORE

__all__ = ["decoded_counts", "iter_coco", "rings_of_counts"]

log = logging.getLogger(__name__)

_NAMES_KEPT = 20_000


def iter_coco(
    path: Path, *, image: str, shape: tuple[int, int], names: ClassNames, notes: Counter[str]
) -> Iterator[Shape]:
    """Read the objects of one image from a COCO file.

    Parameters
    ----------
    path : Path
        A JSON file with ``images``, ``categories`` and ``annotations``; gzipped or not.
    image : str
        File name of the image. The entry of this name counts, in whatever folder; else that of this name but for the
        ending; else the only one.
    shape : (int, int)
        Height and width of the image in px.
    names : ClassNames
        What the names of categories mean.
    notes : Counter of str
        Counts what is left out: outlines of fewer than three points.

    Yields
    ------
    Shape
        One per annotation, in the order of the file.

    Raises
    ------
    AnnotationError
        If the file is no COCO, does not name the image, or has it in another size; if an annotation has no outline but
        a box only, or run lengths of another size.

    Notes
    -----
    The polygons of an annotation are united. Groups (``iscrowd: 1``) are ignored regions: nobody told their objects
    apart. The file is read twice, first for images and categories, since the order of its keys is free.

    References
    ----------
    Lin et al. 2014, doi:10.1007/978-3-319-10602-1_48.
    """
    images, categories = _tables(path)
    chosen = _chosen(path, images, image, shape)
    number = 0
    for key, item in iter_items(path):
        if key != "annotations" or item is None:
            continue
        number += 1
        try:
            if item["image_id"] != chosen:
                continue
            category = item["category_id"]
            if category not in categories:
                raise ValueError(f"its category {category!r:.40} is not among the categories")
            parts, area = _outline(item.get("segmentation"), shape, notes)
            if parts:
                value = IGNORE if item.get("iscrowd") else names.value_of(categories[category])
                found = shape_of(value, parts)
                yield Shape(value=value, parts=found.parts, area=found.area if area is None else area)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            reason = f"its key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise refused(path, f"annotation {number}: {reason}") from None


def _tables(path: Path) -> tuple[list[tuple[Any, str, tuple[Any, Any]]], dict[Any, str]]:
    """The images (id, file name, height and width) and the categories of a file."""
    images: list[tuple[Any, str, tuple[Any, Any]]] = []
    categories: dict[Any, str] = {}
    try:
        for key, item in iter_items(path):
            if key == "images" and item is not None:
                images.append((item["id"], str(item["file_name"]), (item.get("height"), item.get("width"))))
            elif key == "categories" and item is not None:
                categories[item["id"]] = str(item["name"])
    except (TypeError, AttributeError, KeyError) as error:
        reason = f"lacks the key {error}" if isinstance(error, KeyError) else str(error)
        raise refused(path, f"is no COCO file: an image or category {reason}") from None
    return images, categories


def _chosen(
    path: Path,
    images: list[tuple[Any, str, tuple[Any, Any]]],
    image: str,
    shape: tuple[int, int],
) -> Any:
    """The id of the image in the file."""
    files = [PurePosixPath(name.replace("\\", "/")) for _, name, _ in images]
    found = [entry for entry, file in zip(images, files, strict=True) if file.name == image]
    found = found or [e for e, file in zip(images, files, strict=True) if file.stem == PurePosixPath(image).stem]
    if not found and len(images) == 1:
        found = images
        log.warning("%s: its only image, %.80s, was taken for %.80s", path, images[0][1], image)
    if len(found) != 1:
        near = difflib.get_close_matches(image, [file.name for file in files[:_NAMES_KEPT]], n=1)
        hint = f"; did you mean {near[0]}?" if near and not found else ""
        raise refused(path, f"expected one image {image!r:.80}, came {len(found)} among {len(images)}{hint}")
    identity, _, size = found[0]
    if None not in size and tuple(size) != shape:
        raise refused(
            path,
            f"expected the image's size of {shape[0]} x {shape[1]} px, came {size[0]} x {size[1]} px for {image}; "
            "name the file that was drawn on it",
        )
    return identity


def _outline(segmentation: Any, shape: tuple[int, int], notes: Counter[str]) -> tuple[list[Rings], float | None]:
    """The polygons of a segmentation; and its area, where it is not that of the polygons with their holes."""
    if segmentation is None:
        raise ValueError("expected a segmentation, came none: a box (bbox) does not tell which pixels belong to it")
    if isinstance(segmentation, list):
        found = [polygon_of([_points(flat)], notes) for flat in segmentation]
        if not segmentation:
            notes["annotations with an empty segmentation were left out"] += 1
        return [part for part in found if part is not None], None
    size, counts = segmentation["size"], segmentation["counts"]
    if list(size) != list(shape):
        raise ValueError(f"expected run lengths for {shape[0]} x {shape[1]} px, came {size!r:.40}")
    runs = decoded_counts(counts) if isinstance(counts, str) else np.asarray(counts)
    if runs.ndim != 1 or (runs.size and runs.dtype.kind not in "iu"):
        raise ValueError("expected run lengths as a text or as a list of integers")
    part, area = rings_of_counts(runs.astype(np.int64), shape)
    if part is None:
        notes["annotations with an empty segmentation were left out"] += 1
    return [] if part is None else [part], area


def _points(flat: Any) -> NDArray[Any]:
    """x1, y1, x2, y2 ... as (N, 2) points."""
    values = np.asarray(flat)
    if values.ndim != 1 or values.size % 2 or (values.size and values.dtype.kind not in "iuf"):
        raise ValueError("expected a polygon as an even number of coordinates x1, y1, x2, y2 ...")
    return values.reshape(-1, 2)


def decoded_counts(text: str) -> NDArray[np.int64]:
    """Run lengths from COCO's compressed text.

    Parameters
    ----------
    text : str
        Five bits per character, from "0" on, the lowest first; the sixth bit says that the number goes on. From the
        fourth number on, the difference to the last but one is stored.

    Returns
    -------
    (N,) int64
        Lengths of runs of 0 and 1 in turn.

    Raises
    ------
    ValueError
        If a character is none of the code's, or a number is not complete or longer than 60 bits.

    Examples
    --------
    >>> decoded_counts("52203").tolist()
    [5, 2, 2, 2, 5]
    """
    digits = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if not digits.size:
        return np.zeros(0, np.int64)
    if digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise ValueError("expected compressed run lengths, came a text that is damaged or cut off")
    last = np.flatnonzero((digits & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    places = np.arange(digits.size) - np.repeat(first, last - first + 1)
    if places.max() > 11:
        raise ValueError("expected compressed run lengths, came a number of more than 60 bits")
    numbers = np.add.reduceat((digits & 31) << (5 * places), first)
    numbers -= np.where(digits[last] & 16, np.int64(1) << (5 * (places[last] + 1)), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def rings_of_counts(runs: NDArray[np.int64], shape: tuple[int, int]) -> tuple[Rings | None, float]:
    """A mask given by run lengths, as rectangles.

    Parameters
    ----------
    runs : (N,) int64
        Lengths of runs of 0 and 1 in turn, down the columns.
    shape : (int, int)
        Height and width of the mask in px.

    Returns
    -------
    Rings or None, float
        At most three rectangles per run, None for an empty mask; its pixels.

    Raises
    ------
    ValueError
        If a length is negative, or they do not add up to the mask.

    Examples
    --------
    >>> (vertices, _), area = rings_of_counts(np.array([1, 2, 1]), (2, 2))
    >>> vertices[::4].tolist(), area
    ([[1.0, 0.0], [0.0, 1.0]], 2.0)
    """
    height, width = shape
    if runs.size and (runs.min() < 0 or runs.max() > height * width):
        raise ValueError(f"expected run lengths from 0 to {height * width}, came {runs.min()} to {runs.max()}")
    stops = np.cumsum(runs)
    if (int(stops[-1]) if runs.size else 0) != height * width:
        total = int(stops[-1]) if runs.size else 0
        raise ValueError(f"expected run lengths of {height * width} px in all, came {total}; is the mask's size right?")
    start, stop = (stops - runs)[1::2], stops[1::2]
    x0, y0, x1, y1 = start // height, start % height, stop // height, stop % height
    whole = x0 + (y0 > 0)
    inner = np.where(x0 == x1, y1, height)
    zero, full = np.zeros_like(x0), np.full_like(x0, height)
    # The rest of the first column, whole columns, the beginning of the last column.
    head = np.stack([y0, x0, np.where(y0 > 0, inner, y0), x0 + 1], axis=1)
    body = np.stack([zero, whole, np.where(x1 > whole, full, zero), np.maximum(x1, whole)], axis=1)
    tail = np.stack([zero, x1, np.where(x1 >= whole, y1, zero), x1 + 1], axis=1)
    boxes = np.stack([head, body, tail], axis=1).reshape(-1, 4)
    boxes = boxes[(boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])]
    return (rectangles(boxes) if len(boxes) else None), float((stop - start).sum())

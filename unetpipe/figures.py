"""Figures of the report: which part of a sample is shown, and its pictures."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from unetpipe.geometry import Box
from unetpipe.ledgers import Ledger
from unetpipe.manifests import Manifest, write_file
from unetpipe.pictures import area_layer, crowded_box, enlarged, grey_to_rgb, heat, outline_layer
from unetpipe.slides import Plane, digest_of, open_plane
from unetpipe.tissue import mask_block

__all__ = ["PREDICTION", "TRUTH", "Album", "View", "sample_figures", "tissue_figure", "weight_figures"]

DETAIL_PX = 512
MAX_FACTOR = 4
# Objects drawn with a smaller mean diameter are filled: their outlines would hide the picture.
OUTLINED_PX = 14
# Sky blue and orange of Okabe and Ito 2008; where both lie on each other, the page's blending gives white. Green.
TRUTH, PREDICTION, TISSUE = (86, 180, 233), (230, 159, 0), (0, 158, 115)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a picture shows.

    Parameters
    ----------
    name : str
        Folder of its pictures.
    level : int
        Pyramid level that it is taken from.
    box : Box
        Which part of the level, in px of the level.
    factor : int
        How often each of them is drawn along y and x.
    """

    name: str
    level: int
    box: Box
    factor: int

    @property
    def sides(self) -> tuple[int, int]:
        """Width and height of the picture in px."""
        return self.box.shape[1] * self.factor, self.box.shape[0] * self.factor


class Album:
    """The pictures of a page: drawn once, written beside it, and known to the ledger.

    Parameters
    ----------
    ledger : Ledger
        The page's.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def add(self, name: str, draw: Callable[..., NDArray[np.uint8]], *what: Any) -> str:
        """Write the picture (Y, X, 3 or 4) that `draw` makes of `what`, unless it is there; returns its name."""
        path = self.ledger.store / name
        if name not in self.ledger or not path.is_file():
            picture = draw(*what)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, bytes(imagecodecs.png_encode(without_colour(picture), level=6)))
            self.ledger.append(name, digest_of(picture))
        return name


def sample_figures(
    image: Manifest,
    truth: Manifest | None,
    segmentations: Mapping[str, Manifest],
    evaluations: Mapping[str, Manifest],
    album: Album,
    *,
    preview_px: int,
) -> Iterator[dict[str, Any]]:
    """Draw a sample with outlines, for every model and view.

    Parameters
    ----------
    image : Manifest
        Of `ingest`.
    truth : Manifest or None
        Of `annotate`.
    segmentations, evaluations : mappings of str to Manifest
        Of `segment` and `evaluate`, by model.
    album : Album
        Takes the pictures.
    preview_px : int
        Longest side of a picture in px.

    Yields
    ------
    dict of str to Any
        What a figure and its legend need.
    """
    sample = image.sample
    views = chosen_views(image, truth or next(iter(segmentations.values())), preview_px)
    for model, segmentation in segmentations.items():
        evaluation = evaluations.get(model)
        for view in views:
            layers = [("image", album.add(f"{view.name}/image/{sample}.png", image_picture, image, view))]
            if truth is not None:
                name = f"{view.name}/truth/{sample}.png"
                layers.append(("truth", album.add(name, label_picture, truth, view, TRUTH)))
            name = f"{view.name}/prediction/{model}/{sample}.png"
            layers.append(("prediction", album.add(name, label_picture, segmentation, view, PREDICTION)))
            yield {
                "sample": sample,
                "model": model,
                "view": view,
                "layers": layers,
                "bar": scale_bar(view, image.facts["pixel_size_um"]),
                "frame": frame(views) if view is views[0] else None,
                "image": image.facts,
                "truth": truth.facts if truth else None,
                "segmentation": segmentation.facts,
                "scores": evaluation.facts["scores"] if evaluation else None,
            }


def chosen_views(image: Manifest, labels: Manifest, preview_px: int) -> list[View]:
    """The whole image at a level that fits, and a crowded place at full resolution if that level is coarser."""
    folders = [labels.store / "instances" / str(level) for level in range(image.facts["levels"])]
    shapes = [open_plane(folder).shape for folder in folders]
    whole = whole_view(shapes, preview_px)
    level = whole.level
    if level == 0:
        return [whole]
    side = min(DETAIL_PX, preview_px)
    place = crowded_box(open_plane(folders[level]).read_whole(), max(side >> level, 1))
    return [whole, view_of("detail", 0, box_at(tuple(a << level for a in place.start), side, shapes[0]), preview_px)]


def whole_view(shapes: Sequence[tuple[int, int]], preview_px: int) -> View:
    """All of an image, at the finest level that fits."""
    level = next((i for i, shape in enumerate(shapes) if max(shape) <= preview_px), len(shapes) - 1)
    return view_of("whole", level, Box(start=(0, 0), stop=shapes[level]), preview_px)


def view_of(name: str, level: int, box: Box, preview_px: int) -> View:
    """A view, enlarged as far as fits."""
    return View(name=name, level=level, box=box, factor=min(max(preview_px // max(box.shape), 1), MAX_FACTOR))


def box_at(start: Sequence[int], side: int, shape: tuple[int, int]) -> Box:
    """A square box that begins near `start`, pushed into the image, and cut where the image is smaller."""
    y, x = (max(min(a, n - side), 0) for a, n in zip(start, shape, strict=True))
    return Box(start=(y, x), stop=(y + side, x + side)).clipped(shape)


def frame(views: Sequence[View]) -> tuple[float, ...] | None:
    """Left, top, width and height of the detail in the whole picture, in percent."""
    if len(views) == 1:
        return None
    (height, width), box, scale = views[0].box.shape, views[1].box, 100 / 2 ** views[0].level
    (y, x), (rows, columns) = box.start, box.shape
    return tuple(scale * a / n for a, n in ((x, width), (y, height), (columns, width), (rows, height)))


def image_picture(image: Manifest, view: View) -> NDArray[np.uint8]:
    """(Y, X, 3) picture of a view of an image."""
    limits = [(low, high) for low, high in image.facts["percentiles"]]
    pixels = open_plane(image.store / str(view.level)).read(view.box)
    return enlarged(grey_to_rgb(pixels, limits), view.factor)


def label_picture(labels: Manifest, view: View, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """(Y, X, 4) layer with the instances of a view; tiny ones are filled."""
    facts = labels.facts
    mean_px = sum(facts["class_counts"][1:]) / max(facts["n_instances"], 1)
    block = open_plane(labels.store / "instances" / str(view.level)).read(view.box)
    if math.sqrt(mean_px) * view.factor / 2**view.level < OUTLINED_PX:
        return enlarged(area_layer(block, colour), view.factor)
    return outline_layer(block, colour, factor=view.factor)


def scale_bar(view: View, pixel_size_um: float | None) -> tuple[float, str]:
    """Length in percent of the picture's width, and its label: 1, 2 or 5 times a power of ten, at most a quarter."""
    size = (pixel_size_um or 1.0) * 2**view.level
    longest = size * view.box.shape[1] / 4
    power = 10.0 ** math.floor(math.log10(longest))
    length = power * max((step for step in (1, 2, 5) if step * power <= longest), default=1)
    label = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    return 100 * length / size / view.box.shape[1], label if pixel_size_um else f"{length:g} px"


def tissue_figure(image: Manifest, album: Album, *, preview_px: int) -> dict[str, Any]:
    """Draw the outline of the tissue mask on the whole image.

    Parameters
    ----------
    image : Manifest
        Of `ingest`, with a mask.
    album : Album
        Takes the pictures.
    preview_px : int
        Longest side of a picture in px.

    Returns
    -------
    dict of str to Any
        What the figure and its legend need.
    """
    shapes = [open_plane(image.store / str(level)).shape for level in range(image.facts["levels"])]
    view = whole_view(shapes, preview_px)
    layers = [
        ("image", album.add(f"whole/image/{image.sample}.png", image_picture, image, view)),
        ("tissue", album.add(f"whole/tissue/{image.sample}.png", tissue_picture, image, view)),
    ]
    bar = scale_bar(view, image.facts["pixel_size_um"])
    return {"sample": image.sample, "view": view, "layers": layers, "bar": bar, "share": image.facts["tissue"]["share"]}


def tissue_picture(image: Manifest, view: View) -> NDArray[np.uint8]:
    """(Y, X, 4) layer with the outline of the tissue mask."""
    mask = open_plane(image.store / "tissue" / "0").read_whole()
    block = mask_block(mask, view.box, level=view.level, mask_level=image.facts["tissue"]["level"])
    return outline_layer(block, TISSUE, factor=view.factor)


def weight_figures(
    weights: Manifest, image: Manifest | None, album: Album, *, preview_px: int
) -> Iterator[dict[str, Any]]:
    """Draw each map of weights of a sample, around the middle, and its image.

    Parameters
    ----------
    weights : Manifest
        Of `weigh`.
    image : Manifest or None
        Of `ingest`, the same sample's.
    album : Album
        Takes the pictures.
    preview_px : int
        Longest side of a picture in px.

    Yields
    ------
    dict of str to Any
        What a figure and its legend need.
    """
    sample = weights.sample
    plane: Plane = open_plane(weights.store / "0")
    side = min(DETAIL_PX, preview_px)
    view = view_of("weights", 0, box_at([(n - side) // 2 for n in plane.shape], side, plane.shape), preview_px)
    picture = album.add(f"weights/image/{sample}.png", image_picture, image, view) if image else None
    for number, form in enumerate(weights.facts["forms"]):
        is_whole = form == "falk2019"
        w0, sigma_px = (float(weights.facts[key][number]) for key in ("w0", "sigma_px"))
        top = w0 + is_whole or 1.0
        yield {
            "sample": sample,
            "view": view,
            "map": album.add(f"weights/{form}/{sample}.png", weight_picture, plane, number, view, top),
            "image": picture,
            "bar": scale_bar(view, image.facts["pixel_size_um"] if image else None),
            "w0": w0,
            "sigma_px": sigma_px,
            "term": "weights of 2019" if is_whole else "separation term",
            "top": top,
            "stops": [tuple(rgb) for rgb in heat(np.linspace(0, 1, 17)[None], 1.0)[0].tolist()],
        }


def weight_picture(plane: Plane, number: int, view: View, top: float) -> NDArray[np.uint8]:
    """(Y, X, 3) picture of a view of a weight map."""
    return enlarged(heat(plane.read(view.box)[number], top), view.factor)


def without_colour(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(Y, X, 3) -> (Y, X) where red, green and blue are equal, which makes files smaller; others as they are."""
    is_grey = picture.shape[2] == 3 and bool((picture == picture[..., :1]).all())
    return np.ascontiguousarray(picture[..., 0] if is_grey else picture)

"""One frozen value per stage and per network: everything that a result depends on, checked at birth.

Each field carries its meaning, its unit and its bounds; the configuration's documentation and schema are
generated from them. A spec travels to its stage as one line of canonical JSON.
"""

import dataclasses
import json
import operator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from unetpipe.errors import ConfigError
from unetpipe.geometry import NetGeometry, unet_geometry

__all__ = [
    "AnnotateSpec",
    "AugmentSpec",
    "EvaluateSpec",
    "IngestSpec",
    "PhantomSpec",
    "PredictSpec",
    "ReportSpec",
    "SegmentSpec",
    "SimulateSpec",
    "TrainSpec",
    "UnetSpec",
    "WeighSpec",
    "canonical_json",
]

T = TypeVar("T")


def key(
    default: T,
    meaning: str,
    *,
    unit: str = "",
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
) -> T:
    """A field with its default, its meaning, its unit and its bounds."""
    bounds = {"at_least": at_least, "above": above, "at_most": at_most}
    metadata = {"meaning": meaning, "unit": unit, **{k: v for k, v in bounds.items() if v is not None}}
    field: T = dataclasses.field(default=default, metadata=metadata)
    return field


def canonical_json(spec: Any) -> str:
    """The one JSON text of a spec (or of plain JSON data): sorted keys, no blanks, ASCII.

    Examples
    --------
    >>> canonical_json(WeighSpec())
    '{"apply_to":"all","sigma_px":5.0,"w0":10.0}'
    """
    data = dataclasses.asdict(spec) if dataclasses.is_dataclass(spec) and not isinstance(spec, type) else spec
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


class Checked:
    """What all specs share: each number is held against its bounds when the value is made."""

    __slots__ = ()
    # Read by the parser of the configuration: a key that no field has is a mistake.
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, (int, float)) and not isinstance(number, bool):
                    check_bounds(field.name, number, field.metadata)


def check_bounds(name: str, number: float, bounds: Any) -> None:
    """Raise `ConfigError` unless the number is finite and keeps the bounds of its field."""
    for rule, holds in (("at_least", operator.ge), ("above", operator.gt), ("at_most", operator.le)):
        if rule in bounds and not holds(number, bounds[rule]):
            raise ConfigError(f"{name}: expected a value {rule.replace('_', ' ')} {bounds[rule]:g}, came {number:g}")
    if number != number or number in (float("inf"), float("-inf")):
        raise ConfigError(f"{name}: expected a finite number, came {number}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateSpec(Checked):
    """Simulated images: what is drawn for samples whose image lies in `folder`."""

    folder: str = key("resources/simulated", "folder whose images are drawn by the package")
    image_side: int = key(512, "side of a simulated train, val or test image", unit="px", at_least=16)
    slide_side: int = key(4096, "side of a simulated image of split predict", unit="px", at_least=16)
    diameter_px: float = key(40.0, "mean diameter of a cell", unit="px", at_least=8)
    pixel_size_um: float = key(0.5, "pixel size written into the files", unit="um", above=0)
    seed: int = key(1, "seed of all simulated images", at_least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomSpec(Checked):
    """One simulated image of touching cells."""

    side: int = key(512, "height and width", unit="px", at_least=16)
    diameter_px: float = key(40.0, "mean diameter of a cell", unit="px", at_least=8)
    pixel_size_um: float = key(0.5, "pixel size written into the file", unit="um", above=0)
    seed: int = key(1, "seed of everything drawn", at_least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSpec(Checked):
    """Which pixels of a source become the sample's image."""

    plane: int | None = key(None, "z or t plane of a stack, counted from 0", at_least=0)
    channels: tuple[int, ...] | None = key(None, "channels to keep, counted from 0; all if empty", at_least=0)
    pixel_size_um: float | None = key(
        None, "pixel size, overrides the file's; empty: the file's, or unknown", unit="um", above=0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotateSpec(Checked):
    """How an annotation file is read as instances and classes."""

    kind: Literal["instances", "mask", "classes"] = key(
        "instances",
        "what the file's values mean: one value per object (instances), zero or not (mask; its 4-connected "
        "parts are the instances), or class indices (classes)",
    )
    ignore_value: int | None = key(None, "value of pixels that nobody annotated; they train and count nothing")
    ridge: Literal["symmetric", "one_sided", "none"] = key(
        "symmetric",
        "background line between touching instances: one pixel of each (symmetric), pixels of the later one "
        "(one_sided), or none",
    )
    plane: int | None = key(None, "plane of an annotation stack, counted from 0", at_least=0)
    n_classes: int = key(2, "number of classes, background included", at_least=2, at_most=254)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeighSpec(Checked):
    """The separation term of the loss weights, w0 exp(-(d1 + d2)^2 / (2 sigma^2))."""

    w0: float = key(10.0, "height of the separation term", at_least=0)
    sigma_px: float = key(5.0, "width of the separation term", unit="px", above=0)
    apply_to: Literal["all", "background"] = key(
        "all", "pixels that get the separation term: all of them (2015) or the background only"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentSpec(Checked):
    """Training patches: how many, how large, and how they are deformed."""

    copies: int = key(16, "patches drawn per training image", at_least=1)
    input_px: int = key(572, "input side of a patch; must be legal for every network", unit="px", at_least=1)
    output_px: int = key(388, "output side of a patch; follows from the networks", unit="px", at_least=1)
    rotate: bool = key(True, "rotate by any angle")
    flip: bool = key(True, "mirror at random")
    elastic_sigma_px: float = key(10.0, "standard deviation of the elastic displacements", unit="px", at_least=0)
    elastic_nodes: int = key(3, "displacement vectors per side of the coarse grid", at_least=2, at_most=32)
    grey_black: float = key(0.05, "largest shift of black, in units of the intensity range", at_least=0, at_most=0.4)
    grey_white: float = key(0.05, "largest shift of white, in units of the intensity range", at_least=0, at_most=0.4)
    grey_slope: float = key(0.2, "largest change of the middle slope", at_least=0, at_most=0.9)
    intensity: Literal["range", "percentile"] = key(
        "percentile", "what becomes 0 and 1: the data type's range, or the image's 1st and 99.8th percentile"
    )
    seed: int = key(1, "seed of all draws", at_least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnetSpec(Checked):
    """The network of 2015: valid convolutions, widths doubling with each of `depth` poolings."""

    family: Literal["unet"] = key("unet", "network family")
    depth: int = key(4, "number of poolings", at_least=1, at_most=7)
    base_width: int = key(64, "feature channels of the first level", at_least=1)
    channels: int = key(1, "channels of the image", at_least=1)
    classes: int = key(2, "classes; follows from the list of classes", at_least=2, at_most=254)
    dropout: float = key(0.5, "dropout behind the last two encoder levels", at_least=0, at_most=0.95)

    @property
    def geometry(self) -> NetGeometry:
        """Legal sizes, stride and context of this network."""
        return unet_geometry(self.depth)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec(Checked):
    """One network and how it is trained: SGD with momentum, batch 1, weighted cross-entropy."""

    network: UnetSpec = key(UnetSpec(), "the network")
    steps: int = key(2000, "optimiser steps, one patch each", unit="steps", at_least=1)
    learning_rate: float = key(0.001, "learning rate of the first step", above=0)
    momentum: float = key(0.99, "momentum of SGD", at_least=0, at_most=0.9999)
    schedule: Literal["constant", "polynomial"] = key(
        "polynomial", "learning rate over the steps: constant, or times (1 - step/steps)^0.9"
    )
    reduction: Literal["sum", "mean", "weighted_mean"] = key(
        "mean", "loss of a patch: sum of w*l (2015), its mean over the pixels, or sum(w*l)/sum(w)"
    )
    balance: bool = key(True, "weigh classes by their inverse frequency in the training set")
    validate_every: int = key(200, "steps between validations", unit="steps", at_least=1)
    checkpoint_s: float = key(60.0, "seconds between checkpoints", unit="s", above=0)
    seed: int = key(1, "seed of initialisation, order and dropout", at_least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictSpec(Checked):
    """Overlap-tile inference: the tile's core changes speed and memory, never the result."""

    core_px: int = key(1024, "side of a tile's core, a multiple of the network's stride", unit="px", at_least=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSpec(Checked):
    """From probabilities to classes, and to instances: the 4-connected parts of one class."""

    foreground: int = key(1, "class whose connected parts are the instances", at_least=1, at_most=253)
    min_area_px: int = key(20, "smaller instances are dropped", unit="px", at_least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSpec(Checked):
    """How predictions are held against the truth."""

    foreground: int = key(1, "class whose probability is thresholded", at_least=1, at_most=253)
    n_classes: int = key(2, "number of classes; follows from the list of classes", at_least=2, at_most=254)
    thin: bool = key(True, "also score V-Rand and V-Info after thinning, at ten thresholds")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSpec(Checked):
    """The page at the end."""

    title: str = key("unetpipe report", "title of the page")
    preview_px: int = key(1024, "longest side of a picture", unit="px", at_least=64, at_most=4096)
    config: str = key("{}", "the whole configuration as JSON; filled in")

"""One frozen value per stage: everything that a result depends on, checked at birth.

Those of networks are in `netspecs.py`, those of `segment` and `tune` are in `segmentspecs.py`.

Each field carries its meaning, its unit and its bounds; the configuration's documentation and schema are
generated from them. A spec travels to its stage as one line of canonical JSON.
"""

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from unetpipe.errors import ConfigError
from unetpipe.fields import Checked, key
from unetpipe.netspecs import NetworkSpec, UnetSpec
from unetpipe.segmentspecs import SegmentSpec, TuneSpec

__all__ = [
    "IGNORE",
    "THIN_BYTES",
    "AnnotateSpec",
    "AugmentSpec",
    "DoctorSpec",
    "EvaluateSpec",
    "ImportSpec",
    "IngestSpec",
    "PhantomSpec",
    "PredictSpec",
    "ReportSpec",
    "SegmentSpec",
    "SimulateSpec",
    "TrainSpec",
    "TuneSpec",
    "UnetSpec",
    "WeighSpec",
    "WeightForm",
    "canonical_json",
]

IGNORE = 255
"""Class of pixels that nobody annotated: they train and count nothing."""
WeightForm = Literal["unet2015", "falk2019"]
"""Maps of loss weights that were published."""
THIN_BYTES = 40
"""Memory per pixel that is planned for scores after thinning; 24 were measured, without reading."""


def canonical_json(spec: Any) -> str:
    """The one JSON text of a spec (or of plain JSON data): sorted keys, no blanks, ASCII.

    Examples
    --------
    >>> canonical_json(WeighSpec())
    '{"apply_to":"all","forms":["unet2015"],"sigma_px":5.0,"w0":10.0}'
    """
    data = dataclasses.asdict(spec) if dataclasses.is_dataclass(spec) and not isinstance(spec, type) else spec
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


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
    """Which pixels of a source become the sample's image, and how large they are."""

    plane: int | None = key(None, "z or t plane of a stack, counted from 0", at_least=0)
    level: int = key(0, "level of the source's own pyramid that is read, 0 the finest", at_least=0)
    channels: tuple[int | str, ...] | None = key(
        None, "channels to keep, by number from 0 on or by name; all if empty", at_least=0
    )
    copy: bool = key(
        False, "copy the finest level of an OME-Zarr source; else it is used where it lies, if its chunks allow it"
    )
    source_pixel_size_um: float | None = key(
        None, "pixel size of the source's finest level; empty: what the file says, or unknown", unit="um", above=0
    )
    pixel_size_um: float | None = key(
        None,
        "pixel size to which all images and annotations are resampled, unless they have it within 2 %; empty: as they "
        "come",
        unit="um",
        above=0,
    )
    tissue: Literal["none", "colour", "darkness", "brightness"] = key(
        "none",
        "make a tissue mask, by what tissue has more of than the empty slide: colour (the largest of red, green and "
        "blue minus the smallest), darkness or brightness",
    )
    tissue_smallest_um2: float = key(
        2500.0, "parts of the mask that hold less tissue, margin not counted, are dropped", unit="um2", at_least=0
    )
    tissue_margin_um: float = key(
        50.0,
        "margin around the tissue that belongs to the mask, and joins what is near",
        unit="um",
        at_least=0,
        at_most=10000,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotateSpec(Checked):
    """How an annotation file is read as instances and classes."""

    kind: Literal["instances", "mask", "classes"] = key(
        "instances",
        "what the file's values mean: one value per object (instances, also for a folder of one mask per object), zero "
        "or not (mask; its 4-connected parts are the instances), or class indices (classes)",
    )
    ignore_value: int | None = key(None, "value of pixels that nobody annotated; they train and count nothing")
    ridge: Literal["symmetric", "one_sided", "none"] = key(
        "symmetric",
        "background line between touching instances: one pixel of each (symmetric), pixels of the later one "
        "(one_sided), or none",
    )
    colours: dict[str, str] | None = key(
        None,
        'for maps in colours (RGB or palette): the colour of each class, and of `ignore`, as `{cell: "#ff0000"}`; all '
        "colours of the file must be named; `kind` does not count then",
    )
    names: dict[str, str] | None = key(
        None,
        "for shapes (COCO, QuPath, ImageJ): what class names in the files mean, as `{Tumour: cell, Necrosis: ignore}`; "
        "names of `classes` and names that begin with ignore are known; an empty name is that of objects without one",
    )
    outside: Literal["background", "ignore"] = key(
        "background",
        "pixels in no object (no shape; value 0 of an instance map or mask): background, or ignored in images that are "
        "annotated in part",
    )
    objects: Literal["all", "annotation", "detection"] = key(
        "all", "which objects of a QuPath file are read; cells are detections"
    )
    overlay: bool = key(False, "read the ImageJ overlay inside a TIFF, not its pixels")
    plane: int | None = key(None, "plane of an annotation stack, counted from 0", at_least=0)
    n_classes: int = key(2, "number of classes, background included", at_least=2, at_most=254)
    classes: tuple[str, ...] | None = key(None, "names of the classes; follow from the list of classes")

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        known = (*self.class_names, "ignore")
        if len(self.class_names) != self.n_classes:
            raise ConfigError(f"classes: expected {self.n_classes} names, came {len(self.class_names)}; name each")
        meant = {"colours": self.colours or {}, "names": (self.names or {}).values()}
        for field, names in meant.items():
            if foreign := [name for name in names if name not in known]:
                raise ConfigError(
                    f"{field}: expected one of {', '.join(known)}, came {foreign[0]!r:.60}; use one of them"
                )
        codes = [colour.lower() for colour in (self.colours or {}).values()]
        if self.colours is not None and not codes:
            raise ConfigError("colours: expected a colour for each class, came none; leave the key out")
        for colour in codes:
            if not re.fullmatch("#[0-9a-f]{6}", colour):
                raise ConfigError(f'colours: expected a colour as "#rrggbb" in quotes, came {colour!r:.60}; correct it')
            if codes.count(colour) > 1:
                raise ConfigError(f"colours: {colour} stands for two classes; give each its own")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; where none are given, background and foreground, or their numbers."""
        if self.classes is not None:
            return self.classes
        return ("background", "foreground") if self.n_classes == 2 else tuple(map(str, range(self.n_classes)))


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorSpec(Checked):
    """The look at every sample before training."""

    stop: bool = key(True, "stop at errors; if not, they are only told")
    classes: tuple[str, ...] = key((), "names of the classes; filled in")
    splits: str = key("{}", "samples of each split as JSON; filled in")
    datasets: str = key("{}", "data set of each sample as JSON, where the sheet names any; filled in")
    channels: tuple[int, ...] = key((), "channels that the networks take; filled in")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeighSpec(Checked):
    """The separation term of 2015 in the loss weights, w0 exp(-(d1 + d2)^2 / (2 sigma^2))."""

    forms: tuple[WeightForm, ...] = key(("unet2015",), "maps that are made; follow from train.pixel_weights")
    w0: float = key(10.0, "height of the separation term", at_least=0)
    sigma_px: float = key(5.0, "width of the separation term", unit="px", above=0)
    apply_to: Literal["all", "background"] = key(
        "all", "pixels that get the separation term: all of them (2015), or the background only"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentSpec(Checked):
    """Training patches: how many, how large, and how they are deformed."""

    copies: int = key(
        16,
        "patches drawn and stored per training image; 0: none is stored, and trainings draw a new one of each image in "
        "every epoch",
        at_least=0,
    )
    input_px: int = key(
        572,
        "input side of a patch; must be legal for one network at least, the others see as much of its middle as "
        "the labels need",
        unit="px",
        at_least=1,
    )
    output_px: int = key(
        388, "side of a patch's classes and weights: what all networks compute of it", unit="px", at_least=1
    )
    rotate: bool = key(True, "rotate by any angle")
    flip: bool = key(True, "mirror at random")
    elastic_sigma_px: float = key(10.0, "standard deviation of the elastic displacements", unit="px", at_least=0)
    elastic_nodes: int = key(3, "displacement vectors per side of the coarse grid", at_least=2, at_most=32)
    grey_black: float = key(0.05, "largest shift of black, in units of the intensity range", at_least=0, at_most=0.4)
    grey_white: float = key(0.05, "largest shift of white, in units of the intensity range", at_least=0, at_most=0.4)
    grey_slope: float = key(0.2, "largest change of the middle slope", at_least=0, at_most=0.9)
    gamma: float = key(
        1.0, "largest exponent of the grey values, and 1 over it the smallest; 1: none", at_least=1, at_most=5
    )
    noise: float = key(
        0.0,
        "largest standard deviation of Gaussian noise, in units of the intensity range; 0: none",
        at_least=0,
        at_most=1,
    )
    blur_px: float = key(
        0.0, "largest standard deviation of a Gaussian blur; 0: none", unit="px", at_least=0, at_most=20
    )
    intensity: Literal["range", "percentile"] = key(
        "percentile", "what becomes 0 and 1: the data type's range, or the image's 1st and 99.8th percentile"
    )
    seed: int = key(1, "seed of all draws", at_least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec(Checked):
    """One network and how it is trained: its loss, its optimiser, and what is kept."""

    network: NetworkSpec = key(UnetSpec(), "the network", discriminator="family")
    steps: int = key(2000, "optimiser steps", unit="steps", at_least=1)
    accumulate: int = key(
        1,
        "patches of a step, one behind the other, or shared out evenly among GPUs; its loss is their mean, or their "
        "sum under reduction: sum",
        at_least=1,
    )
    loss: Literal["cross_entropy", "binary_cross_entropy", "dice", "cross_entropy_dice", "focal"] = key(
        "cross_entropy", "loss of a patch; binary_cross_entropy is for two classes, focal has gamma = 2"
    )
    reduction: Literal["sum", "mean", "weighted_mean"] = key(
        "mean",
        "loss of a patch: sum of w*l (2015), its mean over the pixels, or sum(w*l)/sum(w); Dice is a ratio anyway",
    )
    balance: bool = key(True, "weigh classes by their inverse frequency in the training set")
    pixel_weights: Literal["unet2015", "falk2019", "none"] = key(
        "unet2015",
        "what weighs pixels beside the classes: the separation term of `weigh` (unet2015), nothing (none), or in place "
        "of both the weights of 2019 (falk2019): 1 in objects, around them 0.1 + 0.9 exp(-d1^2 / 200) + "
        "50 exp(-(d1 + d2)^2 / 72)",
    )
    optimiser: Literal["sgd", "adam", "adamw", "rmsprop"] = key("sgd", "how gradients become steps")
    learning_rate: float = key(0.001, "learning rate before the schedule", above=0)
    momentum: float = key(0.99, "momentum of sgd and rmsprop; adam has 0.9 and 0.999", at_least=0, at_most=0.9999)
    weight_decay: float = key(
        0.0, "this times each parameter is added to its gradient; adamw subtracts it from the parameter", at_least=0
    )
    schedule: Literal["constant", "polynomial", "cosine", "plateau"] = key(
        "polynomial",
        "learning rate over the steps: constant, times (1 - step/steps)^0.9, times (1 + cos(pi step/steps))/2, or "
        "halved whenever 5 validations in a row were no better than the best",
    )
    warmup_steps: int = key(0, "first steps, over which the learning rate grows in a line", unit="steps", at_least=0)
    clip_norm: float = key(0.0, "longer gradients are shortened to this length; 0: none", at_least=0)
    average: float = key(
        0.0,
        "decay per step of a running average of the parameters, which is validated and kept in their place; 0: none",
        at_least=0,
        at_most=0.99999,
    )
    precision: Literal["float32", "tensorfloat32", "bfloat16", "float16"] = key(
        "float32", "arithmetic of convolutions in training; tensorfloat32 and float16 need a GPU"
    )
    compile: bool = key(
        False,
        "train the network as torch.compile builds it, which takes a minute and can pay on a GPU; not on a CPU",
    )
    validate_every: int = key(200, "steps between validations", unit="steps", at_least=1)
    best_by: Literal["iou", "dice", "pixel_error", "validation_loss"] = key(
        "iou", "score of the validation images that decides which parameters are kept"
    )
    patience: int = key(0, "end behind this many validations in a row no better than the best; 0: never", at_least=0)
    checkpoint_s: float = key(300.0, "seconds between checkpoints", unit="s", above=0)
    seed: int = key(1, "seed of initialisation, order and dropout", at_least=0)

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        if self.loss == "binary_cross_entropy" and self.network.classes != 2:
            raise ConfigError(
                f"loss: binary_cross_entropy is for 2 classes, came {self.network.classes}; use cross_entropy"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSpec(Checked):
    """What a file of public weights does not say."""

    intensity: Literal["range", "percentile"] = key(
        "range",
        "what became 0 and 1 where the network was trained: the data type's range, or an image's 1st and 99.8th "
        "percentile",
    )
    pixel_size_um: float | None = key(None, "pixel size that it was trained on; empty: unknown", unit="um", above=0)
    align_corners: bool = key(True, "bilinear up-sampling only: corner pixels on corner pixels, as published")


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictSpec(Checked):
    """Overlap-tile inference: the tile's core changes speed and memory, never the result."""

    memory_gb: float = key(
        4.0,
        "what predict may take of the memory; cores of tiles are as large as it allows, at most 4096 px",
        unit="GB",
        above=0,
    )
    gpu_memory_gb: float | None = key(
        None,
        "what predict may take of a GPU's memory: then cores are as large as it allows, if the process that feeds the "
        "GPU keeps to `memory_gb`; where there is no GPU, they are computed in parts that keep to `memory_gb`",
        unit="GB",
        above=0,
    )
    core_px: int | None = key(
        None,
        "side of a tile's core, a multiple of the network's stride; empty: planned from the memory",
        unit="px",
        at_least=2,
    )
    symmetries: Literal["none", "rot4", "d4", "paper7"] = key(
        "none",
        "forms in which the network sees each window, and whose probabilities are averaged: one, the 4 quarter turns, "
        "all 8 flips and quarter turns, or 7 of them as the paper has it, which does not say which",
    )
    precision: Literal["float32", "bfloat16", "float16"] = key(
        "float32", "arithmetic of convolutions; half precision pays on a GPU, float16 needs one"
    )
    tissue_only: bool = key(
        False,
        "outside the tissue mask, which ingest.tissue makes, everything is background with probability 1; cores "
        "without tissue are not computed",
    )
    n_classes: int = key(0, "number of classes that models must have; 0: any", at_least=0, at_most=254)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSpec(Checked):
    """How predictions are held against the truth."""

    foreground: int = key(1, "class whose probability is thresholded", at_least=1, at_most=253)
    n_classes: int = key(2, "number of classes; follows from the list of classes", at_least=2, at_most=254)
    thin: bool = key(
        True,
        "also score V-Rand and V-Info after thinning, at eleven thresholds; whole images are held in memory for it, "
        f"for which {THIN_BYTES} bytes per pixel are planned",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSpec(Checked):
    """The page at the end."""

    title: str = key("unetpipe report", "title of the page")
    preview_px: int = key(1024, "longest side of a picture", unit="px", at_least=64, at_most=4096)
    rank_by: Literal["seg", "f1", "pixel_error", "v_rand_thin", "v_info_thin"] = key(
        "seg", "metric that ranks the entries of `models` and `ensembles`"
    )
    config: str = key("{}", "the whole configuration as JSON; filled in")
    groups: str = key("{}", "networks of each entry of each data set as JSON; filled in")

"""Training patches drawn from samples where they lie: only the part that a patch is made of is read and prepared.

Patch number k of a sample is a function of (seed, sample, k). `augment` stores the first ones; where it stores none,
a training draws number k in its epoch k.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unetpipe.augment import (
    disturbed,
    draw_deformation,
    draw_disturbance,
    draw_grey_curve,
    generator,
    grey_curve,
    source_box,
)
from unetpipe.errors import AnnotationError
from unetpipe.geometry import Box
from unetpipe.intensity import intensity_range, normalise
from unetpipe.manifests import Manifest
from unetpipe.patches import Patch, as_trained
from unetpipe.slides import open_plane
from unetpipe.specs import AugmentSpec
from unetpipe.warp import deformed_patch, spline_coefficients

__all__ = ["DrawnPatches", "Sample", "open_samples"]

# Bytes of images, classes and weights that are kept in memory, together; what is beyond is read anew for each patch.
KEPT_BYTES = 2**30


class Pixels(Protocol):
    """An array on disk or in memory that is read in boxes."""

    def read(self, box: Box) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True)
class Kept:
    """An array in memory, (..., Y, X)."""

    array: NDArray[Any]

    def read(self, box: Box) -> NDArray[Any]:
        """The pixels of a box."""
        return self.array[(..., *box.slices)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the patches of a sample are drawn from.

    Parameters
    ----------
    name : str
        The sample's; its patches depend on it.
    shape : (int, int)
        Height and width, px.
    channels : int
        Channels of the image.
    image, classes, weights : Pixels
        (C, Y, X) grey values as ingested; (Y, X) uint8, 255 = ignored; (F, Y, X) float32.
    limits : list of (float, float)
        Grey values of each channel that become 0 and 1.
    """

    name: str
    shape: tuple[int, int]
    channels: int
    image: Pixels
    classes: Pixels
    weights: Pixels
    limits: list[tuple[float, float]]

    def draw(self, number: int, spec: AugmentSpec) -> tuple[Patch, int]:
        """Draw a patch: image (C, n, n), classes (m, m) and weights (F, m, m); and redraws of its field."""
        rng = generator(spec.seed, self.name, number)
        deformation = draw_deformation(
            rng,
            shape=self.shape,
            input_px=spec.input_px,
            rotate=spec.rotate,
            flip=spec.flip,
            elastic_sigma_px=spec.elastic_sigma_px,
            elastic_nodes=spec.elastic_nodes,
        )
        curve = draw_grey_curve(rng, black=spec.grey_black, white=spec.grey_white, slope=spec.grey_slope)
        disturbance = draw_disturbance(rng, blur_px=spec.blur_px, noise=spec.noise, gamma=spec.gamma)
        box = source_box(deformation, shape=self.shape, input_px=spec.input_px)
        image = normalise(self.image.read(box), self.limits)
        (y, x), (y0, x0) = deformation.centre, box.start
        patch, classes, weights = deformed_patch(
            image,
            spline_coefficients(image),
            self.classes.read(box),
            self.weights.read(box),
            dataclasses.replace(deformation, centre=(y - y0, x - x0)),
            input_px=spec.input_px,
            output_px=spec.output_px,
        )
        return (grey_curve(disturbed(patch, disturbance, rng), curve), classes, weights), deformation.redraws


def open_samples(manifests: Sequence[tuple[Manifest, Manifest, Manifest]], spec: AugmentSpec) -> list[Sample]:
    """Open samples to draw from.

    Parameters
    ----------
    manifests : sequence of (Manifest, Manifest, Manifest)
        Of `ingest`, `annotate` and `weigh`, of each sample.
    spec : AugmentSpec
        How grey values become 0 to 1.

    Returns
    -------
    list of Sample
        The first ones are in memory, as far as 1 GiB goes.

    Raises
    ------
    AnnotationError
        If the three parts of a sample differ in size.
    """
    room, samples = KEPT_BYTES, []
    for image, labels, weights in manifests:
        folders = (image.store / "0", labels.store / "classes" / "0", weights.store / "0")
        planes = [open_plane(folder) for folder in folders]
        shapes = {plane.shape for plane in planes}
        if len(shapes) > 1:
            raise AnnotationError(
                f"{labels.path}: sizes differ between image, labels and weights: {sorted(shapes)}; run annotate and "
                "weigh again"
            )
        size = sum(int(np.prod(plane.array.shape)) * plane.dtype.itemsize for plane in planes)
        parts: list[Pixels] = [*planes]
        if size <= room:
            room -= size
            parts = [Kept(plane.read_whole()) for plane in planes]
        samples.append(
            Sample(
                name=image.sample,
                shape=planes[0].shape,
                channels=planes[0].channels,
                image=parts[0],
                classes=parts[1],
                weights=parts[2],
                limits=intensity_range(spec.intensity, planes[0].dtype, image.facts["percentiles"]),
            )
        )
    return samples


@dataclass(frozen=True, slots=True)
class DrawnPatches:
    """Patches that are drawn when they are asked for, one per sample and epoch.

    Parameters
    ----------
    samples : sequence of Sample
        What they are drawn from.
    spec : AugmentSpec
        How.
    side : int
        Side in px of what a network sees in the middle of each image.
    form : int or None
        Which map of weights counts; None: 0 everywhere.
    """

    samples: Sequence[Sample]
    spec: AugmentSpec
    side: int
    form: int | None

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> Patch:
        """Draw the patch with a number that goes on over the epochs, as `PatchStores.read` gives stored ones."""
        epoch, number = divmod(index, len(self.samples))
        return as_trained(self.samples[number].draw(epoch, self.spec)[0], self.side, self.form)

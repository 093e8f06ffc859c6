"""augment: the training patches of one sample, deformed image, classes and weights by one field."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetpipe.augment import draw_deformation, draw_grey_curve, generator, grey_curve
from unetpipe.errors import AnnotationError
from unetpipe.intensity import intensity_range, normalise
from unetpipe.manifests import Manifest, open_ledger, read_manifest
from unetpipe.patches import Patch, create_patches
from unetpipe.slides import open_plane
from unetpipe.specs import AugmentSpec
from unetpipe.warp import deformed_patch, spline_coefficients

__all__ = ["augment"]


def augment(image: Path, labels: Path, weights: Path, *, output: Path, spec: AugmentSpec, code: str) -> None:
    """Draw and deform the training patches of one sample.

    Reads
    -----
    image, labels, weights : manifests of `ingest`, `annotate` and `weigh`
        Of the same sample.

    Writes
    ------
    output : manifest
        Beside it a store with the arrays ``image`` (N, C, n, n), ``classes`` (N, m, m) and ``weights`` (N, m, m).
    """
    stages = ("ingest", "annotate", "weigh")
    sources = [read_manifest(p, stage=s) for p, s in zip((image, labels, weights), stages, strict=True)]
    with open_ledger(output, stage="augment", spec=spec, code=code, inputs=sources) as ledger:
        if ledger.complete:
            return
        pixels, classes, separation = whole_sample(sources[0], sources[1], sources[2], spec)
        coefficients = spline_coefficients(pixels)
        sizes = {"input_px": spec.input_px, "output_px": spec.output_px}
        store = create_patches(ledger.store, count=spec.copies, channels=len(pixels), **sizes)

        def draw(number: int) -> Patch:
            rng = generator(spec.seed, sources[0].sample, number)
            deformation = draw_deformation(
                rng,
                shape=classes.shape,
                input_px=spec.input_px,
                rotate=spec.rotate,
                flip=spec.flip,
                elastic_sigma_px=spec.elastic_sigma_px,
                elastic_nodes=spec.elastic_nodes,
            )
            patch, truth, weight = deformed_patch(pixels, coefficients, classes, separation, deformation, **sizes)
            curve = draw_grey_curve(rng, black=spec.grey_black, white=spec.grey_white, slope=spec.grey_slope)
            return grey_curve(patch, curve), truth, weight

        for unit, numbers in store.iter_blocks():
            if unit not in ledger:
                ledger.append(unit, store.write_block(numbers, [draw(number) for number in numbers]))
        facts = {
            "count": spec.copies,
            "channels": len(pixels),
            "intensity": spec.intensity,
            "pixel_size_um": sources[0].facts["pixel_size_um"],
            "nominal_um": sources[0].facts["nominal_um"],
            "class_counts": sources[1].facts["class_counts"],
            **sizes,
        }
        ledger.publish(facts)


def whole_sample(
    image: Manifest, labels: Manifest, weights: Manifest, spec: AugmentSpec
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]:
    """Normalised image (C, Y, X), classes (Y, X) and separation weights (Y, X) of one sample."""
    planes = [
        open_plane(image.store / "0"),
        open_plane(labels.store / "classes" / "0"),
        open_plane(weights.store / "0"),
    ]
    shapes = {plane.shape for plane in planes}
    if len(shapes) > 1:
        raise AnnotationError(f"{labels.path}: sizes differ between image, labels and weights: {sorted(shapes)}")
    pixels, classes, separation = (plane.read_whole() for plane in planes)
    limits = intensity_range(spec.intensity, planes[0].dtype, image.facts["percentiles"])
    return normalise(pixels, limits), classes, separation

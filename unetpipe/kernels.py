"""Compile all numba kernels into their cache, so that the first jobs of a workflow do not each do it at once.

``python -m unetpipe.kernels`` takes half a minute after an installation, and a second when there is nothing to do.
"""

import numpy as np

from unetpipe.augment import draw_deformation, generator
from unetpipe.basins import core_basins, distance_heights, resolve_basins
from unetpipe.geometry import Box
from unetpipe.instances import core_components, relabelled, resolve
from unetpipe.labelling import label_core
from unetpipe.measures import add_block, no_sums
from unetpipe.metrics.tables import confusion, contingency
from unetpipe.metrics.thinning import thin_tables
from unetpipe.outlines import joined, trace
from unetpipe.phantoms import phantom_image, phantom_labels
from unetpipe.polygons import paint, polygons_of, rectangles
from unetpipe.specs import IGNORE
from unetpipe.warp import deformed_patch, spline_coefficients
from unetpipe.weights import border_weights

__all__ = ["compile_all"]

SIDE = 64


def compile_all() -> None:
    """Call everything compiled once, on a tiny image."""
    box = Box(start=(0, 0), stop=(SIDE, SIDE))
    image = phantom_image(box, shape=box.stop, seed=1, diameter_px=16.0).astype(np.float32)[None]
    labels = phantom_labels(box, shape=box.stop, seed=1, diameter_px=16.0)
    weights, classes = border_weights(labels), (labels > 0).astype(np.uint8)
    deformation = draw_deformation(generator(1), shape=box.stop, input_px=SIDE, rotate=True, flip=True)
    coefficients = spline_coefficients(image)
    deformed_patch(image, coefficients, classes, weights, deformation, input_px=SIDE, output_px=SIDE - 16)
    parts, count = label_core(classes == 1, connectivity=4)
    objects = resolve([core_components(parts, count, core=box, image_width=SIDE)], connectivity=4)
    found = relabelled(parts, count, objects.lookups[0])
    label_core(found, connectivity=4)
    around = np.pad(found, 1)
    heights = distance_heights(around > 0)
    _, basins = core_basins(around, heights, core=box, image_width=SIDE, connectivity=4, depth=1)
    resolve_basins([basins], depth=1)
    add_block(no_sums(objects.count, 1), around, found.astype(np.uint16), image.astype(np.int64), box=box)
    _, runs = trace(around, around, box=box, image_width=SIDE)
    joined(lambda column: runs[:, column])
    confusion(classes, classes, 2)
    contingency(labels, found, valid=classes != IGNORE)
    square = polygons_of([rectangles(np.array([[1, 1, 9, 9]]))])
    paint(labels.copy(), square, box=box, order=np.arange(1), values=np.ones(1, np.uint32))
    thin_tables(labels, image[0] / 255, valid=classes != IGNORE)


if __name__ == "__main__":
    compile_all()

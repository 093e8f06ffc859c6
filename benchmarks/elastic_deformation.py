"""Time of one elastic training patch against scipy and OpenCV, on one thread.

Run: python benchmarks/elastic_deformation.py [side] [repeats]

One sample is an image (cubic), its classes (nearest) and its weights (linear) over the whole window, deformed by 3 x 3
nodes of 10 px. All ways take turns, so that a busy machine slows all of them alike. Errors are counted in the image's
range against scipy's order 3 in float64, at least 20 px from the window's border; OpenCV (if installed) interpolates
with another cubic and mirrors alike.
"""

import importlib
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unetpipe.augment import draw_deformation, generator
from unetpipe.warp import Deformation, deformed_patch, source_positions, spline_coefficients

cv2: Any = importlib.import_module("cv2") if importlib.util.find_spec("cv2") else None
Way = Callable[[], NDArray[np.float32]]


def sample(side: int) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]:
    """Cell-like image with camera noise (1, Y, X), classes and weights (Y, X)."""
    rng = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(rng.normal(size=(side, side)), 6, mode="mirror")
    classes = (blobs > 0).astype(np.uint8)
    image = 0.5 + blobs / (4 * blobs.std()) + 0.02 * rng.normal(size=blobs.shape)
    weights = 1 + 10 * np.exp(-((blobs / blobs.std()) ** 2) * 8)
    return image.astype(np.float32)[None], classes, weights.astype(np.float32)


def deformation(side: int) -> Deformation:
    """Elastic only: rotation and mirroring cost nothing more."""
    return draw_deformation(generator(0), shape=(side, side), input_px=side, rotate=False, flip=False)


def ways(side: int) -> dict[str, Way]:
    """Every way of deforming the sample; each returns the image."""
    image, classes, weights = sample(side)
    coefficients = spline_coefficients(image)
    drawn = deformation(side)
    sizes = {"input_px": side, "output_px": side}
    middle = np.array(drawn.centre)[:, None, None] - (side - 1) / 2
    pixels = np.indices((side, side), dtype=np.float64)

    def ours() -> NDArray[np.float32]:
        return np.asarray(deformed_patch(image, coefficients, classes, weights, drawn, **sizes)[0][0])

    def ours_with_coefficients() -> NDArray[np.float32]:
        return np.asarray(deformed_patch(image, spline_coefficients(image), classes, weights, drawn, **sizes)[0][0])

    def scipy_targets_at(at: NDArray[np.float64]) -> NDArray[np.float32]:
        ndimage.map_coordinates(classes, at, order=0, mode="mirror")
        ndimage.map_coordinates(weights, at, order=1, mode="mirror")
        return np.asarray(ndimage.map_coordinates(image[0], at, order=3, mode="mirror"))

    def scipy() -> NDArray[np.float32]:
        where = pixels * ((drawn.nodes.shape[1] - 1) / (side - 1))
        field = [ndimage.map_coordinates(plane, where, order=3, mode="mirror") for plane in drawn.nodes]
        return scipy_targets_at(pixels + middle + field)

    def scipy_with_our_field() -> NDArray[np.float32]:
        return scipy_targets_at(source_positions(drawn, input_px=side))

    def opencv_with_our_field() -> NDArray[np.float32]:
        y, x = source_positions(drawn, input_px=side).astype(np.float32)
        cv2.remap(classes, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)
        cv2.remap(weights, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        return np.asarray(cv2.remap(image[0], x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101))

    found: dict[str, Way] = {
        "unetpipe, coefficients kept": ours,
        "unetpipe, coefficients each time": ours_with_coefficients,
        "scipy order 3, field by scipy": scipy,
        "scipy order 3, field by unetpipe": scipy_with_our_field,
    }
    if cv2 is not None:
        cv2.setNumThreads(1)
        found["OpenCV cubic, field by unetpipe"] = opencv_with_our_field
    return found


def milliseconds(found: dict[str, Way], repeats: int) -> dict[str, list[float]]:
    """Times of each way, taking turns after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(repeats + 1):
        for name, way in found.items():
            start = time.perf_counter()
            way()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: taken[1:] for name, taken in times.items()}


def exact(side: int) -> NDArray[np.float64]:
    """The sample's image by scipy in float64."""
    image = sample(side)[0][0].astype(np.float64)
    at = source_positions(deformation(side), input_px=side)
    return np.asarray(ndimage.map_coordinates(image, at, order=3, mode="mirror"))


def main(side: int = 572, repeats: int = 15) -> None:
    """Print one line per way: median, best, ratio of the medians to ours, error."""
    found = ways(side)
    times = milliseconds(found, repeats)
    reference = exact(side)
    inside = slice(20, -20)
    span = float(np.ptp(sample(side)[0]))
    unit = statistics.median(times["unetpipe, coefficients kept"])
    print(f"{side} x {side} px, one thread, {repeats} turns")
    print(f"{'':34}{'median ms':>10}{'best ms':>10}{'ratio':>8}{'rmse':>10}{'largest':>10}")
    for name, way in found.items():
        error = (way() - reference)[inside, inside] / span
        median, rmse, largest = statistics.median(times[name]), np.sqrt(np.mean(error**2)), np.abs(error).max()
        print(f"{name:34}{median:10.1f}{min(times[name]):10.1f}{median / unit:8.1f}{rmse:10.1e}{largest:10.1e}")
    if cv2 is None:
        print("OpenCV is not installed: left out")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

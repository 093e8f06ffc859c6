"""Time of one elastic training patch against scipy and OpenCV, on one thread.

Run: python benchmarks/elastic_deformation.py [--side 572] [--turns 15] [--peers DIR]

One sample is an image (cubic), its classes (nearest) and its weights (linear) over the whole window, deformed by 3 x 3
nodes of 10 px. All ways take turns, so that a busy machine slows all of them alike. Errors are counted in the image's
range against scipy's order 3 in float64, at least 20 px from the window's border, and pixels of other classes than
scipy's. OpenCV (pip install --target DIR opencv-python-headless) interpolates with another cubic and mirrors alike.
"""

import argparse
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

Deformed = tuple[NDArray[np.float32], NDArray[np.uint8]]
Way = Callable[[], Deformed]


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
    """Every way of deforming the sample; each returns the image and the classes."""
    image, classes, weights = sample(side)
    coefficients = spline_coefficients(image)
    drawn = deformation(side)
    sizes = {"input_px": side, "output_px": side}
    middle = np.array(drawn.centre)[:, None, None] - (side - 1) / 2
    pixels = np.indices((side, side), dtype=np.float64)

    def ours() -> Deformed:
        patch, truth, _ = deformed_patch(image, coefficients, classes, weights, drawn, **sizes)
        return patch[0], truth

    def ours_with_coefficients() -> Deformed:
        patch, truth, _ = deformed_patch(image, spline_coefficients(image), classes, weights, drawn, **sizes)
        return patch[0], truth

    def scipy_targets_at(at: NDArray[np.float64]) -> Deformed:
        truth = ndimage.map_coordinates(classes, at, order=0, mode="mirror")
        ndimage.map_coordinates(weights, at, order=1, mode="mirror")
        return ndimage.map_coordinates(image[0], at, order=3, mode="mirror"), truth

    def scipy() -> Deformed:
        where = pixels * ((drawn.nodes.shape[1] - 1) / (side - 1))
        field = [ndimage.map_coordinates(plane, where, order=3, mode="mirror") for plane in drawn.nodes]
        return scipy_targets_at(pixels + middle + field)

    def scipy_with_our_field() -> Deformed:
        return scipy_targets_at(source_positions(drawn, input_px=side))

    def opencv_with_our_field() -> Deformed:
        y, x = source_positions(drawn, input_px=side).astype(np.float32)
        truth = cv2.remap(classes, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)
        cv2.remap(weights, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        return cv2.remap(image[0], x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101), truth

    found: dict[str, Way] = {
        "unetpipe, coefficients kept": ours,
        "unetpipe, coefficients each time": ours_with_coefficients,
        "scipy order 3, field by scipy": scipy,
        "scipy order 3, field by unetpipe": scipy_with_our_field,
    }
    if importlib.util.find_spec("cv2"):
        cv2: Any = importlib.import_module("cv2")
        cv2.setNumThreads(1)
        found["OpenCV cubic, field by unetpipe"] = opencv_with_our_field
    return found


def milliseconds(found: dict[str, Way], repeats: int) -> dict[str, list[float]]:
    """CPU times of each way, taking turns after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(repeats + 1):
        for name, way in found.items():
            start = time.process_time()
            way()
            times[name].append((time.process_time() - start) * 1e3)
    return {name: taken[1:] for name, taken in times.items()}


def exact(side: int) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """The sample's image by scipy in float64, and its classes."""
    image, classes, _ = sample(side)
    at = source_positions(deformation(side), input_px=side)
    truth = ndimage.map_coordinates(classes, at, order=0, mode="mirror")
    return ndimage.map_coordinates(image[0].astype(np.float64), at, order=3, mode="mirror"), truth


def main() -> None:
    """Print one line per way: median, best, ratio of the medians to ours, errors."""
    parser = argparse.ArgumentParser(description="Time one elastic training patch.")
    parser.add_argument("--side", type=int, default=572, help="side of the patch in px")
    parser.add_argument("--turns", type=int, default=15, help="how often each way is timed")
    parser.add_argument("--peers", default="", help="folder that OpenCV was installed into")
    options = parser.parse_args()
    sys.path.append(options.peers)
    found = ways(options.side)
    times = milliseconds(found, options.turns)
    reference, truth = exact(options.side)
    inside = slice(20, -20)
    span = float(np.ptp(sample(options.side)[0]))
    unit = statistics.median(times["unetpipe, coefficients kept"])
    print(f"{options.side} x {options.side} px, one thread, {options.turns} turns, CPU time")
    print(f"{'':34}{'median ms':>10}{'best ms':>9}{'ratio':>7}{'rmse':>9}{'largest':>9}{'other classes':>15}")
    for name, way in found.items():
        image, classes = way()
        error = (image - reference)[inside, inside] / span
        median, rmse, largest = statistics.median(times[name]), np.sqrt(np.mean(error**2)), np.abs(error).max()
        line = f"{name:34}{median:10.1f}{min(times[name]):9.1f}{median / unit:7.1f}{rmse:9.1e}{largest:9.1e}"
        print(f"{line}{np.count_nonzero(classes != truth):15}")
    if importlib.util.find_spec("cv2") is None:
        print("OpenCV is not installed: pip install --target DIR opencv-python-headless, then --peers DIR")


if __name__ == "__main__":
    main()

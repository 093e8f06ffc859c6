"""Windows that reach outside an image show it mirrored, without its edge twice."""

import numpy as np
import pytest

from unetpipe.geometry import Box, mirror
from unetpipe.mirroring import source_box, window_of


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 4), (40, 3)])
def test_windows_are_mirrored_without_repeating_the_edge(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(3).random((2, *shape), dtype=np.float32)
    window = Box(start=(-13, -20), stop=(shape[0] + 17, shape[1] + 6))
    found = window_of(image, window)
    expected = image
    for axis, (before, after) in ((1, (13, 17)), (2, (20, 6))):
        pads = [(0, 0)] * 3
        pads[axis] = (before, after)
        expected = np.pad(expected, pads, mode="edge" if image.shape[axis] == 1 else "reflect")
    assert np.array_equal(found, expected)


def test_what_is_read_of_an_image_is_what_stands_in_the_window() -> None:
    """500 windows, in, across and far beyond small images, against mirroring index by index."""
    rng = np.random.default_rng(4)
    for _ in range(500):
        shape = (int(rng.integers(1, 12)), int(rng.integers(1, 12)))
        start = rng.integers(-30, 12, 2)
        start = np.minimum(start, np.array(shape) - 1)
        stop = np.maximum(start, 0) + rng.integers(1, 30, 2)
        window = Box(start=tuple(start.tolist()), stop=tuple(stop.tolist()))
        rows, columns = ([mirror(i, n) for i in range(a, b)] for a, b, n in zip(start, stop, shape, strict=True))
        box = source_box(window, shape)
        assert box.start == (min(rows), min(columns)) and box.stop == (max(rows) + 1, max(columns) + 1)
        image = rng.random((1, *shape), dtype=np.float32)
        found = window_of(image, window)
        assert np.array_equal(found[0], image[0][np.ix_(rows, columns)])

"""What networks see of a stored image: normalised pixels, with every chunk decoded once."""

from collections.abc import Sequence

from unetpipe.geometry import Box
from unetpipe.inference import Forward, ReadWindow, source_boxes
from unetpipe.intensity import normalise
from unetpipe.reading import SharedReader
from unetpipe.slides import Plane

__all__ = ["shared_reader"]


def shared_reader(
    plane: Plane, forward: Forward, cores: Sequence[Box], limits: list[tuple[float, float]], *, most_bytes: int
) -> ReadWindow:
    """A function that gives the normalised pixels of a plane's windows, and decodes each chunk once.

    Parameters
    ----------
    plane : Plane
        The image.
    forward : Forward
        What is going to see it.
    cores : sequence of Box
        All that will be predicted, in this order.
    limits : list of (float, float)
        What becomes 0 and 1, as `intensity_range` gives it.
    most_bytes : int
        Bytes of decoded chunks that may wait for the next window.
    """
    shared = SharedReader(plane, source_boxes(forward, cores), most_bytes=most_bytes)
    return lambda window: normalise(shared.read(window), limits)

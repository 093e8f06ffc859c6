"""Pixel sizes: whether two are the same, and what leads from one to the other."""

import math
from collections.abc import Mapping, Sequence

from unetpipe.errors import ModelError

__all__ = ["TOLERANCE", "agree", "area_px", "coarse_level", "common_pixel_size", "shrink_factor"]

TOLERANCE = 0.02
"""Pixel sizes that differ by no more are taken for the same: objects look 2 % larger or smaller."""

# Two sizes that are typed as exactly 2 % apart are not kept apart by the last bit of their quotient.
_ROUNDING = 1e-9


def agree(size_um: float, reference_um: float) -> bool:
    """Whether a pixel size is the reference's, within the tolerance of 2 %.

    Parameters
    ----------
    size_um, reference_um : float
        Sides of pixels in um, above 0.

    Returns
    -------
    bool
        Whether \\|size / reference - 1\\| <= 0.02.

    Examples
    --------
    >>> agree(0.51, 0.5), agree(0.52, 0.5)
    (True, False)
    """
    return abs(size_um / reference_um - 1) <= TOLERANCE + _ROUNDING


def shrink_factor(size_um: float, target_um: float) -> float:
    """How many pixels of one size fit along the side of a pixel of the target size.

    Parameters
    ----------
    size_um, target_um : float
        Sides of pixels in um, above 0.

    Returns
    -------
    float
        target / size; exactly 1 where they agree.

    Examples
    --------
    >>> shrink_factor(0.25, 0.5), shrink_factor(0.5, 0.51)
    (2.0, 1.0)
    """
    return 1.0 if agree(size_um, target_um) else target_um / size_um


def area_px(area_um2: float, size_um: float) -> int:
    """The fewest pixels that have at least an area.

    Parameters
    ----------
    area_um2 : float
        In um^2, at least 0.
    size_um : float
        Side of a pixel in um, above 0.

    Returns
    -------
    int
        In px, at least 0.

    Examples
    --------
    >>> area_px(1.0, 0.5), area_px(1.1, 0.5)
    (4, 5)
    """
    return math.ceil(area_um2 / size_um**2 * (1 - _ROUNDING))


def coarse_level(shapes: Sequence[tuple[int, int]], size_um: float, *, at_least_um: float, at_most_px: int) -> int:
    """The pyramid level at which to look for large things.

    Parameters
    ----------
    shapes : sequence of (int, int)
        Height and width of each level in px, finest first.
    size_um : float
        Side of a pixel of level 0 in um; it doubles from level to level.
    at_least_um : float
        Side in um that its pixels shall have.
    at_most_px : int
        Pixels that it may have.

    Returns
    -------
    int
        The finest level that fits; the coarsest where none does.

    Examples
    --------
    >>> coarse_level([(4000, 4000), (2000, 2000), (1000, 1000)], 0.5, at_least_um=1.0, at_most_px=2_000_000)
    2
    """
    fitting = (
        level
        for level, (height, width) in enumerate(shapes)
        if size_um * 2**level >= at_least_um and height * width <= at_most_px
    )
    return next(fitting, len(shapes) - 1)


def common_pixel_size(sizes_um: Mapping[str, float | None]) -> float | None:
    """The pixel size that samples share.

    Parameters
    ----------
    sizes_um : mapping of str to float or None
        By sample, side of a pixel in um; None where it is not known.

    Returns
    -------
    float or None
        That of the first sample that has one; None if none has.

    Raises
    ------
    ModelError
        If one does not agree with it.

    Examples
    --------
    >>> common_pixel_size({"a": None, "b": 0.5, "c": 0.505})
    0.5
    """
    known = {name: size for name, size in sizes_um.items() if size is not None}
    for name, size in known.items():
        first, reference = next(iter(known.items()))
        if not agree(size, reference):
            raise ModelError(
                f"samples.tsv: expected one pixel size of all samples that a network learns from, came {reference:.4g} "
                f"um ({first}) and {size:.4g} um ({name}); set ingest.pixel_size_um, to which all are resampled"
            )
    return next(iter(known.values()), None)

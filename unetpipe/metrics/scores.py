"""What every metric returns: a value, what it rests on, and whether it is defined at all."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from unetpipe.errors import ConfigError

__all__ = ["Score", "macro_mean", "ratio"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The value of one metric.

    Parameters
    ----------
    value : float
        The metric; nan exactly where it is not defined.
    n : int
        Pixels, objects or scores that the value rests on; each metric says which.
    defined : bool
        False where the definition divides zero by zero, such as the IoU of a class that occurs nowhere.

    Raises
    ------
    ConfigError
        If a defined value is nan, an undefined one is not, or n is negative.
    """

    value: float
    n: int
    defined: bool

    def __post_init__(self) -> None:
        if math.isnan(self.value) == self.defined or self.n < 0:
            raise ConfigError(
                f"score of value {self.value}, n {self.n}, defined {self.defined}: expected nan exactly where not "
                "defined, and n >= 0; build scores with ratio()"
            )


def ratio(numerator: float, denominator: float, *, n: int) -> Score:
    """The score numerator / denominator, not defined where the denominator is zero.

    Parameters
    ----------
    numerator, denominator : float or int
        Sums over all that is scored; integers of any size are divided exactly.
    n : int
        What the score rests on.

    Returns
    -------
    Score
        Not defined, with value nan, where the denominator is 0.

    Examples
    --------
    >>> ratio(3, 4, n=4)
    Score(value=0.75, n=4, defined=True)
    >>> ratio(0, 0, n=0)
    Score(value=nan, n=0, defined=False)
    """
    if denominator == 0:
        return Score(value=math.nan, n=n, defined=False)
    return Score(value=numerator / denominator, n=n, defined=True)


def macro_mean(scores: Iterable[Score]) -> Score:
    """Plain mean of the defined scores, each counting once: over slices, images or classes.

    Parameters
    ----------
    scores : iterable of Score
        Scores that are not defined are left out, and missing from n.

    Returns
    -------
    Score
        n is the number of scores in the mean; not defined where none is.

    Examples
    --------
    >>> macro_mean([ratio(1, 2, n=2), ratio(3, 3, n=3), ratio(0, 0, n=0)])
    Score(value=0.75, n=2, defined=True)
    """
    values = [score.value for score in scores if score.defined]
    return ratio(math.fsum(values), len(values), n=len(values))

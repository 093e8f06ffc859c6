import math

import pytest

from unetpipe.errors import ConfigError
from unetpipe.metrics.scores import Score, macro_mean, ratio


def test_ratio_of_large_integers_is_divided_exactly() -> None:
    assert ratio(3 * 10**40, 4 * 10**40, n=1).value == 0.75


def test_zero_over_zero_is_not_defined_and_zero_over_one_is_zero() -> None:
    nothing, zero = ratio(0, 0, n=0), ratio(0, 1, n=1)
    assert not nothing.defined and math.isnan(nothing.value)
    assert zero.defined and zero.value == 0


def test_macro_mean_leaves_out_what_is_not_defined_and_says_so() -> None:
    assert macro_mean([ratio(0, 0, n=0)]) == ratio(0, 0, n=0)
    assert macro_mean([]) == ratio(0, 0, n=0)
    assert macro_mean([ratio(1, 1, n=1), ratio(0, 0, n=0), ratio(0, 1, n=9)]) == Score(value=0.5, n=2, defined=True)


@pytest.mark.parametrize(("value", "n", "defined"), [(math.nan, 1, True), (0.0, 1, False), (0.0, -1, True)])
def test_a_score_is_checked_at_birth(value: float, n: int, defined: bool) -> None:
    with pytest.raises(ConfigError, match=r"ratio\(\)"):
        Score(value=value, n=n, defined=defined)

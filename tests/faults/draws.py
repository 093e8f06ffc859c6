"""The cases of a fault, drawn from a fixed seed, and the one line that is to come of them."""

import random
from collections.abc import Callable
from typing import Any

import pytest

MAX_LINE = 300


def numbers(full: int, short: int = 0) -> Callable[[Any], Any]:
    """Cases of a fault: the first few in every run of the tests, the rest in the full suite."""
    cases = [pytest.param(n, marks=[] if n < short else [pytest.mark.faults]) for n in range(full)]
    return pytest.mark.parametrize("number", cases)


def dice(name: str, number: int) -> random.Random:
    """Draws of one case."""
    return random.Random(f"{name}/{number}")


def check_one_line(code: int, lines: list[str]) -> None:
    """A stage has said in one line what is wrong."""
    said = [line for line in lines if line.startswith("unetpipe: ")]
    assert code == 2 and len(said) >= 1 and len(said[-1]) <= MAX_LINE, lines
    assert not any("Traceback" in line for line in lines), lines

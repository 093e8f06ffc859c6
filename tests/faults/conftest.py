"""What the faults share, and the table of what came."""

import os
from collections import Counter
from pathlib import Path

import pytest

from projects import ROOT, Project

from .stages import commands as commands_of

TABLE = os.environ.get("UNETPIPE_FAULTS_TABLE", "")
HEAD = """\
# Faults

What `make faults` did and what came of it; this page is written by it. Each line is a kind of fault, drawn anew for
each of its cases from a fixed seed, on the tiny project of the tests. A case passes if the results end with the same
bytes as those of an undisturbed run, or if one line says what is wrong, and nothing is half-written.

| fault | cases | passed |
|---|---|---|
"""
cases: Counter[str] = Counter()
passed: Counter[str] = Counter()


@pytest.fixture(scope="session")
def commands(finished: Project) -> dict[str, str]:
    """The command of every result of the finished project."""
    return commands_of(finished)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A queue keeps its tests waiting: they come first, and others are done meanwhile."""
    items.sort(key=lambda item: item.path != Path(__file__).with_name("test_slurm.py"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count the cases of each fault."""
    fault = dict(report.user_properties).get("fault")
    if fault and (report.when == "call" or report.failed):
        cases[str(fault)] += 1
        passed[str(fault)] += report.passed


@pytest.fixture(autouse=True)
def told(request: pytest.FixtureRequest, record_property: pytest.FixtureRequest) -> None:
    """The words of a fault are the first line of its test's docstring."""
    words = (request.function.__doc__ or "").splitlines()[0].rstrip(".")
    record_property("fault", words)  # type: ignore[operator]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the table, in the process that has heard of all."""
    if TABLE and cases and not hasattr(session.config, "workerinput"):
        rows = [f"| {words} | {count} | {passed[words]} |\n" for words, count in cases.items()]
        Path(ROOT / TABLE).write_text(HEAD + "".join(rows), encoding="utf-8")

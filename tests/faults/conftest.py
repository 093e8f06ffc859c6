"""What the faults share, and the table of what came."""

import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from projects import ROOT, Project, finished_once, small_project
from unetpipe.netspecs import PaddedUnetSpec
from unetpipe.networks.padded_unet import build

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
began = time.time()
undisturbed_s = pytest.StashKey[float]()


@pytest.fixture(scope="session")
def finished(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished project with the stages that it has not: an imported network, and thresholds that are tuned."""
    project = finished.copy(tmp_path_factory.mktemp("more") / "project")
    torch.save(build(PaddedUnetSpec(features=(4, 8), head="sigmoid"), seed=5).state_dict(), project.folder / "n.pth")
    project.configure(segment={"tune": True}, models={"n": {"weights": "n.pth"}})
    return finished_once(project, tmp_path_factory.getbasetemp(), "more")


@pytest.fixture(scope="session")
def commands(finished: Project) -> dict[str, str]:
    """The command of every result of the finished project."""
    return commands_of(finished)


class OneQueue(LoadScopeScheduling):
    """Hands out tests one by one, but those of SLURM all to the same process, which has the only cluster.

    The groups of pytest-xdist 3.8 would say so, but are silently none since pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "slurm" if "test_slurm.py" in nodeid else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OneQueue:
    """The largest share is handed out first: a queue keeps its tests waiting, and others are done meanwhile."""
    return OneQueue(config, log)


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


def pytest_sessionstart(session: pytest.Session) -> None:
    """Before anything is disturbed, see how long the project of the kills takes where nothing is."""
    if TABLE and not hasattr(session.config, "workerinput"):
        with tempfile.TemporaryDirectory() as folder:
            project = small_project(Path(folder) / "project")
            start = time.perf_counter()
            project.run()
            session.config.stash[undisturbed_s] = time.perf_counter() - start


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the table, and show it, in the process that has heard of all."""
    if not (TABLE and cases):
        return
    rows = [f"| {words} | {count} | {passed[words]} |\n" for words, count in sorted(cases.items())]
    minutes, alone_s = (time.time() - began) / 60, terminalreporter.config.stash[undisturbed_s]
    foot = (
        f"\n{sum(passed.values())} of {sum(cases.values())} cases passed in {minutes:.0f} minutes, on {os.cpu_count()} "
        f"processors, {time.strftime('%-d %B %Y')}. Undisturbed, the run that is killed took {alone_s:.0f} s.\n"
    )
    page = HEAD + "".join(rows) + foot
    Path(ROOT / TABLE).write_text(page, encoding="utf-8")
    terminalreporter.write_line(page)

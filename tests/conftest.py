"""What all tests share."""

import os
from pathlib import Path

import hypothesis
import pytest

from projects import Project, finished_once, new_project, small_project

# The time of one example is the machine's affair, not the code's.
hypothesis.settings.register_profile("unetpipe", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.load_profile("unetpipe")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of real data: UNETPIPE_DATA, or ../shared/data beside the repository; skips where there is none."""
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("UNETPIPE_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}: set UNETPIPE_DATA")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests come first, so that several processes end together."""
    items.sort(key=lambda item: "workflow" not in item.path.parts)


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that has not run yet; not to be changed, use a copy."""
    return new_project(tmp_path_factory.mktemp("blank") / "project")


@pytest.fixture(scope="session")
def finished(blank: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same project behind its first run; not to be changed, use `tree`."""
    return finished_once(blank, tmp_path_factory.getbasetemp(), "finished")


@pytest.fixture
def tree(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, to be changed and run again."""
    return finished.copy(tmp_path / "project")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project of three samples that has not run yet, for kills of whole runs; not to be changed, use a copy."""
    return small_project(tmp_path_factory.mktemp("small") / "project")


@pytest.fixture(scope="session")
def undisturbed(small: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The manifests of its run."""
    return finished_once(small, tmp_path_factory.getbasetemp(), "undisturbed").manifests()

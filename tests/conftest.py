"""What all tests share."""

import os
from pathlib import Path

import hypothesis
import pytest

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

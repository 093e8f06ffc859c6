"""What other software makes of our OME-Zarr, where `make viewers` has installed it: its pins do not go with ours."""

import json
import subprocess
from pathlib import Path

import pytest

from test_oldzarr import pyramid
from unetpipe.oldzarr import write_old_pyramid

PYTHON = Path(__file__).resolve().parents[1] / ".venv-viewers" / "bin" / "python"
SCRIPT = """
import json, sys, zarr
from napari_ome_zarr import napari_get_reader
from ome_zarr_models import open_ome_zarr
found = {}
for name in ("new", "old"):
    path = f"{sys.argv[1]}/{name}"
    model = open_ome_zarr(zarr.open_group(path, mode="r"))
    [(levels, meta, kind)] = napari_get_reader(path)(path)
    shapes = [list(level.shape) for level in levels]
    found[name] = [type(model).__name__, kind, shapes, meta["scale"], meta.get("contrast_limits"), meta["units"]]
print(json.dumps(found), file=sys.stderr)
"""


@pytest.mark.skipif(not PYTHON.exists(), reason="no other software: make viewers")
@pytest.mark.parametrize("coloured", [None, 0, 3])
def test_napari_s_reader_and_another_validator_take_both_versions(tmp_path: Path, coloured: int | None) -> None:
    levels = pyramid(tmp_path / "new", coloured)
    write_old_pyramid(tmp_path / "new", tmp_path / "old")
    command = [str(PYTHON), "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kind = "image" if coloured is None else "labels"
    model, limits = ("Image", [[1, 9], [2, 8]]) if coloured is None else ("ImageLabel", None)
    expected = [model, kind, [list(level.shape) for level in levels], [0.5, 0.5], limits, ["micrometer"] * 2]
    assert json.loads(done.stderr.splitlines()[-1]) == {"new": expected, "old": expected}

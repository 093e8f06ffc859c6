"""What other software makes of our OME-Zarr, where it is installed: its pins do not go with ours.

Set UNETPIPE_VIEWERS to the folder of: pip install --target FOLDER ome-zarr-models napari-ome-zarr zarr==3.1.6
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from test_oldzarr import pyramid
from unetpipe.oldzarr import write_old_pyramid

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


@pytest.mark.slow
@pytest.mark.parametrize("coloured", [None, 0, 3])
def test_napari_s_reader_and_another_validator_take_both_versions(tmp_path: Path, coloured: int | None) -> None:
    folder = os.environ.get("UNETPIPE_VIEWERS")
    if not folder:
        pytest.skip("no other software: set UNETPIPE_VIEWERS")
    levels = pyramid(tmp_path / "new", coloured)
    write_old_pyramid(tmp_path / "new", tmp_path / "old")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": folder},
        capture_output=True,
        text=True,
        check=True,
    )
    kind = "image" if coloured is None else "labels"
    model, limits = ("Image", [[1, 9], [2, 8]]) if coloured is None else ("ImageLabel", None)
    expected = [model, kind, [list(level.shape) for level in levels], [0.5, 0.5], limits, ["micrometer"] * 2]
    assert json.loads(done.stderr.splitlines()[-1]) == {"new": expected, "old": expected}

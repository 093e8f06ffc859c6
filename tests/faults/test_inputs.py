"""Files and names from outside that are not what they should be: read as they are, or refused in one line."""

import json
import random
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from annotations.test_imagej import POLYGON, roi

from projects import Project
from unetpipe.checkpoints import read_public_file
from unetpipe.errors import ConfigError, SourceError, UnetpipeError
from unetpipe.manifests import read_manifest
from unetpipe.samples import read_samples
from unetpipe.specs import IngestSpec
from unetpipe.steps.ingest import ingest

from .draws import check_one_line, dice, numbers


def harm(path: Path, draws: random.Random, kind: int) -> None:
    """Cut a file off, change some bytes or a stretch near its start, or put something else in its place."""
    content = bytearray(path.read_bytes())
    if kind == 0:
        del content[draws.randrange(len(content)) :]
    elif kind == 1:
        for _ in range(draws.randint(1, 8)):
            content[draws.randrange(len(content))] = draws.randrange(256)
    elif kind == 2:
        content[4 : draws.randrange(5, 200)] = draws.randbytes(draws.randrange(200))
    else:
        content = bytearray(draws.randbytes(draws.randrange(2000)))
    path.write_bytes(content)


@numbers(60, 10)
def test_malformed_images(tmp_path: Path, number: int) -> None:
    """An image file cut off, with bytes changed, or of something else: read as it is, or one line."""
    draws = dice("malformed", number)
    pixels = np.random.default_rng(number).integers(0, 255, (80, 90), dtype=np.uint8)
    form = ("tif", "tif", "png", "jpg", "bmp")[number % 5]
    path, output = tmp_path / f"image.{form}", tmp_path / "images/x.json"
    if form == "tif":
        codec, tile = draws.choice([None, "zlib", "lzw"]), draws.choice([None, (32, 32)])
        tifffile.imwrite(path, pixels, compression=codec, tile=tile)
    else:
        imagecodecs.imwrite(path, pixels)
    harm(path, draws, number % 4)
    try:
        ingest(path, output=output, spec=IngestSpec(), code="x@1")
    except SourceError as error:
        assert "\n" not in str(error) and path.name in str(error)
        assert not output.exists()
    else:
        read_manifest(output)


SQUARE = [[5, 5], [30, 5], [30, 30], [5, 30], [5, 5]]
SHAPES = {
    "a.geojson": {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [SQUARE]}},
    "coco.json": {
        "images": [{"id": 1, "file_name": "a.tif", "height": 72, "width": 80}],
        "categories": [{"id": 1, "name": "foreground"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[5, 5, 30, 5, 30, 30, 5, 30]]}],
    },
}
# What reads each of them.
FORMS = {
    "a.zarr": "ingest", "a.npy": "ingest", "config.yaml": "plan", "samples.tsv": "plan", "a.geojson": "annotate",
    "coco.json": "annotate", "a.roi": "annotate",
}  # fmt: skip


def write_form(tree: Project, name: str) -> Path:
    """A sound file of a form; that of a Zarr array's metadata or of a chunk."""
    path, pixels = tree.folder / "images" / name, np.arange(72 * 80, dtype=np.uint8).reshape(72, 80)
    if name == "a.zarr":
        zarr.create_array(path, shape=pixels.shape, dtype="u1", chunks=(40, 40))[...] = pixels
    elif name == "a.npy":
        np.save(path, pixels)
    elif FORMS[name] == "plan":
        return tree.folder / "config" / name
    elif name == "a.roi":
        path.write_bytes(roi(POLYGON, (5, 5, 30, 30), [(5, 5), (30, 5), (30, 30)]))
    else:
        path.write_text(json.dumps(SHAPES[name]))
    return path


def read_form(tree: Project, name: str, path: Path) -> tuple[int, list[str]]:
    """Exit code of the command that reads it, and what it says."""
    words = {
        "ingest": [str(path), "--output", "results/images/x.json"],
        "annotate": [str(path), "results/images/a.json", "--output", "results/labels/x.json"],
        "plan": ["config/config.yaml"],
    }[FORMS[name]]
    command = [sys.executable, "-m", "unetpipe", FORMS[name], *words]
    ended = subprocess.run(command, cwd=tree.folder, env=tree.environment, capture_output=True, text=True)
    return ended.returncode, ended.stderr.splitlines()


@pytest.mark.parametrize("name", FORMS)
def test_sound_files(tree: Project, name: str) -> None:
    """Files of all other forms, with nothing wrong: read."""
    assert read_form(tree, name, write_form(tree, name))[0] == 0


@numbers(40, 1)
def test_malformed_files(tree: Project, number: int) -> None:
    """Zarr, NumPy, YAML, TSV, GeoJSON, COCO, ROI: cut off, with bytes changed, or something else: read, or one line."""
    draws, name = dice("file", number), [*FORMS][number % len(FORMS)]
    path = write_form(tree, name)
    harm(draws.choice(sorted(p for p in path.rglob("*") if p.is_file())) if path.is_dir() else path, draws, number % 4)
    code, lines = read_form(tree, name, path)
    made = [p for p in tree.results.glob("*/x.json") if p.parent.name in ("images", "labels")]
    if code != 0:
        check_one_line(code, lines)
        assert not made and len([line for line in lines if line.startswith("unetpipe: ")]) == 1
    else:
        assert [read_manifest(p).stage for p in made] == [FORMS[name]] * (FORMS[name] != "plan")


HOSTILE = (
    "../up", "..", "a/../b", "/etc/passwd", "a;touch x", "$(touch x)", "`touch x`", "a b", "-rf", "--help", "a|b",
    "a>b", "a\x00b", "a'b", "é", "ａ", "a\u202eb", "CON", "nul.txt", "com1", "x" * 65, "x" * 300, ".hidden", "a.",
    "a..b", "~root", "a*b", "a?b", "{sample}", "a\\b", "%s", "#a", "&a", "a&&b", "!a", "a:b", "[a]", "a=b",
    "a,b", "a@b",
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_names(tmp_path: Path, number: int) -> None:
    """Names of samples that a shell, a path or another system would take for something else: refused."""
    sheet = tmp_path / "samples.tsv"
    sheet.write_text(f"sample\timage\tannotation\tsplit\n{HOSTILE[number]}\ta.tif\ta.tif\ttrain\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"sample|row"):
        read_samples(sheet, IngestSpec())


@pytest.mark.parametrize("number", range(10))
def test_pickles_for_models(tmp_path: Path, number: int) -> None:
    """Pickles that pose as models: nothing of them is run."""
    canary, path = tmp_path / "canary", tmp_path / ("m.pt", "m.pth")[number % 2]
    calls = (
        b"cos\nsystem\n",
        b"cposix\nsystem\n",
        b"cbuiltins\nexec\n",
        b"cbuiltins\neval\n",
        b"csubprocess\ngetoutput\n",
    )
    argument = f"touch {canary}" if number % 5 not in (2, 3) else f"open({str(canary)!r}, 'w')"
    path.write_bytes(calls[number % 5] + f"(V{argument}\ntR.".encode())
    with pytest.raises(UnetpipeError):
        read_public_file(path)
    assert not canary.exists()

"""A folder of one mask per object, as BBBC038 has it, goes through the sheet, the doctor and the workflow."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from unetpipe.slides import open_plane


def command(tree: Any, *arguments: str) -> str:
    """What `python -m unetpipe` says in a project."""
    line = [sys.executable, "-m", "unetpipe", *arguments]
    ended = subprocess.run(line, cwd=tree.folder, env=tree.environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def instances(tree: Any, sample: str) -> np.ndarray:
    """The instances of a sample, in the order of their first pixels."""
    found = open_plane(tree.results / "labels" / f"{sample}.zarr" / "instances" / "0").read_whole()
    _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].reshape(found.shape)


def write_mask(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(imagecodecs.png_encode(mask.astype(np.uint8) * 255))


def test_masks_are_the_label_image_that_they_were_cut_from(blank: Any, tmp_path: Path) -> None:
    tree, truths = blank.copy(tmp_path / "project"), {}
    for path in sorted((tree.folder / "images").glob("*.tif")):
        place, truths[path.stem] = (
            tree.folder / "stage1" / path.stem,
            tifffile.imread(tree.folder / "labels" / path.name),
        )
        (place / "images").mkdir(parents=True)
        (place / "images" / f"{path.stem}.png").write_bytes(imagecodecs.png_encode(tifffile.imread(path)))
        for value in np.unique(truths[path.stem])[1:]:
            write_mask(place / "masks" / f"{value * 7919 % 101:08x}.png", truths[path.stem] == value)
    said = command(tree, "sheet", "stage1", "--overwrite")
    assert "one mask per object in 5 folder(s) masks" in said and "set annotate.kind to instances" in said
    rows = [line.split("\t") for line in (tree.folder / "config" / "samples.tsv").read_text().splitlines()[1:]]
    assert [row[2] for row in rows] == [f"stage1/{name}/masks" for name in sorted(truths)]
    assert "error" not in command(tree, "doctor")
    first = {}
    for name, labels in truths.items():
        _, at, inverse = np.unique(labels, return_index=True, return_inverse=True)
        assert np.array_equal(instances(tree, name), np.argsort(np.argsort(at))[inverse].reshape(labels.shape))
        first[name] = json.loads((tree.results / "labels" / f"{name}.json").read_text())["content"]
    wanted = [f"results/labels/{name}.json" for name in truths]
    # The doctor has left no notes of Snakemake.
    tree.run("--forceall", *wanted)
    assert tree.pending(*wanted) == set()
    # A mask that is drawn anew in its place is another source, and one more is, too.
    masks = tree.folder / "stage1" / "a" / "masks"
    one = sorted(masks.iterdir())[0]
    write_mask(one, np.roll(imagecodecs.png_decode(one.read_bytes()) > 0, 1, axis=1))
    assert "labels/a" in tree.pending(*wanted)
    command(tree, "doctor")
    content = json.loads((tree.results / "labels" / "a.json").read_text())["content"]
    assert content != first["a"]
    (masks / "zz.png").write_bytes(imagecodecs.png_encode(np.pad(np.full((2, 2), 255, np.uint8), ((68, 2), (76, 2)))))
    assert "labels/a" in tree.pending(*wanted)

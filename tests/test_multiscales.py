"""Metadata are those of OME-Zarr 0.5, by its schemas and by other software."""

import json
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from unetpipe.multiscales import write_multiscale
from unetpipe.slides import create_plane


def write_zeros(folder: Path, shape: tuple[int, ...]) -> None:
    """An array of several shards."""
    plane = create_plane(folder, shape=shape, dtype=np.uint16, shard_side=16)
    for _, box in plane.iter_shards():
        plane.write_shard(box, np.zeros((*shape[:-2], *box.shape), np.uint16))


@pytest.mark.parametrize("pixel_size", [None, 0.25])
@pytest.mark.parametrize("label", [False, True])
def test_metadata_is_valid_ome_zarr(tmp_path: Path, data_folder: Path, pixel_size: float | None, label: bool) -> None:
    shapes = [(40, 50), (20, 25)] if label else [(3, 40, 50), (3, 20, 25)]
    for level, shape in enumerate(shapes):
        write_zeros(tmp_path / str(level), shape)
    windows = None if label else [(0.0, 9.0)] * 3
    write_multiscale(
        tmp_path,
        name="a",
        shapes=list(shapes),
        pixel_size_um=pixel_size,
        centred=True,
        label=label,
        classes=3,
        windows=windows,
        names=["a", "", "µ"],
        full=(0, 255),
    )
    folder = data_folder / "ngff" / "0.5" / "schemas"
    schemas = [json.loads(p.read_text()) for p in folder.glob("*.schema")]
    registry = Registry().with_resources([(s["$id"], DRAFT202012.create_resource(s)) for s in schemas])
    attributes = json.loads((tmp_path / "zarr.json").read_text())["attributes"]
    for name in ["image", "strict_image"] if not label else ["image", "label"]:
        schema = json.loads((folder / f"{name}.schema").read_text())
        Draft202012Validator(schema, registry=registry).validate(attributes)


@pytest.mark.parametrize("coloured", [None, 0, 3])
def test_metadata_is_valid_by_a_second_opinion(tmp_path: Path, coloured: int | None) -> None:
    yaozarrs = pytest.importorskip("yaozarrs")
    leading = (2,) if coloured is None else ()
    shapes = [(*leading, 40, 50), (*leading, 20, 25)]
    for level, shape in enumerate(shapes):
        write_zeros(tmp_path / str(level), shape)
    windows = [(1.0, 9.0)] * 2 if coloured is None else None
    names = ["DAPI", "GFP"]
    write_multiscale(
        tmp_path,
        name="a",
        shapes=shapes,
        pixel_size_um=0.5,
        centred=False,
        label=coloured is not None,
        classes=coloured or 0,
        windows=windows,
        names=names,
    )
    yaozarrs.validate_zarr_store(str(tmp_path))


def test_what_viewers_are_told(tmp_path: Path) -> None:
    write_multiscale(
        tmp_path,
        name="a",
        shapes=[(2, 8, 8)],
        pixel_size_um=0.5,
        centred=True,
        windows=[(3, 200), (0, 9)],
        names=["DAPI", "GFP"],
        full=(0, 255),
    )
    ome = json.loads((tmp_path / "zarr.json").read_text())["attributes"]["ome"]
    assert ome["omero"]["channels"] == [
        {"active": True, "color": "FF0000", "label": "DAPI", "window": {"min": 0, "max": 255, "start": 3, "end": 200}},
        {"active": True, "color": "00FF00", "label": "GFP", "window": {"min": 0, "max": 255, "start": 0, "end": 9}},
    ]
    write_multiscale(tmp_path, name="a", shapes=[(8, 8)], pixel_size_um=0.5, centred=False, label=True, classes=9)
    colours = json.loads((tmp_path / "zarr.json").read_text())["attributes"]["ome"]["image-label"]["colors"]
    assert [colour["label-value"] for colour in colours] == [*range(9), 255]
    assert len({tuple(colour["rgba"]) for colour in colours[:8]}) == 8
    assert (colours[0]["rgba"], colours[-1]["rgba"]) == ([0, 0, 0, 0], [128, 128, 128, 255])

"""Copies for old viewers hold the same pixels and are valid by the schema of 0.4."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from imagefiles import noise, whole
from unetpipe.errors import StoreError
from unetpipe.multiscales import write_multiscale
from unetpipe.oldzarr import write_old_pyramid
from unetpipe.pyramids import area_mean, nearest
from unetpipe.slides import create_plane
from unetpipe.sources.images import open_source


def pyramid(group: Path, coloured: int | None) -> list[np.ndarray]:
    """A pyramid of two levels on disk, and its pixels."""
    finest = noise(*((2,) if coloured is None else ()), 300, 200, dtype=np.uint16 if coloured is None else np.uint32)
    levels = [finest, (area_mean if coloured is None else nearest)(finest)]
    for name, pixels in enumerate(levels):
        plane = create_plane(group / str(name), shape=pixels.shape, dtype=pixels.dtype, shard_side=256)
        for _, box in plane.iter_shards():
            plane.write_shard(box, np.ascontiguousarray(pixels[(..., *box.slices)]))
    image = {} if coloured is not None else {"windows": [(1, 9), (2, 8)], "names": ["DAPI", "GFP"], "full": (0, 65535)}
    label: dict[str, Any] = {} if coloured is None else {"label": True, "classes": coloured}
    shapes = [pixels.shape for pixels in levels]
    write_multiscale(group, name="a", shapes=shapes, pixel_size_um=0.5, centred=coloured is None, **label, **image)
    return levels


@pytest.mark.parametrize("coloured", [None, 0, 3])
def test_a_copy_is_valid_and_holds_the_same_pixels(tmp_path: Path, data_folder: Path, coloured: int | None) -> None:
    yaozarrs = pytest.importorskip("yaozarrs")
    levels = pyramid(tmp_path / "new", coloured)
    write_old_pyramid(tmp_path / "new", tmp_path / "old")
    attributes = json.loads((tmp_path / "old" / ".zattrs").read_text())
    folder = data_folder / "ngff" / "0.4" / "schemas"
    schemas = [json.loads(p.read_text()) for p in folder.glob("*.schema")]
    registry = Registry().with_resources([(s["$id"], DRAFT202012.create_resource(s)) for s in schemas if "$id" in s])
    for name in ["image", "strict_image"] if coloured is None else ["image", "label"]:
        schema = json.loads((folder / f"{name}.schema").read_text())
        Draft202012Validator(schema, registry=registry).validate(attributes)
    yaozarrs.validate_zarr_store(str(tmp_path / "old"))
    for name, pixels in enumerate(levels):
        assert np.array_equal(zarr.open_array(tmp_path / "old" / str(name), mode="r")[...], pixels)
        assert json.loads((tmp_path / "old" / str(name) / ".zarray").read_text())["dimension_separator"] == "/"
    with open_source(tmp_path / "old") as source:
        assert np.array_equal(whole(source), levels[0] if coloured is None else levels[0][None])
        assert source.pixel_sides_um == (0.5, 0.5)
        assert source.channel_names == (("DAPI", "GFP") if coloured is None else ())


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path) -> None:
    pyramid(tmp_path / "new", 0)
    (tmp_path / "old").mkdir()
    with pytest.raises(StoreError, match="is there already"):
        write_old_pyramid(tmp_path / "new", tmp_path / "old")
    shard = tmp_path / "new" / "1" / "c" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(StoreError, match="damaged"):
        write_old_pyramid(tmp_path / "new", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()

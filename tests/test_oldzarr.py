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

from imagefiles import area_mean, noise, whole
from unetpipe.errors import StoreError
from unetpipe.multiscales import write_multiscale
from unetpipe.oldzarr import write_old_pyramid
from unetpipe.pyramids import nearest
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


@pytest.mark.parametrize("coloured", [None, 0, 3])
def test_a_copy_keeps_the_rules_of_bio_formats_by_which_qupath_reads(tmp_path: Path, coloured: int | None) -> None:
    pyramid(tmp_path / "new", coloured)
    write_old_pyramid(tmp_path / "new", tmp_path / "old")
    attributes = json.loads((tmp_path / "old" / ".zattrs").read_text())
    [multiscale] = attributes["multiscales"]
    axes = multiscale["axes"]
    # The last of t, c, z, y and x in this order: what is missing is one plane, and comes first.
    assert [axis["name"] for axis in axes] == (["c"] if coloured is None else []) + ["y", "x"]
    assert [axis["type"] for axis in axes[-2:]] == ["space"] * 2
    assert [axis["unit"] for axis in axes[-2:]] == ["micrometer"] * 2
    levels = [
        json.loads((tmp_path / "old" / level["path"] / ".zarray").read_text()) for level in multiscale["datasets"]
    ]
    assert [level["shape"][-1] for level in levels] == [200, 100], "the finest comes first"
    for level in levels:
        assert {"dimension_separator": "/", "filters": None, "order": "C", "zarr_format": 2}.items() <= level.items()
        # JZarr knows no other codecs, and no integers of 64 bits without a sign.
        assert level["compressor"]["id"] in ("zlib", "blosc") and level["dtype"] in ("|u1", "<u2", "<u4", "<f4")
    for channel in attributes.get("omero", {}).get("channels", []):
        assert channel["active"] is True and len(bytes.fromhex(channel["color"])) == 3 and channel["label"]
        assert {type(channel["window"][end]) for end in ("min", "max", "start", "end")} <= {int, float}
        assert "coefficient" not in channel, "a whole number ends the reading"
    assert all(type(one["label-value"]) is int for one in attributes.get("image-label", {}).get("colors", []))
    assert ("omero" in attributes) == (coloured is None) and ("image-label" in attributes) == (coloured is not None)


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

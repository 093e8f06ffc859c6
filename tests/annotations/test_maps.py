"""Maps: values of any integer type, masks, classes, palettes and colours."""

import os
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unetpipe.annotations.maps import open_map
from unetpipe.annotations.truths import open_truth
from unetpipe.errors import AnnotationError, ConfigError, SourceError
from unetpipe.geometry import Box
from unetpipe.labels import compact, instances_of_classes, instances_of_mask
from unetpipe.sources.images import open_source
from unetpipe.specs import AnnotateSpec

COLOURS = {"background": "#000000", "cell": "#ff0000", "debris": "#00FF00", "ignore": "#0000ff"}
THREE = {"classes": ("background", "cell", "debris"), "n_classes": 3}
INDICES = np.array([[0, 1, 1, 2], [3, 3, 0, 1]], np.uint8)
PALETTE = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


def truth_of(path: Path, boxes: list[Box] | None = None, **keys: Any) -> tuple[np.ndarray, np.ndarray]:
    """Instances and classes of a file, read in boxes."""
    spec = AnnotateSpec(**keys)
    palette = "indices" if spec.colours is None else "colours"
    with open_source(path, palette=palette) as source:
        shape = source.shape
    with open_truth(path, spec, shape=shape, image="a") as truth:
        boxes = boxes or [Box(start=(0, 0), stop=shape)]
        truth.prepare(boxes)
        instances, classes = np.zeros(shape, np.uint32), np.zeros(shape, np.uint8)
        for box in boxes:
            instances[box.slices], classes[box.slices] = truth.instances(box), truth.classes(box)
        return instances, classes


def boxes_of(shape: tuple[int, int], side: int) -> list[Box]:
    """Boxes in raster order."""
    starts = [(y, x) for y in range(0, shape[0], side) for x in range(0, shape[1], side)]
    return [Box(start=at, stop=(at[0] + side, at[1] + side)).clipped(shape) for at in starts]


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"])
def test_instance_maps_of_any_type(tmp_path: Path, dtype: str) -> None:
    values = np.array([[0, 5, 127], [7, 7, 0]], dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
    instances, classes = truth_of(tmp_path / "a.tif")
    assert np.array_equal(instances, values)
    assert np.array_equal(classes, values != 0)


@pytest.mark.parametrize("dtype", ["u8", "i8"])
def test_wide_values_are_numbered_anew(tmp_path: Path, dtype: str) -> None:
    values = np.array([[0, 2**60, 2**33], [7, 2**60, 99]], dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
    for boxes in (None, boxes_of((2, 3), 1)):
        instances, classes = truth_of(tmp_path / "a.tif", boxes, ignore_value=99)
        assert instances.tolist() == [[0, 3, 2], [1, 3, 0]]
        assert classes.tolist() == [[0, 1, 1], [1, 1, 255]]
    assert np.array_equal(truth_of(tmp_path / "a.tif")[0], compact(values))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), side=st.integers(1, 8), n=st.sampled_from([2, 4]))
def test_parts_do_not_depend_on_the_boxes(tmp_path: Path, data: st.DataObject, side: int, n: int) -> None:
    flat = data.draw(st.lists(st.integers(0, n - 1), min_size=63, max_size=63))
    values = np.array(flat, np.uint8).reshape(7, 9)
    tifffile.imwrite(tmp_path / "a.tif", values)
    instances, classes = truth_of(tmp_path / "a.tif", boxes_of((7, 9), side), kind="classes", n_classes=n)
    assert np.array_equal(instances, instances_of_classes(values))
    assert np.array_equal(classes, values)
    if n == 2:
        mask, _ = truth_of(tmp_path / "a.tif", boxes_of((7, 9), side), kind="mask")
        assert np.array_equal(mask, instances_of_mask(values != 0))


def write_palette(path: Path) -> None:
    """INDICES as a palette image."""
    if path.suffix == ".png":
        path.write_bytes(palette_png(INDICES, PALETTE))
    else:
        table = np.zeros((3, 256), np.uint16)
        table[:, :4] = PALETTE.T.astype(np.uint16) * 257
        tifffile.imwrite(path, INDICES, photometric="palette", colormap=table)


def palette_png(indices: np.ndarray, palette: np.ndarray) -> bytes:
    """A PNG of colour type 3."""
    import struct
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + row.tobytes() for row in indices)
    header = struct.pack(">IIBBBBB", indices.shape[1], indices.shape[0], 8, 3, 0, 0, 0)
    body = [chunk(b"IHDR", header), chunk(b"PLTE", palette.tobytes()), chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_palettes_by_index_and_by_colour(tmp_path: Path, name: str) -> None:
    write_palette(tmp_path / name)
    assert np.array_equal(truth_of(tmp_path / name)[0], INDICES)
    _, classes = truth_of(tmp_path / name, kind="classes", n_classes=4)
    assert np.array_equal(classes, INDICES)
    instances, classes = truth_of(tmp_path / name, colours=COLOURS, **THREE)
    assert classes.tolist() == [[0, 1, 1, 2], [255, 255, 0, 1]]
    assert instances.tolist() == [[0, 1, 1, 3], [0, 0, 0, 2]]


def test_rgb_codes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(PALETTE[INDICES]))
    (tmp_path / "b.png").write_bytes(imagecodecs.png_encode(np.where(INDICES == 1, 255, 0).astype(np.uint8)))
    assert truth_of(tmp_path / "a.png", colours=COLOURS, **THREE)[1].tolist() == [[0, 1, 1, 2], [255, 255, 0, 1]]
    grey = {"background": "#000000", "foreground": "#ffffff"}
    assert np.array_equal(truth_of(tmp_path / "b.png", colours=grey)[1], INDICES == 1)


def test_a_foreign_colour_is_named_with_its_place_and_count(tmp_path: Path) -> None:
    pixels = np.zeros((40, 50, 3), np.uint8)
    pixels[30, 2:5], pixels[20, 45], pixels[35, 4] = (1, 2, 3), (9, 9, 9), (1, 2, 3)
    pixels[21, 3] = (1, 2, 3)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    said = r"colour #090909 is not in annotate.colours: first at y 20, x 45, on 1 px, and 1 more colours"
    for side in (16, 64):
        with pytest.raises(AnnotationError, match=said):
            truth_of(tmp_path / "a.png", boxes_of((40, 50), side), colours=COLOURS, **THREE)
    pixels[20, 45] = 0
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    with pytest.raises(AnnotationError, match=r"#010203 .* first at y 21, x 3, on 5 px; add it"):
        truth_of(tmp_path / "a.png", boxes_of((40, 50), 16), colours=COLOURS, **THREE)


def test_pixels_outside_of_all_objects(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, 4, 9]], np.uint8))
    assert truth_of(tmp_path / "a.tif", outside="ignore")[1].tolist() == [[255, 1, 1]]
    assert truth_of(tmp_path / "a.tif", outside="ignore", ignore_value=9)[1].tolist() == [[255, 1, 255]]
    keys: dict[str, Any] = {"outside": "ignore", "kind": "classes", "n_classes": 10}
    assert truth_of(tmp_path / "a.tif", **keys)[1].tolist() == [[0, 4, 9]]


@pytest.mark.parametrize(
    ("values", "keys", "said"),
    [
        (np.array([[0, 1, 255]], np.uint8), {"kind": "mask"}, r"mask of 0 and one other value, came 2 others \(1, 255"),
        (np.array([[0, 1, 3]], np.uint8), {"kind": "classes"}, "expected class indices 0 to 1, came 3"),
        (np.array([[0, -1, 3]], np.int64), {}, "expected labels from 0 on, came -1"),
        (np.array([[0.0, 1.0]], np.float32), {}, "expected integer labels, came float32"),
        (
            np.zeros((1, 4), np.uint16),
            {"colours": {"background": "#000000"}},
            "colours of 8 bits .* 1 channels of uint16",
        ),
        (PALETTE[INDICES], {}, "one channel of labels, came 3 different ones; .* annotate.colours"),
    ],
)
def test_maps_that_do_not_fit(tmp_path: Path, values: np.ndarray, keys: dict[str, Any], said: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb" if values.ndim == 3 else "minisblack")
    with pytest.raises(AnnotationError, match=said) as caught:
        truth_of(tmp_path / "a.tif", **keys)
    assert len(str(caught.value)) <= 300


def test_the_size_must_be_the_image_s(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", INDICES)
    with (
        open_source(tmp_path / "a.tif") as source,
        pytest.raises(AnnotationError, match="size of 3 x 4 px, came 2 x 4"),
    ):
        open_map(source, AnnotateSpec(), (3, 4))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"colours": {"cel": "#ff0000"}, **THREE},
            "colours: expected one of background, cell, debris, ignore, came 'cel'",
        ),
        ({"colours": {"cell": "red"}, **THREE}, "colours: expected a colour as \"#rrggbb\" in quotes, came 'red'"),
        ({"colours": {"cell": "#FF0000", "debris": "#ff0000"}, **THREE}, "#ff0000 stands for two classes"),
        ({"colours": {}}, "expected a colour for each class, came none"),
        ({"names": {"Tumour": "tumor"}}, "names: expected one of background, foreground, ignore, came 'tumor'"),
        ({"classes": ("a", "b", "c")}, "expected 2 names, came 3"),
    ],
)
def test_keys_that_do_not_fit(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        AnnotateSpec(**keys)


@pytest.mark.parametrize("overlay", [False, True])
def test_a_pipe_is_not_opened(tmp_path: Path, overlay: bool) -> None:
    os.mkfifo(tmp_path / "a.geojson")
    spec = AnnotateSpec(overlay=overlay)
    with (
        pytest.raises(SourceError, match="is a device or pipe; name an image file"),
        open_truth(tmp_path / "a.geojson", spec, shape=(4, 6), image="a"),
    ):
        pass

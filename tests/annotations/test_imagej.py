"""ImageJ ROIs, built byte by byte as ij.io.RoiEncoder writes them."""

import io
import logging
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from unetpipe.annotations.regions import read_region
from unetpipe.annotations.truths import open_truth
from unetpipe.errors import AnnotationError, UnetpipeError
from unetpipe.geometry import Box
from unetpipe.specs import AnnotateSpec

POLYGON, RECTANGLE, OVAL, LINE, FREEHAND, POINT = 0, 1, 2, 3, 7, 10
SUBPIXEL = 128


def roi(
    kind: int = RECTANGLE,
    box: tuple[int, int, int, int] = (0, 0, 0, 0),
    points: list[tuple[float, float]] | None = None,
    *,
    options: int = 0,
    floats: tuple[float, ...] = (0, 0, 0, 0),
    composite: tuple[float, ...] = (),
    name: str = "",
    group: int = 0,
    position: int = 0,
    z: int = 0,
    t: int = 0,
    version: int = 228,
    subtype: int = 0,
) -> bytes:
    """A ROI; `box` is top, left, bottom, right and `points` are (x, y)."""
    points = points or []
    top, left, *_ = box
    body = b"".join(struct.pack(">h", int(x) - left) for x, _ in points)
    body += b"".join(struct.pack(">h", int(y) - top) for _, y in points)
    if options & SUBPIXEL:
        body += struct.pack(f">{2 * len(points)}f", *(x for x, _ in points), *(y for _, y in points))
    body += struct.pack(f">{len(composite)}f", *composite)
    second = 64 + len(body)
    head = b"Iout" + struct.pack(">hBx4hH", version, kind, *box, len(points)) + struct.pack(">4f", *floats)
    head += struct.pack(">hi8shhBBhii", 0, len(composite), b"", subtype, options, 0, 0, 0, position, second)
    header2 = struct.pack(">4x5i", 0, z, t, second + 64 if name else 0, len(name)) + bytes(6) + bytes([group])
    return head + body + header2.ljust(64, b"\0") + name.encode("utf-16-be")


def archive(**rois: bytes) -> bytes:
    """A zip archive as the ROI manager saves it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in rois.items():
            zipped.writestr(f"{name}.roi", data)
        zipped.writestr("__MACOSX/notes.txt", b"left alone")
    return file.getvalue()


def test_a_rectangle_covers_the_pixels_between_its_sides(read) -> None:
    expected = np.zeros((6, 8), np.uint8)
    expected[1:3, 2:5] = 1
    for content in (roi(box=(1, 2, 3, 5)), archive(one=roi(box=(1, 2, 3, 5)))):
        instances, classes = read(content)
        assert np.array_equal(instances, expected)
        assert np.array_equal(classes, expected)


def test_polygons_of_whole_and_of_broken_coordinates(read) -> None:
    corners = [(2, 1), (5, 1), (5, 3), (2, 3)]
    expected = np.zeros((6, 8), np.uint8)
    expected[1:3, 2:5] = 1
    assert np.array_equal(read(roi(POLYGON, (1, 2, 3, 5), corners))[1], expected)
    broken = [(x + 0.4, y - 0.4) for x, y in corners]
    assert np.array_equal(read(roi(FREEHAND, (1, 2, 3, 5), broken, options=SUBPIXEL))[1], expected)
    assert np.array_equal(read(roi(box=(9, 9, 9, 9), options=SUBPIXEL, floats=(2.4, 0.6, 3.0, 2.0)))[1], expected)


def test_an_oval_by_hand(read) -> None:
    assert read(roi(OVAL, (0, 0, 4, 6)))[0].tolist() == [
        [0, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize("height", [2.0**20 + 1, 3e6, 2e9])
def test_an_oval_of_more_rows_than_any_slide_is_refused(read, monkeypatch: pytest.MonkeyPatch, height: float) -> None:
    monkeypatch.setattr("unetpipe.annotations.imagej.ellipse", None)
    with pytest.raises(AnnotationError, match=rf"ROI 1 .*an oval of {height:.0f} rows, expected at most 1048576"):
        read(roi(OVAL, options=SUBPIXEL, floats=(1.5, 0.5, 3.0, height)))


def test_a_composite_with_a_hole_and_a_curve(read) -> None:
    square = (0, 0, 0, 1, 4, 0, 1, 4, 4, 1, 0, 4, 4)
    hole = (0, 1, 1, 1, 3, 1, 1, 3, 3, 1, 1, 3, 4)
    assert read(roi(composite=square + hole))[0][:4, :4].tolist() == [
        [1, 1, 1, 1],
        [1, 0, 0, 1],
        [1, 0, 0, 1],
        [1, 1, 1, 1],
    ]
    # The parabola from (0, 0) over (4, 8) to (8, 0) is y = x (8 - x) / 4 high.
    instances, _ = read(roi(composite=(0, 0, 0, 2, 4, 8, 8, 0, 4)))
    x, y = np.arange(8) + 0.5, np.arange(6)[:, None] + 0.5
    assert np.array_equal(instances != 0, y < x * (8 - x) / 4)


def test_coordinates_beyond_32767_are_unsigned(tmp_path: Path) -> None:
    (tmp_path / "a.roi").write_bytes(roi(box=(0, 40_000 - 65_536, 1, 40_002 - 65_536)))
    with open_truth(tmp_path / "a.roi", AnnotateSpec(), shape=(2, 50_000), image="a") as truth:
        assert truth.classes(Box(start=(0, 39_999), stop=(1, 40_003))).tolist() == [[0, 1, 1, 0]]


def test_names_and_groups_tell_the_class(read) -> None:
    three = {"classes": ("background", "cell", "debris")}
    squares = [roi(box=(0, 2 * i, 1, 2 * i + 1), name=n) for i, n in enumerate(["cell-1", "Debris (2)", "ignore 3"])]
    grouped = roi(box=(0, 6, 1, 7), name="0012-0034", group=2)
    content = archive(a=squares[0], b=squares[1], c=squares[2], d=grouped)
    assert read(content, **three)[1][0].tolist() == [1, 0, 2, 0, 255, 0, 2, 0]
    assert read(archive(debris_7=roi(box=(0, 0, 1, 1))), **three)[1][0, 0] == 2
    assert read(roi(box=(0, 0, 1, 1), name="0012-0034"))[1][0, 0] == 1


def test_what_has_no_area_is_counted(read, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read(archive(a=roi(LINE), b=roi(POINT, (0, 0, 1, 1), [(1, 1)]), c=roi(box=(0, 0, 2, 2)), d=roi(subtype=1)))
    for kind in ("line", "point", "text or image"):
        assert f"1 ROIs without an area ({kind}) were left out" in caplog.text


def test_positions_in_a_stack(read) -> None:
    content = archive(a=roi(box=(0, 0, 1, 1), position=1), b=roi(box=(0, 1, 1, 2), position=2), c=roi(box=(0, 2, 1, 3)))
    assert read(content, plane=1)[1][0].tolist() == [0, 1, 1, 0, 0, 0, 0, 0]
    with pytest.raises(AnnotationError, match="2 planes"):
        read(content)
    with pytest.raises(AnnotationError, match="no shape in plane 4, but 1 in others: 0; correct annotation_plane"):
        read(archive(a=roi(box=(0, 0, 1, 1), position=1)), plane=4)


def test_slices_and_frames_of_a_stack(read) -> None:
    content = archive(a=roi(box=(0, 0, 1, 1), z=3, t=2), b=roi(box=(0, 1, 1, 2), z=3), c=roi(box=(0, 2, 1, 3), t=2))
    axes = [("t", 2), ("z", 3)]
    for plane, expected in ((5, [1, 0, 0]), (2, [0, 1, 0]), (3, [0, 0, 1])):
        assert read(content, plane=plane, axes=axes)[1][0, :3].tolist() == expected


@pytest.mark.parametrize("byteorder", [">", "<"])
def test_overlays_in_a_tiff(tmp_path: Path, byteorder: Any) -> None:
    overlay = {"Overlays": [roi(box=(0, 0, 1, 2)), roi(box=(1, 1, 2, 3))], "ROI": roi(box=(3, 3, 4, 4))}
    tags = tifffile.tifffile.imagej_metadata_tag(overlay, byteorder)
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    tifffile.imwrite(tmp_path / "a.tif", pixels, byteorder=byteorder, extratags=tags)
    box = Box(start=(0, 0), stop=(4, 6))
    for keys, expected in (({"overlay": True}, [1, 1, 0, 0, 0, 0]), ({}, [0, 1, 2, 3, 4, 5])):
        with open_truth(tmp_path / "a.tif", AnnotateSpec(**keys), shape=(4, 6), image="a") as truth:
            truth.prepare([box])
            assert truth.instances(box)[0].tolist() == expected
    tifffile.imwrite(tmp_path / "b.tif", pixels)
    with (
        pytest.raises(AnnotationError, match="holds no ImageJ overlay"),
        open_truth(tmp_path / "b.tif", AnnotateSpec(overlay=True), shape=(4, 6), image="b"),
    ):
        pass


def bomb() -> bytes:
    """An archive that says it holds 3 GB."""
    data = bytearray(archive(a=roi(box=(0, 0, 1, 1))))
    at = data.rindex(b"PK\1\2", 0, data.rindex(b"PK\1\2"))
    data[at + 24 : at + 28] = struct.pack("<I", 3 * 10**9)
    return bytes(data)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (roi(POLYGON, (0, 0, 4, 4), [(0, 0), (4, 0), (4, 4)])[:70], "ROI 1 'annotation' .* before its 6 coordinates"),
        (roi(kind=12, box=(0, 0, 1, 1)), "of the unknown type 12"),
        (roi(composite=(7, 0, 0)), "unknown command 7"),
        (roi(composite=(1, 0, 0)), "unknown command 1"),
        (roi(composite=(0, 0)), "unknown command 0"),
        (roi(composite=(float("nan"), 0)), "ROI 1"),
        (b"Iout", "ROI 1"),
        (archive(a=b"not a roi"), "ROI 1 'a' .* expected Iout"),
        (archive(a=roi(box=(0, 0, 1, 1)))[:-30], "damaged zip archive"),
        (archive(), "came 0 ROIs"),
        (bomb(), "came 1 ROIs of 3000000000 bytes"),
        (roi(box=(0, 0, 1, 1), name="debris", group=9), None),
    ],
)
def test_bad_rois(read, content: bytes, said: str | None) -> None:
    if said is None:
        with pytest.raises(AnnotationError, match="class 'debris'"):
            read(content, classes=("a", "b", "c"))
        return
    with pytest.raises(AnnotationError, match=said) as caught:
        read(content)
    assert len(str(caught.value)) <= 300


def test_damaged_bytes_end_in_one_line(read) -> None:
    rng = np.random.default_rng(5)
    corners = [(0, 0), (5, 0), (5, 5), (0, 5)]
    good = [
        roi(POLYGON, (0, 0, 5, 5), corners, name="cell-1"),
        archive(a=roi(box=(0, 0, 2, 2)), b=roi(OVAL, (0, 0, 3, 3))),
    ]
    for trial in range(300):
        data = bytearray(good[trial % 2])
        for at in rng.integers(4, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(256)
        try:
            read(bytes(data))
        except UnetpipeError as error:
            assert len(str(error)) <= 300
            assert "\n" not in str(error)


def test_rois_of_any_name_are_one_region(tmp_path: Path) -> None:
    path = tmp_path / "r.zip"
    path.write_bytes(archive(a=roi(box=(2, 3, 5, 9), name="margin"), b=roi(box=(4, 1, 7, 4), name="ignore this")))
    expected = np.zeros((20, 20), bool)
    expected[2:5, 3:9] = True
    expected[4:7, 1:4] = False
    assert np.array_equal(read_region(path, shape=(20, 20))(Box(start=(0, 0), stop=(20, 20))), expected)

"""Folders of one mask per object, as BBBC038 has them, against the label image that they were cut from."""

import os
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from unetpipe.annotations import maskfolders
from unetpipe.annotations.truths import open_truth
from unetpipe.errors import AnnotationError, SourceError, UnetpipeError
from unetpipe.geometry import Box
from unetpipe.sources.files import sha256_of_source
from unetpipe.specs import AnnotateSpec

SHAPE = (6, 8)


def written(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    """A folder of masks, in a file of this name each."""
    folder.mkdir(exist_ok=True)
    for name, mask in masks.items():
        (folder / name).write_bytes(imagecodecs.png_encode(mask.astype(np.uint8)))
    return folder


def mask(*parts: tuple[slice, slice], value: int = 255, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """A mask of rectangles."""
    made = np.zeros(shape, np.uint8)
    for part in parts:
        made[part] = value
    return made


def truth_of(folder: Path, shape: tuple[int, int] = SHAPE, **keys: Any) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Instances and classes of a folder, read in boxes of 4 px, and how many objects it tells of."""
    instances, classes = np.zeros(shape, np.uint32), np.zeros(shape, np.uint8)
    with open_truth(folder, AnnotateSpec(**keys), shape=shape, image="a.png") as truth:
        starts = [(y, x) for y in range(0, shape[0], 4) for x in range(0, shape[1], 4)]
        boxes = [Box(start=(y, x), stop=(y + 4, x + 4)).clipped(shape) for y, x in starts]
        truth.prepare(boxes)
        for box in boxes:
            instances[box.slices], classes[box.slices] = truth.instances(box), truth.classes(box)
        return instances, classes, truth.count


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=arrays.arrays(np.uint8, (9, 7), elements=st.integers(0, 4)), pixels=st.sampled_from([7, 28, 2**22]))
def test_masks_cut_from_a_label_image_give_it_back(
    tmp_path_factory: pytest.TempPathFactory, labels: np.ndarray, pixels: int
) -> None:
    values = [int(value) for value in np.unique(labels) if value]
    folder = tmp_path_factory.mktemp("x")
    # Numbered by the order of names, and read in bands of one row, of four, and at once.
    written(folder, {f"{value}.png": (labels == value) * (9 + value) for value in reversed(values)})
    (folder / ".DS_Store").write_text("no mask")
    if not values:
        written(folder, {"none.png": labels})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(maskfolders, "_PIXELS_AT_ONCE", pixels)
        instances, classes, count = truth_of(folder, (9, 7))
    assert np.array_equal(instances, np.searchsorted([0, *values], labels))
    assert np.array_equal(classes, labels > 0)
    assert count == len(values)


def test_the_smaller_of_two_that_overlap_lies_on_top(tmp_path: Path) -> None:
    """As shapes do: whatever their order; of two equal ones the later."""
    small, large = mask(np.s_[1:3, 1:3]), mask(np.s_[0:5, 0:5])
    for names in (("a.png", "b.png"), ("b.png", "a.png")):
        folder = written(tmp_path / names[0], dict(zip(names, (small, large), strict=True)))
        instances, _, _ = truth_of(folder)
        number = 1 if names[0] == "a.png" else 2
        assert ((instances == number) == (small > 0)).all()
        assert ((instances == 3 - number) == ((large > 0) & (small == 0))).all()
    twins = written(tmp_path / "twins", {"a.png": small, "b.png": small})
    assert truth_of(twins)[0].max() == truth_of(twins)[0][1, 1] == 2


def test_an_object_may_be_of_several_parts_and_a_mask_empty(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = mask(np.s_[0:2, 0:2], np.s_[4:6, 5:8], value=1)
    folder = written(tmp_path / "m", {"a.png": mask(), "b.png": parts, "c.png": mask(np.s_[2:4, 2:4])})
    instances, classes, count = truth_of(folder, outside="ignore")
    assert np.array_equal(instances, parts + 2 * (mask(np.s_[2:4, 2:4]) > 0))
    assert np.array_equal(classes, np.where(instances > 0, 1, 255)) and count == 2
    assert "1 masks without a pixel were left out" in caplog.text


def test_masks_in_any_format(tmp_path: Path) -> None:
    folder = written(tmp_path / "m", {"1.png": np.repeat(mask(np.s_[0:2, 0:2])[..., None], 3, axis=2)})
    tifffile.imwrite(folder / "2.tif", mask(np.s_[3:5, 0:2]).astype(np.uint16) * 7)
    (folder / "3.png").symlink_to(written(tmp_path / "aside", {"x.png": mask(np.s_[3:5, 4:6])}) / "x.png")
    assert [int(n) for n in np.bincount(truth_of(folder)[0].ravel())] == [36, 4, 4, 4]


def two_values(folder: Path) -> None:
    written(folder, {"b.png": mask(np.s_[0:2, 0:2]) + mask(np.s_[3:5, 3:5], value=128)})


def looped(folder: Path) -> None:
    (folder / "b.png").symlink_to(folder / "b.png")


@pytest.mark.parametrize(
    ("disturb", "said"),
    [
        (two_values, r"b\.png: expected the mask of one object, 0 and one other value, came 2 others \(128, 255\)"),
        (looped, r"m: is a directory that holds b\.png, which is no file; name an image file, .* one of a mask per"),
        (lambda folder: os.mkfifo(folder / "b.png"), "holds b.png, which is no file"),
        (lambda folder: (folder / "b").mkdir(), "holds b, which is no file"),
        (lambda folder: (folder / "back").symlink_to(folder), "holds back, which is no file"),
        (lambda folder: (folder / "gone.png").symlink_to("nowhere"), "holds gone.png, which is no file"),
        (lambda folder: (folder / "Thumbs.db").write_bytes(b"no image"), r"Thumbs\.db: is of an unknown format"),
        (lambda folder: (folder / "b.png").write_bytes(b""), r"b\.png: is empty \(0 bytes\)"),
        (lambda folder: (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:60]), r"b\.png: is damaged"),
        (lambda folder: written(folder, {"b.png": mask(shape=(6, 9))}), r"b\.png: expected the image's size of 6 x 8"),
        (lambda folder: (folder / "a.png").unlink(), "m: is a directory without files; name"),
        (lambda folder: [(folder / f"{n}.png").touch() for n in range(20_000)], "a directory of more than 20000 files"),
    ],
)
def test_what_is_no_folder_of_masks(tmp_path: Path, disturb: Any, said: str) -> None:
    folder = written(tmp_path / "m", {"a.png": mask(np.s_[0:2, 0:2])})
    disturb(folder)
    with pytest.raises(UnetpipeError, match=said) as caught:
        truth_of(folder)
    assert isinstance(caught.value, (AnnotationError, SourceError))
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 300


@pytest.mark.parametrize("keys", [{"kind": "mask"}, {"colours": {"foreground": "#ffffff"}}, {"overlay": True}])
def test_other_kinds_are_refused(tmp_path: Path, keys: dict[str, Any]) -> None:
    folder = written(tmp_path / "m", {"a.png": mask(np.s_[0:2, 0:2])})
    with pytest.raises(AnnotationError, match=r"m: holds one mask per object, .* set annotate\.kind to instances"):
        truth_of(folder, **keys)


def test_the_digest_changes_with_any_mask(tmp_path: Path) -> None:
    folder = written(tmp_path / "m", {f"{n}.png": mask(np.s_[n : n + 1, 0:2]) for n in range(3)})
    digests = [sha256_of_source(folder)]
    (folder / ".DS_Store").write_text("no mask")
    assert sha256_of_source(folder) == digests[0]
    written(folder, {"1.png": mask(np.s_[5:6, 0:2])})
    digests.append(sha256_of_source(folder))
    (folder / "1.png").rename(folder / "9.png")
    digests.append(sha256_of_source(folder))
    (folder / "9.png").unlink()
    digests.append(sha256_of_source(folder))
    assert len(set(digests)) == 4

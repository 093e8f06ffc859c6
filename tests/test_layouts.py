"""Folders as people keep them."""

import json
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetpipe.errors import ConfigError
from unetpipe.layouts import Pair, coco_pairs, find_pairs, iter_files, named, split_lists, with_splits
from unetpipe.samples import check_name, usable
from unetpipe.sources.images import IMAGE_SUFFIXES


def paired(*paths: str) -> dict[str, str | None]:
    """Annotation of each image."""
    pairs, _ = find_pairs([PurePosixPath(path) for path in paths])
    return {str(pair.image): str(pair.annotation) if pair.annotation else None for pair in pairs}


@pytest.mark.parametrize(
    ("image", "annotation"),
    [
        ("images/a.tif", "masks/a.png"),
        ("images/a b (1).tif", "labels/a b (1).tif"),
        ("Images/a.tif", "Annotations/a.tif"),
        ("x/image/a.jpg", "x/gt/a.tif"),
        ("train/images/a.png", "train/masks/a_mask.png"),
        ("images/train/a.png", "masks/train/a.png"),
        ("images_train/a.png", "labels_train/a.png"),
        ("a.tif", "masks/a.tif"),
        *[
            ("d/a_1.tif", f"d/a_1{suffix}.png")
            for suffix in ("_mask", "_label", "_labels", "_masks", "_seg", "_gt", "-mask")
        ],
        ("a_image.tif", "a_label.tif"),
        ("a_image.tif", "a_image_mask.tif"),
        ("raw/a.tif", "masks/a.tif"),
        ("images/a.png", "ground truth/a.png"),
        ("BBBC004_v1_001_images/s1.tif", "BBBC004_v1_001_foreground/s1.tif"),
        ("BBBC005_v1_images/s1.TIF", "BBBC005_v1_ground_truth/s1.TIF"),
        ("imagesTr/case_7_0000.png", "labelsTr/case_7.png"),
        ("slides/x 1.svs", "annotations/x 1.geojson"),
        ("slides/x.ome.tif", "slides/x.ome.tif.geojson"),
        ("x.ndpi", "x.geojson"),
        ("images/a.tif", "rois/a.zip"),
        ("images/a.zarr", "labels/a.zarr"),
        ("images/a.npy", "labels/a.npy"),
        ("d/a.tif", "d/a_cp_masks.png"),
        ("x.svs", "x.geojson.gz"),
        ("slides/x.ome.tif", "annotations/x.ome.tif.GeoJSON.gz"),
    ],
)
def test_layouts_are_told_by_names(image: str, annotation: str) -> None:
    assert paired(image, annotation, "readme.md") == {image: annotation}


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_whatever_can_be_read_is_an_image(suffix: str) -> None:
    assert paired(f"a{suffix}", f"a{suffix}.geojson") == {f"a{suffix}": f"a{suffix}.geojson"}
    assert paired(f"A{suffix.upper()}") == {f"A{suffix.upper()}": None}


@pytest.mark.parametrize(
    "paths",
    [("a.tif", "b_mask.tif"), ("one/images/a.tif", "two/masks/a.tif"), ("imagesTr/a_0000.png", "labelsTs/a.png")],
)
def test_what_does_not_pair(paths: tuple[str, str]) -> None:
    assert set(paired(*paths).values()) == {None}


def test_every_image_is_there_and_the_rest_is_told() -> None:
    files = [PurePosixPath(p) for p in ("images/a.tif", "images/b.tif", "masks/a.tif", "masks/c.tif")]
    pairs, notes = find_pairs(files)
    assert [str(pair.image) for pair in pairs] == ["images/a.tif", "images/b.tif"]
    assert notes == [
        "annotations told by folder masks",
        "1 annotation(s) without an image are left out, as masks/c.tif",
    ]


def test_two_for_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"masks/a.tif: expected one file, came two annotations .* masks/a.png"):
        paired("images/a.tif", "masks/a.png", "masks/a.tif")
    with pytest.raises(ConfigError, match="came two annotations"):
        paired("a.svs", "a.geojson", "a.geojson.gz")
    with pytest.raises(ConfigError, match="two images of one name"):
        paired("images/a.tif", "images/a.png")


def test_one_mask_per_object_is_told_by_the_folders() -> None:
    mixed = ["readme.md", "s1_train/p/images/p.png", "s1_train/p/masks/7.png", "s1_train/p/masks/8.png"]
    mixed += ["s1_train/q/images/q.png", "s1_train/q/masks/9.png", "s1_test/r/images/r.png"]
    pairs, notes = find_pairs([PurePosixPath(path) for path in mixed])
    assert [(pair.image.stem, pair.annotation and str(pair.annotation), pair.split) for pair in pairs] == [
        ("p", "s1_train/p/masks", ""),
        ("q", "s1_train/q/masks", ""),
        ("r", None, "test"),
    ]
    assert notes == ["one mask per object in 2 folder(s) masks"]
    pairs, _ = find_pairs([PurePosixPath(path.replace("train/q", "val/q")) for path in mixed])
    assert [pair.split for pair in pairs] == ["train", "val", "test"]


@pytest.mark.parametrize(
    "masks", [("a.png", "b.png"), ("a_mask.png", "a_mask2.png"), ("b.png",), ("b.zip", "c.zip"), ()]
)
def test_masks_of_whole_images_are_no_objects(masks: tuple[str, ...]) -> None:
    assert "images/a.png" in paired("images/a.png", *(f"masks/{name}" for name in masks))
    assert paired("images/a.png", *(f"masks/{name}" for name in masks))["images/a.png"] != "masks"


def test_objects_of_one_of_several_images_are_not_guessed() -> None:
    assert set(paired("images/a.png", "images/b.png", "masks/1.png", "masks/2.png").values()) == {None}


def test_further_channels_of_nnunet_are_left_out_and_told() -> None:
    files = [
        PurePosixPath(p)
        for p in ("imagesTr/c_0000.png", "imagesTr/c_0001.png", "imagesTs/d_0000.png", "labelsTr/c.png")
    ]
    pairs, notes = find_pairs(files)
    assert [(str(p.image), p.split, bool(p.annotation)) for p in pairs] == [
        ("imagesTr/c_0000.png", "train", True),
        ("imagesTs/d_0000.png", "test", False),
    ]
    assert notes[1:] == [
        "1 file(s) of further channels are left out, as imagesTr/c_0001.png: a sample's channels come from one file; "
        "to use all, save those of a case as one OME-TIFF instead of its _0000, and set network.channels"
    ]
    assert paired("imagesTr/c_0000.ome.tif", "labelsTr/c.tif") == {"imagesTr/c_0000.ome.tif": "labelsTr/c.tif"}


def test_films_of_the_cell_tracking_challenge() -> None:
    paths = [f"DIC/01/t00{i}.tif" for i in range(4)] + [
        "DIC/01_GT/SEG/man_seg002.tif",
        "DIC/01_GT/TRA/man_track002.tif",
    ]
    paths += ["DIC/01_ST/SEG/man_seg002.tif", "DIC/01_ST/SEG/man_seg003.tif"]
    paths += ["DIC/02/t000.tif", "DIC/02_GT/SEG/man_seg_000_012.tif"]
    pairs, _ = find_pairs(sorted(map(PurePosixPath, paths)))
    found = {
        pair.name: (pair.annotation and str(pair.annotation), pair.group, pair.plane, pair.annotation_plane)
        for pair in pairs
    }
    assert found == {
        "DIC/01-t000": (None, "DIC/01", None, None),
        "DIC/01-t001": (None, "DIC/01", None, None),
        "DIC/01-t002": ("DIC/01_GT/SEG/man_seg002.tif", "DIC/01", None, None),
        "DIC/01-t003": ("DIC/01_ST/SEG/man_seg003.tif", "DIC/01", None, None),
        "DIC/02-t000": ("DIC/02_GT/SEG/man_seg_000_012.tif", "DIC/02", 12, 0),
    }


def test_coco_annotates_what_it_lists(tmp_path: Path) -> None:
    listed = {"images": [{"file_name": "x/a.png"}], "annotations": [{}], "categories": []}
    (tmp_path / "i.json").write_text(json.dumps(listed))
    (tmp_path / "other.json").write_text("[1]")
    (tmp_path / "bad.json").write_text("{")
    files = [PurePosixPath(p) for p in ("bad.json", "i.json", "images/a.png", "images/b.png", "other.json")]
    pairs, notes = coco_pairs(tmp_path, files, find_pairs(files)[0])
    assert [pair.annotation for pair in pairs] == [PurePosixPath("i.json"), None]
    assert notes == ["COCO file i.json: 1 image(s)"]


def test_links_in_loops_end_and_files_have_their_own_names(tmp_path: Path) -> None:
    (tmp_path / "z" / "images").mkdir(parents=True)
    (tmp_path / "z" / "images" / "a.tif").touch()
    (tmp_path / "z" / "images" / "up").symlink_to(tmp_path)
    (tmp_path / "a").symlink_to(tmp_path / "z")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "gone.tif").symlink_to("nowhere.tif")
    (tmp_path / ".hidden.tif").touch()
    (tmp_path / "b.ome.zarr" / "0").mkdir(parents=True)
    assert [str(p) for p in iter_files(tmp_path)] == ["b.ome.zarr", "z/images/a.tif"]
    with pytest.raises(ConfigError, match="no such folder"):
        list(iter_files(tmp_path / "self"))


def test_linked_folders_from_elsewhere_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk" / "images").mkdir(parents=True)
    (tmp_path / "disk" / "images" / "a.tif").touch()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "images").symlink_to(tmp_path / "disk" / "images")
    assert [str(p) for p in iter_files(tmp_path / "here")] == ["images/a.tif"]


def annotated(count: int, **keys: str) -> list[Pair]:
    """Pairs with annotations."""
    return [Pair(image=PurePosixPath(f"{n}.png"), annotation=PurePosixPath("x"), **keys) for n in range(count)]  # type: ignore[arg-type]


def counts(pairs: list[Pair]) -> list[int]:
    """How many pairs are in train, val and test."""
    return [sum(pair.split == split for pair in pairs) for split in ("train", "val", "test")]


def test_splits_are_drawn_by_name_only() -> None:
    pairs = annotated(20)
    found = with_splits(pairs, (70, 15, 15))
    assert counts(found) == [14, 3, 3]
    assert {p.image: p.split for p in with_splits(pairs[::-1], (70, 15, 15))} == {p.image: p.split for p in found}
    assert counts(with_splits(pairs, (100, 0, 0))) == [20, 0, 0]
    assert counts(with_splits(pairs, (1, 0, 1))) == [10, 0, 10]
    assert [counts(with_splits(annotated(n), (70, 15, 15))) for n in (1, 2, 3, 4)] == [
        [1, 0, 0],
        [2, 0, 0],
        [1, 1, 1],
        [2, 1, 1],
    ]


def test_folders_tell_splits_and_images_alone_are_predicted() -> None:
    pairs = [Pair(image=PurePosixPath("p.tif"), split="test"), *annotated(2, split="val")]
    pairs.append(Pair(image=PurePosixPath("l.tif"), annotation=PurePosixPath("x"), split="train"))
    assert [pair.split for pair in with_splits(pairs, (70, 15, 15))] == ["predict", "val", "val", "train"]
    assert counts(with_splits(annotated(4, split="test"), (70, 15, 15))) == [2, 1, 1], (
        "nothing would be left to learn from"
    )


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train/images/a.tif", "train"),
        ("stage1_train/a/images/a.png", "train"),
        ("validation/a.tif", "val"),
        ("images/valid/a.tif", "val"),
        ("images_test/a.tif", "test"),
        ("imagesTs/a.tif", "test"),
        ("testis/a.tif", ""),
        ("trainer/a.tif", ""),
    ],
)
def test_which_split_a_folder_tells(path: str, split: str) -> None:
    assert find_pairs([PurePosixPath(path)])[0][0].split == split


def test_films_stay_together_where_there_are_three() -> None:
    pairs = [
        Pair(image=PurePosixPath(f"{film}/{n}.tif"), annotation=PurePosixPath("x"), group=film)
        for film in ("01", "02", "03", "04")
        for n in range(5)
    ]
    found = with_splits(pairs, (50, 25, 25))
    assert counts(found) == [10, 5, 5]
    assert all(len({pair.split for pair in found if pair.group == film}) == 1 for film in ("01", "02", "03", "04"))


def test_lists_tell_splits(tmp_path: Path) -> None:
    for name, lines in {"training": "a.png\nb.png\n", "validation": "c.png", "test": "d.png", "notes": "e.png"}.items():
        (tmp_path / f"{name}.txt").write_text(lines)
    found = split_lists(tmp_path, list(iter_files(tmp_path)))
    assert found == {"a": "train", "b": "train", "c": "val", "d": "test"}


@given(st.lists(st.text(min_size=1, max_size=80).filter(lambda t: "/" not in t and t not in (".", "..")), unique=True))
def test_any_file_gets_a_name_of_its_own(texts: list[str]) -> None:
    found = [pair.name for pair in named([Pair(image=PurePosixPath("d") / f"{text}.tif") for text in texts])]
    for name in found:
        check_name(name, "")
    assert len({name.lower() for name in found}) == len(texts)


def test_names_are_readable() -> None:
    assert [usable(t) for t in ("Größe 1", "a..b", "con", "-x", "é.ö", "x" * 70)] == [
        "Groe_1",
        "a_b",
        "s-con",
        "x",
        "e.o",
        "x" * 55 + "-" + usable("x" * 70)[-8:],
    ]

"""A sheet written from a folder can be read, and nothing is written where nothing is known."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from unetpipe.errors import ConfigError
from unetpipe.samples import read_samples
from unetpipe.specs import IngestSpec
from unetpipe.steps.sheet import sheet

LABELS = np.zeros((40, 40), dtype=np.uint8)
LABELS[2:10, 2:10], LABELS[20:30, 20:30], LABELS[2:10, 20:30] = 1, 2, 3


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four images, three of them with annotations, under names that are hard to write."""
    monkeypatch.chdir(tmp_path)
    folder = Path("my data [1]")
    for name in ("a (1)", "ж'ö", 'q"x', "slide, 2; z"):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "masks").mkdir(exist_ok=True)
        tifffile.imwrite(folder / "images" / f"{name}.tif", LABELS)
        if "slide" not in name:
            tifffile.imwrite(folder / "masks" / f"{name}.tif", LABELS)
    return folder


def test_what_is_written_is_read(folder: Path) -> None:
    said = sheet(folder, output=Path("config/s.tsv"))
    found = read_samples(Path("config/s.tsv"), IngestSpec())
    assert {(s.image, s.annotation, s.split == "predict") for s in found.values()} == {
        (f"my data [1]/images/{n}.tif", "" if "slide" in n else f"my data [1]/masks/{n}.tif", "slide" in n)
        for n in ("a (1)", "ж'ö", 'q"x', "slide, 2; z")
    }
    assert sorted(s.split for s in found.values()) == ["predict", "test", "train", "val"]
    assert said[0] == "annotations told by folder masks"
    assert said[1] == "4 images: 1 train, 1 val, 1 test, 1 predict"
    assert said[2] == "by their values, annotations are of kind instances: set annotate.kind to instances"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((LABELS > 0) * 255, "mask"),
        (LABELS, "instances"),
        (np.kron(np.arange(100).reshape(10, 10) % 3, np.ones((4, 4))), "classes"),
    ],
)
def test_the_kind_of_annotations_is_guessed(folder: Path, values: np.ndarray, kind: str) -> None:
    for path in (folder / "masks").iterdir():
        tifffile.imwrite(path, values.astype(np.uint8))
    assert f"set annotate.kind to {kind}" in sheet(folder, output=Path("s.tsv"))[2]


def test_a_sheet_that_is_there_stays(folder: Path) -> None:
    output = Path("s.tsv")
    output.write_text("mine")
    with pytest.raises(ConfigError, match=r"s\.tsv: is there already; add --overwrite"):
        sheet(folder, output=output)
    assert output.read_text() == "mine"
    sheet(folder, output=output, overwrite=True, split="100,0,0")
    assert {s.split for s in read_samples(output, IngestSpec()).values()} == {"train", "predict"}


@pytest.mark.parametrize("split", ["70,30", "a,b,c", "0,50,50", "-1,1,1", "nan,1,1", "1,inf,1", ""])
def test_percentages_that_make_no_split(folder: Path, split: str) -> None:
    with pytest.raises(ConfigError, match="--split: expected"):
        sheet(folder, output=Path("s.tsv"), split=split)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "no image with an annotation among 0 file.*known layouts: images/ with masks/"),
        (["a.tif", "b.tif"], "no image with an annotation among 2 file"),
        (["imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"], "came NIfTI volumes; save their slices as TIFF"),
        (["images/{a}.tif", "masks/{a}.tif"], "braces, tabs and line breaks cannot stand in a sample sheet"),
        (["images/a\n.tif", "masks/a\n.tif"], "line breaks cannot stand"),
    ],
)
def test_nothing_is_written_where_nothing_is_known(tmp_path: Path, files: list[str], said: str) -> None:
    for name in files:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "in").mkdir(exist_ok=True)
    with pytest.raises(ConfigError, match=said) as caught:
        sheet(tmp_path / "in", output=tmp_path / "s.tsv")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s.tsv").exists()


def test_the_sheet_is_the_same_each_time(folder: Path) -> None:
    sheet(folder, output=Path("1.tsv"))
    sheet(folder, output=Path("2.tsv"))
    assert Path("1.tsv").read_bytes() == Path("2.tsv").read_bytes()


def test_public_nuclei_are_recognised(data_folder: Path, tmp_path: Path) -> None:
    said = sheet(data_folder / "dsb2018", output=tmp_path / "s.tsv")
    found = read_samples(tmp_path / "s.tsv", IngestSpec())
    assert len(found) == len(list((data_folder / "dsb2018" / "images").iterdir()))
    assert all(s.annotation.endswith(".tif") for s in found.values())
    assert "by their values, annotations are of kind instances: set annotate.kind to instances" in said


def test_parts_of_slides_are_no_images(folder: Path) -> None:
    # As Hamamatsu's scanners write it, with the line ends of Windows; the names of other layers stand there, too.
    slide = "Größe 1 - 2010-01-12"
    keys = ["NoLayers=1", f"ImageFile={slide}.jpg", f"ImageFile(1,0)={slide}(1,0).jpg", f"MapFile={slide}_map2.jpg"]
    keys += [f"MacroImage={slide}_macro.jpg", f"OptimisationFile={slide}.opt", "PhysicalWidth=1"]
    (folder / f"{slide}.vms").write_text("\r\n".join(["[Virtual Microscope Specimen]", *keys]), encoding="utf-8")
    for name in ("", "(1,0)", "_map2", "_macro", " other"):
        (folder / f"{slide}{name}.jpg").touch()
    (folder / f"{slide}.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    said = sheet(folder, output=Path("s.tsv"))
    assert said[0] == "4 file(s) belong to .vms or .vmu slides, and are no images of their own"
    found = {Path(s.image).name: s.annotation for s in read_samples(Path("s.tsv"), IngestSpec()).values()}
    assert found[f"{slide}.vms"] == f"{folder}/{slide}.geojson"
    assert {name for name in found if not name.endswith(".tif")} == {f"{slide}.vms", f"{slide} other.jpg"}


def test_an_index_that_is_none_takes_nothing_away(folder: Path) -> None:
    (folder / "images" / "x.vmu").write_bytes(b"\xff=\0\n=\n=x.vmu\n= /a/../b \n" + bytes(100_000))
    sheet(folder, output=Path("s.tsv"))
    assert len(read_samples(Path("s.tsv"), IngestSpec())) == 5


def test_numpy_files_count_if_they_hold_numbers(folder: Path) -> None:
    for path in (folder / "masks").iterdir():
        np.save(path.with_suffix(".npy"), LABELS)
        path.unlink()
    # What Cellpose saves beside an image.
    np.save(folder / "images" / "a (1)_seg.npy", {"masks": LABELS}, allow_pickle=True)  # type: ignore[arg-type]
    said = sheet(folder, output=Path("s.tsv"))
    assert said[0].startswith("1 NumPy file(s) of Python objects are left out, as images/a (1)_seg.npy: ")
    annotations = {s.annotation for s in read_samples(Path("s.tsv"), IngestSpec()).values()} - {""}
    assert {Path(path).suffix for path in annotations} == {".npy"}
    assert "by their values, annotations are of kind instances: set annotate.kind to instances" in said
    with pytest.raises(ConfigError, match=r"no image with an annotation .*; 1 NumPy file.*save the masks as PNG"):
        sheet(folder / "images", output=Path("t.tsv"))


def test_dicom_files_that_nothing_annotates_may_be_of_one_slide(folder: Path) -> None:
    for name in ("1.dcm", "2.DCM", "3.dcm"):
        (folder / name).touch()
    (folder / "1.geojson").write_text("[]")
    said = sheet(folder, output=Path("s.tsv"))
    assert sum(line.startswith("2 DICOM file(s) that nothing annotates are left out") for line in said) == 1
    found = [s.image for s in read_samples(Path("s.tsv"), IngestSpec()).values()]
    assert [path for path in found if not path.endswith(".tif")] == [f"{folder}/1.dcm"]


def test_names_in_geojson_are_told(tmp_path: Path) -> None:
    ring = [[0, 0], [9, 0], [9, 9], [0, 0]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    for stem, names in (("a (1)", ["Tumor", "Ignore*"]), ("b", ["Immune cells", None])):
        features = [
            {"type": "Feature", "geometry": geometry, "properties": {"classification": name and {"name": name}}}
            for name in names
        ]
        (tmp_path / f"{stem}.svs").write_bytes(b"II")
        text = json.dumps({"type": "FeatureCollection", "features": features})
        (tmp_path / f"{stem}.geojson").write_text(text)
    told = sheet(tmp_path, output=tmp_path / "samples.tsv")
    assert "objects are called Immune cells, Tumor: set classes, or annotate.names, to that" in told
    (tmp_path / "b.geojson").unlink()
    (tmp_path / "b.geojson.gz").write_bytes(gzip.compress(text.encode()))
    assert sheet(tmp_path, output=tmp_path / "zipped.tsv")[:-1] == [
        told[0].replace(".geojson", ".geojson, the ending .geojson.gz"),
        *told[1:-1],
    ]
    (tmp_path / "b.geojson.gz").write_text("[")
    assert not any("called" in line for line in sheet(tmp_path, output=tmp_path / "samples.tsv", overwrite=True))


def test_many_images_may_share_jobs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = sheet(folder, output=folder / "s.tsv", split="70,15,15")
    monkeypatch.setattr("unetpipe.steps.sheet.MANY", 4)
    more = sheet(folder, output=folder / "t.tsv", split="70,15,15")
    assert [line for line in more if "samples_per_job: 24" in line] == [more[-2]] and len(more) == len(said) + 1

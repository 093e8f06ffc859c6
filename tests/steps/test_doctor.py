"""The look at every sample: what it finds in real stores, what it writes, and what a second look costs."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from unetpipe.errors import SourceError
from unetpipe.manifests import read_manifest
from unetpipe.specs import AnnotateSpec, DoctorSpec, IngestSpec, canonical_json
from unetpipe.steps import doctor as module
from unetpipe.steps.annotate import annotate
from unetpipe.steps.doctor import doctor
from unetpipe.steps.ingest import ingest

SIDE = 80


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels (80, 80) of discs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    labels = np.zeros((SIDE, SIDE), dtype=np.uint16)
    for label, (cy, cx) in enumerate([(20, 20), (20, 60), (60, 20), *rng.uniform((45, 40), (65, 65), (1, 2))], 1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= 64] = label
    return (60 + 100 * (labels > 0) + rng.normal(0, 8, labels.shape)).clip(0, 255).astype(np.uint8), labels


class Clinic:
    """Samples with their manifests, and the doctor's answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "doctor" / "all.json"
        self.splits: dict[str, list[str]] = {}
        self.inputs: dict[str, list[Path]] = {}

    def add(self, name: str, split: str, image: np.ndarray, labels: np.ndarray | None = None, **spec: object) -> None:
        """Ingest and annotate a sample, or do it again."""
        source, truth = self.folder / f"{name}.tif", self.folder / f"{name}_labels.tif"
        manifests = [self.folder / "images" / f"{name}.json", self.folder / "labels" / f"{name}.json"]
        tifffile.imwrite(source, image)
        ingest(source, output=manifests[0], spec=IngestSpec(), code="i@1")
        if labels is not None:
            tifffile.imwrite(truth, labels)
            annotate(truth, manifests[0], output=manifests[1], spec=AnnotateSpec(**spec), code="a@1")  # type: ignore[arg-type]
        self.inputs[name] = manifests[: 1 if labels is None else 2]
        self.splits.setdefault(split, [])
        self.splits[split] = sorted({*self.splits[split], name})

    def ask(self, *names: str, output: Path | None = None, **keys: object) -> None:
        """Run the doctor on these samples, or all."""
        chosen = names or tuple(self.inputs)
        splits = {split: [name for name in its if name in chosen] for split, its in self.splits.items()}
        spec = DoctorSpec(classes=("background", "cell"), splits=canonical_json(splits), **keys)  # type: ignore[arg-type]
        inputs = [path for name in chosen for path in self.inputs[name]]
        doctor(inputs, output=output or self.output, spec=spec, code="d@1")

    def table(self) -> dict[str, dict[str, str]]:
        """Rows of the table by sample."""
        with (self.folder / "doctor" / "all" / "table.tsv").open(newline="") as file:
            return {row["sample"]: row for row in csv.DictReader(file, delimiter="\t")}


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    """Two good samples: a to train, t to test."""
    clinic = Clinic(tmp_path)
    clinic.add("a", "train", *draw(0))
    clinic.add("t", "test", *draw(1))
    return clinic


def test_good_samples_are_listed_and_pass(clinic: Clinic) -> None:
    clinic.ask()
    manifest = read_manifest(clinic.output, stage="doctor")
    assert manifest.facts["faults"] == []
    assert set(manifest.objects) == {"table.tsv"}
    table = clinic.table()
    assert list(table) == ["a", "t"]
    image, labels = draw(0)
    row = table["a"]
    assert (row["split"], row["height_px"], row["width_px"], row["channels"], row["type"]) == (
        "train", "80", "80", "1", "uint8",
    )  # fmt: skip
    assert (float(row["lowest"]), float(row["highest"])) == (image.min(), image.max())
    assert (row["classes"], row["instances"], row["shift_px"], row["faults"]) == ("background, cell", "4", "0 0", "")
    # The carved ridge between touching instances is background, and these do not touch.
    assert float(row["foreground"]) == pytest.approx((labels > 0).mean(), abs=5e-5)


FAULTS: dict[str, tuple[Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]], str, str]] = {
    "constant": (lambda i, la: (np.full_like(i, 9), la), "error", "every pixel of the image is 9"),
    "mask": (lambda i, la: (i, (la > 0) * np.uint8(255)), "error", "one value for 4 separate parts"),
    "twin": (lambda i, la: (np.flipud(draw(0)[0]), np.flipud(draw(0)[1])), "error", "the same image in test and train"),
    "shifted": (lambda i, la: (np.roll(i, (6, 0), (0, 1)), la), "warning", "better 6 px down (correlation"),
    "saturated": (lambda i, la: (np.where(la > 0, 255, i).astype(np.uint8), la), "warning", "overexposed"),
    "inverted": (lambda i, la: (i, la * 0 + 1), "warning", "is the mask inverted?"),
    "empty": (lambda i, la: (i, la * 0), "warning", "nothing is annotated"),
    "channels": (lambda i, la: (np.stack([i] * 3, -1), la), "error", "channel(s) where most samples have"),
    "type": (lambda i, la: (i.astype(np.uint16), la), "warning", "pixels of type"),
    "frame": (lambda i, la: (i, np.kron([[1, 2], [3, 4]], np.ones((40, 40))).astype(np.uint16)), "warning", "4 of 4"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found_in_pixels(clinic: Clinic, caplog: pytest.LogCaptureFixture, name: str) -> None:
    change, severity, text = FAULTS[name]
    clinic.add("x", "test", *change(*draw(2)))
    if severity == "error":
        with pytest.raises(SourceError) as caught:
            clinic.ask()
        assert text in str(caught.value) and str(clinic.folder / "doctor" / "all" / "table.tsv") in str(caught.value)
        assert not clinic.output.exists()
    else:
        clinic.ask()
        assert clinic.output.exists()
        assert any(text in record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert f"{severity}: " in clinic.table()["x"]["faults"] and text in clinic.table()["x"]["faults"]


def test_an_error_stops_until_it_is_mended_or_allowed(clinic: Clinic) -> None:
    clinic.add("x", "test", np.zeros((SIDE, SIDE), np.uint8), draw(2)[1])
    for _ in range(2):
        with pytest.raises(SourceError, match=r"x: every pixel of the image is 0.*doctor.stop: false goes on"):
            clinic.ask()
        assert not clinic.output.exists()
    clinic.ask(stop=False)
    [fault] = read_manifest(clinic.output).facts["faults"]
    assert (fault["severity"], fault["samples"]) == ("error", ["x"])
    clinic.add("x", "test", *draw(2))
    clinic.ask()
    assert read_manifest(clinic.output).facts["faults"] == []


def test_only_changed_samples_are_looked_at(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    look = module.examined
    monkeypatch.setattr(module, "examined", lambda image, labels: looked.append(image.sample) or look(image, labels))
    clinic.ask()
    clinic.ask()
    assert looked == ["a", "t"]
    first = clinic.output.read_bytes()
    clinic.add("p", "predict", draw(3)[0])
    clinic.ask()
    assert looked == ["a", "t", "p"]
    clinic.add("t", "test", *draw(4))
    clinic.ask()
    assert looked == ["a", "t", "p", "t"]
    clinic.splits = {"train": ["a"], "val": ["t"], "predict": ["p"]}
    clinic.ask()
    assert looked == ["a", "t", "p", "t"]
    # Afresh in another place: the same bytes as with what was kept.
    other = Clinic(clinic.folder / "other")
    other.folder.mkdir()
    for name, split, seed in (("a", "train", 0), ("t", "test", 1)):
        other.add(name, split, *draw(seed))
    other.ask()
    assert other.output.read_bytes() == first


def test_a_large_image_is_looked_at_in_a_coarser_level(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    image, labels = (np.kron(part, np.ones((8, 8), part.dtype)) for part in draw(2))
    monkeypatch.setattr(module, "EXAMINED_PX", 320 * 320)
    clinic.add("x", "test", np.roll(image, (12, -8), (0, 1)), labels)
    clinic.ask()
    row = clinic.table()["x"]
    assert [int(a) for a in row["shift_px"].split()] == [12, -8]
    assert "better 12 px down and 8 px to the left" in row["faults"]


def test_what_another_group_saw_is_not_looked_at_again(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    look = module.examined
    monkeypatch.setattr(module, "examined", lambda image, labels: looked.append(image.sample) or look(image, labels))
    training = clinic.output.with_name("training.json")
    clinic.ask("a", output=training)
    clinic.ask()
    assert looked == ["a", "t"]
    # In the other order, and with a ledger that is just being written.
    other = Clinic(clinic.folder / "other")
    other.inputs, other.splits = clinic.inputs, clinic.splits
    other.ask()
    with other.output.with_suffix(".ledger").open("ab") as ledger:
        ledger.write(b'{"unit": "z", "di')
    other.ask("a", output=other.output.with_name("training.json"))
    assert looked == ["a", "t", "a", "t"]
    assert other.output.read_bytes() == clinic.output.read_bytes()
    assert other.output.with_name("training.json").read_bytes() == training.read_bytes()


def test_what_another_group_told_is_not_told_again(clinic: Clinic, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    image, labels = draw(2)
    clinic.add("b", "train", image, np.zeros_like(labels))
    clinic.ask("a", "b", output=clinic.output.with_name("training.json"))
    assert "b: nothing is annotated" in caplog.text
    caplog.clear()
    clinic.add("u", "test", draw(3)[0], np.zeros_like(labels))
    clinic.ask()
    assert "b: nothing" not in caplog.text
    assert "u: nothing is annotated" in caplog.text and "more" not in caplog.text
    assert "nothing is annotated" in clinic.table()["b"]["faults"]


def test_networks_take_the_channels_that_there_are(clinic: Clinic) -> None:
    clinic.ask(channels=(1,))
    with pytest.raises(SourceError, match=r"have 1 channel\(s\), but a network takes 3; set network: \{channels: 1\}"):
        clinic.ask(channels=(1, 3))


def test_readers_see_that_the_table_has_changed(clinic: Clinic) -> None:
    clinic.ask()
    before = read_manifest(clinic.output).content
    clinic.splits = {"train": ["a"], "val": ["t"]}
    clinic.ask()
    assert read_manifest(clinic.output).content != before


def test_refused_samples_stand_in_the_table(clinic: Clinic) -> None:
    spec = DoctorSpec(stop=False, classes=("background", "cell"), splits=json.dumps(clinic.splits))
    inputs = [path for paths in clinic.inputs.values() for path in paths]
    with pytest.raises(SourceError, match=r"^b: b.tif: is empty: see .*table.tsv$"):
        doctor(inputs, output=clinic.output, spec=spec, code="d@1", refused={"b": "b.tif: is empty"})
    assert clinic.table()["b"]["faults"] == "error: b.tif: is empty"
    assert not clinic.output.exists()


def test_samples_are_held_against_those_of_their_data_set(clinic: Clinic) -> None:
    """Images of 16 bits and three channels among others, and without a cell to learn from."""
    image, labels = draw(2)
    colour = np.stack([image.astype(np.uint16)] * 3, axis=-1)
    clinic.add("c", "train", colour, labels * 0)
    with pytest.raises(SourceError, match=r"c: 3 channel\(s\) where most samples have 1"):
        clinic.ask()
    sets = canonical_json({"a": "grey", "t": "grey", "c": "colour"})
    with pytest.raises(SourceError, match=r"^data set colour: no pixel of class cell in any sample of split train"):
        clinic.ask(datasets=sets)
    clinic.add("c", "train", colour, labels)
    clinic.ask(datasets=sets)
    assert not any(row["faults"] for row in clinic.table().values())

"""The page: every number against hand-worked ones, every picture there, everything escaped, equal bytes twice."""

import dataclasses
import json
import math
import random
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import imagecodecs
import numpy as np
import pytest

from imagefiles import area_mean
from unetpipe import figures
from unetpipe.errors import Interrupted
from unetpipe.figures import PREDICTION, TRUTH
from unetpipe.ledgers import open_ledger
from unetpipe.manifests import Manifest, read_manifest
from unetpipe.pyramids import level_shapes, nearest
from unetpipe.slides import Plane, create_plane
from unetpipe.specs import (
    AnnotateSpec,
    DoctorSpec,
    EvaluateSpec,
    ImportSpec,
    IngestSpec,
    ReportSpec,
    SegmentSpec,
    TrainSpec,
    WeighSpec,
    canonical_json,
)
from unetpipe.steps import report as module
from unetpipe.steps.report import charts, count, kept_row, report

HOSTILE = "<script>alert(1)</script> & \"friends'"
CONFIG = {"classes": ["background", "cell", "<b>rare</b>"], "models": {"deep": {"network": {"depth": 5}}}}
SPEC = ReportSpec(title=HOSTILE, preview_px=128, config=canonical_json(CONFIG))
CODE = "report@0"

# Pixels by true and predicted class, objects, and V-Rand and V-Info at three thresholds, of two samples.
FIRST = {
    "confusion": [[6, 1, 0], [1, 2, 0], [0, 0, 0]],
    "matches": {"true_positives": 3, "false_positives": 1, "false_negatives": 0},
    "seg": {"jaccard": 1.5, "n": 2},
    "v_rand": [0.5, 0.8, None],
    "v_info": [None, None, None],
}
SECOND = {
    "confusion": [[10, 0, 0], [3, 7, 0], [0, 0, 0]],
    "matches": {"true_positives": 1, "false_positives": 2, "false_negatives": 3},
    "seg": {"jaccard": 0.5, "n": 3},
    "v_rand": [0.9, 0.7, None],
    "v_info": [0.2, 0.1, 0.3],
}
# By hand: the sum of the tables is [[16, 1], [4, 9]]; 4 TP, 3 FP, 3 FN; 2.0 over 5; means .7 and .75; .3 alone.
POOLED = {
    "Pixel error": ("0.1667", "n = 30 px"),
    "IoU background": ("0.7619", "n = 21 px"),
    "IoU cell": ("0.6429", "n = 14 px"),
    "IoU <b>rare</b>": ("not defined", "n = 0 px"),
    "Dice background": ("0.8649", "n = 21 px"),
    "Dice cell": ("0.7826", "n = 14 px"),
    "Dice <b>rare</b>": ("not defined", "n = 0 px"),
    "F1@0.5": ("0.5714", "n = 10 objects"),
    "SEG": ("0.4000", "n = 5 true objects"),
    "V-Rand, thin": ("0.7500", "n = 2 samples, threshold 0.5"),
    "V-Info, thin": ("0.3000", "n = 1 sample, threshold 0.9"),
}


# What the fastest and the largest of the networks with costs took: 0.125 s and 800 MB, and three times as much.
PLACES = ["number measured seconds", "number measured peak"]
COSTS = {1: [("seconds", "0.12"), ("peak", "800")], 3: [("seconds", "0.38"), ("peak", "2400")]}


def score(value: float | None, n: int = 1) -> dict[str, Any]:
    """A score as `evaluate` publishes it."""
    return {"value": value, "n": n, "defined": value is not None}


def squares(side: int, step: int = 16) -> np.ndarray:
    """(side, side) labels: squares of 10 px."""
    labels = np.zeros((side, side), np.uint32)
    for number, (y, x) in enumerate(np.ndindex(side // step, side // step), start=1):
        labels[y * step + 3 : y * step + 13, x * step + 3 : x * step + 13] = number
    return labels


def write_levels(ledger: Any, folder: str, pixels: np.ndarray, reduce: Any) -> None:
    """Write a pyramid as the stages do."""
    for level, shape in enumerate(level_shapes(pixels.shape[-2:], smallest=64)):
        plane = create_plane(ledger.store / folder / str(level), shape=(*pixels.shape[:-2], *shape), dtype=pixels.dtype)
        for unit, box in plane.iter_shards():
            ledger.append(f"{folder}{unit}", plane.write_shard(box, np.ascontiguousarray(pixels[(..., *box.slices)])))
        pixels = reduce(pixels)


def write_image(root: Path, sample: str, side: int, pixel_size_um: float | None = 0.5, *, tissue: bool = False) -> None:
    """A noisy image, as `ingest` writes it; its tissue, the left half, at level 2."""
    pixels = np.random.default_rng(side).integers(0, 255, (1, side, side)).astype(np.uint8)
    with open_ledger(root / f"images/{sample}.json", stage="ingest", spec=IngestSpec(), code="ingest@0") as ledger:
        write_levels(ledger, "", pixels, area_mean)
        facts: dict[str, Any] = {"levels": len(level_shapes((side, side), smallest=64)), "channels": 1}
        facts |= {"percentiles": [[0.0, 255.0]], "tissue": {"level": 2, "share": 0.5} if tissue else None}
        if tissue:
            mask = np.zeros((side // 4, side // 4), np.uint8)
            mask[:, : side // 8] = 1
            write_levels(ledger, "tissue/", mask, nearest)
        ledger.publish(facts | {"shape": [side, side], "pixel_size_um": pixel_size_um})


def write_labels(root: Path, path: str, stage: str, labels: np.ndarray) -> None:
    """Instances, as `annotate` and `segment` write them."""
    spec = AnnotateSpec() if stage == "annotate" else SegmentSpec()
    with open_ledger(root / path, stage=stage, spec=spec, code=f"{stage}@0") as ledger:
        write_levels(ledger, "instances", labels, nearest)
        inside = int(np.count_nonzero(labels))
        counts = {"class_counts": [labels.size - inside, inside, 0], "n_instances": len(np.unique(labels)) - 1}
        ledger.publish({"shape": list(labels.shape), "pixel_size_um": 0.5, **counts})


def write_evaluation(root: Path, model: str, sample: str, tables: dict[str, Any]) -> None:
    """Tables and scores, as `evaluate` publishes them."""
    thin = {
        name: [{"f": score(v), "split": score(v), "merge": score(v)} for v in tables[name]]
        for name in ("v_rand", "v_info")
    }
    facts = {name: tables[name] for name in ("confusion", "matches", "seg")}
    facts["thin"] = {"thresholds": [0.1, 0.5, 0.9], **thin}
    facts["scores"] = {"pixel_error": score(0.125, 10), "f1": score(None, 0), "seg": score(0.75, 2)}
    path = root / f"metrics/{model}/{sample}.json"
    with open_ledger(path, stage="evaluate", spec=EvaluateSpec(), code="evaluate@0") as ledger:
        ledger.append("tables", "0")
        ledger.publish(facts)


def write_model(root: Path, model: str, history: list[dict[str, float]], spec: TrainSpec | ImportSpec) -> None:
    """A training, or an import without a history, as `train` and `import` publish it."""
    facts = {
        "intensity": "range",
        "pixel_size_um": None,
        "class_weights": [1.0, 2.5, 1.0],
        "steps": 20,
        "weights": "ab" * 32,
    }
    with open_ledger(root / f"models/{model}.json", stage="train", spec=spec, code="train@0") as ledger:
        ledger.append("weights", "0")
        ledger.publish(facts | {"network": json.loads(canonical_json(TrainSpec().network)), "history": history})


def write_weights(root: Path, sample: str, side: int) -> None:
    """Weights, as `weigh` writes them."""
    with open_ledger(root / f"weights/{sample}.json", stage="weigh", spec=WeighSpec(), code="weigh@0") as ledger:
        write_levels(
            ledger,
            "",
            np.linspace(0, 10, side * side, dtype=np.float32).reshape(1, side, side),
            lambda a: a[:, ::2, ::2],
        )
        ledger.publish({"shape": [side, side], "forms": ["unet2015"], "w0": [10.0], "sigma_px": [5.0]})


def write_doctor(root: Path) -> None:
    """What the doctor saw, as it writes it."""
    faults = [
        {"severity": "error", "samples": [], "text": "no pixel of class <b>rare</b>"},
        {"severity": "warning", "samples": ["one", "slide", "train", "two", "x"], "text": "pixels of type uint16"},
    ]
    rows = ["sample\tsplit\tat_frame\tfaults", "one\ttest\t3\twarning", '<i>\ttest\t4\t"a ""b"""', "(all)\t\t\tsaid"]
    with open_ledger(root / "doctor/all.json", stage="doctor", spec=DoctorSpec(), code="doctor@0") as ledger:
        (ledger.store / "table.tsv").write_text("\n".join(rows))
        ledger.publish({"faults": faults})


HISTORY = [
    {"step": 10, "learning_rate": 0.1, "loss": 20.0, "validation_loss": 3.0, "iou": 0.625},
    {"step": 20, "learning_rate": 0.1, "loss": 1.0, "validation_loss": 2.0, "iou": 0.5},
]


def write_results(root: Path) -> list[Path]:
    """Two models, two samples with a truth, a slide without, and a training sample; all manifests."""
    for sample, side in (("one", 48), ("two", 64), ("slide", 300), ("train", 48)):
        write_image(root, sample, side, tissue=sample == "slide")
    for sample, side in (("one", 48), ("two", 64)):
        write_labels(root, f"labels/{sample}.json", "annotate", squares(side))
    for model in ("deep", "flat"):
        for sample, side in (("one", 48), ("two", 64), ("slide", 300)):
            write_labels(root, f"segmentations/{model}/{sample}.json", "segment", squares(side, 20))
    write_evaluation(root, "deep", "one", FIRST)
    write_evaluation(root, "deep", "two", SECOND)
    write_evaluation(root, "flat", "one", FIRST)
    write_model(root, "deep", HISTORY, TrainSpec())
    write_model(root, "flat", [{"step": 20, "learning_rate": 0.1, "loss": 1.0}], TrainSpec())
    write_weights(root, "train", 48)
    write_doctor(root)
    return sorted(path for path in root.rglob("*.json") if path.name != "zarr.json")


class Page(HTMLParser):
    """What a browser would see: tags, pictures, texts, and the rows of each table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.pictures: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.tables: list[list[list[list[str]]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag == "img":
            self.pictures.append(unquote(dict(attrs)["src"] or ""))
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append([])

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.tables and self.tables[-1] and self.tables[-1][-1] and data.strip():
            self.tables[-1][-1][-1].append(" ".join(data.split()))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """Results of all stages before the report; not to be changed."""
    root = tmp_path_factory.mktemp("run") / "results"
    return root, write_results(root)


@pytest.fixture(scope="module")
def written(results: tuple[Path, list[Path]]) -> Iterator[tuple[Manifest, Page, str]]:
    """The report over these results."""
    root, inputs = results
    report(inputs, output=root / "report.json", spec=SPEC, code=CODE)
    text = (root / "report/index.html").read_text(encoding="utf-8")
    yield read_manifest(root / "report.json", stage="report"), Page(text), text


def test_pooled_scores_are_those_worked_by_hand(written: tuple[Manifest, Page, str]) -> None:
    manifest, page, _ = written
    rows = {row[0][0]: tuple(row[1]) for row in page.tables[0][1:]}
    assert rows == POOLED
    assert manifest.facts["scores"]["deep"]["seg"] == {"value": 0.4, "n": 5, "defined": True}
    assert manifest.facts["scores"]["deep"]["iou_class_2"] == {"value": None, "n": 0, "defined": False}
    assert manifest.facts["scored"] == ["one", "two"]
    assert manifest.facts["unscored"] == ["slide"]


def test_scores_by_sample_show_what_evaluate_found(written: tuple[Manifest, Page, str]) -> None:
    page = written[1]
    header, one, two = page.tables[1]
    by_name = {cell[0]: value[0] for cell, value in zip(header, one, strict=True)}
    assert by_name["Sample"] == "one" and two[0] == ["two"]
    assert by_name["Pixel error"] == "0.1250"
    assert by_name["F1@0.5"] == "not defined"
    assert by_name["Dice cell"] == "–"
    assert len(page.tables[2]) == 2


def test_tissue_is_outlined_where_there_is_a_mask(written: tuple[Manifest, Page, str]) -> None:
    manifest, page, text = written
    assert [name for name in page.pictures if "tissue" in name] == ["whole/tissue/slide.png"]
    assert "tissue mask, 50.0 % of the area" in " ".join(text.split())
    layer = imagecodecs.png_decode((manifest.store / "whole/tissue/slide.png").read_bytes())
    columns = np.flatnonzero((layer[..., 3] == 255).all(axis=0))
    # The middle of the picture is the edge of the left half.
    assert columns.size and abs(columns.max() + 1 - layer.shape[1] / 2) <= layer.shape[1] / 50


def test_entries_are_ranked_with_mean_and_deviation(results: tuple[Path, list[Path]], tmp_path: Path) -> None:
    """The mean and the deviation of two networks, and of one alone, from the pooled scores of the same page."""
    inputs = results[1]
    names = sorted({path.parent.name for path in inputs if path.parent.parent.name == "metrics"})
    groups = {"other": names[1:], "pair": names}
    spec = dataclasses.replace(SPEC, groups=canonical_json({"": groups}))
    report(inputs, output=tmp_path / "report.json", spec=spec, code=CODE)
    ranking = Page((tmp_path / "report/index.html").read_text(encoding="utf-8")).tables[0]
    assert [row[0][0] for row in ranking[1:]] in (["other", "pair"], ["pair", "other"])
    facts = read_manifest(tmp_path / "report.json").facts["scores"]
    values = [facts[name]["seg"]["value"] for name in names]
    column = [cell[0] for cell in ranking[0]].index("SEG")
    cells = {row[0][0]: row[column] for row in ranking[1:]}
    assert cells["other"] == [f"{values[1]:.4f}"]
    assert cells["pair"] == [f"{np.mean(values):.4f}", f"± {np.std(values, ddof=1):.4f}"]


def test_the_ranking_shows_costs_which_are_no_part_of_the_result(tmp_path: Path) -> None:
    """Times of the fastest network of an entry and memory of the largest, by a style sheet; the page holds neither."""
    inputs = []
    for model in ("a.1-s1", "a.1-s2", "b"):
        write_model(tmp_path, model, HISTORY, TrainSpec())
        write_evaluation(tmp_path, model, "one", FIRST)
        inputs += [tmp_path / f"models/{model}.json", tmp_path / f"metrics/{model}/one.json"]
    spec = dataclasses.replace(SPEC, groups=canonical_json({"": {"a.1": ["a.1-s1", "a.1-s2"], "b": ["b"]}}))
    written = []
    for factor in (1, 3):
        for model, seconds, peak in (("a.1-s1", 0.26, 700), ("a.1-s2", 0.125, 800)):
            cost = {"seconds_per_step": factor * seconds, "peak_mb": factor * peak, "device": "cpu"}
            cost |= {"waited_share": 0.01, "most_waited_share": 0.5, "waited_share_by_epoch": {"1": 0.5, "2": 0.002}}
            (tmp_path / "costs").mkdir(exist_ok=True)
            (tmp_path / f"costs/{model}.json").write_text(json.dumps(cost))
        output = tmp_path / str(factor) / "report.json"
        report(inputs, output=output, spec=spec, code=CODE)
        place = '[data-dataset=""] [data-entry="a.1"]'
        rules = [f'{place} .{kind}::after {{ content: "{text}"; }}\n' for kind, text in COSTS[factor]]
        assert (output.parent / "costs.css").read_text() == "".join(rules)
        written.append((output.read_bytes(), (output.parent / "report/index.html").read_bytes()))
        header, first, *_ = (output.parent / "costs.tsv").read_text().splitlines()
        assert header.split("\t")[-2:] == ["waited_share", "most_waited_share"]
        assert first.split("\t")[-2:] == ["0.01", "0.5"]
    assert written[0] == written[1]
    page = Page(written[0][1].decode())
    # An entry that takes two patches a step is not slower for that.
    assert "A step is one change of the parameters, from train.accumulate patches" in written[0][1].decode()
    assert [cell[0] for cell in page.tables[0][0]][2:6] == ["Parameters", "s per step", "Peak MB", "SEG"]
    assert ("href", "../costs.css") in page.attributes
    assert [value for name, value in page.attributes if name == "data-entry"] == ["a.1", "b"]
    assert [value for _, value in page.attributes if value in PLACES] == PLACES * 2


def test_each_data_set_has_its_ranking_and_the_ranks_are_averaged(tmp_path: Path) -> None:
    """SEG 1.5 of 2 objects or 0.5 of 3; on the second data set both entries are equal."""
    inputs = []
    for model, tables in (("m-x", FIRST), ("n-x", SECOND), ("m-y", SECOND), ("n-y", SECOND)):
        write_evaluation(tmp_path, model, f"of {model[-1]}", tables)
        inputs.append(tmp_path / f"metrics/{model}/of {model[-1]}.json")
    groups = {dataset: {entry: [f"{entry}-{dataset}"] for entry in "mn"} for dataset in "xy"}
    spec = dataclasses.replace(SPEC, groups=canonical_json(groups))
    report(inputs, output=tmp_path / "report.json", spec=spec, code=CODE)
    page = Page((tmp_path / "report/index.html").read_text(encoding="utf-8"))
    means, first, second = page.tables[:3]
    assert [[cell[0] for cell in row] for row in means] == [
        ["Entry", "Mean rank", "Rank on x", "Rank on y"],
        ["m", "1.25", "1", "1.5"],
        ["n", "1.75", "2", "1.5"],
    ]
    column = [cell[0] for cell in first[0]].index("SEG")
    assert [[row[0][0], row[column][0]] for row in first[1:]] == [["m", "0.7500"], ["n", "0.1667"]]
    assert [[row[0][0], row[column][0]] for row in second[1:]] == [["m", "0.1667"], ["n", "0.1667"]]
    assert [value for name, value in page.attributes if name == "data-dataset"] == ["x", "y"]
    words = " ".join(" ".join(page.texts).split())
    assert "the best SEG on x is 0.750 (m); the best SEG on y is 0.167 (m)." in words


def test_the_page_shows_predicted_and_measured_memory_which_is_no_part_of_it(
    results: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    shutil.copytree(results[0], tmp_path, dirs_exist_ok=True)
    inputs = [tmp_path / path.relative_to(results[0]) for path in results[1]]
    folder = tmp_path / "costs" / "predict" / "deep"
    folder.mkdir(parents=True)
    written = []
    texts = {"core_px": "512", "planned_mb": "3900", "planned_work": "1.12", "mpx_per_s": "0.512", "busy": "93%"}
    for factor in (1, 2):
        cost = {"core_px": 512, "planned_mb": 3900, "peak_mb": 1700 * factor, "planned_work": 1.121, "busy": 0.934}
        (folder / "slide.json").write_text(json.dumps(cost | {"mpx_per_s": 0.51234, "device": "cpu", "workers": 1}))
        report(inputs, output=tmp_path / "report.json", spec=SPEC, code=f"report@{factor}")
        rules = (tmp_path / "costs.css").read_text()
        shown = dict(re.findall(r'\[data-prediction="deep/slide"\] \.(\w+)::after { content: "(.*?)"; }', rules))
        assert shown == texts | {"peak_mb": str(1700 * factor)}
        written.append((tmp_path / "report/index.html").read_text().replace(f"report@{factor}", ""))
    assert written[0] == written[1]
    page = Page(written[0])
    table = next(rows for rows in page.tables if ["Planned MB"] in rows[0])
    titles = ["Network", "Sample", "Core, px", "Planned MB", "Peak MB", "Work", "Mpx/s", "Busy"]
    assert [cell[0] for cell in table[0]] == titles
    assert [["deep"], ["slide"], *[[]] * 6] in table
    rows = [value for name, value in page.attributes if name == "data-prediction"]
    assert len(rows) == len(set(rows)) == len(table) - 1 and "deep/slide" in rows
    assert ("href", "../costs.css") in page.attributes


def test_an_imported_network_has_settings_and_no_curves(tmp_path: Path) -> None:
    write_model(tmp_path, "public", [], ImportSpec())
    report([tmp_path / "models/public.json"], output=tmp_path / "report.json", spec=SPEC, code=CODE)
    page = Page((tmp_path / "report/index.html").read_text(encoding="utf-8"))
    names = {row[0][0] for table in page.tables for row in table if row[0]}
    assert {"network.depth", "intensity"} <= names
    assert "svg" not in page.tags


def test_every_picture_exists_and_none_is_spare(written: tuple[Manifest, Page, str]) -> None:
    manifest, page, _ = written
    assert page.pictures
    for name in page.pictures:
        assert imagecodecs.png_decode((manifest.store / name).read_bytes()).dtype == np.uint8
    assert set(manifest.objects) == {"index.html", *page.pictures}


def test_nothing_comes_from_outside_and_nothing_runs(written: tuple[Manifest, Page, str]) -> None:
    _, page, text = written
    assert not page.tags & {"script", "iframe", "object"}
    assert text.count("<link") == text.count('<link rel="stylesheet" href="../costs.css">') == 1
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "http" not in text and "@import" not in text


def test_titles_and_class_names_are_escaped(written: tuple[Manifest, Page, str]) -> None:
    _, page, text = written
    assert "<script" not in text and "<b>rare" not in text
    assert page.texts.count(HOSTILE) == 2


def test_what_the_doctor_said_is_there(written: tuple[Manifest, Page, str]) -> None:
    page = written[1]
    table = next(table for table in page.tables if ["at frame"] in table[0])
    assert table[:2] == [[["sample"], ["split"], ["at frame"]], [["one"], ["test"], ["3"]]]
    assert table[2][:2] == [["<i>"], ["test"]]
    words = " ".join(" ".join(page.texts).split())
    assert "2 things to look at in 2 samples error no pixel of class <b>rare</b>" in words
    assert "warning one, slide, train and 2 more : pixels of type uint16" in words


def test_settings_and_provenance_are_there(written: tuple[Manifest, Page, str]) -> None:
    _, page, _ = written
    joined = "".join(page.texts)
    assert "models:\n  deep:\n    network:\n      depth: 5" in joined
    for code in ("ingest@0", "annotate@0", "segment@0", "evaluate@0", "train@0", "weigh@0", CODE):
        assert code in page.texts
    settings = {row[0][0]: row[1] for row in page.tables[5][1:]}
    assert settings["network.base_width"] == ["64"]
    assert settings["pixel size, µm"] == ["not known"]
    assert settings["class weights"] == ["background 1, cell 2.5, <b>rare</b> 1"]
    assert "kept: step 10 with a validation IoU of 0.6250" in " ".join(joined.split())


def test_outlines_lie_on_the_objects(written: tuple[Manifest, Page, str]) -> None:
    store = written[0].store
    for name, colour, side, factor, step in (
        ("truth/one", TRUTH, 48, 2, 16),
        ("prediction/deep/two", PREDICTION, 64, 2, 20),
    ):
        layer = imagecodecs.png_decode((store / f"whole/{name}.png").read_bytes())
        assert layer.shape == (side * factor, side * factor, 4)
        lines = (layer == (*colour, 255)).all(axis=2)[::factor, ::factor]
        labels = squares(side, step)
        first = np.argwhere(labels == 1)
        (y0, x0), (y1, x1) = first.min(axis=0), first.max(axis=0)
        assert lines[y0, x0 : x1 + 1].all() and lines[y0 : y1 + 1, x1].all()
        assert not lines[y0 + 1 : y1, x0 + 1 : x1].any()
        assert lines.sum() == 36 * (len(np.unique(labels)) - 1)


def test_a_slide_is_read_in_boxes(
    results: tuple[Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, boxes = Plane.read, []
    monkeypatch.setattr(Plane, "read", lambda plane, box: boxes.append(box) or read(plane, box))
    report(results[1], output=tmp_path / "report.json", spec=SPEC, code=CODE)
    assert max(max(box.shape) for box in boxes) <= SPEC.preview_px
    assert (tmp_path / "report/detail/prediction/deep/slide.png").is_file()


def test_equal_inputs_give_equal_bytes_in_any_folder_and_order(
    results: tuple[Path, list[Path]], written: tuple[Manifest, Page, str], tmp_path: Path
) -> None:
    root, inputs = results
    other = tmp_path / "elsewhere/results"
    shutil.copytree(root, other, ignore=shutil.ignore_patterns("report*"))
    moved = [other / path.relative_to(root) for path in inputs]
    random.Random(1).shuffle(moved)
    report(moved, output=other / "report.json", spec=SPEC, code=CODE)
    assert (other / "report.json").read_bytes() == (root / "report.json").read_bytes()
    for name in written[0].objects:
        assert (other / "report" / name).read_bytes() == (root / "report" / name).read_bytes()


def test_a_finished_report_is_left_alone(
    results: tuple[Path, list[Path]], written: tuple[Manifest, Page, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "rendered", None)
    before = (results[0] / "report.json").read_bytes()
    report(results[1], output=results[0] / "report.json", spec=SPEC, code=CODE)
    assert (results[0] / "report.json").read_bytes() == before


def test_a_killed_report_draws_no_picture_twice(
    results: tuple[Path, list[Path]],
    written: tuple[Manifest, Page, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def killed(**page: Any) -> str:
        raise Interrupted("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(module, "rendered", killed)
        with pytest.raises(Interrupted):
            report(results[1], output=tmp_path / "report.json", spec=SPEC, code=CODE)
    for name in ("image_picture", "label_picture", "weight_picture"):
        monkeypatch.setattr(figures, name, None)
    report(results[1], output=tmp_path / "report.json", spec=SPEC, code=CODE)
    assert (tmp_path / "report.json").read_bytes() == (results[0] / "report.json").read_bytes()


def test_a_run_without_truth_and_images_has_a_page(tmp_path: Path) -> None:
    write_labels(tmp_path, "segmentations/deep/one.json", "segment", squares(48))
    write_model(tmp_path, "deep", HISTORY[:1], TrainSpec())
    inputs = [tmp_path / "models/deep.json", tmp_path / "segmentations/deep/one.json"]
    report(inputs, output=tmp_path / "report.json", spec=ReportSpec(), code=CODE)
    page = Page((tmp_path / "report/index.html").read_text(encoding="utf-8"))
    assert page.pictures == []
    assert "1 network, applied to 1 sample without truth." in " ".join("".join(page.texts).split())


def test_the_first_of_the_best_validations_is_the_kept_one() -> None:
    rows = [{"step": step, "loss": 1.0, "iou": iou} for step, iou in ((1, 0.2), (2, 0.7), (3, 0.7))]
    assert kept_row(rows)["step"] == 2
    assert kept_row([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 1.0}])["step"] == 2


def test_charts_without_validation_show_the_training_loss_only() -> None:
    assert [title for title, _ in charts(HISTORY)] == ["Loss", "IoU of the validation images"]
    assert [list(laid.lines) for _, laid in charts([{"step": 1, "loss": math.pi}])] == [["training"]]


def test_whole_numbers_have_narrow_spaces() -> None:
    assert count(1234567) == "1\u202f234\u202f567"

"""What people write, and what they are told when it is wrong."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from remedies import has_remedy
from snakemake.utils import update_config

from unetpipe import reference
from unetpipe.config import read_config
from unetpipe.documents import read_yaml
from unetpipe.errors import ConfigError
from unetpipe.netspecs import DilatedUnetSpec, KerasUnetSpec, PaddedUnetSpec
from unetpipe.parsing import spec_from_json
from unetpipe.samples import check_name, read_samples
from unetpipe.specs import AnnotateSpec, IngestSpec, TrainSpec, UnetSpec

ROOT = Path(__file__).resolve().parents[1]
SHEET = "sample\timage\tannotation\tsplit\nb\tb.tif\tb.png\ttrain\na\ta.tif\ta.png\ttest\np\tp.tif\t\tpredict\n"


@pytest.fixture
def config(tmp_path: Path):
    """A function that reads a configuration with changed sections and sheet."""

    def read(sheet: str | bytes = SHEET, **sections: object):
        path = tmp_path / "samples.tsv"
        path.write_bytes(sheet if isinstance(sheet, bytes) else sheet.encode())
        models = {"m": {"network": {"depth": 2, "base_width": 4}}}
        return read_config({"samples": str(path), "augment": {"input_px": 60}, "models": models} | sections)

    return read


def test_specs_come_from_sections_rows_and_networks(config) -> None:
    found = config(
        classes=["bg", "cell", "dirt"], models={"m": {"steps": 7, "network": {"depth": 1}}}, train={"seed": 3}
    )
    assert json.loads(found.spec("annotate", "a"))["n_classes"] == 3
    assert found.models["m"].spec.network == UnetSpec(depth=1, classes=3)
    assert (found.models["m"].spec.steps, found.models["m"].spec.seed) == (7, 3)
    assert json.loads(found.spec("augment"))["output_px"] == 60 - 16
    assert found.by_split == {"train": ["b"], "val": [], "test": ["a"], "predict": ["p"]}


def test_memory_of_a_prediction_follows_from_its_plan(config) -> None:
    wide = {"m": {"network": {"depth": 4, "base_width": 64}}}
    found = [config(models=wide, augment={"input_px": 572}, predict={"memory_gb": n}) for n in (2.0, 16.0)]
    assert [1300 < found[0].predict_mb("m") <= 1908, 9000 < found[1].predict_mb("m") <= 15259] == [True, True]
    assert found[0].plan("m").core_px < found[1].plan("m").core_px
    assert config(predict={"core_px": 64}).plan("m", (300, 500)).cores == 40
    card = config(models=wide, augment={"input_px": 572}, predict={"gpu_memory_gb": 80})
    assert card.plan("m").core_px == 4096 and 3000 < card.predict_mb("m") <= 3815, "the process keeps to 4 GB"
    whole = {"m": {"network": {"family": "dilated_unet", "form": "printed", "depth": 2, "base_width": 4}}}
    untiled = config(models=whole, augment={"input_px": 100})
    assert untiled.predict_mb("m") == 3815, "4 GB, since the image is not known yet"


def test_an_imported_network_asks_for_the_whole_budget_and_the_classes_of_the_project(config) -> None:
    """A prediction plans for what the file says, and keeps to the budget; how large it is, no key tells."""
    models = {"m": {"network": {"depth": 2, "base_width": 4}}, "public": {"weights": "pyproject.toml"}}
    found = config(models=models, ensembles={"both": ["m", "public"]}, classes=["a", "b", "c"])
    assert found.models["public"].network.classes == 3
    assert [found.predict_mb(name) for name in ("public", "both")] == [3815, 3815] > [found.predict_mb("m")] * 2
    given = config(models=models, predict={"core_px": 64})
    assert given.predict_mb("public") == -(-given.plan("public").host_bytes // 2**20) < 3815


def test_results_tell_no_folder_of_this_machine(config, tmp_path: Path) -> None:
    (tmp_path / "w.pth").touch()
    document = {"models": {"m": {"weights": str(tmp_path / "w.pth")}}, "simulate": {"folder": f"{tmp_path}/drawn"}}
    found = config(**document)
    told = json.loads(json.loads(found.spec("report"))["config"])
    assert (told["samples"], told["models"], told["simulate"]) == (
        "samples.tsv",
        {"m": {"weights": "w.pth"}},
        {"folder": "drawn"},
    )
    assert not [stage for stage in ("report", "import", "doctor") if str(tmp_path) in found.spec(stage, "m")]
    assert found.document["models"] == document["models"] and found.simulated == document["simulate"]["folder"]


def test_the_doctor_looks_at_what_trainings_are_made_of_and_at_all(config) -> None:
    found = config(SHEET + "v\tv.tif\tv.png\tval\n")
    assert (found.examined("training"), found.annotated("training")) == (["b", "v"], ["b", "v"])
    assert (found.examined("all"), found.annotated("all")) == (["a", "b", "p", "v"], ["a", "b", "v"])
    assert json.loads(json.loads(found.spec("doctor", "training"))["splits"]) == {"train": ["b"], "val": ["v"]}
    # One more image to predict changes nothing for trainings.
    more = config(SHEET + "v\tv.tif\tv.png\tval\nq\tq.tif\t\tpredict\n")
    assert more.spec("doctor", "training") == found.spec("doctor", "training")
    assert more.spec("doctor", "all") != found.spec("doctor", "all")


def test_cells_become_specs(config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/data")
    sheet = (
        "sample\timage\tannotation\tsplit\tplane\tannotation_plane\tchannels\tpixel_size_um\tlevel\n"
        "a\t${PLACE}/x (1).tif\t${ABSENT:-/else}/y.tif\ttrain\t3\t\t2,0\t0.25\t2\n"
        "b\ti\tj\ttrain\t3\t1\t\t\t\n"
    )
    found = config(sheet, ingest={"pixel_size_um": 0.5})
    a, b = found.samples["a"], found.samples["b"]
    assert (a.image, a.annotation) == ("/data/x (1).tif", "/else/y.tif")
    assert (a.ingest.plane, a.ingest.channels, a.ingest.source_pixel_size_um) == (3, (2, 0), 0.25)
    assert (b.ingest.plane, b.ingest.channels, b.ingest.source_pixel_size_um) == (3, None, None)
    assert (a.ingest.pixel_size_um, b.ingest.pixel_size_um) == (0.5, 0.5), "to which all are resampled"
    assert (a.annotation_plane, b.annotation_plane) == (3, 1)
    assert (a.ingest.level, b.ingest.level) == (2, 0)


@pytest.mark.parametrize("change", ["bom", "crlf", "blank lines", "row order"])
def test_ways_of_saving_a_sheet_do_not_count(config, change: str) -> None:
    lines = SHEET.splitlines()
    sheets = {
        "bom": b"\xef\xbb\xbf" + SHEET.encode(),
        "crlf": SHEET.replace("\n", "\r\n").encode(),
        "blank lines": (SHEET + "\n\t\t\t\n").encode(),
        "row order": "\n".join([lines[0], *lines[:0:-1]]).encode(),
    }
    assert config(sheets[change]).by_split == config().by_split


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"trian": {}}, "unknown key 'trian'; did you mean train?"),
        ({"weigh": {"sigma": 4.0}}, "weigh.sigma: unknown key 'sigma'; did you mean sigma_px?"),
        ({"weigh": {"sigma_px": 0}}, "weigh.sigma_px: expected a value above 0, came 0"),
        ({"weigh": {"sigma_px": "5"}}, "weigh.sigma_px: expected a number, came '5'"),
        ({"weigh": 3}, "weigh: expected keys with values, came 3"),
        ({"annotate": {"kind": "masks"}}, "annotate.kind: expected 'instances', 'mask' or 'classes', came 'masks'"),
        ({"augment": {"output_px": 5}}, "augment.output_px: follows from other keys"),
        ({"models": {}}, "models: expected at least one model"),
        ({"models": {"m": {"network": {"depht": 2}}}}, "network.depht: unknown key 'depht'; did you mean depth"),
        (
            {"models": {"m": {"network": {"family": "unte"}}}},
            "m.network.family: unknown family 'unte'; did you mean unet",
        ),
        (
            {"models": {"m": {"network": {"family": 3}}}},
            "m.network.family: unknown family '3'; use one of unet, padded_unet",
        ),
        ({"doctor": {"zzz": 1}}, "doctor.zzz: unknown key 'zzz'; use one of stop$"),
        (
            {"models": {"m": {"network": {"zzz": 1}}}},
            "network.zzz: unknown key 'zzz'; use one of family, form, depth, base_width, activation, init, channels",
        ),
        (
            {"models": {"m": {"network": {"family": "padded_unet", "depth": 2}}}},
            "m.network.depth: unknown key 'depth'; use one of family, features",
        ),
        (
            {"models": {"m": {"network": {"family": "dilated_unet", "form": "exact"}}}},
            "m.network.form: expected 'printed', 'valid' or 'aligned', came 'exact'",
        ),
        ({"models": {"m": {"network": {"family": "padded_unet", "features": [4, 1]}}}}, "m.network.features: expected"),
        ({"models": {"m": {"network": {"family": "padded_unet", "features": 4}}}}, "m.network.features: expected"),
        (
            {"models": {"m": {"network": {"head": "sigmoid"}}}, "classes": ["a", "b", "c"]},
            "m.network.head: sigmoid is for 2 classes, came 3 classes",
        ),
        ({"models": {"m": {"network": {"depth": 0}}}}, "m.network.depth: expected a value at least 1, came 0"),
        ({"models": {"../m": {}}}, "name '../m' is not usable"),
        ({"models": {"m": {"preset": "paper2051"}}}, "unknown preset 'paper2051'; did you mean paper2015"),
        ({"models": {"m": {"seeds": [1, 1]}}}, "models.m.seeds: expected a list of different whole numbers"),
        (
            {"models": {"m": {"weights": "no.pth"}}},
            "models.m.weights: expected a file of public weights, came 'no.pth'",
        ),
        ({"models": {"m": {"weights": "pyproject.toml", "seeds": [1]}}}, "models.m.seeds: unknown key 'seeds'"),
        ({"models": {"../m": {"weights": "pyproject.toml"}}}, "name '../m' is not usable"),
        ({"folds": 1}, "folds: expected 0 or a whole number from 2 on, came 1"),
        ({"folds": 2}, "folds: expected at most one per training sample .1., came 2"),
        ({"ensembles": {"e": ["n"]}}, "ensembles.e: unknown model 'n'; use one of m"),
        ({"ensembles": {"e": []}}, "ensembles.e: expected a list of models, came none"),
        ({"ensembles": {"m": ["m"]}}, "ensembles.m: there is a model of this name"),
        ({"ensembles": {"e": "m"}}, "ensembles.e: expected a list of names, came 'm'"),
        ({"classes": ["one"]}, "classes: expected a list of two or more"),
        ({"segment": {"instances": ["cel"]}}, "instances: expected one of .*foreground., came 'cel'"),
        ({"segment": {"instances": []}}, "instances: expected one class or more, came none"),
        ({"segment": {"split_depth_px": 0}}, "split_depth_px: expected a value above 0"),
        ({"segment": {"thresholds": {"cel": 0.4}}}, "thresholds: expected one of .*foreground., came 'cel'"),
        ({"segment": {"thresholds": {"background": 0.4}}}, "thresholds: expected one of classes but the first"),
        ({"segment": {"thresholds": {"foreground": 1.5}}}, "thresholds.foreground: expected a value at most 1"),
        ({"segment": {"connectivity": 6}}, "segment.connectivity: expected 4 or 8, came 6"),
        ({"segment": {"classes": ["a"]}}, "segment.classes: follows from other keys"),
        ({"predict": {"tissue_only": True}}, "predict.tissue_only: needs a tissue mask.*set ingest.tissue"),
        ({"samples": "absent.tsv"}, "absent.tsv: no such file"),
    ],
)
def test_mistakes_in_the_configuration(config, sections: dict[str, object], said: str, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=said) as caught:
        config(**sections)
    assert "\n" not in str(caught.value) and has_remedy(str(caught.value)), caught.value
    assert len(str(caught.value)) <= 290


FOUR = "sample\timage\tannotation\tsplit\n" + "".join(
    f"{name}\t{name}.tif\t{name}.png\t{split}\n"
    for name, split in (("d", "train"), ("a", "train"), ("c", "train"), ("b", "train"), ("v", "val"), ("t", "test"))
)


def test_seeds_and_folds_take_an_entry_apart(config) -> None:
    entry = {"network": {"depth": 2}, "seeds": [4, 5]}
    found = config(FOUR, models={"m": entry, "n": {"network": {"depth": 2}, "seed": 8}}, folds=2)
    assert list(found.models) == ["m-s4-f0", "m-s4-f1", "m-s5-f0", "m-s5-f1", "n-f0", "n-f1"]
    assert {name: model.spec.seed for name, model in found.models.items() if name.endswith("f1")} == {
        "m-s4-f1": 4,
        "m-s5-f1": 5,
        "n-f1": 8,
    }
    # In the order of their names the samples take the folds in turn.
    assert found.folds == {"a": 0, "b": 1, "c": 0, "d": 1}
    assert found.seen("n-f0") == ["b", "d"] and found.scored("n-f0") == ["a", "c", "t"]
    assert found.groups == {"": {"m": ["m-s4-f0", "m-s4-f1", "m-s5-f0", "m-s5-f1"], "n": ["n-f0", "n-f1"]}}
    for name in found.models:
        assert not {*found.seen(name)} & {*found.scored(name)}
        assert {*found.seen(name), *found.scored(name)} == {"a", "b", "c", "d", "t"}


def test_folds_may_stand_in_the_sheet(config) -> None:
    lines = FOUR.splitlines()
    folds = ["fold", "7", "2", "2", "7", "", ""]
    sheet = "\n".join(f"{line}\t{fold}" for line, fold in zip(lines, folds, strict=True))
    found = config(sheet)
    assert found.folds == {"a": 2, "b": 7, "c": 2, "d": 7}
    assert list(found.models) == ["m-f2", "m-f7"]
    with pytest.raises(ConfigError, match="leave out one of them"):
        config(sheet, folds=2)
    with pytest.raises(ConfigError, match="sample d: fold: expected a number"):
        config("\n".join([lines[0] + "\tfold", lines[1] + "\t", *(line + "\t1" for line in lines[2:])]))


def test_networks_of_other_places_stand_beside_trained_ones(config) -> None:
    public = {"weights": "pyproject.toml", "pixel_size_um": 0.5}
    entry = {"network": {"depth": 2}, "seeds": [1, 2]}
    found = config(FOUR, folds=2, models={"m": entry, "p": public}, ensembles={"all": ["p", "m"]})
    assert list(found.models) == ["m-s1-f0", "m-s1-f1", "m-s2-f0", "m-s2-f1", "p"]
    assert found.ensembles["all"][-1] == "p"
    assert found.scored("p") == ["t"]
    assert json.loads(found.spec("import", "p")) == {"align_corners": True, "intensity": "range", "pixel_size_um": 0.5}
    assert found.network_modules("p") == ["unetpipe.networks.padded_unet"]
    trained, imported = (re.compile(words) for words in (found.trained_names, found.imported_names))
    assert [bool(trained.fullmatch(name)) for name in found.models] == [True] * 4 + [False]
    assert [bool(imported.fullmatch(name)) for name in found.models] == [False] * 4 + [True]
    alone = config(FOUR, models={"p": public})
    assert not any(re.fullmatch(alone.trained_names, name) for name in ("", "p", "m"))


def test_ensembles_have_the_networks_of_their_entries(config) -> None:
    entry = {"network": {"depth": 2}}
    found = config(
        FOUR, models={"m": entry | {"seeds": [1, 2]}, "n": entry}, ensembles={"all": ["n", "m"], "e": ["m-s2"]}
    )
    assert found.ensembles == {"all": ("m-s1", "m-s2", "n"), "e": ("m-s2",)}
    assert found.applied == ["m-s1", "m-s2", "n", "all", "e"]
    assert found.members("all") == ("m-s1", "m-s2", "n") and found.members("n") == ("n",)
    assert found.scored("all") == ["t"]
    assert found.groups[""]["all"] == ["all"]


SETS = "sample\timage\tannotation\tsplit\tdataset\tannotation_kind\n" + "".join(
    f"{name}\t{name}.tif\t{name}.png\t{split}\t{dataset}\t{kind}\n"
    for name, split, dataset, kind in (
        *(("a", "train", "x", ""), ("b", "train", "x", ""), ("v", "val", "x", ""), ("t", "test", "x", "")),
        *(("c", "train", "y", "mask"), ("d", "train", "y", "mask"), ("e", "train", "y", "mask")),
        *(("w", "val", "y", "mask"), ("u", "test", "y", "mask"), ("p", "predict", "y", "")),
    )
)


def test_each_data_set_has_networks_of_its_own(config) -> None:
    """No network of a data set learns from, is chosen by, is scored on or is shown with a sample of another."""
    entry = {"network": {"depth": 2}}
    models = {"m": entry | {"seeds": [1, 2]}, "n": entry, "p": {"weights": "pyproject.toml"}}
    found = config(SETS, models=models, ensembles={"all": ["n", "m"], "one": ["m-y-s2"]})
    assert found.groups == {
        "x": {"m": ["m-x-s1", "m-x-s2"], "n": ["n-x"], "p": ["p-x"], "all": ["all-x"]},
        "y": {"m": ["m-y-s1", "m-y-s2"], "n": ["n-y"], "p": ["p-y"], "all": ["all-y"], "one": ["one-y"]},
    }
    named = [name for entries in found.groups.values() for own in entries.values() for name in own]
    assert sorted(named) == sorted(found.applied)
    assert found.ensembles["all-y"] == ("m-y-s1", "m-y-s2", "n-y") and found.ensembles["one-y"] == ("m-y-s2",)
    assert (found.seen("m-x-s1"), found.own("val", "m-x-s1"), found.scored("m-x-s1")) == (["a", "b"], ["v"], ["t"])
    assert (found.seen("n-y"), found.own("val", "n-y"), found.scored("all-y")) == (["c", "d", "e"], ["w"], ["u"])
    assert (found.shown("n-x"), found.shown("n-y"), found.shown("one-y")) == (["t"], ["p", "u"], ["p", "u"])
    assert found.spec("train", "m-x-s1") == found.spec("train", "m-y-s1"), "the same recipe"
    kinds = [json.loads(found.spec("annotate", name))["kind"] for name in "ac"]
    assert kinds == ["instances", "mask"]
    assert json.loads(json.loads(found.spec("doctor", "all"))["datasets"]) == {
        **dict.fromkeys("abtv", "x"),
        **dict.fromkeys("cdepuw", "y"),
    }


def test_each_data_set_is_folded_by_itself(config) -> None:
    found = config(SETS, folds=2)
    assert found.folds == {"a": 0, "b": 1, "c": 0, "d": 1, "e": 0}
    assert list(found.models) == ["m-x-f0", "m-x-f1", "m-y-f0", "m-y-f1"]
    assert (found.seen("m-y-f0"), found.scored("m-y-f0")) == (["d"], ["c", "e", "u"])
    with pytest.raises(ConfigError, match=r"at most one per training sample \(2\), came 3"):
        config(SETS, folds=3)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("\tx\t\nv", "\t\t\nv", "sample b: dataset: expected a name as other samples have, came nothing"),
        ("\ttrain\tx", "\tval\tx", "dataset x: expected at least one sample of split train, came none"),
        ("\ty\tmask\nd", "\ty/z\tmask\nd", "row 6: dataset: name 'y/z' is not usable"),
        ("\ty\tmask\nd", "\ty\tmasks\nd", "row 6: annotation_kind: expected one of instances, mask, classes, came 'm"),
    ],
)
def test_mistakes_in_data_sets(config, before: str, after: str, said: str) -> None:
    assert before in SETS
    with pytest.raises(ConfigError, match=said) as caught:
        config(SETS.replace(before, after))
    assert has_remedy(str(caught.value))


@pytest.mark.parametrize(
    ("names", "ensembles", "said"),
    [
        (["m", "m-z"], {}, r"models.m-z: a second network of the name m-z-y"),
        (["m"], {"m-z": ["m"]}, r"ensembles.m-z: there is a model of the name m-z-y"),
        ([62 * "m"], {}, "models.mm.*at most 64"),
    ],
)
def test_names_of_networks_are_their_own(config, names: list[str], ensembles: dict[str, object], said: str) -> None:
    """Of entry m in data set z-y, and of entry m-z in data set y."""
    sheet = SETS.replace("\tx\t", "\tz-y\t")
    with pytest.raises(ConfigError, match=said) as caught:
        config(sheet, models={name: {"network": {"depth": 2}} for name in names}, ensembles=ensembles)
    assert has_remedy(str(caught.value))


def test_thresholds_are_chosen_within_each_data_set(config) -> None:
    config(SETS, segment={"tune": True})
    with pytest.raises(ConfigError, match=r"segment\.tune: needs samples of split val"):
        config(SETS.replace("\tval\ty", "\ttest\ty"), segment={"tune": True})


def test_weights_are_made_in_the_forms_that_trainings_ask_for(config) -> None:
    entries = {form: {"network": {"depth": 2}, "pixel_weights": form} for form in ("unet2015", "falk2019", "none")}
    for names, forms in (
        (("unet2015", "none"), ["unet2015"]),
        (("none", "falk2019"), ["falk2019"]),
        (("unet2015", "falk2019", "none"), ["falk2019", "unet2015"]),
        (("none",), ["unet2015"]),
    ):
        found = config(models={name: entries[name] for name in names})
        assert json.loads(found.spec("weigh"))["forms"] == forms


def test_presets_weigh_pixels_as_they_were_published(config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The map of 2015 with the balance of classes, that of 2019, which balances them itself, and the plain losses."""
    monkeypatch.chdir(ROOT)
    found = config(models={p.stem: {"preset": p.stem} for p in Path("config/presets").glob("*")}, augment={})
    assert {name: (model.spec.pixel_weights, model.spec.balance) for name, model in found.models.items()} == {
        "paper2015": ("unet2015", True),
        "plugin2019": ("falk2019", False),
    } | dict.fromkeys(("s000", "s002", "s003", "s004"), ("none", False))
    made = json.loads(found.spec("weigh"))
    assert (made["w0"], made["sigma_px"], made["apply_to"]) == (10.0, 5.0, "all"), "as published in 2015"


def test_presets_come_between_train_and_the_entry(config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    entry = {"preset": "s004", "learning_rate": 0.5, "network": {"base_width": 3, "depth": 2}}
    found = config(models={"m": entry}, train={"optimiser": "sgd", "steps": 9, "learning_rate": 0.25})
    spec = found.models["m"].spec
    assert (spec.optimiser, spec.steps, spec.learning_rate, spec.accumulate) == ("adam", 9, 0.5, 2)
    assert spec.network == KerasUnetSpec(base_width=3, depth=2)


def documented() -> list[str]:
    """The files behind --configfile in all commands that are told to users."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "config").glob("*.yaml")]
    found = [re.findall(r"--configfile ((?:config/\S+\.yaml ?)+)", page.read_text(encoding="utf-8")) for page in pages]
    return sorted({files.strip() for one in found for files in one})


def test_commands_name_every_configuration_there_is() -> None:
    named = {file for files in documented() for file in files.split()}
    assert named | {"config/config.yaml"} == {f"config/{path.name}" for path in (ROOT / "config").glob("*.yaml")}


@pytest.mark.parametrize("files", documented())
def test_configurations_that_are_told_can_be_read(files: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    document: dict[str, object] = {}
    for file in files.split():
        update_config(document, read_yaml(Path(file)))
    found = read_config(document, files)
    Draft202012Validator(reference.schema()).validate(document)
    if "presets" in files:
        trained = [model.spec for model in found.models.values()]
        assert {model.entry for model in found.models.values()} == {p.stem for p in Path("config/presets").glob("*")}
        assert len(trained) == 36 and len({spec.steps * spec.accumulate for spec in trained}) == 1


def test_the_comparison_has_the_samples_of_both_data_sets() -> None:
    """But for those that are only predicted."""
    sheets = {name: read_samples(ROOT / f"config/{name}.tsv", IngestSpec()) for name in ("isbi2012", "dsb2018")}
    kinds = {"isbi2012": "mask", "dsb2018": "instances"}
    expected = {
        sample.name: replace(sample, dataset=name, annotation_kind=kinds[name])
        for name, sheet in sheets.items()
        for sample in sheet.values()
        if sample.split != "predict"
    }
    assert read_samples(ROOT / "config/presets.tsv", IngestSpec()) == expected


@pytest.mark.parametrize("path", sorted((ROOT / "config/presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_are_whole_and_every_key_says_where_it_comes_from(path: Path, config, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    # 572 is legal for the network of 2015, and the others see its middle.
    spec = config(models={"m": {"preset": path.stem}, "u": {}}, augment={"input_px": 572}).models["m"].spec
    keys = read_yaml(path)
    assert spec.loss == keys["loss"] and spec.network.family == keys["network"]["family"]
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    # Every key but `network`, whose own keys stand below it, has a line, with a comment behind it or right above it.
    rows = [(match[1], row) for row, line in enumerate(lines) if (match := re.match(r" *(\w+): *[^ #]", line))]
    assert [name for name, _ in rows] == [*keys["network"], *list(keys)[1:]]
    said = [re.search(r"\S  # [\w[]", lines[row]) or re.match(r" *# [\w[]", lines[row - 1]) for _, row in rows]
    assert [name for (name, _), words in zip(rows, said, strict=True) if not words] == []


def test_every_family_can_be_configured(config) -> None:
    networks = {
        "a": {"depth": 2},
        "b": {"family": "padded_unet", "features": [4, 8], "up": "bilinear"},
        "c": {"family": "dilated_unet", "depth": 1, "form": "valid"},
        "d": {"family": "keras_unet", "depth": 2, "head_relu": False},
    }
    found = config(models={name: {"network": network} for name, network in networks.items()})
    assert found.models["b"].spec.network == PaddedUnetSpec(features=(4, 8), up="bilinear")
    assert found.models["c"].spec.network == DilatedUnetSpec(depth=1, form="valid")
    assert found.models["d"].spec.network == KerasUnetSpec(depth=2, head_relu=False)
    assert found.network_modules("d") == ["unetpipe.networks.keras_unet"]
    assert spec_from_json(TrainSpec, found.spec("train", "b"), "train --spec") == found.models["b"].spec
    # Legal for the first and the second; the others see what is legal in the middle of it.
    assert json.loads(found.spec("augment"))["output_px"] == 20
    schema = Draft202012Validator(reference.schema())
    for network in networks.values():
        schema.validate({"models": {"m": {"network": network}}})
    for network in ({"family": "padded_unet", "depth": 2}, {"features": [4]}, {"family": "unte"}):
        assert not schema.is_valid({"models": {"m": {"network": network}}})
    # With a preset, its family counts.
    schema.validate({"models": {"m": {"preset": "s000", "network": {"features": [4]}}}})
    # A network belongs to its entry.
    assert not schema.is_valid({"models": {"m": {}}, "train": {"network": {"depth": 2}}})
    with pytest.raises(ConfigError, match=r"train\.network: .*leave it out"):
        config(train={"network": {"depth": 2}})


def test_a_spec_without_a_family_is_told_the_families() -> None:
    with pytest.raises(ConfigError, match=r"train --spec\.network\.family: expected one of unet, padded_unet, .* none"):
        spec_from_json(TrainSpec, '{"network": {"depth": 2}}', "train --spec")


@pytest.mark.parametrize(("side", "nearest"), [(61, "60 or 64"), (43, "44")])
def test_illegal_patch_size_names_the_nearest_legal_ones(config, side: int, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"augment.input_px: input side of {side} px .*use {nearest}"):
        config(augment={"input_px": side})


def test_legal_patch_sizes_are_those_of_all_networks(config) -> None:
    models = {"u": {"network": {"depth": 4}}, "k": {"network": {"family": "keras_unet", "depth": 4}}}
    with pytest.raises(ConfigError, match=r"200 px is legal for no network; use 188 or 192 or 204 or 208$"):
        config(models=models, augment={"input_px": 200})
    for side in (188, 192, 204, 208):
        assert config(models=models, augment={"input_px": side}).sections["augment"].input_px == side


HEADER = "sample\timage\tannotation\tsplit\n"


@pytest.mark.parametrize(
    ("sheet", "said"),
    [
        (HEADER + "a\ti\tj\ttrain\nA\ti\tj\ttest\n", "row 3: sample 'A' stands in row 2 already"),
        (HEADER + "a\ti\tj\ttrian\n", "row 2: split: expected one of train, val, test, predict, came 'trian'"),
        (HEADER + "a\t\tj\ttrain\n", "row 2: image: expected a path"),
        (HEADER + "a\ti {x}.tif\tj\ttrain\n", "row 2: image: expected a path without braces, came .i .x"),
        (HEADER + "a\ti\tj{1,3}.tif\ttrain\n", "row 2: annotation: expected a path without braces"),
        (HEADER + "a\ti\t\ttrain\n", "row 2: annotation: expected a path, since split is train"),
        (HEADER + "a\ti\tj\ttest\n", "expected at least one sample of split train"),
        (HEADER + "a\ti\tj\ttrain\tx\n", "row 2: expected 4 cells, came 5"),
        ("sample|image\na|b\n", "unknown column 'sample|image'"),
        ("", "expected one column 'sample'"),
        ("sample\timage\tsplit\tplanes\na\ti\ttrain\t1\n", "unknown column 'planes'; did you mean plane"),
        (
            "sample\timage\tannotation\tsplit\tplane\na\ti\tj\ttrain\t-1\n",
            "row 2: plane: expected a whole number from 0",
        ),
        ("sample\timage\tannotation\tsplit\tpixel_size_um\na\ti\tj\ttrain\t0,5\n", "pixel_size_um: expected a number"),
        ("sample\timage\tannotation\tsplit\tpixel_size_um\na\ti\tj\ttrain\t-1\n", "row 2: pixel_size_um: .* above 0"),
    ],
)
def test_mistakes_in_the_sheet(config, sheet: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        config(sheet)
    assert "samples.tsv" in str(caught.value) and has_remedy(str(caught.value)), caught.value


HOSTILE = [
    "../up", "a/b", "a b", "a;touch x", "$(id)", "`id`", "-rf", ".hidden", "..", "a..b", "é", "аdmin", "CON", "nul.tif",
    "com1", "a\x00b", "x" * 65, "a|b", "a&b", "{w}", "*", "~", "a'b", 'a"b', "a\\b", "%2e", "a.",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(config, name: str) -> None:
    with pytest.raises(ConfigError):
        config(HEADER + f"{name}\ti\tj\ttrain\n")


@given(st.text(max_size=70))
def test_any_text_is_a_sheet_or_one_line(text: str) -> None:
    try:
        check_name(text, "sample")
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert text.isascii()
        assert "/" not in text
        assert ".." not in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "line 2: not valid YAML|not valid YAML"),
        ("train: {steps: 1}\ntrain: {steps: 2}\n", "stands twice"),
        ("a: &x [1]\nb: [*x, *x]\n", "aliases"),
        ("- 1\n", "expected sections"),
        ("a: !!python/object/apply:os.system [id]\n", "not valid YAML"),
    ],
)
def test_yaml_that_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_yaml(path)


def test_large_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("a: 1\n" * 300_000)
    with pytest.raises(ConfigError, match="small text file"):
        read_yaml(path)


def test_spec_from_json_names_the_place() -> None:
    with pytest.raises(ConfigError, match=r"annotate --spec\.ridge: expected 'symmetric'"):
        spec_from_json(AnnotateSpec, '{"ridge": 1}', "annotate --spec")
    with pytest.raises(ConfigError, match="annotate --spec: "):
        spec_from_json(AnnotateSpec, "{", "annotate --spec")


@pytest.mark.parametrize(("copies", "kinds"), [(3, 1), (0, 4)])
def test_without_stored_patches_a_training_needs_what_they_are_drawn_from(config, copies: int, kinds: int) -> None:
    found = config(augment={"copies": copies})
    model = next(iter(found.models))
    names = [
        f"{kind}/{s}" for kind in ("patches", "images", "labels", "weights")[:kinds] for s in found.by_split["train"]
    ]
    assert found.taught_by(model) == names
    drawing = ["unetpipe.draws"] if copies == 0 else []
    assert found.training_modules(model) == found.network_modules(model) + drawing


@pytest.mark.parametrize("name", ["config", "isbi2012", "dsb2018"])
def test_shipped_configurations_are_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    read_config(Path("config") / f"{name}.yaml")
    schema = json.loads(Path("config/config.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(read_yaml(Path("config") / f"{name}.yaml"))


def test_generated_files_are_those_of_the_specs() -> None:
    folder = ROOT / "config"
    remedy = "run python -m unetpipe.reference"
    assert json.loads((folder / "config.schema.json").read_text()) == reference.schema(), remedy
    assert (folder / "README.md").read_text() == reference.reference_page(), remedy
    assert (folder / "config.yaml").read_text() == reference.default_yaml(), remedy

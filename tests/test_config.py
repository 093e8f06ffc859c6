"""What people write, and what they are told when it is wrong."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from unetpipe import reference
from unetpipe.config import read_config, read_yaml, spec_from_json
from unetpipe.errors import ConfigError
from unetpipe.sheet import check_name
from unetpipe.specs import AnnotateSpec, UnetSpec

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
    assert found.models["m"].network == UnetSpec(depth=1, classes=3)
    assert (found.models["m"].steps, found.models["m"].seed) == (7, 3)
    assert json.loads(found.spec("augment"))["output_px"] == 60 - 16
    assert found.by_split == {"train": ["b"], "val": [], "test": ["a"], "predict": ["p"]}


def test_cells_become_specs(config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/data")
    sheet = (
        "sample\timage\tannotation\tsplit\tplane\tannotation_plane\tchannels\tpixel_size_um\n"
        "a\t${PLACE}/x (1).tif\t${ABSENT:-/else}/y.tif\ttrain\t3\t\t2,0\t0.25\n"
        "b\ti\tj\ttrain\t3\t1\t\t\n"
    )
    found = config(sheet, ingest={"pixel_size_um": 0.5})
    a, b = found.samples["a"], found.samples["b"]
    assert (a.image, a.annotation) == ("/data/x (1).tif", "/else/y.tif")
    assert (a.ingest.plane, a.ingest.channels, a.ingest.pixel_size_um, a.annotation_plane) == (3, (2, 0), 0.25, 3)
    assert (b.ingest.channels, b.ingest.pixel_size_um, b.annotation_plane) == (None, 0.5, 1)


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
        ({"models": {"../m": {}}}, "name '../m' is not usable"),
        ({"classes": ["one"]}, "classes: expected a list of two or more"),
        ({"segment": {"foreground": 2}}, "segment.foreground: expected 1 to 1"),
        ({"samples": "absent.tsv"}, "absent.tsv: no such file"),
    ],
)
def test_mistakes_in_the_configuration(config, sections: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        config(**sections)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 290


@pytest.mark.parametrize(("side", "nearest"), [(61, "60 or 64"), (43, "44")])
def test_illegal_patch_size_names_the_nearest_legal_ones(config, side: int, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"augment.input_px: input side of {side} px .*use {nearest}"):
        config(augment={"input_px": side})


HEADER = "sample\timage\tannotation\tsplit\n"


@pytest.mark.parametrize(
    ("sheet", "said"),
    [
        (HEADER + "a\ti\tj\ttrain\nA\ti\tj\ttest\n", "row 3: sample 'A' stands in row 2 already"),
        (HEADER + "a\ti\tj\ttrian\n", "row 2: split: expected one of train, val, test, predict, came 'trian'"),
        (HEADER + "a\t\tj\ttrain\n", "row 2: image: expected a path"),
        (HEADER + "a\ti\t\ttrain\n", "row 2: annotation: expected a path, since split is train"),
        (HEADER + "a\ti\tj\ttest\n", "expected at least one sample of split train"),
        (HEADER + "a\ti\tj\ttrain\tx\n", "row 2: expected 4 cells, came 5"),
        ("sample,image\na,b\n", "unknown column 'sample,image'"),
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
    assert "samples.tsv" in str(caught.value)


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

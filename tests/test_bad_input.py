"""Every mistake ends in one line that says what is wrong and where, with exit code 2, and leaves nothing behind."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
from remedies import has_remedy

from unetpipe import models
from unetpipe.config import workflow_config

ROOT = Path(__file__).resolve().parents[1]

# Runs many command lines in one process, as the shell would run each of them in one of its own.
DRIVER = """
import contextlib, io, json, logging, sys
from unetpipe.cli import main
for arguments in json.load(sys.stdin):
    logging.getLogger().handlers.clear()
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        sys.argv = ["unetpipe", *arguments]
        try:
            main()
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, said.getvalue()]))
"""
MALFORMED = """
import resource, sys
from pathlib import Path
from unetpipe.errors import SourceError
from unetpipe.manifests import read_manifest
from unetpipe.specs import IngestSpec
from unetpipe.steps.ingest import ingest
resource.setrlimit(resource.RLIMIT_AS, (2_500_000_000, 2_500_000_000))
for source in sorted(Path(sys.argv[1]).iterdir()):
    output = Path(sys.argv[2], "images", source.name + ".json")
    try:
        ingest(source, output=output, spec=IngestSpec(plane=0), code="ingest@0")
        print(f"{source.name}: image of {read_manifest(output, stage='ingest').facts['shape']} px")
    except SourceError as error:
        print(error)
"""
IMAGE = np.arange(40 * 50, dtype=np.uint8).reshape(40, 50)


@dataclass(frozen=True)
class Answer:
    """How a command ended, and the folder it worked in."""

    code: int
    said: str
    folder: Path


def write(array: np.ndarray, **options: object) -> Callable[[Path], None]:
    """A TIFF file of an array."""
    return lambda path: tifffile.imwrite(path, array, **options)


def bytes_of(content: bytes) -> Callable[[Path], object]:
    """A file of these bytes."""
    return lambda path: path.write_bytes(content)


def with_pixel(array: np.ndarray, value: float) -> np.ndarray:
    """The array with another value somewhere."""
    changed = array.copy()
    changed[7, 11] = value
    return changed


def cut_in_half(path: Path) -> None:
    tifffile.imwrite(path, IMAGE)
    os.truncate(path, path.stat().st_size // 2)


def without_width(path: Path) -> None:
    """A TIFF file that declares 0 columns."""
    tifffile.imwrite(path, IMAGE)
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].tags["ImageWidth"].valueoffset
    content = bytearray(path.read_bytes())
    content[offset : offset + 2] = bytes(2)
    path.write_bytes(content)


# What is wrong with the file that a stage reads, its settings, and what the line must hold besides the file's name.
INGEST: dict[str, tuple[Callable[[Path], object], str, tuple[str, ...]]] = {
    "missing": (lambda path: None, "{}", ("no such file",)),
    "empty": (Path.touch, "{}", ("empty", "0 bytes")),
    "directory": (Path.mkdir, "{}", ("directory", "name an image file")),
    "truncated": (cut_in_half, "{}", ("truncated",)),
    "unknown format": (lambda path: path.write_text("P2 2 2 1"), "{}", ("unknown format", "save it as TIFF")),
    "no columns": (without_width, "{}", ("0",)),
    "NaN": (write(with_pixel(np.ones((40, 50), np.float32), np.nan)), "{}", ("1 values that are NaN", "replace")),
    "infinity": (write(with_pixel(np.ones((40, 50), np.float32), -np.inf)), "{}", ("infinite",)),
    "integers of 32 bits": (write(IMAGE.astype(np.uint32)), "{}", ("uint32",)),
    "channel": (write(IMAGE), '{"channels": [1]}', ("expected channels 0 to 0", "came 1")),
    "plane": (write(np.stack([IMAGE] * 3), photometric="minisblack"), "{}", ("3",)),
    "unknown key": (write(IMAGE), '{"sigma": 1}', ("unknown key 'sigma'", "use one of plane, level, channels")),
    "wrong type": (write(IMAGE), '{"plane": "first"}', ("--spec.plane", "expected a", "integer", "came 'first'")),
    "no JSON": (write(IMAGE), "plane: 1", ("ingest --spec", "JSON")),
}
ANNOTATE: dict[str, tuple[Callable[[Path], object], str, tuple[str, ...]]] = {
    "missing": (lambda path: None, "{}", ("no such file",)),
    "another size": (write(IMAGE[:30]), "{}", ("expected the image's size of 40 x 50 px", "came 30 x 50")),
    "floats": (write(IMAGE.astype(np.float32)), "{}", ("expected integer labels", "came float32")),
    "negative": (write(with_pixel(IMAGE.astype(np.int16), -3)), "{}", ("expected labels from 0 on", "came -3")),
    "classes": (write(IMAGE % 3), '{"kind": "classes"}', ("expected class indices 0 to 1", "came 2")),
    "all ignored": (write(np.full_like(IMAGE, 9)), '{"ignore_value": 9}', ("every pixel is ignored", "9")),
    "colours": (
        write(np.stack([IMAGE, IMAGE.T.reshape(40, 50), IMAGE], -1), photometric="rgb"),
        "{}",
        ("expected one channel", "3"),
    ),
    "half a GeoJSON": (bytes_of(b'{"features": ['), "{}", ("not valid JSON at character 15", "Expecting value")),
    "another JSON": (bytes_of(b'{"cells": 3}'), "{}", ("expected COCO", "GeoJSON", "'cells'")),
    "deep JSON": (bytes_of(b"[" * 10**6), "{}", ("nested too deeply",)),
    "JSON bomb": (bytes_of(gzip.compress(b" " * 2**27)), "{}", ("expands to more than",)),
    "half a ROI": (bytes_of(b"Iout" + bytes(20)), "{}", ("ROI 1", "damaged")),
    "half a zip": (bytes_of(b"PK\3\4" + bytes(90)), "{}", ("damaged zip archive",)),
    "no overlay": (write(IMAGE), '{"overlay": true}', ("holds no ImageJ overlay",)),
}
WEIGH: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "sigma": ("labels/good.json", '{"sigma_px": 0}', ("sigma_px", "expected a value above 0", "came 0")),
    "missing": ("labels/absent.json", "{}", ("labels/absent.json", "no such manifest")),
    "another stage": ("images/good.json", "{}", ("images/good.json", "stage annotate", "stage ingest")),
}


def ask(commands: Sequence[Sequence[object]]) -> list[tuple[int, str]]:
    """Exit code and stderr of each command; all of them run in one process."""
    asked = json.dumps([[str(argument) for argument in command] for command in commands])
    driver = [sys.executable, "-W", "error", "-c", DRIVER]
    ended = subprocess.run(driver, input=asked, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return [(code, said) for code, said in map(json.loads, ended.stdout.splitlines())]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Answer]:
    """What each bad command answers, by verb and name; all of them asked in one process."""
    root = tmp_path_factory.mktemp("bad")
    tifffile.imwrite(root / "good.tif", IMAGE)
    good = {
        verb: str(root / "good" / folder / "good.json")
        for verb, folder in [("ingest", "images"), ("annotate", "labels")]
    }
    commands = {
        ("ingest", "good"): [str(root / "good.tif"), "--output", good["ingest"]],
        ("annotate", "good"): [str(root / "good.tif"), good["ingest"], "--output", good["annotate"]],
    }
    for verb, cases in (("ingest", INGEST), ("annotate", ANNOTATE)):
        for name, (prepare, spec, _) in cases.items():
            source = root / verb / name / "bad.tif"
            source.parent.mkdir(parents=True)
            prepare(source)
            image = [good["ingest"]] if verb == "annotate" else []
            commands[verb, name] = [
                str(source),
                *image,
                "--output",
                str(source.parent / "out" / "x.json"),
                "--spec",
                spec,
            ]
    for name, (manifest, spec, _) in WEIGH.items():
        output = root / "weigh" / name / "out" / "x.json"
        commands["weigh", name] = [str(root / "good" / manifest), "--output", str(output), "--spec", spec]
    lines = ask([[verb, *arguments] for (verb, _), arguments in commands.items()])
    return {(verb, name): Answer(*line, root / verb / name) for (verb, name), line in zip(commands, lines, strict=True)}


def assert_one_line(code: int, said: str, *wanted: str) -> None:
    """Hold what a command said against the promise."""
    assert code == 2, said
    assert said.startswith("unetpipe: ") and said.endswith("\n")
    assert said.count("\n") == 1 and len(said) <= 300 + 1
    assert "Traceback" not in said
    for text in wanted:
        assert text in said, (text, said)
    assert has_remedy(said), said


def assert_nothing_left(folder: Path) -> None:
    """No manifest and no store; an empty folder and a lock may stay."""
    left = [path for path in (folder / "out").rglob("*") if path.suffix != ".ledger"]
    assert left == []


def test_good_input_is_taken(answers: dict[tuple[str, str], Answer]) -> None:
    assert answers["ingest", "good"].code == answers["annotate", "good"].code == 0


@pytest.mark.parametrize("name", INGEST)
def test_bad_images(answers: dict[tuple[str, str], Answer], name: str) -> None:
    answer = answers["ingest", name]
    file = () if name in ("unknown key", "wrong type", "no JSON") else ("bad.tif",)
    assert_one_line(answer.code, answer.said, *file, *INGEST[name][2])
    assert_nothing_left(answer.folder)


@pytest.mark.parametrize("name", ANNOTATE)
def test_bad_annotations(answers: dict[tuple[str, str], Answer], name: str) -> None:
    answer = answers["annotate", name]
    assert_one_line(answer.code, answer.said, "bad.tif", *ANNOTATE[name][2])
    assert_nothing_left(answer.folder)


@pytest.mark.parametrize("name", WEIGH)
def test_bad_settings_and_manifests(answers: dict[tuple[str, str], Answer], name: str) -> None:
    answer = answers["weigh", name]
    assert_one_line(answer.code, answer.said, *WEIGH[name][2])
    assert_nothing_left(answer.folder)


def unetpipe(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    command = [sys.executable, "-W", "error", "-m", "unetpipe", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_file_that_turned_bad_takes_its_old_result_along(tmp_path: Path) -> None:
    source, output = tmp_path / "x.tif", tmp_path / "out" / "x.json"
    tifffile.imwrite(source, np.ones((1100, 1500), np.float32))
    assert unetpipe("ingest", source, "--output", output).returncode == 0
    bad = np.ones((1100, 1500), np.float32)
    bad[-1, -1] = np.nan  # in the last shard: the others are written before it is met
    tifffile.imwrite(source, bad)
    log = tmp_path / "log" / "x.log"
    ended = unetpipe("ingest", source, "--output", output, "--log", log)
    assert_one_line(ended.returncode, ended.stderr, "x.tif", "NaN")
    assert ended.stderr.removeprefix("unetpipe: ").strip() in log.read_text()
    assert_nothing_left(tmp_path)


def test_a_very_long_path_still_fits_into_the_line(tmp_path: Path) -> None:
    source = tmp_path.joinpath(*["long" * 20] * 6, "x.tif")
    ended = unetpipe("weigh", source, "--output", tmp_path / "out" / "x.json")
    assert_one_line(ended.returncode, ended.stderr, "x.tif")


def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "x.tif"
    tifffile.imwrite(source, IMAGE)
    [(code, said)] = ask([["ingest", source, "--output", source / "images" / "x.json"]])
    assert_one_line(code, said, "x.tif", "part of its path is a file")


def test_any_pixel_is_an_image(tmp_path: Path) -> None:
    commands = []
    for height, width in [(1, 1), (1, 7), (7, 1), (2, 3)]:
        source = tmp_path / f"{height}x{width}.tif"
        tifffile.imwrite(source, np.ones((height, width), np.uint8))
        commands.append(["ingest", source, "--output", tmp_path / "images" / f"{source.stem}.json"])
    assert ask(commands) == [(0, "")] * 4


SHEET = "sample\timage\tannotation\tsplit\na\ta.tif\ta.tif\ttrain\n"
MODELS = {"m": {"network": {"depth": 1}}}
CONFIGURATIONS: dict[str, tuple[dict[str, object], str, tuple[str, ...]]] = {
    "duplicate name": ({}, SHEET + "A\ta.tif\ta.tif\tval\n", ("s.tsv row 3", "'A'", "row 2 already", "its own name")),
    "hostile name": ({}, SHEET + "../a\ta.tif\ta.tif\tval\n", ("s.tsv row 3", "'../a'", "letters, digits")),
    "hostile command": ({}, SHEET + "$(rm -rf .)\ta.tif\ta.tif\tval\n", ("s.tsv row 3", "rm -rf", "letters")),
    "hostile model": ({"models": {"a/b": {}}}, SHEET, ("models.a/b", "letters, digits")),
    "unknown key": ({"weigh": {"sigma": 1}}, SHEET, ("weigh", "unknown key 'sigma'", "sigma_px")),
    "unknown section": ({"wiegh": {}}, SHEET, ("unknown key 'wiegh'", "did you mean weigh?")),
    "unknown column": ({}, SHEET.replace("split", "spilt"), ("s.tsv", "unknown column 'spilt'", "split")),
    "wrong type": ({"train": {"steps": "many"}}, SHEET, ("yaml: train.steps", "expected a", "integer", "came 'many'")),
    "number as text": ({"train": {"learning_rate": "1e-3"}}, SHEET, ("train.learning_rate", "'1e-3'", "1.0e-3")),
    "wrong type in a model": ({"models": {"m": {"steps": "x"}}}, SHEET, ("models.m.steps", "came 'x'")),
    "sigma": ({"weigh": {"sigma_px": 0}}, SHEET, ("weigh.sigma_px", "expected a value above 0", "came 0")),
    "patch size": ({"augment": {"input_px": 51}}, SHEET, ("augment.input_px", "51", "50", "52")),
    "patch of one value": (
        {"models": {"m": {"network": {"family": "padded_unet", "features": [2] * 4}}}, "augment": {"input_px": 16}},
        SHEET,
        ("augment.input_px: 16 px", "batch norm a single value per channel", "depth 4", "use at least 32"),
    ),
    "patch too small": (
        {"models": {"m": {"network": {"depth": 4, "base_width": 2}}}},
        SHEET,
        ("augment.input_px", "50 px", "use 188"),
    ),
    "preset": ({"models": {"m": {"preset": "s04"}}}, SHEET, ("models.m.preset", "'s04'", "did you mean s004?")),
    "head": (
        {"models": {"m": {"network": {"depth": 1, "head": "sigmoid"}}}, "classes": ["a", "b", "c"]},
        SHEET,
        ("models.m.network.head", "sigmoid is for 2 classes, came 3", "use head: softmax"),
    ),
    "no training sample": ({}, SHEET.replace("train", "val"), ("s.tsv", "at least one sample of split train")),
    "no model": ({"models": {}}, SHEET, ("models", "expected at least one model", "came none")),
    "missing file": ({}, SHEET + "b\tb.tif\ta.tif\tval\n", ("s.tsv", "b", "image", "no such file", "b.tif")),
    "missing annotation": ({}, SHEET + "b\ta.tif\tb.tif\tval\n", ("s.tsv", "b", "annotation", "no such file")),
    "simulated under another name": (
        {"simulate": {"folder": "./drawn/"}},
        SHEET + "b\tdrawn/images/c.tif\tdrawn/labels/b.tif\tval\n",
        ("s.tsv: sample b: image: expected drawn/images/b.tif", "came drawn/images/c.tif"),
    ),
    "not simulated": (
        {"simulate": {"folder": "drawn"}},
        SHEET + "b\tdrawn/images/b.png\tdrawn/labels/b.tif\tval\n",
        ("s.tsv: sample b: image: no such file: drawn/images/b.png",),
    ),
    "long path": ({}, SHEET + f"b\t{300 * 'p'}.tif\ta.tif\tval\n", ("s.tsv: sample b: image: ", "too long")),
    "long sheet": ({"samples": 300 * "s"}, SHEET, ("sss", "too long")),
    "long weights": ({"models": MODELS | {"n": {"weights": 300 * "w"}}}, SHEET, ("models.n.weights: ", "too long")),
    "null byte in the sheet's path": ({"samples": "s\0.tsv"}, SHEET, ("'s\\x00.tsv'", "came one with a null byte")),
    "null byte": ({"models": MODELS | {"n": {"weights": "a\0b"}}}, SHEET, ("models.n.weights: ", "no such file")),
    "loop": ({}, SHEET + "b\tloop/b.tif\ta.tif\tval\n", ("s.tsv: sample b: image: loop/b.tif cannot be", "symbolic")),
    "long key": ({"weigh": {400 * "k": 1}}, SHEET, ("config.yaml: weigh.kkk", "kkk'; use one of w0, sigma")),
    "variable": (
        {},
        SHEET + "b\t${UNETPIPE_ABSENT}/b.tif\ta.tif\tval\n",
        ("s.tsv row 3: image: the variable UNETPIPE_ABSENT is not set",),
    ),
    "empty default": ({}, SHEET + "b\t${UNETPIPE_ABSENT:-}\ta.tif\tval\n", ("row 3: image: expected a path",)),
    "core": ({"predict": {"core_px": 3}}, SHEET, ("predict.core_px", "core of 3 px", "use 2 or 4")),
    "memory": ({"predict": {"memory_gb": 0.1}}, SHEET, ("predict.memory_gb: expected at least 0.", "came 0.1")),
    "missing sheet": ({"samples": "absent.tsv"}, SHEET, ("absent.tsv", "no such file")),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_bad_configurations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    sections, sheet, wanted = CONFIGURATIONS[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "PRESETS", ROOT / "config" / "presets")
    Path("s.tsv").write_text(sheet)
    Path("a.tif").touch()
    Path("loop").symlink_to("loop")
    good = {"samples": "s.tsv", "models": MODELS, "augment": {"input_px": 50}}
    with pytest.raises(SystemExit) as end:
        workflow_config(good | sections)
    assert end.value.code == 2
    assert_one_line(2, capsys.readouterr().err, *wanted)


def test_the_good_configuration_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.tsv").write_bytes(b"\xef\xbb\xbf" + SHEET.replace("\n", "\r\n").encode())
    Path("a.tif").touch()
    assert list(workflow_config({"samples": "s.tsv", "models": MODELS, "augment": {"input_px": 50}}).samples) == ["a"]


def test_every_malformed_file_is_an_image_or_one_line(data_folder: Path, tmp_path: Path) -> None:
    files = sorted((data_folder / "malformed" / "pillow").iterdir())
    command = [sys.executable, "-W", "error", "-c", MALFORMED, str(files[0].parent), str(tmp_path)]
    # Only a reader that hangs takes so long, and one that allocates what a file declares passes 2.5 GB.
    ended = subprocess.run(command, capture_output=True, text=True, timeout=10 * len(files))
    assert ended.returncode == 0, ended.stderr[-2000:]
    lines = ended.stdout.splitlines()
    assert len(lines) == len(files) == 57
    for file, line in zip(files, lines, strict=True):
        assert f"{file.name[-40:]}: " in line and len(line) <= 300
    made = {path.stem for path in (tmp_path / "images").glob("*.json")}
    assert made == {file.name for file, line in zip(files, lines, strict=True) if ": image of [" in line}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[str], bool]]]:
    """A disk of one size, and a function that gives it another."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size: str, *options: str) -> bool:
        flags = ",".join([*options, f"size={size}"])
        command = ["mount", "-t", "tmpfs", "-o", flags, "tmpfs", str(disk)]
        return subprocess.run(command, capture_output=True).returncode == 0

    if not sys.platform.startswith("linux") or os.geteuid() != 0 or not mount("64k"):
        pytest.skip("only root can mount a small disk")
    yield disk, lambda size: mount(size, "remount")
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("verb", "size", "words", "goes_on"),
    [
        ("ingest", "1300k", ("no space left on the disk", "same command"), True),
        # What it needs is known before.
        ("augment", "200k", ("32 patches need", "lower augment.copies"), False),
    ],
)
def test_work_on_a_full_disk_goes_on_when_there_is_room(
    tmp_path: Path,
    small_disk: tuple[Path, Callable[[str], bool]],
    verb: str,
    size: str,
    words: tuple[str, ...],
    goes_on: bool,
) -> None:
    disk, resize = small_disk
    # Six shards of 300 kB and more: three are written at a time, and one is recorded before a fifth is begun.
    pixels = np.random.default_rng(0).integers(0, 256, (300, 6000)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    tifffile.imwrite(tmp_path / "labels.tif", pixels // 128)
    images, labels, weights, patches = (tmp_path / n / "a.json" for n in ("images", "labels", "weights", "patches"))
    spec = json.dumps({"copies": 32, "input_px": 50, "output_px": 34})
    stages = [
        ["ingest", tmp_path / "a.tif", "--output", images],
        ["annotate", tmp_path / "labels.tif", images, "--output", labels],
        ["weigh", labels, "--output", weights],
        ["augment", images, labels, weights, "--spec", spec, "--output", patches],
    ]
    stages = stages[: [stage[0] for stage in stages].index(verb) + 1]
    assert [code for code, _ in ask(stages)] == [0] * len(stages)
    whole = Path(stages[-1][-1])
    output = disk / whole.parent.name / whole.name
    command = [*stages[-1][:-1], output, "--log", disk / "a.log"]
    assert resize(size)
    ended = unetpipe(*command)
    assert_one_line(ended.returncode, ended.stderr, *words)
    assert not output.exists()
    assert resize("32m")
    ended = unetpipe(*command)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ("going on behind" in (disk / "a.log").read_text()) == goes_on
    assert output.read_bytes() == whole.read_bytes()

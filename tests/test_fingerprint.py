"""The fingerprint changes with the code that a stage runs, and with nothing else."""

import io
import shutil
import tokenize
from pathlib import Path

import pytest

import unetpipe
from unetpipe.fingerprint import MEMORY, STRING_OR_COMMENT, fingerprint, import_closure

ROOT = Path(unetpipe.__file__).parent
WEIGH = "unetpipe.steps.weigh"


@pytest.fixture
def edited(tmp_path: Path):
    """A function that gives WEIGH's fingerprint after a change in one file of a copy of the package."""
    count = 0

    def edit(file: str, old: str, new: str) -> str:
        nonlocal count
        count += 1
        copy = tmp_path / str(count)
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns("__pycache__"))
        text = (copy / file).read_text()
        assert old in text
        (copy / file).write_text(text.replace(old, new, 1))
        return fingerprint(WEIGH, root=copy)

    return edit


def test_place_does_not_count(edited) -> None:
    assert edited("weights.py", "import", "import") == fingerprint(WEIGH)


@pytest.mark.parametrize("file", ["weights.py", "steps/weigh.py", "slides.py", "geometry.py", "__init__.py"])
def test_code_of_the_closure_counts(edited, file: str) -> None:
    changed = edited(file, '"""\n\n', '"""\n\nchanged = 1\n')
    assert changed != fingerprint(WEIGH)


@pytest.mark.parametrize(
    "file", ["augment.py", "networks/unet.py", "cli.py", "config.py", "steps/report.html", "inference.py"]
)
def test_other_code_does_not_count(edited, file: str) -> None:
    text = (ROOT / file).read_text()
    assert edited(file, text[:10], "# other\n" + text[:10]) == fingerprint(WEIGH)
    assert f"unetpipe.{file.removesuffix('.py').replace('/', '.')}" not in import_closure(WEIGH)


def test_comments_docstrings_and_blank_lines_do_not_count(edited) -> None:
    text = (ROOT / "weights.py").read_text()
    first = text.splitlines()[0]
    assert edited("weights.py", first, first.replace('"""', '"""Other words. ', 1)) == fingerprint(WEIGH)
    assert edited("weights.py", "\n\n\n", "\n\n\n\n# a remark\n\n") == fingerprint(WEIGH)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.stem)
def test_comments_are_those_that_python_sees(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    assert STRING_OR_COMMENT.sub(lambda found: found["string"] or "", text).splitlines() == lines


def test_the_family_counts_where_it_is_named() -> None:
    assert fingerprint("unetpipe.steps.train") != fingerprint("unetpipe.steps.train", "unetpipe.networks.unet")
    assert "unetpipe.networks.unet" not in import_closure("unetpipe.steps.train")


def test_no_network_is_trained_anew_for_what_no_training_runs() -> None:
    closure = import_closure("unetpipe.steps.train")
    others = ["annotations", "polygons", "tissue", "resampling", "augment", "warp", "weights", "labels", "instances"]
    others += ["needs", "predictor", "workers", "fingerprint", "config", "cli", "draws"]
    others += ["steps." + path.stem for path in (ROOT / "steps").glob("*.py") if path.stem not in ("__init__", "train")]
    assert [name for name in others if f"unetpipe.{name}" in closure] == []


def test_a_template_counts_for_its_own_stage(tmp_path: Path) -> None:
    shutil.copytree(ROOT, tmp_path / "p", ignore=shutil.ignore_patterns("__pycache__"))
    before = fingerprint("unetpipe.steps.report")
    with (tmp_path / "p" / "steps" / "report.html").open("a") as file:
        file.write("<!-- other -->")
    assert fingerprint("unetpipe.steps.report", root=tmp_path / "p") != before


def test_an_unknown_module_is_an_error() -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        fingerprint("unetpipe.nothing.here")


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """A copy of the package that has been read once, with what is remembered of it."""
    copy = tmp_path / "known"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / MEMORY).parent.mkdir()
    assert fingerprint(WEIGH, root=copy) == fingerprint(WEIGH)
    assert (copy / MEMORY).is_file()
    return copy


def test_what_was_read_once_is_not_read_again(known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "again"
    shutil.copytree(known, copy)
    monkeypatch.setattr("unetpipe.fingerprint.read_source", lambda text: pytest.fail("read again"))
    assert fingerprint(WEIGH, root=copy) == fingerprint(WEIGH)


def test_what_is_remembered_is_of_the_same_bytes(known: Path, tmp_path: Path) -> None:
    copy = tmp_path / "edited"
    shutil.copytree(known, copy)
    with (copy / "weights.py").open("a") as file:
        file.write("\nchanged = 1\n")
    assert fingerprint(WEIGH, root=copy) != fingerprint(WEIGH)


@pytest.mark.parametrize("damage", [lambda text: text[:-100], lambda text: text.replace("a", "b"), lambda text: ""])
def test_a_damaged_memory_is_none(known: Path, tmp_path: Path, damage) -> None:
    copy = tmp_path / "damaged"
    shutil.copytree(known, copy)
    (copy / MEMORY).write_text(damage((copy / MEMORY).read_text()))
    assert fingerprint(WEIGH, root=copy) == fingerprint(WEIGH)

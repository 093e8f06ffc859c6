"""The recipes of containers, which are not built here: what they take is there, and comes from the lock file."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACE = "/opt/unetpipe"
PYTHON = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]


class Recipe:
    """What a recipe does: its base, the files it copies into `PLACE`, its commands, and what it runs in the end."""

    base: str
    files: set[str]
    commands: list[str]
    end: list[str]


def docker() -> Recipe:
    """Dockerfile, instruction by instruction."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    assert [name for name, _ in lines] == ["FROM", "WORKDIR", "COPY", "COPY", "RUN", "WORKDIR", "CMD"]
    recipe = Recipe()
    recipe.base, recipe.end = lines[0][1], json.loads(lines[-1][1])
    assert lines[1][1] == PLACE
    copies = [shlex.split(rest) for name, rest in lines if name == "COPY"]
    assert [target for *_, target in copies] == ["./", "unetpipe"]
    recipe.files = {source for *sources, _ in copies for source in sources}
    recipe.commands = [command.strip() for command in lines[4][1].split("&&")]
    return recipe


def apptainer() -> Recipe:
    """apptainer.def, section by section."""
    text = (ROOT / "apptainer.def").read_text(encoding="utf-8")
    head, *sections = re.split(r"^%(?=\w+$)", text, flags=re.MULTILINE)
    header = dict(line.split(": ") for line in head.splitlines() if line and not line.startswith("#"))
    assert header.keys() == {"Bootstrap", "From"} and header["Bootstrap"] == "docker"
    named = {name: [line.strip() for line in lines if line] for name, *lines in map(str.splitlines, sections)}
    assert named.keys() == {"files", "post", "runscript"}
    recipe = Recipe()
    recipe.base, (recipe.end,) = header["From"], map(shlex.split, named["runscript"])
    pairs = [shlex.split(line) for line in named["files"]]
    assert all(target == f"{PLACE}/{source}" for source, target in pairs)
    recipe.files = {source for source, _ in pairs}
    first, *recipe.commands = named["post"]
    assert first == f"cd {PLACE}"
    return recipe


@pytest.mark.parametrize("recipe", [docker(), apptainer()], ids=["Dockerfile", "apptainer.def"])
def test_a_recipe_takes_what_is_there_and_what_the_lock_file_knows(recipe: Recipe) -> None:
    assert re.fullmatch(rf"python:{re.escape(PYTHON.removeprefix('>='))}-slim-[a-z]+", recipe.base)
    assert all((ROOT / name).exists() for name in recipe.files)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*" and {f"!{name}" for name in recipe.files} == {n for n in ignored if n.startswith("!")}
    locked, own, kernels = recipe.commands
    assert locked == "pip install --no-cache-dir --require-hashes -r requirements-cuda.lock"
    assert own == "pip install --no-cache-dir --no-deps --no-build-isolation ."
    assert kernels == "python -m unetpipe.kernels"


def test_both_recipes_make_the_same_image() -> None:
    one, other = docker(), apptainer()
    assert (one.base, one.files, one.commands) == (other.base, other.files, other.commands)
    assert one.end == ["snakemake", "--cores", "8", "--resources", "gpu=1"]
    assert other.end == ["exec", "python", "-m", "unetpipe", "$@"]

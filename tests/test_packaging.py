"""The lock files, environment.yml and the citation say the same as pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import unetpipe

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RUNTIME_LOCKS = ["requirements-cpu.lock", "requirements-cuda.lock"]
LOCKS = [*RUNTIME_LOCKS, "requirements-dev.lock", "requirements-slurm.lock"]
# Whoever exports to ONNX, or reads the slides that only OpenSlide (LGPL) reads, installs them; the tests have them.
UNLOCKED_EXTRAS = {"onnx", "slides"}


def distribution(requirement: str) -> str:
    """Normalised name at the start of a requirement."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]).lower()


def direct() -> set[str]:
    """Names of all that an installation with every locked extra asks for."""
    project = PYPROJECT["project"]
    assert project["optional-dependencies"].keys() >= UNLOCKED_EXTRAS
    extras = [group for name, group in project["optional-dependencies"].items() if name not in UNLOCKED_EXTRAS]
    return {distribution(requirement) for group in [project["dependencies"], *extras] for requirement in group}


def entries(lock: str) -> list[str]:
    """Requirements of a lock file, each with its hashes on one line."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", "")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pins(lock: str) -> dict[str, str]:
    """Version by name."""
    return {distribution(entry): entry.split("==")[1].split()[0] for entry in entries(lock)}


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_is_pins_with_hashes_only(lock: str) -> None:
    entry_form = re.compile(r"[a-z0-9-]+==\S+( ; [^\\]+?)?( +--hash=sha256:[0-9a-f]{64})+ *")
    assert [entry for entry in entries(lock) if not entry_form.fullmatch(entry)] == []
    assert len(pins(lock)) == len(entries(lock)), "one version of each package on all machines"


@pytest.mark.parametrize("lock", RUNTIME_LOCKS)
def test_lock_holds_every_dependency_and_the_build_backend(lock: str) -> None:
    build = {distribution(requirement) for requirement in PYPROJECT["build-system"]["requires"]}
    assert direct() | build <= pins(lock).keys() | pins(LOCKS[3]).keys()


def test_slurm_lock_holds_only_what_it_adds() -> None:
    added, extras = pins(LOCKS[3]).keys(), PYPROJECT["project"]["optional-dependencies"]
    assert added >= {distribution(requirement) for name in ("slurm", "cluster") for requirement in extras[name]}
    assert not added & pins("requirements-cuda.lock").keys()


def test_dev_lock_holds_the_dev_group() -> None:
    dev = PYPROJECT["dependency-groups"]["dev"]
    assert {distribution(requirement) for requirement in dev} <= pins(LOCKS[2]).keys()
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert {requirement for name in UNLOCKED_EXTRAS for requirement in extras[name]} <= set(dev)
    assert PYPROJECT["dependency-groups"]["build"] == PYPROJECT["build-system"]["requires"]


def test_locks_agree() -> None:
    cpu, cuda, dev = (pins(lock) for lock in LOCKS[:3])
    assert cpu.items() <= cuda.items()
    assert {name: version for name, version in dev.items() if name in cuda} == {
        name: version for name, version in cuda.items() if name in dev
    }


def test_cpu_lock_has_no_cuda_package() -> None:
    extra = pins("requirements-cuda.lock").keys() - pins("requirements-cpu.lock").keys()
    assert all(name == "triton" or name.startswith(("cuda-", "nvidia-")) for name in extra)
    assert not any(name == "triton" or name.startswith(("cuda-", "nvidia-")) for name in pins("requirements-cpu.lock"))


def test_environment_repeats_the_direct_dependencies() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    locked = pins("requirements-cpu.lock") | pins("requirements-slurm.lock")
    assert pip["pip"] == [f"{name}=={locked[name]}" for name in sorted(direct())]
    # Each has its version: a path, as of the package itself, would lead nowhere where Snakemake copies the file to.
    for rules in (ROOT / "workflow" / "rules").iterdir():
        files = re.findall(r'conda:\n +"(.*)"', rules.read_text(encoding="utf-8"))
        assert files and {(rules.parent / file).resolve() for file in files} == {ROOT / "environment.yml"}
    assert conda == ["python=" + PYPROJECT["project"]["requires-python"].removeprefix(">="), "pip"]


def test_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == unetpipe.__version__
    assert citation["license"] == PYPROJECT["project"]["license"]

"""The house: imports go down only, files stay small, the README's tree is the disk's."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "unetpipe"

FLOORS: dict[str, int] = {
    **dict.fromkeys(
        [
            "__init__",
            "errors",
            "geometry",
            "units",
            "fields",
            "netspecs",
            "specs",
            "fingerprint",
            "signals",
            "heap",
            "passes",
            "planning",
        ],
        0,
    ),
    **dict.fromkeys(["schedules", "segmentspecs", "clusterspecs", "leases"], 0),
    **dict.fromkeys(
        ["labels", "separation", "weights", "intensity", "warp", "augment", "instances", "metrics", "comparison"], 1
    ),
    **dict.fromkeys(["examination", "faults", "polygons", "resampling", "tissue", "pyramids"], 1),
    **dict.fromkeys(["masks", "measures", "outlines", "labelling", "basins", "hills", "tuning", "mirroring"], 1),
    **dict.fromkeys(["phantoms", "randomfields", "pictures", "kernels"], 1),
    **dict.fromkeys(["networks", "losses", "feed", "pace", "trainstate", "training", "symmetries", "inference"], 2),
    **dict.fromkeys(["programs", "publicstates"], 2),
    **dict.fromkeys(["ranks", "processes", "devices", "footprint", "compilation"], 2),
    **dict.fromkeys(["slides", "oldzarr", "sources", "patches", "checkpoints"], 3),
    **dict.fromkeys(["manifests", "ledgers", "annotations", "features", "figures", "draws", "provenance"], 3),
    **dict.fromkeys(["shards", "reading", "writing", "multiscales", "labelimages"], 3),
    **dict.fromkeys(["steps", "config", "models", "samples", "documents", "parsing", "reference", "progress"], 4),
    **dict.fromkeys(["unfinished", "checkup", "layouts", "trainset", "validation", "needs", "stitching"], 4),
    **dict.fromkeys(["predictor", "workers", "windows", "folds", "batches", "several"], 4),
    **dict.fromkeys(["cli", "__main__"], 5),
}
FOREIGN: dict[int, set[str]] = {
    0: set(),
    1: {"numpy", "scipy", "numba"},
    2: {"numpy", "torch", "dask", "onnxruntime"},
    3: {
        "numpy",
        "zarr",
        "google_crc32c",
        "zstandard",
        "tifffile",
        "imagecodecs",
        "safetensors",
        "torch",
        "openslide",
        "pyarrow",
    },
    4: {"numpy", "pandas", "torch", "tifffile", "imagecodecs", "jinja2", "pydantic", "yaml", "zarr"},
    5: {"typer"},
}
ONLY_IN = {
    "dask": {"inference"},
    "openslide": {"sources"},
    "pyarrow": {"features"},
    "pydantic": {"parsing"},
    "safetensors": {"checkpoints"},
    "typer": {"cli"},
    "zstandard": {"shards"},
}
# Modules that are named at run time, which no look at imports sees, and why.
NAMED_AT_RUN_TIME = {
    "cli.py": "the stage of a command: the others would be imported for nothing",
    "networks/__init__.py": "the family in use, which alone enters the fingerprint",
    "progress.py": "TensorBoard, which need not be installed",
    "trainset.py": "drawing, which does not concern trainings on stored patches",
    "workers.py": "dask's clusters, which need not be installed",
}
# What may be inherited from beside nn.Module and exceptions, and why.
PARENTS = {
    "Checked": "a spec: its numbers are held against their bounds at birth, without a line of its own",
    "Headed": "a network's spec: the head and the classes of every family",
    "MapTruth": "annotations in pixels differ in how a value becomes an instance",
    "NamedTuple": "a value",
    "Protocol": "a type, no code",
    "SafeLoader": "PyYAML is told by heirs what not to read",
    "WrapperStore": "zarr asks for stores as heirs of its own",
}
# Longer than 400 lines, and why.
LONG: dict[str, str] = {"cli.py": "a list of commands, one behind the other"}

FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """The module or subpackage of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """All module names that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names |= (
                {f"{node.module}.{alias.name}" for alias in node.names}
                if node.module == "unetpipe"
                else {str(node.module)}
            )
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    floor = FLOORS[room(path)]
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "unetpipe":
            other = rest.split(".")[0] or "__init__"
            below = FLOORS.get(other, 0)
            assert below <= floor, f"{path.name} on floor {floor} imports {name} of floor {below}"
            assert {below, floor} != {2, 3}, f"floors 2 and 3 never see each other: {path.name} imports {name}"
        elif top not in sys.stdlib_module_names:
            assert top in FOREIGN[floor], f"{path.name} on floor {floor} imports {top}"
            assert room(path) in ONLY_IN.get(top, {room(path)}), f"{top} belongs in {ONLY_IN[top]}"
            assert top != "torch" or floor != 3 or room(path) == "checkpoints"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_small(path: Path) -> None:
    name = str(path.relative_to(PACKAGE))
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400 or name in LONG


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_prints_and_nothing_is_swallowed(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"print", "eval", "exec"}
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno}: bare except"
            caught = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)}
            assert not caught & {"Exception", "BaseException"}, f"{path}:{node.lineno}: blanket except"


def test_modules_are_named_at_run_time_for_a_reason() -> None:
    named = set()
    for path in FILES:
        names = {
            getattr(node, "attr", getattr(node, "id", "")) for node in ast.walk(ast.parse(path.read_text("utf-8")))
        }
        named |= {str(path.relative_to(PACKAGE))} if names & {"import_module", "__import__"} else set()
    assert named == {*NAMED_AT_RUN_TIME}


def test_nothing_is_inherited_without_a_reason() -> None:
    parents: set[str] = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            bases = node.bases if isinstance(node, ast.ClassDef) and path.name != "errors.py" else []
            parents |= {re.sub(r"\[.*", "", ast.unparse(base)).rpartition(".")[2] for base in bases}
    assert parents - {"Module", "Sequential"} == {*PARENTS}


def test_what_snakemake_imports_is_light() -> None:
    """A dry run of a thousand samples takes seconds."""
    rules = (ROOT / "workflow" / "Snakefile").read_text("utf-8")
    modules = re.findall(r"^from (unetpipe\.\w+) import", rules, re.M)
    assert {f"unetpipe.{name}" for name in ("config", "fingerprint", "leases", "needs")} <= {*modules}
    program = (
        f"import sys, {', '.join(modules)}; sys.exit(str({{'numpy', 'torch', 'zarr', 'numba'}} & {{*sys.modules}}))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stderr == "set()\n"


def shown_tree() -> set[str]:
    """Files and folders that the README's tree shows, folders with a slash behind."""
    block = re.search(r"```text\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert block, "README.md has no tree"
    shown: set[str] = set()
    parents: list[str] = []
    for line in block[1].splitlines():
        entry = line.split("#")[0].rstrip()
        if entry.strip():
            depth = (len(entry) - len(entry.lstrip())) // 2
            for name in entry.split():
                parents[depth:] = [name]
                shown.add("".join(parents))
    return shown


def test_all_that_the_readme_shows_is_there() -> None:
    assert [name for name in shown_tree() if not (ROOT / name).exists()] == []


def test_the_readme_shows_all_that_is_there() -> None:
    shown = shown_tree()
    # A folder is shown with what is in it, or alone.
    opened = {"".join(re.findall("[^/]+/", name.rstrip("/"))) for name in shown}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for path in (Path(line) for line in listed.splitlines() if not line.startswith(".")):
        for name in [f"{folder}/" for folder in reversed(path.parents[:-1])] + [str(path)]:
            assert name in shown, f"README.md does not show {name}"
            if name not in opened:
                break

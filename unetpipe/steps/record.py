"""record: what a run was, and what its bits depend on, in one file."""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

from unetpipe import __version__
from unetpipe.config import Config, read_config
from unetpipe.devices import host_facts
from unetpipe.manifests import write_file
from unetpipe.provenance import dag_digest, read_all
from unetpipe.specs import canonical_json

__all__ = ["record"]


def record(config: Path, *, results: Path) -> None:
    """Write down a run that has ended well.

    Reads
    -----
    config : file
        The whole configuration as YAML or JSON.
    results : folder
        All manifests.

    Writes
    ------
    ``run.json`` in the folder of results, with the versions of all packages, digests of the lock files and of the whole
    run, the state of the source code, what the bits depend on where Snakemake ran and where networks were trained and
    applied, the configuration, and where the sources lie. It differs from machine to machine and is no part of the
    results.
    """
    settings = read_config(config)
    manifests, _ = read_all(results)
    run: dict[str, Any] = {
        "unetpipe": __version__,
        "dag": dag_digest(manifests),
        "results": len(manifests),
        "code": source_state(Path(__file__).resolve().parents[2]),
        "locks": {path.name: digest_of(path) for path in sorted(Path().glob("requirements-*.lock"))},
        "python": platform.python_version(),
        "packages": {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()},
        "host": host_facts(),
        "computed": machines(results / "costs"),
        "config": settings.document,
        "sources": sources(settings),
    }
    write_file(results / "run.json", json.dumps(run, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n")


def digest_of(path: Path) -> str:
    """SHA-256 of a small file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def source_state(folder: Path) -> dict[str, Any]:
    """Commit of the source code, and whether files have been changed since; nothing where it is no checkout."""
    try:
        commit, changed = (
            subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=20)
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit.stdout.strip(), "changed": bool(changed.stdout.strip())}


def sources(settings: Config) -> dict[str, dict[str, str]]:
    """Paths of the sources of each sample, and of each imported network."""
    found = {sample.name: dict(sample.sources) for sample in settings.samples.values()}
    for name, model in settings.models.items():
        if model.weights:
            found.setdefault(name, {})["weights"] = model.weights
    return found


def machines(costs: Path) -> list[dict[str, Any]]:
    """What the bits depend on of each kind of machine that trained or predicted, and the results that it made."""
    made: dict[str, list[str]] = {}
    for path in sorted(costs.rglob("*.json")):
        host = json.loads(path.read_text(encoding="utf-8")).get("host", {})
        name = path.relative_to(costs).with_suffix("").as_posix()
        made.setdefault(canonical_json(host), []).append(name if "/" in name else f"train/{name}")
    return [{"host": json.loads(host), "results": names} for host, names in made.items()]

"""record: what a run was, and what its bits depend on, in one file."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from unetpipe import __version__
from unetpipe.config import read_config
from unetpipe.manifests import write_file
from unetpipe.provenance import dag_digest, read_all

__all__ = ["record"]

# Environment variables that change which instructions compute, or how many threads add up.
DECISIVE = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "CUBLAS_WORKSPACE_CONFIG",
)


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
    run, the state of the source code, what the bits depend on, the configuration, and where the sources lie. It differs
    from machine to machine and is no part of the results.
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
        "config": settings.document,
        "sources": {sample.name: sample.sources for sample in settings.samples.values()},
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


def host_facts() -> dict[str, Any]:
    """What equal bits depend on beside the packages."""
    cuda = torch.cuda.is_available()
    return {
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "byteorder": sys.byteorder,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "processors": len(os.sched_getaffinity(0)),
        "variables": {name: os.environ[name] for name in DECISIVE if name in os.environ},
        "cuda": torch.version.cuda if cuda else None,
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
    }

"""Write the software bill of materials of a lock file: CycloneDX 1.6 as JSON, the same bytes for the same lock.

Run: python .ci/sbom.py requirements-cpu.lock >sbom.json

Licences, and what a package needs, are known of packages that are installed where it runs.
"""

import importlib.metadata
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ENTRY = re.compile(r"^([a-z0-9-]+)==(\S+)(?: ; (.*?))?((?: +--hash=sha256:[0-9a-f]{64})+) *$", re.MULTILINE)


def normal(requirement: str) -> str:
    """Name at the start of a requirement, as lock files write it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]).lower()


def installed(name: str, version: str) -> importlib.metadata.PackageMetadata | None:
    """What a package says of itself, if this version of it is installed."""
    try:
        found = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    return found if found["Version"].partition("+")[0] == version else None


def licences(metadata: importlib.metadata.PackageMetadata) -> list[dict[str, Any]]:
    """A package's licence: its expression, else its classifiers, else what it calls it."""
    if metadata["License-Expression"]:
        return [{"expression": metadata["License-Expression"]}]
    classifiers = [text for text in metadata.get_all("Classifier") or [] if text.startswith("License :: ")]
    names = [text.rpartition(" :: ")[2] for text in classifiers] or (metadata["License"] or "").splitlines()[:1]
    return [{"license": {"name": name}} for name in names if name]


def component(name: str, version: str, marker: str, hashes: list[str]) -> dict[str, Any]:
    """One package of the lock file."""
    purl = f"pkg:pypi/{name}@{version}"
    files = {
        "type": "distribution",
        "url": f"https://pypi.org/project/{name}/{version}/",
        "hashes": [{"alg": "SHA-256", "content": digest} for digest in hashes],
    }
    found: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    metadata = installed(name, version)
    if metadata is not None and licences(metadata):
        found["licenses"] = licences(metadata)
    if marker:
        found["properties"] = [{"name": "python:marker", "value": marker}]
    return found | {"externalReferences": [files]}


def needs(name: str, version: str) -> set[str]:
    """Packages that a package asks for without extras, as far as it is installed."""
    metadata = installed(name, version)
    requirements = (metadata.get_all("Requires-Dist") or []) if metadata is not None else []
    return {normal(requirement) for requirement in requirements if "extra ==" not in requirement}


def bill(lock: str) -> dict[str, Any]:
    """The whole bill of a lock file's text."""
    entries = ENTRY.findall(lock.replace("\\\n", ""))
    components = [
        component(name, version, marker, re.findall("[0-9a-f]{64}", hashes))
        for name, version, marker, hashes in entries
    ]
    refs = {found["name"]: found["bom-ref"] for found in components}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "unetpipe" / "__init__.py").read_text(encoding="utf-8")
    own = {
        "type": "application",
        "bom-ref": project["name"],
        "name": project["name"],
        "version": re.search(r'__version__ = "(.+)"', text)[1],  # type: ignore[index]
        "licenses": [{"expression": project["license"]}],
    }
    asked = {project["name"]: {normal(requirement) for requirement in project["dependencies"]}}
    asked |= {refs[name]: needs(name, version) for name, version, _, _ in entries}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": own},
        "components": components,
        "dependencies": [
            {"ref": ref, "dependsOn": sorted(refs[name] for name in names if name in refs)}
            for ref, names in asked.items()
        ],
    }


if __name__ == "__main__":
    print(json.dumps(bill(Path(sys.argv[1]).read_text(encoding="utf-8")), indent=1, ensure_ascii=False))

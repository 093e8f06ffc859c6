"""Nothing is installed that the lock files do not know, and what they know is listed for whoever asks."""

import base64
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def make_wheel(folder: Path, name: str) -> Path:
    """A wheel with one module."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": "ANSWER = 42\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {path: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()) for path, text in files.items()}
    record = [f"{path},sha256={digest.decode().rstrip('=')},\n" for path, digest in digests.items()]
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join([*record, f"{info}/RECORD,,\n"]))
    return wheel


def install(lock: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Install as the Makefile does, from the folder's wheels, and into a folder of their own."""
    (folder / "requirements.lock").write_text(lock)
    command = [sys.executable, "-m", "pip", "install", "--isolated", "--disable-pip-version-check", "--no-index"]
    command += ["--no-cache-dir", "--find-links", str(folder), "--target", str(folder / "installed")]
    command += ["--require-hashes", "-r", str(folder / "requirements.lock")]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel in a folder that serves as the package index."""
    return make_wheel(tmp_path, "tinywheel")


def pinned(wheel: Path) -> str:
    """The line of a lock file."""
    return f"tinywheel==1.0 \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


def test_what_the_lock_knows_is_installed(wheel: Path) -> None:
    ended = install(pinned(wheel), wheel.parent)
    assert ended.returncode == 0, ended.stderr
    assert (wheel.parent / "installed" / "tinywheel.py").is_file()


def test_a_wheel_with_one_other_bit_is_refused(wheel: Path) -> None:
    lock, content = pinned(wheel), bytearray(wheel.read_bytes())
    content[content.index(b"ANSWER")] ^= 1
    wheel.write_bytes(content)
    ended = install(lock, wheel.parent)
    assert ended.returncode != 0 and "DO NOT MATCH THE HASHES" in ended.stderr
    assert not (wheel.parent / "installed").exists()


def test_a_line_without_a_hash_is_refused(wheel: Path) -> None:
    ended = install("tinywheel==1.0\n", wheel.parent)
    assert ended.returncode != 0 and "Hashes are required" in ended.stderr
    assert not (wheel.parent / "installed").exists()


@pytest.mark.parametrize("name", ["Makefile", "Dockerfile", "apptainer.def"])
def test_whatever_installs_a_lock_file_asks_for_its_hashes(name: str) -> None:
    lines = [line for line in (ROOT / name).read_text().splitlines() if re.search(r" -r \S*(lock|requirements)", line)]
    assert lines and all("--require-hashes" in line for line in lines)


@pytest.fixture(scope="module", params=["requirements-cpu.lock", "requirements-cuda.lock"])
def lock(request: pytest.FixtureRequest) -> str:
    """Name of a lock file."""
    return str(request.param)


@pytest.fixture(scope="module")
def bill(lock: str) -> Any:
    """Its bill of materials."""
    command = [sys.executable, str(ROOT / ".ci" / "sbom.py"), str(ROOT / lock)]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert first == second
    return json.loads(first)


def test_the_bill_lists_every_file_of_the_lock(bill: Any, lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert {one["purl"] for one in bill["components"]} == {
        f"pkg:pypi/{name}@{version}" for name, version in re.findall(r"^(\S+)==(\S+)", text, re.MULTILINE)
    }
    listed = [h["content"] for one in bill["components"] for ref in one["externalReferences"] for h in ref["hashes"]]
    assert sorted(listed) == sorted(re.findall(r"--hash=sha256:(\S+)", text))


def test_the_bill_has_the_fields_that_cyclonedx_asks_for(bill: Any) -> None:
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    everything = [bill["metadata"]["component"], *bill["components"]]
    kinds = {"$schema", "bomFormat", "specVersion", "version", "metadata", "components", "dependencies"}
    assert bill.keys() == kinds and [one["type"] for one in everything] == ["application"] + ["library"] * (
        len(everything) - 1
    )
    for one in everything:
        assert one["name"] and one["version"] and one["bom-ref"]
        choices = [set(choice) for choice in one.get("licenses", [])]
        assert choices == [{"expression"}] or all(choice == {"license"} for choice in choices)
        for reference in one.get("externalReferences", []):
            assert reference["type"] == "distribution" and reference["url"].startswith("https://")
            assert all(
                h["alg"] == "SHA-256" and re.fullmatch("[0-9a-f]{64}", h["content"]) for h in reference["hashes"]
            )
    refs = [one["bom-ref"] for one in everything]
    assert len(refs) == len(set(refs)) and [edge["ref"] for edge in bill["dependencies"]] == refs
    assert all(set(edge["dependsOn"]) <= set(refs) for edge in bill["dependencies"])


def test_the_bill_knows_licences_and_who_needs_what(bill: Any) -> None:
    by_name = {one["name"]: one for one in bill["components"]}
    edges = {edge["ref"].partition("@")[0]: edge["dependsOn"] for edge in bill["dependencies"]}
    assert by_name["zarr"]["licenses"] == [{"expression": "MIT"}]
    assert by_name["numba"]["purl"] in edges["unetpipe"] and by_name["llvmlite"]["purl"] not in edges["unetpipe"]
    assert by_name["llvmlite"]["purl"] in edges["pkg:pypi/numba"]

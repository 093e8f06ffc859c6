"""Nothing is installed that the lock files do not know, and what they know is listed for whoever asks."""

import base64
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


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

"""After any fault the same bytes, or one line that says what is wrong.

The first line of each test is its name in the table.
"""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from projects import RUN, Project
from unetpipe.checkpoints import read_public_file
from unetpipe.errors import ConfigError, SourceError, StoreError, UnetpipeError
from unetpipe.manifests import read_manifest
from unetpipe.samples import read_samples
from unetpipe.specs import IngestSpec
from unetpipe.steps.ingest import ingest
from unetpipe.steps.verify import verify

from .stages import RESULTS, forget, run, start, store

MAX_LINE = 300


def numbers(full: int, short: int = 0) -> Callable[[Any], Any]:
    """Cases of a fault: the first few in every run of the tests, the rest in the full suite."""
    cases = [pytest.param(n, marks=[] if n < short else [pytest.mark.faults]) for n in range(full)]
    return pytest.mark.parametrize("number", cases)


def dice(name: str, number: int) -> random.Random:
    """Draws of one case."""
    return random.Random(f"{name}/{number}")


def check_one_line(code: int, lines: list[str]) -> None:
    """A stage has said in one line what is wrong."""
    said = [line for line in lines if line.startswith("unetpipe: ")]
    assert code == 2 and len(said) >= 1 and len(said[-1]) <= MAX_LINE, lines
    assert not any("Traceback" in line for line in lines), lines


def check_result(tree: Project, finished: Project, result: str) -> None:
    """A result is that of an undisturbed run."""
    assert tree.manifests()[result] == finished.manifests()[result]
    read_manifest(tree.results / f"{result}.json")


def check_single_writers(tree: Project) -> None:
    """No result has been written by two processes at once: its ledger holds each unit once, and one end."""
    for path in tree.results.rglob("*.ledger"):
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        entries = [record.get("unit", "the end" if "closing" in record else "the key") for record in records]
        assert len(entries) == len(set(entries)), (path, entries)


@numbers(50)
def test_kill_of_everything(small: Project, undisturbed: dict[str, bytes], tmp_path: Path, number: int) -> None:
    """SIGKILL of the whole process group at a random moment, then the same command."""
    tree = small.copy(tmp_path / "project")
    draws = dice("all", number)
    behind, delay_s = draws.randrange(len(undisturbed)), draws.uniform(0, 3)
    tree.kill_when(lambda: len(tree.manifests()) >= behind, delay_s=delay_s)
    tree.run()
    assert tree.manifests() == undisturbed, f"behind {behind} manifests and {delay_s:.2f} s"


@numbers(20, 1)
def test_kill_of_snakemake(small: Project, undisturbed: dict[str, bytes], tmp_path: Path, number: int) -> None:
    """SIGKILL of Snakemake alone: its jobs live on while the same command runs."""
    tree = small.copy(tmp_path / "project")
    draws = dice("parent", number)
    behind, delay_s = draws.randrange(len(undisturbed)), draws.uniform(0, 3)
    with tree.start() as running:
        while running.poll() is None and len(tree.manifests()) < behind:
            time.sleep(0.01)
        time.sleep(delay_s)
        running.kill()
    tree.run()
    assert tree.manifests() == undisturbed, f"behind {behind} manifests and {delay_s:.2f} s"
    check_single_writers(tree)


@numbers(60, 1)
def test_stop_of_a_stage(finished: Project, tree: Project, commands: dict[str, str], number: int) -> None:
    """SIGTERM, SIGINT or SIGUSR1 to a stage at a random moment, then the same command."""
    name, draws = ("SIGTERM", "SIGINT", "SIGUSR1")[number % 3], dice("signal", number)
    result = RESULTS[(number + 3) % len(RESULTS)]
    delay_s, living = draws.uniform(0.3, 5), False
    while not living:
        forget(tree, result)
        with start(tree, commands[result]) as process:
            try:
                process.wait(delay_s)
            except subprocess.TimeoutExpired:
                process.send_signal(getattr(signal, name))
                living = True
            assert process.stderr is not None
            said = process.stderr.read()
        # It had ended before: earlier, then.
        delay_s *= 0.8
    # Before it listens, a stage has done nothing that could be lost.
    assert process.returncode in (0, 75, 130, -getattr(signal, name)), said
    assert run(tree, commands[result])[0] == 0
    check_result(tree, finished, result)


KILLED_AT = """
import os, signal, sys
# Which of the calls that concern files of this name is the last; 0: none, all are counted into a file.
wanted, moment, counted = sys.argv.pop(1), int(sys.argv.pop(1)), sys.argv.pop(1)
seen = 0
def deadly(real):
    def call(target, *arguments, **keys):
        global seen
        path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
        seen += wanted in os.path.basename(path)
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        open(counted, "w").write(str(seen)) if moment == 0 else None
        return real(target, *arguments, **keys)
    return call
for name in ("fsync", "replace", "rename"):
    setattr(os, name, deadly(getattr(os, name)))
from unetpipe.cli import main
main()
"""


@numbers(30, 1)
def test_kill_while_writing(
    finished: Project, tree: Project, commands: dict[str, str], tmp_path: Path, number: int
) -> None:
    """SIGKILL inside of a write, between its file, its fsync and its rename."""
    draws = dice("write", number)
    result = RESULTS[(number + 7) % len(RESULTS)]
    program, counted = tmp_path / "killed.py", tmp_path / "counted"
    program.write_text(KILLED_AT, encoding="utf-8")

    def run_until(name: str, moment: int) -> int:
        forget(tree, result)
        words = f"python {program} {shlex.quote(name)} {moment} {counted}"
        return run(tree, commands[result].replace("python -m unetpipe", words))[0]

    # The manifest has two calls: of its content, and of its name. Of all others, any.
    name, moment = (f"{Path(result).name}.json", 1 + number // 10) if number < 20 else ("", 0)
    if not moment:
        assert run_until(name, 0) == 0
        # A training saves by the clock, and may come to fewer in a second run.
        moment = draws.randint(1, max(1, int(counted.read_text()) // 2))
    assert run_until(name, moment) == -signal.SIGKILL
    assert number >= 20 or result not in tree.manifests()
    assert run(tree, commands[result])[0] == 0
    check_result(tree, finished, result)


@contextmanager
def small_disk(folder: Path, size_kb: int) -> Iterator[None]:
    """A disk of its own for a folder."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


needs_mount = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk")


@needs_mount
@numbers(30, 1)
def test_disk_full(finished: Project, commands: dict[str, str], tmp_path: Path, number: int) -> None:
    """A full disk at each stage; with room again, the same command."""
    result, draws = RESULTS[(number + 8) % len(RESULTS)], dice("disk", number)
    disk = tmp_path / "disk"
    with small_disk(disk, 100_000):
        tree = finished.copy(disk / "project")
        forget(tree, result)
        needed = sum(f.stat().st_size for f in store(finished, result).rglob("*") if f.is_file()) // 1024
        free = os.statvfs(disk)
        used = (free.f_blocks - free.f_bavail) * free.f_frsize // 1024
        room = draws.randint(0, max(1, needed * 3 // 4)) // 4 * 4
        subprocess.run(["mount", "-o", f"remount,size={used + room}k", str(disk)], check=True)
        code, lines = run(tree, commands[result])
        assert code == 0 or (result not in tree.manifests() and (check_one_line(code, lines) or True))
        subprocess.run(["mount", "-o", "remount,size=100000k", str(disk)], check=True)
        code, lines = run(tree, commands[result])
        assert code == 0, lines
        check_result(tree, finished, result)


def stored_files(tree: Project) -> list[Path]:
    """Everything that holds pixels, labels, probabilities or parameters."""
    files = [p for p in tree.results.rglob("c/**/*") if p.is_file()]
    return sorted([*files, *tree.results.rglob("weights.safetensors")])


def faults_found(tree: Project) -> list[str]:
    """What a look at all results says."""
    lines: list[str] = []
    try:
        verify(tree.results, tell=lines.append)
    except StoreError:
        return lines
    return []


@numbers(200, 4)
def test_flipped_bits(tree: Project, number: int) -> None:
    """One flipped bit in a chunk, a shard or a file of parameters: `verify` names it."""
    draws = dice("bit", number)
    path = draws.choice(stored_files(tree))
    content = bytearray(path.read_bytes())
    content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    path.write_bytes(content)
    (line, *rest) = faults_found(tree)
    assert not rest and path.relative_to(tree.results).parts[1].split(".")[0] in line


@numbers(100, 4)
def test_lost_and_mixed_chunks(tree: Project, number: int) -> None:
    """A chunk deleted, emptied, or with another's content: its readers or `verify` name it."""
    draws = dice("chunk", number)
    files = stored_files(tree)
    path = draws.choice(files)
    before = path.read_bytes()
    harm = ("deleted", "emptied", "swapped", "duplicated")[number % 4]
    if harm == "deleted":
        path.unlink()
    elif harm == "emptied":
        path.write_bytes(b"")
    else:
        other = draws.choice([p for p in files if p.read_bytes() != before])
        path.write_bytes(other.read_bytes())
        if harm == "swapped":
            other.write_bytes(before)
    lines = faults_found(tree)
    assert lines and any(path.relative_to(tree.results).parts[1].split(".")[0] in line for line in lines)


@numbers(20, 1)
def test_two_runs_at_once(small: Project, undisturbed: dict[str, bytes], tmp_path: Path, number: int) -> None:
    """Two runs started on one folder: the second leaves with one line, the first goes on."""
    tree = small.copy(tmp_path / "project")
    with tree.start() as first:
        time.sleep(dice("two", number).uniform(0, 8))
        second = tree.snakemake(*RUN)
        ends = first.wait(), second.returncode
    said = (tree.folder / "run.log").read_text() + second.stderr
    # Who comes first is not who was started first, where both were started at once.
    assert sorted(ends) == [0, 2], said[-4000:]
    assert sum("in use by another run (process " in line for line in said.splitlines()) == 1
    assert tree.manifests() == undisturbed
    check_single_writers(tree)


@numbers(12, 1)
def test_moved_trees_and_skewed_clocks(finished: Project, tmp_path: Path, number: int) -> None:
    """The tree copied to another place, with time stamps up to a day from now: nothing runs."""
    draws = dice("clock", number)
    tree = finished.copy(tmp_path / f"moved {number}", copy_function=shutil.copyfile)
    now = time.time()
    for path in sorted(
        p for p in tree.folder.rglob("*") if p.is_file() and not {".snakemake", "unetpipe"} & {*p.parts}
    ):
        stamp = now + draws.uniform(-86400, 86400 if number % 2 else 0)
        os.utime(path, (stamp, stamp))
    assert tree.pending() == set()


# Without these, root too may open only what its bits permit.
AS_ANYBODY = "setpriv --bounding-set=-dac_override,-dac_read_search -- sh -c"


@needs_mount
@numbers(20, 1)
def test_what_cannot_be_written_or_read(
    finished: Project, commands: dict[str, str], tmp_path: Path, number: int
) -> None:
    """A disk that can only be read, files and folders without permission, a folder or nothing in a file's place."""
    result = RESULTS[(number + 8) % len(RESULTS)]
    disk, kind = tmp_path / "disk", number % 5
    with small_disk(disk, 100_000):
        tree = finished.copy(disk / "project")
        manifest, source = tree.results / f"{result}.json", tree.folder / "images/a.tif"
        forget(tree, result)
        command = commands[result]
        if kind == 0:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        elif kind == 1:
            manifest.mkdir()
        elif kind == 2:
            manifest.parent.chmod(0o555)
        else:
            result, command = "images/a", commands["images/a"]
            forget(tree, result)
            source.rename(source.with_name("kept.tif"))
            if kind == 3:
                source.symlink_to("nowhere.tif")
            else:
                shutil.copy(source.with_name("kept.tif"), source)
                source.chmod(0)
        check_one_line(*run(tree, f"{AS_ANYBODY} {shlex.quote(command)}" if kind in (2, 4) else command))
        if kind == 0:
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        elif kind == 1:
            manifest.rmdir()
        elif kind == 2:
            manifest.parent.chmod(0o755)
        else:
            source.with_name("kept.tif").replace(source)
        assert run(tree, command)[0] == 0
        check_result(tree, finished, result)


@numbers(100, 10)
def test_malformed_images(tmp_path: Path, number: int) -> None:
    """An image file cut off, with bytes changed, or of something else: read as it is, or one line."""
    draws = dice("malformed", number)
    pixels = np.random.default_rng(number).integers(0, 255, (80, 90), dtype=np.uint8)
    kind, form = number % 4, ("tif", "tif", "png", "jpg", "bmp")[number % 5]
    path, output = tmp_path / f"image.{form}", tmp_path / "images/x.json"
    if form == "tif":
        codec, tile = draws.choice([None, "zlib", "lzw"]), draws.choice([None, (32, 32)])
        tifffile.imwrite(path, pixels, compression=codec, tile=tile)
    else:
        imagecodecs.imwrite(path, pixels)
    content = bytearray(path.read_bytes())
    if kind == 0:
        del content[draws.randrange(len(content)) :]
    elif kind == 1:
        for _ in range(draws.randint(1, 8)):
            content[draws.randrange(len(content))] = draws.randrange(256)
    elif kind == 2:
        content[4 : draws.randrange(5, 200)] = draws.randbytes(draws.randrange(200))
    else:
        content = bytearray(draws.randbytes(draws.randrange(2000)))
    path.write_bytes(content)
    try:
        ingest(path, output=output, spec=IngestSpec(), code="x@1")
    except SourceError as error:
        assert "\n" not in str(error) and path.name in str(error)
        assert not output.exists()
    else:
        read_manifest(output)


HOSTILE = (
    "../up", "..", "a/../b", "/etc/passwd", "a;touch x", "$(touch x)", "`touch x`", "a b", "-rf", "--help", "a|b",
    "a>b", "a\x00b", "a'b", "é", "ａ", "a\u202eb", "CON", "nul.txt", "com1", "x" * 65, "x" * 300, ".hidden", "a.",
    "a..b", "~root", "a*b", "a?b", "{sample}", "a\\b", "%s", "#a", "&a", "a&&b", "!a", "a:b", "[a]", "a=b",
    "a,b", "a@b",
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_names(tmp_path: Path, number: int) -> None:
    """Names of samples that a shell, a path or another system would take for something else: refused."""
    sheet = tmp_path / "samples.tsv"
    sheet.write_text(f"sample\timage\tannotation\tsplit\n{HOSTILE[number]}\ta.tif\ta.tif\ttrain\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"sample|row"):
        read_samples(sheet, IngestSpec())


@pytest.mark.parametrize("number", range(10))
def test_pickles_for_models(tmp_path: Path, number: int) -> None:
    """Pickles that pose as models: nothing of them is run."""
    canary, path = tmp_path / "canary", tmp_path / ("m.pt", "m.pth")[number % 2]
    calls = (
        b"cos\nsystem\n",
        b"cposix\nsystem\n",
        b"cbuiltins\nexec\n",
        b"cbuiltins\neval\n",
        b"csubprocess\ngetoutput\n",
    )
    argument = f"touch {canary}" if number % 5 not in (2, 3) else f"open({str(canary)!r}, 'w')"
    path.write_bytes(calls[number % 5] + f"(V{argument}\ntR.".encode())
    with pytest.raises(UnetpipeError):
        read_public_file(path)
    assert not canary.exists()

"""After any fault the same bytes, or one line that says what is wrong.

The first line of each test is its name in the table.
"""

import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from projects import RUN, Project, is_reached
from unetpipe.errors import StoreError
from unetpipe.manifests import read_manifest
from unetpipe.steps.verify import verify

from .draws import check_one_line, dice, numbers
from .stages import RESULTS, forget, run, start, store


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


def wait_behind(tree: Project, running: subprocess.Popen[bytes], behind: int) -> None:
    """Wait until a run has made so many manifests, or has ended."""
    while running.poll() is None and not is_reached(lambda: len(tree.manifests()) >= behind):
        time.sleep(0.01)


@numbers(50)
def test_kill_of_everything(small: Project, undisturbed: dict[str, bytes], tmp_path: Path, number: int) -> None:
    """SIGKILL of the whole process group at a random moment, then the same command."""
    tree, draws = Project(tmp_path / "project"), dice("all", number)
    behind, delay_s, killed = draws.randrange(len(undisturbed)), draws.uniform(0, 3), False
    while not killed:
        shutil.rmtree(tree.folder, ignore_errors=True)
        small.copy(tree.folder)
        killed = tree.kill_when(lambda: len(tree.manifests()) >= behind, delay_s=delay_s)
        # It had ended before: earlier, then.
        delay_s *= 0.5
    tree.run()
    assert tree.manifests() == undisturbed, f"behind {behind} manifests and {2 * delay_s:.2f} s"


def freeze_writers(parent: int) -> list[psutil.Process]:
    """The jobs of a run that have locked a result, stopped in the middle of what they do."""
    frozen = []
    with suppress(psutil.NoSuchProcess):
        for job in psutil.Process(parent).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if ledgers_of(job):
                    job.suspend()
                    frozen.append(job)
                    # It may have opened its ledger without the lock, or closed it since.
                    if not any(map(is_locked, ledgers_of(job))):
                        frozen.pop().resume()
    return frozen


def ledgers_of(job: psutil.Process) -> list[Path]:
    """Ledgers that a process has open."""
    return [Path(file.path) for file in job.open_files() if file.path.endswith(".ledger")]


def is_locked(ledger: Path) -> bool:
    """Whether a process holds a ledger."""
    with ledger.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@numbers(20, 1)
def test_kill_of_snakemake(small: Project, undisturbed: dict[str, bytes], tmp_path: Path, number: int) -> None:
    """SIGKILL of Snakemake alone: its jobs live on while the same command runs, which waits for them."""
    tree, draws = Project(tmp_path / "project"), dice("parent", number)
    behind, delay_s, orphans = draws.randrange(len(undisturbed)), draws.uniform(0, 3), []
    while not orphans:
        shutil.rmtree(tree.folder, ignore_errors=True)
        small.copy(tree.folder)
        with tree.start() as running:
            wait_behind(tree, running, behind)
            time.sleep(delay_s)
            while running.poll() is None and not orphans:
                orphans = freeze_writers(running.pid)
            running.kill()
        # It had ended before: earlier, then.
        delay_s *= 0.5
    with tree.start() as successor:
        # However slow its start: the orphans are still at work when their results are asked for.
        while successor.poll() is None and "waiting" not in (tree.folder / "run.log").read_text():
            time.sleep(0.05)
        for orphan in orphans:
            orphan.resume()
    said = (tree.folder / "run.log").read_text()
    assert successor.returncode == 0 and "waiting" in said, said[-4000:]
    assert tree.manifests() == undisturbed, f"behind {behind} manifests and {2 * delay_s:.2f} s"
    check_single_writers(tree)


@numbers(60, 1)
def test_stop_of_a_stage(finished: Project, tree: Project, commands: dict[str, str], number: int) -> None:
    """SIGTERM, SIGINT or SIGUSR1 to a stage at a random moment of its work, then the same command."""
    name, draws = ("SIGTERM", "SIGINT", "SIGUSR1")[number % 3], dice("signal", number)
    result = RESULTS[(number // 3 + 3) % len(RESULTS)]
    ledger = tree.results / f"{result}.ledger"
    # The last of them at once: some stages have one unit, and are about to end behind it.
    for delay_s in (draws.uniform(0, 1), draws.uniform(0, 0.2), 0):
        forget(tree, result)
        with start(tree, commands[result]) as process:
            while process.poll() is None and not (ledger.exists() and ledger.stat().st_size):
                time.sleep(0.001)
            time.sleep(delay_s)
            process.send_signal(getattr(signal, name))
            assert process.stderr is not None
            said = process.stderr.read()
        # It had ended before: earlier, then.
        if result not in tree.manifests():
            break
    assert result in tree.manifests() or process.returncode == (130 if name == "SIGINT" else 75), said
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
        moment = draws.randint(1, int(counted.read_text()))
    while (code := run_until(name, moment)) == 0 and result == "models/m":
        # A training saves by the clock, and may come to fewer calls than the time before.
        moment = draws.randint(1, moment)
    assert code == -signal.SIGKILL
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
        check_one_line(*run(tree, commands[result]))
        assert result not in tree.manifests()
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
    # From segmentation on, the first could end before the second has begun.
    behind = dice("two", number).randrange(len(undisturbed) - 4)
    with tree.start() as first:
        wait_behind(tree, first, behind)
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

"""Lists that are too long for a command line go by a file."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from unetpipe.documents import kept_text


def test_equal_texts_are_one_file(tmp_path: Path) -> None:
    lines = [f"results/images/x{number:05}.json" for number in range(5000)]
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: kept_text(lines, tmp_path), range(32)))
    (path,) = paths
    assert path.read_text().splitlines() == lines and path.stat().st_size > 2**17
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert kept_text("{}", tmp_path) != path


def test_the_command_line_takes_lists_from_files(tmp_path: Path) -> None:
    absent = [tmp_path / f"{number}.json" for number in range(9000)]
    listed = kept_text(map(str, absent), tmp_path)
    spec = kept_text("{}", tmp_path)
    command = [sys.executable, "-m", "unetpipe", "report", f"@{listed}", "--output", str(tmp_path / "r.json")]
    ended = subprocess.run([*command, "--spec", f"@{spec}"], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [f"unetpipe: {absent[0]}: no such manifest; run the stage that writes it first"]
    ended = subprocess.run([*command, "--spec", "@absent.txt"], capture_output=True, text=True)
    assert ended.stderr.splitlines() == ["unetpipe: absent.txt: no such file; check the path"]

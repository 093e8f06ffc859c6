"""Nothing is asked of a network at run time.

The finished project of all tests was made without one; those of the kills are made with one, and end with its bytes.
"""

import socket
import subprocess
import sys
from typing import Any

import pytest

from projects import cut_off

CALL = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), timeout=5)"


@pytest.fixture(scope="module")
def offline() -> tuple[str, ...]:
    """What stands before a command that gets no network."""
    found = cut_off()
    if not found:
        pytest.skip("this system does not permit `unshare --map-root-user --net`")
    return found


def test_there_is_no_network_behind_the_cut(offline: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        call = [sys.executable, "-c", CALL, str(server.getsockname()[1])]
        assert subprocess.run(call).returncode == 0
        ended = subprocess.run([*offline, *call], capture_output=True, text=True)
    assert ended.returncode != 0 and "Network is unreachable" in ended.stderr


def test_results_made_without_a_network_are_whole(finished: Any, offline: tuple[str, ...]) -> None:
    command = [*offline, sys.executable, "-m", "unetpipe", "verify", "results"]
    ended = subprocess.run(command, cwd=finished.folder, env=finished.environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "22 results and sources are as they were written" in ended.stdout

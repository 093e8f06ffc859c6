"""What the C library does with memory, each in a process of its own, since it cannot be taken back."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the options are those of glibc")


def said(code: str) -> str:
    """What a program prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_freed_memory_is_kept() -> None:
    """Large blocks that come and go cause no new pages."""
    code = (
        "import resource, torch; from unetpipe.heap import keep_freed_memory\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def work():\n    for _ in range(5): torch.ones(2 * 10**7)\n"
        "work(); before = faults(); work(); fresh = faults() - before\n"
        "keep_freed_memory(); work(); kept = []\n"
        # Something small that lies behind the last block makes the next one a new one, now and then.
        "for _ in range(5): before = faults(); work(); kept.append(faults() - before)\n"
        "print(fresh, min(kept))"
    )
    fresh, kept = map(int, said(code).split())
    assert kept < fresh / 10


@pytest.mark.parametrize(("first", "heaps"), [("pass", 5), ("use_one_heap()", 1)])
def test_threads_take_from_one_heap(first: str, heaps: int) -> None:
    """Four threads that allocate at the same time: each has a heap of its own, beside the first, or none."""
    code = (
        "import ctypes, tempfile, threading; from unetpipe.heap import use_one_heap\n"
        f"{first}; libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p\n"
        "meet = threading.Barrier(4)\n"
        "def work():\n    meet.wait(); libc.malloc(1000); meet.wait()\n"
        "threads = [threading.Thread(target=work) for _ in range(4)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "file = tempfile.NamedTemporaryFile(); libc.fopen.restype = ctypes.c_void_p\n"
        "stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b'w')); libc.malloc_info(0, stream)\n"
        "libc.fclose(stream); print(open(file.name).read().count('<heap nr='))"
    )
    assert int(said(code)) == heaps

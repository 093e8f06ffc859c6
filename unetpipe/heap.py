"""The memory that all arrays come from: what a machine has, how many heaps there are, what happens to freed memory."""

import ctypes
import os
import sys

__all__ = ["keep_freed_memory", "machine_bytes", "use_one_heap"]

# Options of the C library's mallopt.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def machine_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def use_one_heap() -> None:
    """Let all threads take from one heap: what one frees serves another.

    Threads that have a heap of their own keep it, so that this comes before any thread begins: in predictions, it saves
    a tenth to a quarter of the memory, and with `keep_freed_memory` a fifth of the time. Nothing happens where the C
    library is not glibc.
    """
    set_options({M_ARENA_MAX: 1})


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for what is allocated next, instead of handing it back page by page.

    Maps of many megabytes come and go with each layer: without this, a third of the time of large windows goes into
    fresh pages. Nothing happens where the C library is not glibc.
    """
    set_options({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1})


def set_options(options: dict[int, int]) -> None:
    """Set options of the C library, if it knows them."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option, value in options.items():
            libc.mallopt(option, value)

"""Keeping freed memory in the process: on a CPU every large tensor otherwise costs page faults."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8
"""Names of glibc's settings, from malloc.h."""
LARGEST = (1 << 31) - 1
"""The largest value that a setting takes."""
TOP_PAD = 64 << 20


def keep_freed_memory() -> bool:
    """Tell glibc to hand freed memory out again instead of returning it; return whether it did.

    A training step frees and takes gigabytes; measured, a tenth of a step on a CPU goes into
    mapping them anew. The process keeps its peak memory until it ends. Elsewhere nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {
        M_MMAP_THRESHOLD: LARGEST,
        M_TRIM_THRESHOLD: LARGEST,
        M_TOP_PAD: TOP_PAD,
        # The other threads' own arenas cannot hold a large tensor at all.
        M_ARENA_MAX: 1,
    }
    taken = [mallopt(name, value) for name, value in settings.items()]
    return taken == [1] * len(settings)

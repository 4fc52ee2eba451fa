"""What a training frees stays its own: the system takes pages back, clears them and gives them out again in each step.

glibc hands pieces of 32 MiB and more straight back, and the end of its heap, too. A step of nano's third stage frees
and asks for gigabytes; with what is freed kept, none of its time goes into the kernel, where it was a sixth
(docs/log.md, "Pages cleared again and again").
"""

import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8
"""Options of glibc's mallopt."""
STEPS_KEPT = 50
"""What lies idle between pieces in use grows; after so many steps the system gets it."""


def keep_freed() -> None:
    """Let the heap keep what is freed, in one piece for all threads; elsewhere than under glibc nothing happens."""
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        for option, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, 2**26), (ARENA_MAX, 1)):
            mallopt(option, value)


def give_back() -> None:
    """Give whole pages that lie idle to the system."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _of_glibc(name: str) -> "ctypes._NamedFuncPointer | None":
    try:
        function: ctypes._NamedFuncPointer | None = getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):
        return None
    return function

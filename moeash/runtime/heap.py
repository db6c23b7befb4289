"""Freed memory, kept for whoever asks next.

glibc maps every block above 32 MiB anew and hands it back when it is freed, and the system gives
each page of it cleared, one fault at a time. The activations of a forward pass are such blocks: of
EfficientNet-Lite0's on batches of 50 images, more than half of the processor time went into them
(a virtual machine; ``tests/benchmarks/test_bench_heap.py``). Kept, they take a tenth to a fifth
more memory at the peak.

All threads of the process share one heap meanwhile: what one has freed, in a heap of its own, would
be of no use to the others (:mod:`moeash.tracing.stepwise` runs a network in several by turns).
"""

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3), of <malloc.h>."""

MOST_BYTES = 1 << 30
"""Blocks below are kept, and so much free memory at the end of the heap."""

USUAL_BYTES = 32 << 20
"""The highest that glibc raises its threshold for blocks to by itself; that of the end is twice as
high. It tells nobody where they stand."""

_lock = threading.Lock()
_holders = 0


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep freed memory in this process, and hand it back at the end; without glibc do nothing.

    May be nested, and held by several threads.
    """
    global _holders
    with _lock:
        _holders += 1
        if _holders == 1:
            _set(MOST_BYTES, MOST_BYTES, most_heaps=1)
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if _holders == 0:
                _set(USUAL_BYTES, 2 * USUAL_BYTES, most_heaps=0)  # as many as glibc likes
                _call("malloc_trim", 0)


def _set(block_bytes: int, end_bytes: int, *, most_heaps: int) -> None:
    _call("mallopt", MMAP_THRESHOLD, block_bytes)
    _call("mallopt", TRIM_THRESHOLD, end_bytes)
    _call("mallopt", ARENA_MAX, most_heaps)


def _call(name: str, *arguments: int) -> None:
    """Call a function of the C library that not every one has, and that may refuse."""
    function: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*arguments)

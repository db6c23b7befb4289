import ctypes
import os
import platform
import resource
import subprocess
import sys
import threading

import pytest

from moeash.runtime import heap
from moeash.runtime.heap import freed_memory_kept

GLIBC = platform.libc_ver()[0] == "glibc"

PROBE = """
import resource, sys
from contextlib import nullcontext
from moeash.runtime.heap import freed_memory_kept

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

with freed_memory_kept() if sys.argv[1] == "kept" else nullcontext():
    bytearray(100 << 20)
    before = faults()
    for _ in range(5):
        bytearray(100 << 20)
    print(faults() - before)
print(resident() >> 20)
"""


@pytest.mark.slow
@pytest.mark.skipif(not GLIBC, reason="needs glibc")
def test_freed_blocks_are_asked_for_again_without_new_pages_and_handed_back_at_the_end():
    found = {}
    for way in ("kept", "as usual"):
        done = subprocess.run(
            [sys.executable, "-c", PROBE, way], capture_output=True, text=True, check=True
        )
        found[way] = [int(line) for line in done.stdout.split()]
    pages = 500 * (1 << 20) // resource.getpagesize()
    assert found["as usual"][0] >= pages // 512, "blocks of a huge page at most"
    assert found["kept"][0] < found["as usual"][0] / 10
    assert found["kept"][1] < 100, "MiB"


BY_TURNS = """
import resource, threading
from moeash.runtime.heap import freed_memory_kept

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    bytearray(100 << 20)
    freed.release()
    over.wait()

with freed_memory_kept():
    freed, over = threading.Semaphore(0), threading.Event()
    for n in range(4):  # all of them live until the end
        before = faults()
        threading.Thread(target=work, daemon=True).start()
        freed.acquire()
        if n:
            print(faults() - before)
    over.set()
"""


@pytest.mark.slow
@pytest.mark.skipif(not GLIBC, reason="needs glibc")
def test_what_one_thread_has_freed_another_is_given():
    done = subprocess.run(
        [sys.executable, "-c", BY_TURNS], capture_output=True, text=True, check=True, timeout=60
    )
    pages = 100 * (1 << 20) // resource.getpagesize()
    assert sum(map(int, done.stdout.split())) < pages / 10


def test_it_ends_with_the_last_who_holds_it(monkeypatch):
    told = []
    monkeypatch.setattr(heap, "_holders", 0)  # a test before may have left an evaluator open
    monkeypatch.setattr(heap, "_call", lambda *what: told.append(what))
    barrier = threading.Barrier(2)

    def hold():
        with freed_memory_kept(), freed_memory_kept():
            barrier.wait()

    threads = [threading.Thread(target=hold) for _ in range(2)]
    with freed_memory_kept():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told == [("mallopt", -3, 1 << 30), ("mallopt", -1, 1 << 30), ("mallopt", -8, 1)]
    usual = [("mallopt", -3, 32 << 20), ("mallopt", -1, 64 << 20), ("mallopt", -8, 0)]
    assert told[3:] == [*usual, ("malloc_trim", 0)]


def test_a_c_library_without_these_functions_is_left_alone(monkeypatch):
    class Library:
        def __getattr__(self, name):
            raise AttributeError(name)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    with freed_memory_kept():
        assert os.getpid() > 0

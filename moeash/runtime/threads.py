"""How many threads there may be, and one that works ahead."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")


def available_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """Return how many threads to compute with where nobody says.

    As many as ``OMP_NUM_THREADS`` allows, which people set who share a machine and which torch
    obeys; without it one for each core this process may use.
    """
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    cores = available_cores()
    return min(int(said), cores) if said.isdecimal() and int(said) else cores


def ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """Yield the items of an iterator, the next of which is made while one is used.

    What making an item raises is raised where it would have been yielded. One item more is in
    memory.

    Example:
        >>> list(ahead(iter("abc")))
        ['a', 'b', 'c']
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="moeash-ahead") as thread:
        following = thread.submit(next, items, end)
        while (item := following.result()) is not end:
            following = thread.submit(next, items, end)
            yield item  # type: ignore[misc]

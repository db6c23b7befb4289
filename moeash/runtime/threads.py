"""How many threads there may be, one that works ahead, and several that share work."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


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


def spread(
    work: Callable[[_Item], _Made],
    items: Sequence[_Item],
    n_threads: int,
    *,
    prepare: Callable[[], object] | None = None,
) -> Iterator[_Made]:
    """Yield what is made of every item, in the order of the items, by threads beside each other.

    What making one raises is raised in its turn. Whoever stops asking waits for the items that are
    at work; none is begun after that.

    Args:
        work: makes one; must not depend on another having been made.
        items: any number.
        n_threads: at most; a single one is the caller's own.
        prepare: called once in every thread, but not in the caller's own.

    Example:
        >>> list(spread(str.upper, ["a", "b", "c"], n_threads=2))
        ['A', 'B', 'C']
    """
    n_threads = min(n_threads, len(items))
    if n_threads < 2:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(n_threads, "moeash-spread", initializer=prepare) as threads:
        yield from threads.map(work, items)

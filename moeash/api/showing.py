"""Who hears how far a function of the interface is. Nothing here loads torch."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from moeash.study.events import Doing, Listen, ignore

Shown = bool | Listen
"""Who hears of progress: True, a bar on a terminal and nobody elsewhere; False, nobody; or a
function that receives every :class:`moeash.study.events.Event`."""


@contextmanager
def listening(progress: Shown) -> Iterator[Listen]:
    """Hold who hears of progress, and take a bar away afterwards."""
    if callable(progress):
        yield progress
    elif progress and sys.stderr.isatty():
        from moeash.console.progress import LiveProgress

        display = LiveProgress()
        try:
            yield display
        finally:
            display.close()
    else:
        yield ignore


def doing(listen: Listen) -> Callable[[str, int, int | None], None]:
    """Return what turns progress into events."""
    return lambda what, done, total: listen(Doing(what, done, total))

"""Imports that nobody looks for garbage in.

Python's collector walks whatever is new again and again while packages are loaded, and finds next
to nothing: of importing torch and what studies take beside it that is a sixth of the time.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause the collector of this process; where somebody has paused it already, leave it so."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

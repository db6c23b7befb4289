"""How a process is told to end: SIGTERM and SIGHUP count as Ctrl-C, are obeyed once, and not lost.

An exception that a signal's handler raises goes to whatever runs at that moment. Where that is a
finaliser or a callback of the interpreter, Python reports the exception and drops it, and a study
that was asked to end would run for another week. What was dropped is sent again.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_AFTER_S = 0.05
"""Until what was dropped is sent again: what dropped it has ended by then, as a rule."""


@contextmanager
def obeying() -> Iterator[None]:
    """Have SIGTERM, SIGHUP and Ctrl-C end what runs meanwhile, by a KeyboardInterrupt.

    SIGTERM, and SIGHUP of a terminal that is closed, raise one that names them, and only one:
    whoever sends it again would disturb a study that stores its end. For the main thread. The
    answers stay, for the moments between a command and the end of its process. What was started
    with ``nohup`` goes on without its terminal.
    """
    ending = _Ending()
    before = sys.unraisablehook
    signal.signal(signal.SIGTERM, ending.obey)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, ending.obey)
    sys.unraisablehook = lambda dropped: ending.send_again(dropped) or before(dropped)
    try:
        yield
    finally:
        sys.unraisablehook = before


class _Ending:
    def __init__(self) -> None:
        self._obeyed = False

    def obey(self, number: int, _: FrameType | None) -> None:
        """Interrupt what runs."""
        if not self._obeyed:
            self._obeyed = True
            raise KeyboardInterrupt(signal.Signals(number).name)

    def send_again(self, dropped: "sys.UnraisableHookArgs") -> bool:
        """Send what was dropped again; return False where it was no signal."""
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            return False
        self._obeyed = False
        # What else is raised as one, with a text of its own, is no signal's.
        number = signal.Signals.__members__.get(str(dropped.exc_value), signal.SIGINT)
        again = threading.Timer(AGAIN_AFTER_S, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()
        return True

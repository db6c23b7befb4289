"""The queue's clock: what may start is started, and who has died is noticed, once a second."""

import logging
import threading
from collections.abc import Callable

from moeash.errors import MoeashError

LOG = logging.getLogger("moeash.service")

PERIOD_S = 1.0


class Ticker:
    """Calls a function again and again in a thread, and survives what it raises."""

    def __init__(self, tick: Callable[[], object], *, period_s: float = PERIOD_S) -> None:
        self._tick = tick
        self._period_s = period_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="moeash-queue", daemon=True)
        self._said: str | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, after the call under way."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            try:
                self._tick()
                self._said = None
            except MoeashError as error:
                if str(error) != self._said:  # once, not every second
                    self._said = str(error)
                    LOG.error("the queue cannot go on: %s", error)
            except Exception:
                LOG.exception("the queue failed and goes on")

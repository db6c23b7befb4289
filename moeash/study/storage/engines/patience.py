"""Waiting for a database that is away: for how long, and with a word to whoever sits before it."""

import logging
import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from moeash.study.storage.engines.postgres import lost_connection, refused, rolled_back

T = TypeVar("T")

PATIENCE_S = 120.0
"""How long a server that was there may be gone, for a restart or a failover, before it is lost."""

FIRST_PATIENCE_S = 30.0
"""The same of one that has not been there yet: it may be starting, or be named wrongly."""

SILENT_S = 2.0
"""After how long whoever waits is told for what."""

_log = logging.getLogger(__name__)


class Patience:
    """Tries until a database answers, or patience ends.

    Args:
        url: of the database, without its password.
        most_s: how long one that was there is waited for.
    """

    def __init__(self, url: str, most_s: float) -> None:
        self._url = url
        self._most_s = most_s
        self._now_s = min(FIRST_PATIENCE_S, most_s)
        self._is_known = False

    def reached(self, *_: object) -> None:
        """Note that the database is there, so that it is waited for when it goes away."""
        self._now_s, self._is_known = self._most_s, True

    def __call__(
        self,
        attempt: Callable[[], T],
        lost: Callable[[], None] | None = None,
        *,
        holds: bool = False,
    ) -> T:
        """Return what an attempt returns in the end.

        Args:
            attempt: tried again only where that is safe.
            lost: called whenever the connection is lost.
            holds: this is about a study that is held, for which another's writing is waited for.
        """
        delay, began, told = 0.05, time.monotonic(), False
        try:
            while True:
                try:
                    result = attempt()
                except DBAPIError as error:
                    if not self._may_pass(error, lost, holds):
                        raise
                    waited = time.monotonic() - began
                    if waited > self._now_s:
                        raise
                    if waited > SILENT_S and not told:
                        told = True
                        self._tell(error)
                else:
                    self.reached()
                    if told:
                        waited = time.monotonic() - began
                        _log.warning("database %r answers again, after %.0f s", self._url, waited)
                    return result
                time.sleep(delay)
                delay = min(2 * delay, 1.0)
        except (DBAPIError, KeyboardInterrupt, SystemExit):
            # Whoever reports this failure does not wait as long once more.
            self._now_s = 0.0
            raise

    def _may_pass(self, error: DBAPIError, lost: Callable[[], None] | None, holds: bool) -> bool:
        if isinstance(error.orig, sqlite3.Error):
            code = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
            return holds and code & 0xFF == sqlite3.SQLITE_BUSY
        if lost_connection(error):
            if lost is not None:
                lost()
            return self._is_known or not refused(error)
        return rolled_back(error)

    def _tell(self, error: DBAPIError) -> None:
        # A server says what it likes: as text, in one line.
        cause = str(error.orig).strip().partition("\n")[0]
        _log.warning(
            "database %r does not answer (%r); waiting for it for up to %.0f s",
            self._url,
            cause,
            self._now_s,
        )

"""Connections that do not say what they want are closed: uvicorn itself waits for ever."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S = 20.0
"""How long the headers of a request may take from when the connection is made, or from their first
byte on a connection that had a request before."""

MOST_CONNECTIONS = 8192


class PatientForAWhile(H11Protocol):
    """Closes a connection whose request's headers do not come."""

    headers_s = HEADERS_S
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait on, unless a request is complete."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_no_more()
        elif self._deadline is None and not self.transport.is_closing():
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._wait_no_more()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._deadline = self.loop.call_later(self.headers_s, self.transport.close)

    def _wait_no_more(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def uvicorn_settings() -> dict[str, Any]:
    """Return the settings of uvicorn that protect the service.

    Forwarded headers are not believed: any local program could send them, and the audit and the
    limit on failed logins go by the address.
    """
    return {
        "http": PatientForAWhile,
        "ws": "none",
        "proxy_headers": False,
        "server_header": False,
        "access_log": False,
        "limit_concurrency": MOST_CONNECTIONS,
        "h11_max_incomplete_event_size": 64 << 10,
        "timeout_keep_alive": 15,
        "timeout_graceful_shutdown": 5,
    }

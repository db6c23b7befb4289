"""Every request gets an id, a line in the log, and, when it changes something, in the audit."""

import logging
import time
import uuid
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moeash.errors import StorageError
from moeash.service.protection.logs import about
from moeash.study.storage.access.audit import Audit

_SAFE = ("GET", "HEAD", "OPTIONS")
API = "/api/v1"
LOGIN = f"{API}/session"
CHECKS = (f"{API}/specs/check", f"{API}/specs/toml")
"""Sent with a body, and nothing is another afterwards: pages ask while somebody types."""

NO_ROUTE = "(none)"
_access = logging.getLogger("moeash.service.access")

Observe = Callable[[str, str, int, float], None]
"""Takes method, route, status and seconds of a request."""


class Requests:
    """The outermost of all."""

    def __init__(self, app: ASGIApp, audit: Audit, observe: Observe | None = None) -> None:
        self._app = app
        self._audit = audit
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Never the client's: a line of the log is of one request.
        request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        began, status = time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
                # Before the answer: nobody learns of a change that is not in the audit.
                await self._note(scope, status, mentioned.get("made"))
            await send(message)

        with about(request_id=request_id) as mentioned:
            try:
                await self._app(scope, receive, sending)
            finally:
                seconds = time.monotonic() - began
                self._log(scope, status, seconds, mentioned)
                if self._observe is not None:
                    self._observe(scope["method"], route_of(scope), status, seconds)

    def _log(self, scope: Scope, status: int, seconds: float, mentioned: dict[str, Any]) -> None:
        identity = scope["state"].get("identity")
        mentioned.setdefault("study", scope.get("path_params", {}).get("name"))
        _access.info(
            "%s %s %d",
            scope["method"],
            route_of(scope),
            status,
            extra={
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "seconds": round(seconds, 6),
                "address": _address(scope),
                "who": None if identity is None else identity.name,
            },
        )

    async def _note(self, scope: Scope, status: int, made: str | None) -> None:
        """Put what was changed, or refused to somebody known, and every login into the audit.

        Strangers who are refused are only in the log: else they could fill the database.

        Args:
            scope: of the request.
            status: of its answer.
            made: what was made, which its path does not name.
        """
        identity = scope["state"].get("identity")
        is_login = scope["path"] == LOGIN and scope["method"] == "POST" and status != 429
        if scope["method"] in _SAFE or scope["path"] in CHECKS:
            return
        if identity is None and not (is_login and status < 403):
            return
        row: dict[str, Any] = {
            "who": "" if identity is None else identity.name,
            "role": "none" if identity is None else identity.role,
            "action": f"{scope['method']} {route_of(scope)}",
            "target": scope["path"] if made is None else f"{scope['path']}/{made}",
            "status": status,
            "address": _address(scope),
        }
        try:
            await run_in_threadpool(self._audit.add, **row)
        except StorageError as error:
            _access.error("the audit could not be written: %s", error, extra=row)


def route_of(scope: Scope) -> str:
    """Return the route of a request as the application has it, with its parameters' names.

    There are as many as the application has, whatever is asked for.
    """
    route = scope.get("route")
    path, regex = getattr(route, "path", None), getattr(route, "path_regex", None)
    if path is None or regex is None:
        return NO_ROUTE
    # A route knows nothing of the prefix of the router that its router was put into.
    for prefix in ("", API):
        if scope["path"].startswith(prefix) and regex.match(scope["path"][len(prefix) :]):
            return f"{prefix}{path}"
    return NO_ROUTE


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return "local" if client is None else str(client[0])

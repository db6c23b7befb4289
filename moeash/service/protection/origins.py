"""Which names this service answers to, and which pages may change something.

A page of somebody else can make the name of its own site resolve to this machine (DNS rebinding).
Its requests then come from the same origin, but the Host header still tells the name.
"""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from moeash.service.problems import Problem, answer

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_PORTS = {"http": "80", "https": "443"}
_SAFE = ("GET", "HEAD", "OPTIONS")
_ANY_NAME = ("/healthz", "/readyz")
"""Asked by an address that nobody configured, and telling nothing."""


def allowed_hosts(host: str, extra: Collection[str] = ()) -> frozenset[str]:
    """Return the names that the service answers to.

    Args:
        host: what it binds.
        extra: further names, by which people reach it.
    """
    names = {*LOOPBACK_NAMES, *map(_as_name, extra)}
    if not _is_unspecified(host):
        names.add(_as_name(host))
    return frozenset(names)


class Origins:
    """Refuses names that are not the service's, and changes asked for by pages of others."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] == "http" and scope["path"] not in _ANY_NAME:
            problem = self._problem(scope)
            if problem is not None:
                await answer(problem, scope, send)
                return
        await self._app(scope, receive, send)

    def _problem(self, scope: Scope) -> Problem | None:
        given = Headers(scope=scope).getlist("host")
        name = _host_name(given[0]) if len(given) == 1 else None
        if name is None or name not in self._hosts:
            shown = given[0] if given else ""
            return Problem(
                421,
                "unknown-host",
                f"this service is not called {shown!r:.100}; if people reach it by that name, "
                "start it with --allow-host NAME",
            )
        if scope["method"] not in _SAFE and not _is_no_foreign_page(scope):
            return Problem(
                403,
                "foreign-origin",
                "a page of another origin asked for a change; only the service's own page may",
            )
        return None


def is_own_page(scope: Scope) -> bool:
    """Tell whether the browser says that the service's own page made a request."""
    headers = Headers(scope=scope)
    origin, fetched = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None and not _is_own(origin, scope):
        return False
    if fetched is not None:
        return fetched == "same-origin"
    return origin is not None


def _is_no_foreign_page(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    is_page = "origin" in headers or "sec-fetch-site" in headers
    return not is_page or is_own_page(scope)


def _is_own(origin: str, scope: Scope) -> bool:
    try:
        parsed = urlsplit(origin)
        port = str(parsed.port or _PORTS.get(parsed.scheme))
    except ValueError:
        return False
    # A proxy may speak https for this service; it never speaks http for one of https.
    if parsed.scheme != "https" and (parsed.scheme, scope["scheme"]) != ("http", "http"):
        return False
    host = Headers(scope=scope).get("host", "")
    own = _host_name(host), _port_of(host) or _PORTS[parsed.scheme]
    return (_host_name(parsed.netloc), port) == own


def _host_name(netloc: str) -> str | None:
    """Return the name of NAME or NAME:PORT; None when it is neither."""
    name, port = netloc, _port_of(netloc)
    if port is not None:
        name = netloc[: -len(port) - 1]
    return name.lower().removesuffix(".") or None


def _port_of(netloc: str) -> str | None:
    head, colon, port = netloc.rpartition(":")
    is_port = bool(colon) and port.isdigit() and len(port) <= 5 and not port.startswith("0")
    return port if is_port and (":" not in head or head.endswith("]")) else None


def _as_name(host: str) -> str:
    """Return a host as it stands in a URL."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.lower().removesuffix(".")
    return f"[{address}]" if address.version == 6 else str(address)


def _is_unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host

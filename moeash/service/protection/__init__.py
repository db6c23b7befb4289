"""What stands between the network and the application: pure ASGI, streams pass untouched."""

from collections.abc import Collection

from starlette.types import ASGIApp

from moeash.service.protection.addresses import Addresses
from moeash.service.protection.bodies import Bodies, BodyLimits
from moeash.service.protection.headers import SecurityHeaders
from moeash.service.protection.origins import Origins
from moeash.service.protection.requests import Observe, Requests
from moeash.study.storage.access.audit import Audit


def protect(
    app: ASGIApp,
    *,
    audit: Audit,
    hosts: Collection[str],
    limits: BodyLimits,
    observe: Observe | None = None,
) -> ASGIApp:
    """Return an application behind everything in this folder.

    It goes around the whole of it, also around what answers 500 when a route fails.

    Args:
        app: the application.
        audit: takes every change.
        hosts: of :func:`~moeash.service.protection.origins.allowed_hosts`.
        limits: of bodies.
        observe: takes method, route, status and seconds of every request.
    """
    guarded = SecurityHeaders(Origins(Addresses(Bodies(app, limits)), hosts))
    return Requests(guarded, audit, observe)

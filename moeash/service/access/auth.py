"""Who asks, and what they may do: bearer tokens, sessions of browsers, and the one-time login."""

import ipaddress
import math
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Request, Security
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer

from moeash.errors import InputError
from moeash.service.access.limits import Failures
from moeash.service.problems import Problem
from moeash.service.protection.origins import is_own_page
from moeash.study.storage.access.roles import Role, covers
from moeash.study.storage.access.secrets import digest_of, new_secret
from moeash.study.storage.access.sessions import LONGEST, Sessions
from moeash.study.storage.access.tokens import Tokens
from moeash.study.storage.engines.database import Database

COOKIE = "moeash_session"
"""Browsers show it to every port of a host: on a machine where others may listen, bind to a name
of its own."""

CODE_S = 600.0
"""How long a one-time login may be used."""

MOST_CODES, MOST_KNOWN = 16, 1000

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
MEDIA_TYPES = ("application/json", "application/octet-stream")
"""What a page may send with a cookie. No form can send these without asking first."""

_BEARER = HTTPBearer(auto_error=False, description="Made by `moeash token create`.")
_COOKIE = APIKeyCookie(
    name=COOKIE, auto_error=False, description="Set by `POST /api/v1/session`; for the page."
)
Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]
Cookie = Annotated[str | None, Security(_COOKIE)]


@dataclass(frozen=True)
class Identity:
    """Who asks.

    Attributes:
        name: of their token, or of the one-time login.
        role: what they may do.
    """

    name: str
    role: Role


LOCAL = Identity("one-time login", "admin")
"""Who reads what the service prints when it starts: they could do anything to it anyway."""


class Auth:
    """Lets people in. Its methods ``viewer``, ``operator`` and ``admin`` are dependencies.

    Attributes:
        tokens: of the database.
        sessions: of the database.
    """

    def __init__(
        self,
        database: Database,
        *,
        failures: Failures | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tokens = Tokens(database)
        self.sessions = Sessions(database)
        self._failures = failures or Failures()
        self._clock = clock
        self._lock = threading.Lock()
        self._codes: OrderedDict[str, float] = OrderedDict()
        self._known: OrderedDict[str, None] = OrderedDict()

    # ------------------------------------------------------------------ dependencies

    def viewer(self, request: Request, bearer: Bearer = None, cookie: Cookie = None) -> Identity:
        """Return who asks; they may see.

        Raises:
            Problem: 401, 403 or 429.
        """
        return self._require("viewer", request, bearer, cookie)

    def operator(self, request: Request, bearer: Bearer = None, cookie: Cookie = None) -> Identity:
        """Return who asks; they may also launch, stop and export."""
        return self._require("operator", request, bearer, cookie)

    def admin(self, request: Request, bearer: Bearer = None, cookie: Cookie = None) -> Identity:
        """Return who asks; they may also manage tokens."""
        return self._require("admin", request, bearer, cookie)

    def _require(
        self,
        role: Role,
        request: Request,
        bearer: HTTPAuthorizationCredentials | None,
        cookie: str | None,
    ) -> Identity:
        identity = self.identify(request, None if bearer is None else bearer.credentials, cookie)
        request.state.identity = identity
        if not covers(identity.role, role):
            raise Problem(
                403,
                "role-too-low",
                f"{identity.name} has the role {identity.role}, and this needs {role}; ask an "
                "admin for a token of that role",
            )
        return identity

    def identify(self, request: Request, secret: str | None, cookie: str | None) -> Identity:
        """Return who asks.

        Args:
            request: whose headers decide whether a cookie counts.
            secret: what was shown as a bearer token.
            cookie: what was shown as a session.

        Raises:
            Problem: 401, 403 or 429.
        """
        if secret is not None:
            return self._of_token(secret, address_of(request))
        if cookie is None:
            raise unauthorised("this needs a login or a token")
        _refuse_foreign(request)
        session = self.sessions.find(cookie)
        if session is None:
            raise unauthorised("the session has ended; log in again", clear=True)
        return Identity(session.name, session.role)

    def still_let_in(self, request: Request) -> bool:
        """Tell whether whoever sent a request would be let in again now."""
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        shown = secret.strip() if scheme.lower() == "bearer" else None
        try:
            self.identify(request, shown, request.cookies.get(COOKIE))
        except Problem:
            return False
        return True

    # ------------------------------------------------------------------ logging in

    def login_code(self) -> str:
        """Return a code that logs in one browser, once, within :data:`CODE_S`."""
        code = new_secret("")
        with self._lock:
            self._codes[digest_of(code)] = self._clock() + CODE_S
            while len(self._codes) > MOST_CODES:
                self._codes.popitem(last=False)
        return code

    def login_with_code(self, code: str, address: str) -> tuple[Identity, str]:
        """Use up a code; return who logged in, and the cookie of their session.

        Raises:
            Problem: 401 or 429.
        """
        self._refuse_hasty(address)
        with self._lock:
            until = self._codes.pop(digest_of(code), None)
        if until is None or until < self._clock():
            self._failures.add(address)
            raise unauthorised(
                "the one-time login was used or is too old; start the service again, or log in "
                "with a token of `moeash token create`"
            )
        self._failures.forget(address)
        return LOCAL, self.sessions.create(LOCAL.name, LOCAL.role)

    def login_with_token(self, secret: str, address: str) -> tuple[Identity, str]:
        """Return who logged in with a token, and the cookie of their session.

        Raises:
            Problem: 401 or 429.
        """
        identity = self._of_token(secret, address)
        token = self.tokens.find(secret)
        if token is None:  # revoked this moment
            raise _no_such_token()
        return identity, self.sessions.create(token.name, token.role, token=token)

    def _of_token(self, secret: str, address: str) -> Identity:
        digest = digest_of(secret)
        # Who has been let in is not made to wait for others who fail from the same address.
        if digest not in self._known:
            self._refuse_hasty(address)
        token = self.tokens.find(secret)
        with self._lock:
            self._known.pop(digest, None)
            if token is not None:
                self._known[digest] = None
                while len(self._known) > MOST_KNOWN:
                    self._known.popitem(last=False)
        if token is None:
            self._failures.add(address)
            raise _no_such_token()
        return Identity(token.name, token.role)

    def _refuse_hasty(self, address: str) -> None:
        wait = math.ceil(self._failures.wait_s(address))
        if wait > 0:
            raise Problem(
                429,
                "too-many-failures",
                f"too many failed logins from this address; try again in {wait} s",
                headers={"Retry-After": str(wait)},
            )


def address_of(request: Request) -> str:
    """Return where a request came from."""
    return "local" if request.client is None else request.client.host


def unauthorised(detail: str, *, clear: bool = False) -> Problem:
    """Return the problem of somebody who is not let in.

    Args:
        detail: why.
        clear: make the browser forget its cookie.
    """
    headers = {"WWW-Authenticate": 'Bearer realm="moeash"'}
    if clear:
        headers["Set-Cookie"] = f"{COOKIE}=; Max-Age=0; Path=/; HttpOnly; SameSite=Strict"
    return Problem(401, "not-logged-in", detail, headers=headers)


def cookie_settings(request: Request) -> dict[str, object]:
    """Return the arguments of ``set_cookie`` and ``delete_cookie`` but value and age."""
    return {
        "key": COOKIE,
        "path": "/",
        "httponly": True,
        "samesite": "strict",
        "secure": request.url.scheme == "https",
    }


COOKIE_AGE_S = int(LONGEST.total_seconds())


def _no_such_token() -> Problem:
    return unauthorised("there is no such token, or it was revoked or has expired")


def _refuse_foreign(request: Request) -> None:
    """Refuse what a page of somebody else could make a browser send with its cookie.

    ``SameSite=Strict`` keeps the cookie from other sites, but another port of this host is the
    same site. So whoever shows a cookie must also be told, by the browser, to be the own page, and
    send what no form can.

    Raises:
        Problem: 403 or 415.
    """
    fetched = request.headers.get("sec-fetch-site")
    if fetched not in (None, "same-origin", "none"):
        raise Problem(403, "foreign-origin", "another site asked for this with your cookie")
    if request.method in SAFE_METHODS:
        return
    if not is_own_page(request.scope):
        raise Problem(
            403,
            "foreign-origin",
            "a request that changes something and shows a cookie needs Origin or Sec-Fetch-Site of "
            "this service's own page; programs use a bearer token",
        )
    length = request.headers.get("content-length", "0")
    if length == "0" and "transfer-encoding" not in request.headers:
        return
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise Problem(
            415,
            "media-type",
            f"the content type is {media_type!r:.60}, needed {' or '.join(MEDIA_TYPES)}",
        )


def check_bind(host: str, tokens: Tokens) -> None:
    """Refuse to be reached from other machines before anybody has a token.

    Args:
        host: what to bind.
        tokens: of the database.

    Raises:
        InputError: it is not loopback, and no token launches anything.
    """
    if is_loopback(host) or tokens.any_valid("operator"):
        return
    raise InputError(
        f"--host {host} can be reached from other machines, and there is no token to log in with; "
        "make one with `moeash token create --role operator` (or admin) on the same --storage, or "
        "leave --host at 127.0.0.1"
    )


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches what binds this host.

    Raises:
        InputError: it is no host.
    """
    try:
        found = socket.getaddrinfo(host or None, 0, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host!r} is no address of this machine: {error}") from error
    return all(
        ipaddress.ip_address(str(place[0]).partition("%")[0]).is_loopback for *_, place in found
    )

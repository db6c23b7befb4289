"""How large the body of a request may be, and how slowly it may come."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moeash.service.problems import Problem, answer


@dataclass(frozen=True)
class BodyLimits:
    """Limits of bodies.

    Attributes:
        n_bytes: of most bodies.
        by_path: of those sent to some paths.
        grace_s: how long any body may take.
        bytes_per_s: how fast it must come beyond that, on average.
    """

    n_bytes: int = 1 << 20
    by_path: Mapping[str, int] = field(default_factory=dict)
    grace_s: float = 20.0
    bytes_per_s: float = 4096.0


class Bodies:
    """Refuses bodies that are too large or too slow, whatever the application makes of them."""

    def __init__(self, app: ASGIApp, limits: BodyLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(scope, receive, send, self._limits)
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > body.most:
            await answer(body.too_large(), scope, send)
            return
        try:
            await self._app(scope, body.receive, body.send)
        except Problem as problem:
            if problem is not body.problem:
                raise
        if body.problem is not None and not body.is_answered:
            await answer(body.problem, scope, send)


class _Body:
    """The body of one request, as it comes."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: BodyLimits) -> None:
        self.most = limits.by_path.get(scope["path"], limits.n_bytes)
        self.problem: Problem | None = None
        self.is_answered = False
        self._receive, self._send, self._limits = receive, send, limits
        self._began = time.monotonic()
        self._n_bytes = 0
        self._is_complete = False

    async def receive(self) -> Message:
        """Return the next message; a stream that only waits for the end of it waits for ever."""
        if self._is_complete or self.is_answered:
            return await self._receive()
        limits = self._limits
        deadline = self._began + limits.grace_s + self._n_bytes / limits.bytes_per_s
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            self.problem = self._too_slow()
            raise self.problem from None
        if message["type"] == "http.request":
            self._n_bytes += len(message.get("body", b""))
            self._is_complete = not message.get("more_body", False)
            if self._n_bytes > self.most:
                self.problem = self.too_large()
                raise self.problem
        return message

    async def send(self, message: Message) -> None:
        """Pass on; but no answer other than the problem, once there is one."""
        if self.problem is not None and not self.is_answered:
            return
        self.is_answered = True
        await self._send(message)

    def too_large(self) -> Problem:
        return Problem(
            413,
            "body-too-large",
            f"the body is too large; at most {self.most:,} bytes are taken here",
            headers={"Connection": "close"},
        )

    def _too_slow(self) -> Problem:
        return Problem(
            408,
            "body-too-slow",
            f"{self._n_bytes:,} bytes came in {time.monotonic() - self._began:.0f} s; needed are "
            f"{self._limits.bytes_per_s:,.0f} a second after {self._limits.grace_s:g} s",
            headers={"Connection": "close"},
        )

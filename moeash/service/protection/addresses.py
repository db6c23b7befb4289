"""Refuses addresses that nothing can be called by."""

from starlette.types import ASGIApp, Receive, Scope, Send

from moeash.service.problems import Problem, answer


class Addresses:
    """Refuses a null character in a path or a query: no name has one, and PostgreSQL no text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] == "http" and ("\0" in scope["path"] or b"%00" in scope["query_string"]):
            detail = "the address holds a null character, which no name has; leave it out"
            await answer(Problem(400, "bad-request", detail), scope, send)
            return
        await self._app(scope, receive, send)

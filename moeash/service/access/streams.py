"""Server-sent events for as long as whoever reads them may."""

import time
from collections.abc import AsyncIterator
from typing import Any

from anyio import to_thread
from fastapi import Request
from fastapi.responses import StreamingResponse

from moeash.service.access.auth import Auth

LOOK_S = 30.0
"""How long a stream may go on after its reader's token was revoked."""

MEDIA_TYPE = "text/event-stream"


def described(text: str) -> dict[int | str, dict[str, Any]]:
    """Return how the description of the API names a stream."""
    content = {MEDIA_TYPE: {"schema": {"type": "string"}}}
    return {200: {"content": content, "description": text}}


def stream(auth: Auth, request: Request, chunks: AsyncIterator[bytes]) -> StreamingResponse:
    """Answer with a stream, and end it when its reader is not let in any more."""
    return StreamingResponse(
        _while_let_in(auth, request, chunks),
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _while_let_in(
    auth: Auth, request: Request, chunks: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    looked = time.monotonic()
    async for chunk in chunks:
        if time.monotonic() - looked > LOOK_S:
            if not await to_thread.run_sync(auth.still_let_in, request):
                return
            looked = time.monotonic()
        yield chunk

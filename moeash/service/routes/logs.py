"""What studies and exports print: a part of it at a time, or as a stream."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from moeash.core.plain import json_text
from moeash.errors import LaunchNotFoundError
from moeash.launch.exports import log_of
from moeash.launch.logs import Piece, read_piece
from moeash.service.access.streams import described, stream
from moeash.service.context import Context
from moeash.service.views.exports import Number, export_of
from moeash.service.views.tail import KEEPALIVE_S, RETRY_MS
from moeash.study.storage.team.launch import LaunchRecord

POLL_S = 0.5
Byte = Annotated[int, Query(ge=0, lt=2**62, alias="from", description="Byte to go on at.")]

STREAM = described(
    "Events `log` with `text` and `next` in their data, and one `ended`. The `id` is the launch "
    "and the byte at which the next part begins."
)


class LogPart(BaseModel):
    """A part of what a study has printed.

    Attributes:
        text: of it; empty when there is nothing new.
        next: byte at which the next part begins.
        ended: whether nothing will be printed any more unless the study is started again.
        launch: number of the launch; a study that is started again prints anew.
    """

    text: str
    next: int
    ended: bool
    launch: int | None


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["logs"], dependencies=[Depends(context.auth.viewer)])
    studies, launches, tail = context.studies, context.queue.launches, context.tail

    @routes.get("/studies/{name}/log")
    def show_log(name: str, start: Byte = 0) -> LogPart:
        """Show what a study has printed from a byte on, a part at most."""
        studies.item(name)
        record = _newest(name)
        if record is None:  # it was run by a terminal, which has what it printed
            return LogPart(text="", next=0, ended=True, launch=None)
        piece = _piece(record, start)
        is_over = record.ended and not piece.text
        return LogPart(text=piece.text, next=piece.next, ended=is_over, launch=record.id)

    @routes.get("/studies/{name}/log/stream", response_class=StreamingResponse, responses=STREAM)
    def stream_log(
        name: str,
        request: Request,
        start: Byte = 0,
        last_event_id: Annotated[str | None, Header(max_length=40)] = None,
    ) -> StreamingResponse:
        """Stream what a study prints until it has ended."""
        studies.item(name)
        position = _position(last_event_id) or (None, start)
        return stream(context.auth, request, _follow(lambda: _newest(name), position))

    @routes.get("/exports/{id}/log/stream", response_class=StreamingResponse, responses=STREAM)
    def stream_export_log(
        id: Number,
        request: Request,
        start: Byte = 0,
        last_event_id: Annotated[str | None, Header(max_length=40)] = None,
    ) -> StreamingResponse:
        """Stream what an export prints until it has ended."""
        export_of(launches, id)
        position = _position(last_event_id) or (None, start)
        return stream(context.auth, request, _follow(lambda: _launch(id), position))

    def _newest(name: str) -> LaunchRecord | None:
        return launches.newest([name]).get(name)

    def _launch(id: int) -> LaunchRecord | None:
        with suppress(LaunchNotFoundError):  # deleted with its study
            return launches.get(id)
        return None

    async def _follow(
        find: Callable[[], LaunchRecord | None], position: tuple[int | None, int]
    ) -> AsyncIterator[bytes]:
        yield f"retry: {RETRY_MS}\n\n".encode()
        launch, start = position
        said = time.monotonic()
        while not tail.is_over:
            record = await asyncio.to_thread(find)  # before the log: none is missed
            if record is not None and launch not in (None, record.id):
                start = 0
            piece = Piece("", start)
            if record is not None:
                launch = record.id
                piece = await asyncio.to_thread(_piece, record, start)
            if piece.text:
                start, said = piece.next, time.monotonic()
                data = {"text": piece.text, "next": start}
                yield f"id: {launch}-{start}\nevent: log\ndata: {json_text(data)}\n\n".encode()
                continue
            if record is None or record.ended:
                yield b"event: ended\ndata: {}\n\n"
                return
            if time.monotonic() - said > KEEPALIVE_S:
                said = time.monotonic()
                yield b": still here\n\n"
            await asyncio.sleep(POLL_S)

    return routes


def _piece(record: LaunchRecord, start: int) -> Piece:
    path = log_of(record)
    piece = read_piece(path, start)
    # More than there is was read of another launch's log.
    return read_piece(path) if piece.next < start else piece


def _position(last_event_id: str | None) -> tuple[int, int] | None:
    """Return the launch and the byte of an event's id; None when it is none of ours."""
    parts = (last_event_id or "").split("-")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        return None
    return int(parts[0]), int(parts[1])

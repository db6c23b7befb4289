"""What happens, as it happens: server-sent events, and the history they come from."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import StreamingResponse

from moeash.service.access.streams import described, stream
from moeash.service.context import Context
from moeash.service.views.documents import EventDocument, EventPage
from moeash.study.events import LASTING
from moeash.study.summary import in_words

After = Annotated[
    int | None, Query(ge=0, lt=2**62, description="Id of the last event that is known already.")
]
LastEventId = Annotated[
    str | None, Header(description="As a browser sends it when it connects again.", max_length=40)
]

STREAM = described(
    "Events: `id` of its row, `event` its kind, `data` JSON with study, at, text and the values of "
    "the event. What is being done right now has no id."
)


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["events"], dependencies=[Depends(context.auth.viewer)])
    auth, tail = context.auth, context.tail
    studies, storage = context.studies, context.storage

    @routes.get("/events", response_class=StreamingResponse, responses=STREAM)
    def stream_all(
        request: Request, after: After = None, last_event_id: LastEventId = None
    ) -> StreamingResponse:
        """Stream the events of all studies."""
        return stream(auth, request, tail.listen(None, _position(after, last_event_id)))

    @routes.get("/studies/{name}/events", response_class=StreamingResponse, responses=STREAM)
    def stream_study(
        name: str, request: Request, after: After = None, last_event_id: LastEventId = None
    ) -> StreamingResponse:
        """Stream the events of one study, which may wait in the queue still."""
        studies.item(name)
        return stream(auth, request, tail.listen(name, _position(after, last_event_id)))

    @routes.get("/studies/{name}/history")
    def list_events(
        name: str,
        after: Annotated[int, Query(ge=0, lt=2**62)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
        kind: Annotated[list[str] | None, Query(max_length=20)] = None,
        newest: Annotated[bool, Query(description="The last ones, if there are more.")] = False,
    ) -> EventPage:
        """List the stored events of a study, oldest first."""
        study = studies.stored(name)
        if study is None:
            return EventPage(items=[], next=None)
        record = study.record
        kinds = None if kind is None else [k for k in kind if k in LASTING]
        found = storage.events(record.id, after=after, kinds=kinds, limit=limit, newest=newest)
        items = [
            EventDocument(
                id=event.id,
                at=event.created_at,
                kind=event.kind,
                text=in_words(event),
                payload=dict(event.payload),
            )
            for event in found
        ]
        is_full = len(items) == limit and not newest
        return EventPage(items=items, next=items[-1].id if is_full else None)

    return routes


def _position(after: int | None, last_event_id: str | None) -> int | None:
    """Return where to go on. A browser repeats its first address, so its header goes first."""
    if last_event_id is not None and last_event_id.isascii() and last_event_id.isdigit():
        return int(last_event_id)
    return after

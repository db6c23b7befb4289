"""Events as they are stored, read once for everybody who listens.

One thread looks for new rows of ``events`` while anybody listens; whoever listens holds nothing but
the id of the last event it was given, and takes the next ones from a ring of recent events, or from
storage when it has fallen behind. So a slow listener costs no memory, and a hundred cost one query.

Ids increase in the order of commits within a study. Across studies PostgreSQL may commit a later id
first, so a gap is waited for before what lies behind it is told.
"""

import asyncio
import threading
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from moeash.core.plain import json_text
from moeash.errors import StorageError
from moeash.study.storage.team.stream import Stream, StreamedEvent
from moeash.study.summary import in_words

POLL_S = 0.25
GAP_S = 5.0
"""How long an id that is missing may be on its way."""

RING = 4096
PAGE = 500
TAKEN = 100
"""Events a listener takes at a time: what it holds, should it stop there and never read on."""

PIECE_BYTES = 16 << 10
"""About how much is sent at a time: more costs memory, and less costs time, for each listener."""

KEEPALIVE_S = 15.0
RETRY_MS = 2000


@dataclass(frozen=True)
class Message:
    """An event as it is sent.

    Attributes:
        id: of its row; 0 of a passing event.
        study: name of its study.
        text: of the stream, as bytes.
    """

    id: int
    study: str
    text: bytes


def as_message(event: StreamedEvent) -> Message:
    """Return an event as a stream sends it."""
    record = event.record
    data = {
        **record.payload,
        "study": event.study,
        "at": record.created_at,
        "text": in_words(record),
    }
    head = f"id: {record.id}\n" if record.id else ""
    return Message(
        record.id, event.study, f"{head}event: {record.kind}\ndata: {json_text(data)}\n\n".encode()
    )


@dataclass(frozen=True)
class _Window:
    """The last events.

    Attributes:
        floor: every event above this id, up to the last one read, is in the ring.
        ring: by id.
    """

    floor: int
    ring: tuple[Message, ...] = ()

    @property
    def last(self) -> int:
        """Id of the last event that was read."""
        return self.ring[-1].id if self.ring else self.floor

    def with_more(self, messages: Sequence[Message]) -> "_Window":
        """Return the window after further events."""
        ring = (*self.ring, *messages)
        if len(ring) <= RING:
            return _Window(self.floor, ring)
        return _Window(ring[-RING - 1].id, ring[-RING:])


class Tail:
    """What is new in storage, for any number of listeners.

    Attributes:
        n_listeners: at present.
    """

    def __init__(self, stream: Stream, *, gaps: bool, poll_s: float = POLL_S) -> None:
        """Begin at what is stored now; nothing is read before :meth:`start`.

        Args:
            stream: of the storage.
            gaps: whether ids may be committed out of their order.
            poll_s: seconds between two looks.
        """
        self._stream = stream
        self._gaps = gaps
        self._poll_s = poll_s
        self._window = _Window(0)  # replaced, never changed: listeners read it in another thread
        self._passing: dict[str, Message] = {}
        self._waiting: set[asyncio.Event] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self.n_listeners = 0

    @property
    def position(self) -> int:
        """Id of the last event that was read."""
        return self._window.last

    @property
    def is_over(self) -> bool:
        """Whether the service ends, and every stream with it."""
        return self._stop.is_set()

    @property
    def n_kept(self) -> int:
        """Events that are in memory."""
        return len(self._window.ring)

    # ------------------------------------------------------------------ reading

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to look, and wake the listeners of this loop."""
        self._loop = loop
        self._window = _Window(self._stream.last_id())
        self._thread = threading.Thread(target=self._run, name="moeash-tail", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End all streams, from any thread, without waiting."""
        self._stop.set()
        self._wake()

    def close(self) -> None:
        """End all streams and stop looking."""
        self.end()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        last = self._window.last
        gap_since: float | None = None
        is_idle = False
        while not self._stop.wait(self._poll_s):
            if not self.n_listeners:
                is_idle = True
                continue
            try:
                if is_idle:
                    # What was stored while nobody listened is read by whoever asks for it.
                    last = self._stream.last_id()
                    self._window, is_idle = _Window(last), False
                    self._wake()
                found = self._stream.events(after=last, limit=PAGE)
                passing = self._stream.passing()
            except StorageError:
                continue  # it comes back, or /readyz says that it does not
            ready = self._without_gap(found, last) if self._gaps else len(found)
            if ready < len(found):
                gap_since = gap_since or time.monotonic()
                if time.monotonic() - gap_since > GAP_S:
                    ready = (
                        ready + 1 + self._without_gap(found[ready + 1 :], found[ready].record.id)
                    )
                    gap_since = None
            else:
                gap_since = None
            messages = [as_message(event) for event in found[:ready]]
            if messages:
                last = messages[-1].id
            if self._take(messages, passing):
                self._wake()

    @staticmethod
    def _without_gap(events: Sequence[StreamedEvent], last: int) -> int:
        n = 0
        for event in events:
            if event.record.id != last + 1:
                break
            last = event.record.id
            n += 1
        return n

    def _take(self, messages: list[Message], passing: Sequence[StreamedEvent]) -> bool:
        now = {event.study: as_message(event) for event in passing}
        is_new = bool(messages) or now != self._passing
        self._window = self._window.with_more(messages)
        self._passing = now
        return is_new

    def _wake(self) -> None:
        def wake() -> None:
            for waiting in self._waiting:
                waiting.set()

        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(wake)

    # ------------------------------------------------------------------ listening

    async def listen(self, study: str | None, after: int | None) -> AsyncIterator[bytes]:
        """Yield a stream's bytes for ever: stored events above an id, then new ones.

        Args:
            study: only of this study; None: of all.
            after: id of the last event that the listener has; None: only new ones.
        """
        waiting = asyncio.Event()
        self._waiting.add(waiting)
        self.n_listeners += 1
        try:
            # Before the first byte: whoever has that is told of all that is stored from then on.
            position = after
            if position is None:
                position = await asyncio.to_thread(self._stream.last_id)
            yield f"retry: {RETRY_MS}\n\n".encode()
            passing: dict[str, Message] = {}
            while not self._stop.is_set():
                waiting.clear()
                events, position = await self._next(study, position)
                for piece in _pieces(events):
                    yield piece
                if events:
                    continue
                for name, event in list(self._passing.items()):
                    if study in (None, name) and passing.get(name) != event:
                        passing[name] = event
                        yield event.text
                try:
                    await asyncio.wait_for(waiting.wait(), KEEPALIVE_S)
                except TimeoutError:
                    yield b": still here\n\n"
        finally:
            self._waiting.discard(waiting)
            self.n_listeners -= 1

    async def _next(self, study: str | None, position: int) -> tuple[list[Message], int]:
        """Return the next events of a listener, a page at most, and its position after them."""
        window = self._window
        floor = window.floor
        if position >= floor:
            first = bisect_right(window.ring, position, key=lambda message: message.id)
            page = window.ring[first : first + TAKEN]
            if not page:
                return [], position
            return [e for e in page if study in (None, e.study)], page[-1].id
        try:
            found = await asyncio.to_thread(
                self._stream.events, after=position, study=study, limit=TAKEN, upto=floor
            )
        except StorageError:
            return [], position  # asked again when something is new, or the next time it is quiet
        messages = [as_message(event) for event in found]
        return messages, messages[-1].id if len(messages) == TAKEN else floor


def _pieces(events: Sequence[Message]) -> Iterator[bytes]:
    held: list[bytes] = []
    n = 0
    for event in events:
        held.append(event.text)
        n += len(event.text)
        if n >= PIECE_BYTES:
            yield b"".join(held)
            held, n = [], 0
    if held:
        yield b"".join(held)

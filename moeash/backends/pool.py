"""Who evaluates what, and what happens when that goes wrong: scheduling without any Ray.

A pool hands payloads to workers, one at a time each, so that whoever dies takes exactly one payload
along. Retries belong to the pool, never to the workers' runtime, because a runtime that retries
also charges the payloads queued behind the one that kills. Every wait has an end:

* a payload that is not answered and shows no progress for ``timeout_s``, or whose worker dies, has
  used up one try; after ``max_tries`` it is a :class:`Failure` with its reasons, and the rest goes
  on. A worker that beats moves the deadline of its payload: long work is not slow work;
* a payload whose *node* was lost, or that was near when memory ran out, is innocent until proven
  guilty: it is not charged, only bounded by :data:`MAX_LOSSES`. After memory ran out it runs once
  more with nobody beside it, and only then is charged;
* a worker that does not start within ``start_timeout_s`` is given up and asked for again; when no
  worker lives and none can be started, that is a BackendError which says why.

Waiting workers are the demand an autoscaler sees, so the pool keeps asking for as many as it could
use, up to ``max_workers``. Workers above ``min_workers`` that were idle for ``idle_s`` are released
while the pool waits for others: a node without workers is what lets a cluster shrink. The moments
between two generations are shorter than that, so a study does not lose its workers there.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from moeash.backends.crew import (
    Answered,
    Beat,
    Cause,
    Crew,
    Event,
    Raised,
    Ready,
    StartFailed,
)
from moeash.backends.staff import Limits, Staff, Usage
from moeash.core.progress import Progress, silent

Payload = TypeVar("Payload")
Result = TypeVar("Result")

MAX_LOSSES = 10
"""How often a payload may lose its worker through no fault of its own."""


@dataclass(frozen=True)
class Failure:
    """A payload that has no result.

    Attributes:
        reasons: of every try.
        raised: the payload itself made the last try fail; otherwise its workers were lost.
    """

    reasons: tuple[str, ...]
    raised: bool = False

    def __str__(self) -> str:
        counted = Counter(self.reasons)
        lines = [r if n == 1 else f"{r} ({n} times)" for r, n in counted.items()]
        tries = "1 try" if len(self.reasons) == 1 else f"{len(self.reasons)} tries"
        return f"gave up after {tries}: " + "; ".join(lines)


@dataclass
class _Ticket(Generic[Payload]):
    number: int
    payload: Payload
    tries: int = 0
    losses: int = 0
    alone: bool = False
    cancelled: bool = False
    reasons: list[str] = field(default_factory=list)


class Pool(Generic[Payload, Result]):
    """Runs payloads on workers; see the module's text for its promises."""

    def __init__(
        self,
        crew: Crew[Payload, Result],
        limits: Limits,
        *,
        describe: Callable[[Payload], str] = str,
        notify: Callable[[str], None] = lambda text: None,
        progress: Progress = silent,
    ) -> None:
        """Start nothing yet.

        Args:
            crew: starts, calls and ends workers.
            limits: the bounds.
            describe: names a payload in a message.
            notify: receives one line for everything that went wrong and was mended.
            progress: hears of every beat, with the payload's description in front.
        """
        self._crew = crew
        self._limits = limits
        self._describe = describe
        self._notify = notify
        self._progress = progress
        self._staff = Staff(crew, limits, notify=notify, progress=progress)
        self._tickets: dict[int, _Ticket[Payload]] = {}
        self._queue: deque[_Ticket[Payload]] = deque()
        self._suspects: deque[_Ticket[Payload]] = deque()
        self._running: dict[int, _Ticket[Payload]] = {}  # by worker
        self._done: dict[int, Result | Failure] = {}  # by ticket, the oldest first
        self._solitary: int | None = None
        self._n_tickets = 0

    # ------------------------------------------------------------------ for callers

    @property
    def n_alive(self) -> int:
        """Workers that have started."""
        return self._staff.n_alive

    @property
    def n_starting(self) -> int:
        """Workers asked for that have not started yet."""
        return self._staff.n_starting

    @property
    def n_slots(self) -> int:
        """How many payloads to have submitted at a time.

        As many as workers live. Where their number may change it is twice as many, so that there
        is always one that waits, and with it the reason to ask for another worker.
        """
        return self._staff.n_slots

    @property
    def n_ready(self) -> int:
        """Results that :meth:`next` returns without waiting."""
        return len(self._done)

    @property
    def usage(self) -> Usage:
        """How the workers' time was spent so far."""
        return self._staff.usage

    def submit(self, payload: Payload) -> int:
        """Queue a payload, have an idle worker begin it, and return its ticket."""
        number = self.queue(payload)
        self.dispatch()
        return number

    def queue(self, payload: Payload) -> int:
        """Queue a payload and return its ticket; nothing begins before the next call."""
        self._n_tickets += 1
        ticket = _Ticket(self._n_tickets, payload)
        self._tickets[ticket.number] = ticket
        self._queue.append(ticket)
        return ticket.number

    def dispatch(self) -> None:
        """Ask for workers, and have idle ones begin what is queued."""
        self._hire()
        self._dispatch()

    def cancel(self, number: int) -> None:
        """Forget a ticket; a worker already at it finishes, and its answer is dropped."""
        ticket = self._tickets.pop(number, None)
        if ticket is not None:
            ticket.cancelled = True
            self._done.pop(number, None)

    def wait(self, n_slots: int) -> bool:
        """Wait for a result or for more slots than these; return whether there is a result.

        Raises:
            BackendError: no worker lives and none can be started.
        """
        assert self._tickets, "wait() without anything submitted might wait for ever"
        while not self._done and self.n_slots <= n_slots:
            self._step()
        return bool(self._done)

    def next(self) -> tuple[int, Result | Failure]:
        """Return the next finished ticket and its result, waiting for it.

        Raises:
            BackendError: no worker lives and none can be started.
        """
        assert self._tickets, "next() without anything submitted would wait for ever"
        while not self._done:
            self._step()
        number = next(iter(self._done))
        return number, self.result(number)

    def result(self, number: int) -> Result | Failure:
        """Return the result of one ticket, waiting for it; others stay for :meth:`next`.

        Raises:
            BackendError: no worker lives and none can be started.
        """
        assert number in self._tickets, "a ticket has one result, once"
        while number not in self._done:
            self._step()
        del self._tickets[number]
        return self._done.pop(number)

    def ensure(self, n_workers: int, *, at_most: int | None = None) -> None:
        """Wait until so many workers live.

        Args:
            n_workers: to wait for.
            at_most: ask for no more than these meanwhile.

        Raises:
            BackendError: none can be started.
        """
        self._staff.most = self._limits.max_workers if at_most is None else at_most
        while self._staff.n_alive < n_workers:
            self._step(n_workers)
        self._staff.most = self._limits.max_workers
        if at_most is None:
            self._hire(n_workers)

    def begin_again(self, crew: Crew[Payload, Result]) -> None:
        """Go on with another crew, all of whose workers are yet to start.

        What was under way begins again, in the order of tickets; it is not charged.

        Args:
            crew: in place of one that is gone with all its workers.
        """
        self._crew = crew
        self._staff = Staff(crew, self._limits, notify=self._notify, progress=self._progress)
        self._running.clear()
        self._solitary = None
        left = [t for t in self._tickets.values() if t.number not in self._done]
        self._queue = deque(t for t in left if not t.alone)
        self._suspects = deque(t for t in left if t.alone)

    def close(self) -> None:
        """End every worker."""
        self._staff.end_all()

    # ------------------------------------------------------------------ one step

    def _step(self, n_wanted: int = 0) -> None:
        self._hire(n_wanted)
        self._dispatch()
        for event in self._crew.wait(self._staff.patience()):
            self._take(event)
        for worker in self._staff.overdue():
            self._lost(worker, f"no answer within {self._limits.timeout_s:g} s", "worker")
        self._dispatch()
        self._staff.release(needed=bool(self._queue or self._suspects or n_wanted))

    def _hire(self, n_wanted: int = 0) -> None:
        """Ask for as many workers as there is work for."""
        self._staff.hire(max(len(self._tickets), n_wanted))

    def _dispatch(self) -> None:
        while (self._queue or self._suspects) and self._staff.idle:
            ticket = self._pick()
            if ticket is None:
                return
            worker = self._staff.give(ticket.payload)
            self._running[worker] = ticket
            if ticket.alone:
                self._solitary = worker

    def _pick(self) -> _Ticket[Payload] | None:
        """Return what to run next; a suspect waits until nobody runs beside it."""
        while self._suspects and self._suspects[0].cancelled:
            self._suspects.popleft()
        if self._solitary is not None:
            return None
        if self._suspects:
            return None if self._running else self._suspects.popleft()
        while self._queue:
            ticket = self._queue.popleft()
            if not ticket.cancelled:
                return ticket
        return None

    # ------------------------------------------------------------------ what happened

    def _take(self, event: Event[Result]) -> None:
        if isinstance(event, (Answered, Raised)):  # first, as nearly every event is one
            if event.worker in self._running:
                ticket = self._stopped(event.worker)
                self._staff.free(event.worker)
                if isinstance(event, Answered):
                    self._finish(ticket, event.result)
                else:
                    self._finish(ticket, Failure((*ticket.reasons, event.reason), raised=True))
        elif isinstance(event, Ready):
            self._staff.started(event.worker)
        elif isinstance(event, StartFailed):
            self._staff.start_failed(event)
        elif isinstance(event, Beat):
            self._beat(event)
        else:
            self._lost(event.worker, event.reason, event.cause)

    def _beat(self, event: Beat) -> None:
        if self._staff.beat(event):
            ticket = self._running[event.worker]
            if not ticket.cancelled:
                what = f"{self._describe(ticket.payload)}: {event.what}"
                self._progress(what, event.done, event.total)

    def _lost(self, worker: int, reason: str, cause: Cause) -> None:
        if not self._staff.is_alive(worker):
            return
        ticket = self._stopped(worker) if worker in self._running else None
        self._staff.end(worker)
        if ticket is None:
            self._staff.say_once(f"an idle worker was lost: {reason}")
            return
        if ticket.cancelled:
            return
        innocent = cause == "node" or (cause == "memory" and not ticket.alone)
        ticket.alone = cause == "memory"
        ticket.reasons.append(reason)
        ticket.tries += not innocent
        ticket.losses += innocent
        what = self._describe(ticket.payload)
        if ticket.tries >= self._limits.max_tries or ticket.losses >= MAX_LOSSES:
            self._finish(ticket, Failure(tuple(ticket.reasons)))
            return
        charge = "not charged" if innocent else f"try {ticket.tries} of {self._limits.max_tries}"
        self._notify(f"{what} lost its worker ({charge}): {reason}; it is tried again")
        # To the back: what kills workers must not hold up what does not.
        (self._suspects if ticket.alone else self._queue).append(ticket)

    def _stopped(self, worker: int) -> _Ticket[Payload]:
        """Return what a worker was at, which it is no longer."""
        if self._solitary == worker:
            self._solitary = None
        return self._running.pop(worker)

    def _finish(self, ticket: _Ticket[Payload], result: Result | Failure) -> None:
        if not ticket.cancelled:
            self._done[ticket.number] = result

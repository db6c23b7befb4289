"""Who evaluates what, and what happens when that goes wrong: scheduling without any Ray.

A pool hands payloads to workers, one at a time each, so that whoever dies takes exactly one payload
along. Retries belong to the pool, never to the workers' runtime, because a runtime that retries
also charges the payloads queued behind the one that kills. Every wait has an end:

* a payload that outlives ``timeout_s``, or whose worker dies, has used up one try; after
  ``max_tries`` it is a :class:`Failure` with its reasons, and the rest goes on;
* a payload whose *node* was lost, or that was near when memory ran out, is innocent until proven
  guilty: it is not charged, only bounded by :data:`MAX_LOSSES`. After memory ran out it runs once
  more with nobody beside it, and only then is charged;
* a worker that does not start within ``start_timeout_s`` is given up and asked for again; when no
  worker lives and none can be started, that is a BackendError which says why.

Waiting workers are the demand an autoscaler sees, so the pool keeps asking for as many as it could
use, up to ``max_workers``.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from moeash.errors import BackendError

Payload = TypeVar("Payload")
Result = TypeVar("Result")
P_contra = TypeVar("P_contra", contravariant=True)

MAX_LOSSES = 10
"""How often a payload may lose its worker through no fault of its own."""

MAX_START_FAILURES = 5
"""Failed starts in a row, with no worker alive, after which the pool gives up."""

_START = -1

BACKOFF_S = 0.5
BACKOFF_CEILING_S = 30.0

Cause = Literal["worker", "node", "memory"]


@dataclass(frozen=True)
class Ready:
    """A worker has started."""

    worker: int


@dataclass(frozen=True)
class StartFailed:
    """A worker could not start; ``fatal`` when every other one would fail in the same way."""

    worker: int
    reason: str
    fatal: bool = False


@dataclass(frozen=True)
class Answered(Generic[Result]):
    """A worker finished its payload."""

    worker: int
    result: Result


@dataclass(frozen=True)
class Raised:
    """A payload made its worker raise; the worker lives on."""

    worker: int
    reason: str


@dataclass(frozen=True)
class Lost:
    """A worker is gone, and whose fault that can be."""

    worker: int
    reason: str
    cause: Cause


Event = Ready | StartFailed | Answered[Result] | Raised | Lost


class Crew(Protocol[P_contra, Result]):
    """Where workers come from. Workers are known by numbers the pool gives out."""

    def start(self, worker: int) -> None:
        """Begin to start a worker."""
        ...

    def call(self, worker: int, payload: P_contra) -> None:
        """Begin a payload on an idle worker."""
        ...

    def wait(self, timeout_s: float) -> "Sequence[Event[Result]]":
        """Return what happened, waiting at most so long when nothing did."""
        ...

    def kill(self, worker: int) -> None:
        """End a worker, whatever it does; no event of it follows."""
        ...

    def why_not_starting(self) -> str:
        """Return one line on why workers may not be starting."""
        ...

    def now(self) -> float:
        """Return a monotonic time in seconds."""
        ...


@dataclass(frozen=True)
class Limits:
    """The bounds of a pool.

    Attributes:
        min_workers: kept even when idle ones are released, and started before there is work.
        max_workers: never more than these.
        timeout_s: wall time of one try.
        max_tries: tries after which a payload has failed.
        start_timeout_s: time a worker has to start.
    """

    min_workers: int
    max_workers: int
    timeout_s: float
    max_tries: int
    start_timeout_s: float


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


@dataclass
class Usage:
    """How the time of workers was spent.

    Attributes:
        busy_s: summed over workers, from call to answer.
        alive_s: summed over workers, from ready to gone.
    """

    busy_s: float = 0.0
    alive_s: float = 0.0

    @property
    def utilisation(self) -> float:
        """Busy share of the living time; 0 before any."""
        return self.busy_s / self.alive_s if self.alive_s else 0.0


class Pool(Generic[Payload, Result]):
    """Runs payloads on workers; see the module's text for its promises."""

    def __init__(
        self,
        crew: Crew[Payload, Result],
        limits: Limits,
        *,
        describe: Callable[[Payload], str] = str,
        notify: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Start nothing yet.

        Args:
            crew: starts, calls and ends workers.
            limits: the bounds.
            describe: names a payload in a message.
            notify: receives one line for everything that went wrong and was mended.
        """
        self._crew = crew
        self._limits = limits
        self._describe = describe
        self.notify = notify
        self._tickets: dict[int, _Ticket[Payload]] = {}
        self._queue: deque[_Ticket[Payload]] = deque()
        self._suspects: deque[_Ticket[Payload]] = deque()
        self._done: deque[tuple[int, Result | Failure]] = deque()
        self._n_tickets = 0
        self._n_workers = 0
        self._starting: dict[int, float] = {}
        self._alive: dict[int, float] = {}
        self._idle: deque[int] = deque()
        self._busy: dict[int, tuple[_Ticket[Payload], float]] = {}
        self._solitary: int | None = None
        # (deadline, worker, ticket or _START); stale entries are skipped when they pop.
        self._deadlines: list[tuple[float, int, int]] = []
        self._start_failures = 0
        self._start_after = float("-inf")
        self._said: set[str] = set()
        self._spent = Usage()
        self.limit_workers: int | None = None
        """A lower bound than ``max_workers`` for the time being; None for none."""

    # ------------------------------------------------------------------ for callers

    @property
    def n_alive(self) -> int:
        """Workers that have started."""
        return len(self._alive)

    @property
    def n_starting(self) -> int:
        """Workers asked for that have not started yet."""
        return len(self._starting)

    @property
    def n_ready(self) -> int:
        """Results that :meth:`next` returns without waiting."""
        return sum(number in self._tickets for number, _ in self._done)

    @property
    def usage(self) -> Usage:
        """Return how the workers' time was spent so far."""
        now = self._crew.now()
        busy = sum(now - since for _, since in self._busy.values())
        alive = sum(now - since for since in self._alive.values())
        return Usage(self._spent.busy_s + busy, self._spent.alive_s + alive)

    def submit(self, payload: Payload) -> int:
        """Queue a payload and return its ticket."""
        self._n_tickets += 1
        ticket = _Ticket(self._n_tickets, payload)
        self._tickets[ticket.number] = ticket
        self._queue.append(ticket)
        self._staff()
        self._dispatch()
        return ticket.number

    def cancel(self, number: int) -> None:
        """Forget a ticket; a worker already at it finishes, and its answer is dropped."""
        ticket = self._tickets.pop(number, None)
        if ticket is not None:
            ticket.cancelled = True

    def next(self) -> tuple[int, Result | Failure]:
        """Return the next finished ticket and its result, waiting for it.

        Raises:
            BackendError: no worker lives and none can be started.
        """
        while True:
            while self._done:
                number, result = self._done.popleft()
                if self._tickets.pop(number, None) is not None:
                    return number, result
            assert self._tickets, "next() without anything submitted would wait for ever"
            self._step()

    def ensure(self, n_workers: int) -> None:
        """Wait until so many workers live.

        Raises:
            BackendError: none can be started.
        """
        while len(self._alive) < n_workers:
            self._staff(n_workers)
            self._step(n_workers)

    def release(self) -> int:
        """End idle workers beyond ``min_workers``; return how many."""
        n = 0
        while self._idle and len(self._alive) > self._limits.min_workers:
            self._end(self._idle[-1])
            n += 1
        for worker in list(self._starting)[self._limits.min_workers :]:
            self._end(worker)
        return n

    def close(self) -> None:
        """End every worker."""
        for worker in [*self._alive, *self._starting]:
            self._end(worker)

    # ------------------------------------------------------------------ one step

    def _step(self, wanted: int = 0) -> None:
        self._staff(wanted)
        self._dispatch()
        for event in self._crew.wait(self._patience()):
            self._take(event)
        self._expire()
        self._dispatch()

    def _patience(self) -> float:
        now = self._crew.now()
        ends = [self._deadlines[0][0]] if self._deadlines else []
        if self._start_after > now:
            ends.append(self._start_after)
        return max(0.0, min(ends, default=now + 1.0) - now)

    def _staff(self, wanted: int = 0) -> None:
        """Ask for as many workers as there is work for."""
        top = self._limits.max_workers
        if self.limit_workers is not None:
            top = min(top, self.limit_workers)
        want = min(top, max(len(self._tickets), self._limits.min_workers, wanted))
        missing = want - len(self._alive) - len(self._starting)
        if missing <= 0 or self._crew.now() < self._start_after:
            return
        for _ in range(missing):
            self._n_workers += 1
            worker = self._n_workers
            deadline = self._crew.now() + self._limits.start_timeout_s
            self._starting[worker] = deadline
            self._deadline(deadline, worker, _START)
            self._crew.start(worker)

    def _dispatch(self) -> None:
        while self._idle:
            ticket = self._pick()
            if ticket is None:
                return
            worker = self._idle.popleft()
            now = self._crew.now()
            self._busy[worker] = ticket, now
            if ticket.alone:
                self._solitary = worker
            self._deadline(now + self._limits.timeout_s, worker, ticket.number)
            self._crew.call(worker, ticket.payload)

    def _pick(self) -> _Ticket[Payload] | None:
        """Return what to run next; a suspect waits until nobody runs beside it."""
        while self._suspects and self._suspects[0].cancelled:
            self._suspects.popleft()
        if self._solitary is not None:
            return None
        if self._suspects:
            return None if self._busy else self._suspects.popleft()
        while self._queue:
            ticket = self._queue.popleft()
            if not ticket.cancelled:
                return ticket
        return None

    # ------------------------------------------------------------------ what happened

    def _take(self, event: Event[Result]) -> None:
        worker = event.worker
        if isinstance(event, Ready):
            if self._starting.pop(worker, None) is not None:
                self._alive[worker] = self._crew.now()
                self._idle.append(worker)
                self._start_failures = 0
        elif isinstance(event, StartFailed):
            if worker in self._starting:
                self._end(worker)
                self._start_failed(event.reason, event.fatal)
        elif isinstance(event, Lost):
            self._lost(worker, event.reason, event.cause)
        elif worker in self._busy:
            ticket = self._free(worker)
            self._idle.append(worker)
            if isinstance(event, Answered):
                self._finish(ticket, event.result)
            else:
                self._finish(ticket, Failure((*ticket.reasons, event.reason), raised=True))

    def _expire(self) -> None:
        now = self._crew.now()
        while self._deadlines and self._deadlines[0][0] <= now:
            entry = heapq.heappop(self._deadlines)
            if not self._pending(entry):
                continue
            _, worker, number = entry
            if number == _START:
                self._end(worker)
                self._start_timed_out()
            else:
                self._lost(worker, f"no answer within {self._limits.timeout_s:g} s", "worker")

    def _start_failed(self, reason: str, fatal: bool) -> None:
        self._start_failures += 1
        wait_s = min(BACKOFF_CEILING_S, BACKOFF_S * 2 ** (self._start_failures - 1))
        self._start_after = self._crew.now() + wait_s
        if not self._alive and (fatal or self._start_failures >= MAX_START_FAILURES):
            raise BackendError(f"no worker could start: {reason}")
        self._say_once(f"a worker could not start: {reason}")

    def _start_timed_out(self) -> None:
        why = self._crew.why_not_starting()
        text = f"within {self._limits.start_timeout_s:g} s: {why}"
        if not self._alive:
            raise BackendError(f"no worker started {text}")
        self._say_once(
            f"a worker did not start {text}; going on with {len(self._alive)}, still asking"
        )

    def _lost(self, worker: int, reason: str, cause: Cause) -> None:
        if worker not in self._alive:
            return
        ticket = self._busy[worker][0] if worker in self._busy else None
        self._end(worker)
        if ticket is None:
            self._say_once(f"an idle worker was lost: {reason}")
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
        self.notify(f"{what} lost its worker ({charge}): {reason}; it is tried again")
        # To the back: what kills workers must not hold up what does not.
        (self._suspects if ticket.alone else self._queue).append(ticket)

    def _deadline(self, at: float, worker: int, number: int) -> None:
        heapq.heappush(self._deadlines, (at, worker, number))
        if len(self._deadlines) > 64 + 4 * (len(self._busy) + len(self._starting)):
            # Most calls end long before their deadline; without this they would pile up.
            self._deadlines = [entry for entry in self._deadlines if self._pending(entry)]
            heapq.heapify(self._deadlines)

    def _pending(self, entry: tuple[float, int, int]) -> bool:
        _, worker, number = entry
        if number == _START:
            return worker in self._starting
        return worker in self._busy and self._busy[worker][0].number == number

    def _finish(self, ticket: _Ticket[Payload], result: Result | Failure) -> None:
        if not ticket.cancelled:
            self._done.append((ticket.number, result))

    def _free(self, worker: int) -> _Ticket[Payload]:
        ticket, since = self._busy.pop(worker)
        if self._solitary == worker:
            self._solitary = None
        self._spent.busy_s += self._crew.now() - since
        return ticket

    def _end(self, worker: int) -> None:
        """Forget a worker and make sure it is gone."""
        if worker in self._busy:
            self._free(worker)
        if worker in self._alive:
            self._spent.alive_s += self._crew.now() - self._alive.pop(worker)
        self._starting.pop(worker, None)
        if worker in self._idle:
            self._idle.remove(worker)
        self._crew.kill(worker)

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.notify(text)

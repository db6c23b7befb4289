"""The workers of a pool: how many to ask for, who starts, who is idle, whose time is up."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from moeash.backends.crew import Beat, Crew, StartFailed
from moeash.backends.deadlines import Deadlines
from moeash.core.progress import Progress
from moeash.errors import BackendError

Payload = TypeVar("Payload")
Result = TypeVar("Result")

MAX_START_FAILURES = 5
"""Failed starts in a row, with no worker alive, after which the pool gives up."""

BACKOFF_S = 0.5
BACKOFF_CEILING_S = 30.0

IDLE_S = 60.0
"""How long a worker may be idle before it is released: longer than anything a study does between
two generations, shorter than what an idle node costs."""


@dataclass(frozen=True)
class Limits:
    """The bounds of a pool.

    Attributes:
        min_workers: started before there is work, and kept even when idle.
        max_workers: never more than these.
        timeout_s: wall time one try may take without a beat.
        max_tries: tries after which a payload has failed.
        start_timeout_s: time a worker has to start, without a beat.
        idle_s: workers above ``min_workers`` are released when idle for so long.
    """

    min_workers: int
    max_workers: int
    timeout_s: float
    max_tries: int
    start_timeout_s: float
    idle_s: float = IDLE_S


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


class Staff(Generic[Payload, Result]):
    """Asks for workers and keeps track of them. Knows nothing of tickets."""

    def __init__(
        self,
        crew: Crew[Payload, Result],
        limits: Limits,
        *,
        notify: Callable[[str], None],
        progress: Progress,
    ) -> None:
        """Start nobody yet.

        Args:
            crew: starts, calls and ends workers.
            limits: the bounds.
            notify: receives one line for everything that went wrong and was mended.
            progress: hears of a start while nobody works yet.
        """
        self._crew = crew
        self._limits = limits
        self._notify = notify
        self._progress = progress
        self._n_workers = 0
        self._starting: dict[int, None] = {}  # a set that keeps the order
        self._alive: dict[int, float] = {}  # since when
        self.idle: dict[int, float] = {}
        """Workers that could take a payload at once, and since when, the longest first."""
        self._busy: dict[int, float] = {}  # since when
        self._deadlines = Deadlines()
        self._start_failures = 0
        self._start_after = float("-inf")
        self._last_needed = crew.now()
        self._said: set[str] = set()
        self._spent = Usage()
        self.most = limits.max_workers
        """Never more workers than these, for the time being."""

    @property
    def n_alive(self) -> int:
        """Workers that have started."""
        return len(self._alive)

    @property
    def n_starting(self) -> int:
        """Workers asked for that have not started yet."""
        return len(self._starting)

    @property
    def n_slots(self) -> int:
        """How many payloads to have submitted at a time."""
        limits = self._limits
        if limits.min_workers == limits.max_workers:
            return self.n_alive or limits.max_workers
        # A payload that waits is what lets the number of workers grow.
        return min(limits.max_workers, max(1, 2 * self.n_alive))

    @property
    def usage(self) -> Usage:
        """How the workers' time was spent so far."""
        now = self._crew.now()
        busy = sum(now - since for since in self._busy.values())
        alive = sum(now - since for since in self._alive.values())
        return Usage(self._spent.busy_s + busy, self._spent.alive_s + alive)

    def patience(self) -> float:
        """Return how long nothing needs to be done unless something happens."""
        now, first = self._crew.now(), self._deadlines.earliest()
        ends = [] if first is None else [first]
        if self._start_after > now:
            ends.append(self._start_after)
        if self.idle and len(self._alive) > self._limits.min_workers:
            since = next(iter(self.idle.values()))
            ends.append(max(since, self._last_needed) + self._limits.idle_s)
        if self._starting and self._last_needed + self._limits.idle_s > now:
            ends.append(self._last_needed + self._limits.idle_s)
        return max(0.0, min(ends, default=now + 1.0) - now)

    # ------------------------------------------------------------------ coming and going

    def hire(self, n_wanted: int) -> None:
        """Ask for workers until so many live or start, within the bounds."""
        n_known = len(self._alive) + len(self._starting)
        if n_known >= self.most:
            return
        missing = min(self.most, max(n_wanted, self._limits.min_workers)) - n_known
        if missing <= 0 or self._crew.now() < self._start_after:
            return
        for _ in range(missing):
            self._n_workers += 1
            worker = self._n_workers
            self._starting[worker] = None
            self._deadlines.set(worker, self._crew.now() + self._limits.start_timeout_s)
            self._crew.start(worker)

    def started(self, worker: int) -> None:
        """Take a worker in."""
        if worker in self._starting:
            del self._starting[worker]
            self._deadlines.drop(worker)
            self._alive[worker] = self.idle[worker] = self._crew.now()
            self._start_failures = 0

    def start_failed(self, event: StartFailed) -> None:
        """Give a start up.

        Raises:
            BackendError: nobody lives, and no other start will do better.
        """
        if event.worker not in self._starting:
            return
        self.end(event.worker)
        self._start_failures += 1
        wait_s = min(BACKOFF_CEILING_S, BACKOFF_S * 2 ** (self._start_failures - 1))
        self._start_after = self._crew.now() + wait_s
        if not self._alive and (event.fatal or self._start_failures >= MAX_START_FAILURES):
            raise BackendError(f"no worker could start: {event.reason}")
        self.say_once(f"a worker could not start: {event.reason}")

    def end(self, worker: int) -> None:
        """Forget a worker and make sure it is gone."""
        if worker in self._busy:
            self._stop_work(worker)
        if worker in self._alive:
            self._spent.alive_s += self._crew.now() - self._alive.pop(worker)
        self._starting.pop(worker, None)
        self.idle.pop(worker, None)
        self._deadlines.drop(worker)
        self._crew.kill(worker)

    def release(self, *, needed: bool) -> None:
        """End workers above the fewest that nothing was asked of for a while.

        Args:
            needed: something waits for a worker at this moment.
        """
        now, limits = self._crew.now(), self._limits
        if needed:
            self._last_needed = now
        while self.idle and len(self._alive) > limits.min_workers:
            worker, since = next(iter(self.idle.items()))
            if max(since, self._last_needed) + limits.idle_s > now:
                break
            self.end(worker)
        if self._last_needed + limits.idle_s <= now:
            kept = max(0, limits.min_workers - self.n_alive)
            for worker in list(self._starting)[kept:]:
                self.end(worker)

    def end_all(self) -> None:
        """End every worker."""
        for worker in [*self._alive, *self._starting]:
            self.end(worker)

    # ------------------------------------------------------------------ working

    def is_alive(self, worker: int) -> bool:
        """Tell whether a worker has started and is not gone."""
        return worker in self._alive

    def give(self, payload: Payload) -> int:
        """Have an idle worker begin a payload; return which."""
        # The one that was busy last: the others have been idle for longer, and may be released.
        worker, _ = self.idle.popitem()
        now = self._crew.now()
        self._busy[worker] = now
        self._deadlines.set(worker, now + self._limits.timeout_s)
        self._crew.call(worker, payload)
        return worker

    def free(self, worker: int) -> None:
        """Take a worker's answer: it is idle."""
        self.idle[worker] = self._stop_work(worker)

    def beat(self, event: Beat) -> bool:
        """Move a worker's deadline; tell whether it was its payload that got on."""
        now = self._crew.now()
        if event.worker in self._starting:
            self._deadlines.set(event.worker, now + self._limits.start_timeout_s)
            if not self._alive:
                self._progress(event.what, event.done, event.total)
        if event.worker not in self._busy:
            return False
        self._deadlines.set(event.worker, now + self._limits.timeout_s)
        return True

    def overdue(self) -> list[int]:
        """Give up starts that took too long; return the busy workers that take too long.

        Raises:
            BackendError: nobody lives, and nobody has started in time.
        """
        late = []
        for worker in self._deadlines.take_due(self._crew.now()):
            if worker in self._starting:
                self.end(worker)
                self._start_timed_out()
            else:
                late.append(worker)
        return late

    def say_once(self, text: str) -> None:
        """Notify, unless the same was said before."""
        if text not in self._said:
            self._said.add(text)
            self._notify(text)

    def _stop_work(self, worker: int) -> float:
        """Count the time a worker was busy until now, and return the present."""
        now = self._crew.now()
        self._spent.busy_s += now - self._busy.pop(worker)
        self._deadlines.drop(worker)
        return now

    def _start_timed_out(self) -> None:
        why = self._crew.why_not_starting()
        text = f"within {self._limits.start_timeout_s:g} s: {why}"
        if not self._alive:
            raise BackendError(f"no worker started {text}")
        self.say_once(f"a worker did not start {text}; going on with {self.n_alive}, still asking")

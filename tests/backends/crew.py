"""A crew of simulated workers in simulated time: no Ray, no threads, no sleeping.

What a payload does to its worker is told by a function, so every fault is exact and repeatable.
"""

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass

from moeash.backends.crew import Answered, Beat, Cause, Lost, Raised, Ready, StartFailed


@dataclass(frozen=True)
class Ok:
    """The payload is answered after ``takes_s``."""

    takes_s: float = 1.0


@dataclass(frozen=True)
class Boom:
    """The payload raises."""

    takes_s: float = 1.0


@dataclass(frozen=True)
class Death:
    """The payload's worker is gone."""

    cause: Cause = "worker"
    takes_s: float = 1.0


@dataclass(frozen=True)
class Hang:
    """No answer, ever."""


@dataclass(frozen=True)
class Long:
    """Beats ``n_beats`` times, ``every_s`` apart, and is answered then; or, like Hang, never."""

    n_beats: int
    every_s: float
    ends: bool = True


Fate = Ok | Boom | Death | Hang | Long
Behave = Callable[[int, int, "SimulatedCrew"], Fate]
"""(payload, how often it was tried before, the crew) -> what happens."""


class SimulatedCrew:
    def __init__(
        self,
        behave: Behave = lambda payload, tries, crew: Ok(),
        room: int = 10**6,
        answer=lambda payload: payload * 10,
    ):
        self.behave = behave
        self.answer = answer
        self.room = room
        self.start_takes_s = 2.0
        self.start_beats = 0
        self.start_fails: list[StartFailed] = []
        self.time = 0.0
        self.log: list[tuple[str, int]] = []
        self.running: dict[int, int] = {}
        self.alive: set[int] = set()
        self.queued: list[int] = []
        self.tries: dict[int, int] = {}
        self._events: list[tuple[float, int, int, object]] = []
        self._order = 0
        self._life: dict[int, int] = {}

    def _later(self, delay: float, worker: int, event: object) -> None:
        self._order += 1
        heapq.heappush(self._events, (self.time + delay, self._order, worker, event))

    def add_room(self, n: int) -> None:
        self.room += n
        while self.queued and len(self.alive) + len(self._life) < self.room:
            self._begin(self.queued.pop(0))

    def _begin(self, worker: int) -> None:
        self._life[worker] = 1
        event = Ready(worker)
        for n in range(1, self.start_beats + 1):
            at_s = self.start_takes_s * n / (self.start_beats + 1)
            self._later(at_s, worker, Beat(worker, "preparing", n, self.start_beats))
        if self.start_fails:
            pattern = self.start_fails.pop(0)
            event = StartFailed(worker, pattern.reason, pattern.fatal)
        self._later(self.start_takes_s, worker, event)

    def start(self, worker: int) -> None:
        self.log.append(("start", worker))
        if len(self.alive) + len(self._life) < self.room:
            self._begin(worker)
        else:
            self.queued.append(worker)

    def call(self, worker: int, payload: int) -> None:
        assert worker in self.alive, "a call went to a worker that is not there"
        assert worker not in self.running, "a second call went to a busy worker"
        self.running[worker] = payload
        tries = self.tries.get(payload, 0)
        self.tries[payload] = tries + 1
        fate = self.behave(payload, tries, self)
        if isinstance(fate, Ok):
            self._later(fate.takes_s, worker, Answered(worker, self.answer(payload)))
        elif isinstance(fate, Boom):
            self._later(fate.takes_s, worker, Raised(worker, "ValueError: boom"))
        elif isinstance(fate, Death):
            self._later(fate.takes_s, worker, Lost(worker, f"{fate.cause} gone", fate.cause))
        elif isinstance(fate, Long):
            for n in range(1, fate.n_beats + 1):
                beat = Beat(worker, "training", n, fate.n_beats)
                self._later(n * fate.every_s, worker, beat)
            if fate.ends:
                after_s = fate.n_beats * fate.every_s
                self._later(after_s, worker, Answered(worker, self.answer(payload)))

    def wait(self, timeout_s: float) -> list[object]:
        end = self.time + timeout_s
        self._skip_the_dead()
        if not self._events or self._events[0][0] > end:
            self.time = end
            return []
        self.time = max(self.time, self._events[0][0])
        return self._due()

    def _due(self) -> list[object]:
        events = []
        while self._events and self._events[0][0] <= self.time:
            _, _, worker, event = heapq.heappop(self._events)
            if worker not in self._life and worker not in self.alive:
                continue
            if isinstance(event, Ready):
                del self._life[worker]
                self.alive.add(worker)
            elif not isinstance(event, Beat):
                self.running.pop(worker, None)
            events.append(event)
        return events

    def _skip_the_dead(self) -> None:
        while self._events and self._events[0][2] not in self.alive | self._life.keys():
            heapq.heappop(self._events)

    def kill(self, worker: int) -> None:
        self.log.append(("kill", worker))
        self.running.pop(worker, None)
        self.alive.discard(worker)
        self._life.pop(worker, None)
        if worker in self.queued:
            self.queued.remove(worker)
        self.add_room(0)

    def why_not_starting(self) -> str:
        return "there is no room"

    def now(self) -> float:
        return self.time


class HurriedCrew(SimulatedCrew):
    """Simulated workers in real time: what is due piles up while the driver is busy."""

    def __init__(self, *arguments, **options):
        self._began = time.monotonic()
        super().__init__(*arguments, **options)

    @property
    def time(self) -> float:
        return time.monotonic() - self._began

    @time.setter
    def time(self, value: float) -> None:
        assert value == 0.0, "real time cannot be set"

    def wait(self, timeout_s: float) -> list[object]:
        self._skip_the_dead()
        due = self._events[0][0] - self.time if self._events else timeout_s
        time.sleep(max(0.0, min(due, timeout_s)))
        return self._due()

"""Where jobs are evaluated: the contract of a backend."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from moeash.core.codebook import SharedWeights
from moeash.core.kept import Keeping
from moeash.evaluation.outcome import Archive, Job, Outcome


@dataclass(frozen=True)
class Baseline:
    """What loading a task told, needed to describe its study.

    Attributes:
        metric: of the float network on the search split.
        reference: worst metric that counts towards hypervolume.
        n_batches: forward batches of a full evaluation.
        original_bytes: float32 bytes of the state.
        n_shared: shared weights.
        n_kept: kept elements.
        network_fingerprint: of the float state and the roles of its parameters.
        data_fingerprint: of the search split; of nothing when a function measures.
        keeping: how kept tensors are stored.
        remeasured: metric of the float network with BatchNorms measured again, where candidates'
            are.
        notes: what the preparation wants people to know.
    """

    metric: float
    reference: float
    n_batches: int
    original_bytes: int
    n_shared: int
    n_kept: int
    network_fingerprint: str
    data_fingerprint: str
    keeping: Keeping
    remeasured: float | None = None
    notes: tuple[str, ...] = ()


Notify = Callable[[str], None]
"""Receives one line for everything that went wrong and was mended."""


def ignore(text: str) -> None:
    """Notify nobody."""


class Backend(Protocol):
    """Evaluates jobs somewhere. Results never depend on where, in which order, or beside whom."""

    def open(self, notify: Notify = ignore) -> Baseline:
        """Load the task; must be called first, once.

        Raises:
            BackendError: the place to evaluate cannot be reached, or cannot load the task.
        """
        ...

    @property
    def n_slots(self) -> int:
        """How many jobs it makes sense to have submitted at a time."""
        ...

    @property
    def n_ready(self) -> int:
        """Outcomes that :meth:`next` and :meth:`map` return without waiting."""
        ...

    @property
    def workers(self) -> int:
        """Workers that live at the moment."""
        ...

    def map(self, jobs: Sequence[Job], archive: Archive) -> Iterable[tuple[int, Outcome]]:
        """Yield ``(position, outcome)`` as jobs finish; a failed job is an outcome."""
        ...

    def submit(self, job: Job, archive: Archive) -> int:
        """Queue one job and return its ticket. Earlier ones begin first."""
        ...

    def next(self) -> tuple[int, Outcome]:
        """Return a ticket and its outcome as soon as there is one."""
        ...

    def cancel(self, ticket: int) -> None:
        """Forget a ticket: :meth:`next` will not return it."""
        ...

    def build(self, job: Job) -> SharedWeights:
        """Return the shared weights of a job."""
        ...

    def close(self) -> None:
        """Release everything and restore the user's module."""
        ...


Outcomes = Iterator[tuple[int, Outcome]]


class OneAtATime(ABC):
    """The queue of a backend that evaluates one job after the other, in this process."""

    n_slots = 1
    n_ready = 0
    workers = 1

    def __init__(self) -> None:
        self._n_tickets = 0
        self._queue: dict[int, tuple[Job, Archive]] = {}

    @abstractmethod
    def evaluate(self, job: Job, archive: Archive) -> Outcome:
        """Evaluate one job."""

    def map(self, jobs: Sequence[Job], archive: Archive) -> Outcomes:
        """Yield outcomes in the order of the jobs."""
        for position, job in enumerate(jobs):
            yield position, self.evaluate(job, archive)

    def submit(self, job: Job, archive: Archive) -> int:
        """Queue one job; nothing begins before :meth:`next` is called."""
        self._n_tickets += 1
        self._queue[self._n_tickets] = job, archive
        return self._n_tickets

    def next(self) -> tuple[int, Outcome]:
        """Evaluate the oldest queued job."""
        ticket = next(iter(self._queue))
        return ticket, self.evaluate(*self._queue.pop(ticket))

    def cancel(self, ticket: int) -> None:
        """Forget a queued job."""
        self._queue.pop(ticket, None)

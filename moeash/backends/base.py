"""Where jobs are evaluated: the contract of a backend."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from moeash.core.codebook import SharedWeights
from moeash.core.histogram import Histogram
from moeash.core.kept import Keeping
from moeash.core.progress import Progress, silent
from moeash.core.solutions.recipe import Recipe, Start
from moeash.core.solutions.variables import Variable
from moeash.errors import EvaluationError
from moeash.evaluation.outcome import Archive, Job, Outcome


@dataclass(frozen=True)
class Baseline:
    """What loading a task told, needed to describe its study.

    Attributes:
        metric: of the float network on the search split.
        reference: worst value the metric can have; None where there is none.
        n_batches: forward batches of a full evaluation.
        original_bytes: float32 bytes of the state.
        n_shared: shared weights.
        n_kept: kept elements.
        network_fingerprint: of the float state and the roles of its parameters.
        data_fingerprint: of the search split; of nothing when a function measures.
        keeping: how kept tensors are stored.
        space: the variables of a candidate, within the bounds that the preparation has found.
        most_entries: the most codebook entries any candidate can have.
        sample: some outputs of the float network on the search split; empty when a function
            measures.
        remeasured: metric of the float network with BatchNorms measured again, where candidates'
            are.
        notes: what the preparation wants people to know.
        histogram: of the float weights, in the units that entries have; None of a worker that was
            given what another has prepared.
        inputs_fingerprint: of the splits that candidates are made from; None where none are, and of
            a worker that was given what another has prepared.
    """

    metric: float
    reference: float | None
    n_batches: int
    original_bytes: int
    n_shared: int
    n_kept: int
    network_fingerprint: str
    data_fingerprint: str
    keeping: Keeping
    space: tuple[Variable, ...]
    most_entries: int
    sample: tuple[float, ...] = ()
    remeasured: float | None = None
    notes: tuple[str, ...] = ()
    histogram: Histogram | None = None
    inputs_fingerprint: str | None = None


Notify = Callable[[str], None]
"""Receives one line for everything that went wrong and was mended."""


def ignore(text: str) -> None:
    """Notify nobody."""


class Backend(Protocol):
    """Evaluates jobs somewhere. Results never depend on where, in which order, or beside whom."""

    def open(self, notify: Notify = ignore, progress: Progress = silent) -> Baseline:
        """Load the task; must be called first, once.

        Args:
            notify: hears of everything that went wrong and was mended, until :meth:`close`.
            progress: hears how far loading, preparing and long evaluations are, until
                :meth:`close`. It is called from within this and every other method.

        Raises:
            BackendError: the place to evaluate cannot be reached, or cannot load the task.
        """
        ...

    @property
    def n_slots(self) -> int:
        """How many jobs it makes sense to have submitted at a time; it changes with workers."""
        ...

    @property
    def n_ready(self) -> int:
        """Outcomes that :meth:`next` returns without waiting."""
        ...

    @property
    def workers(self) -> int:
        """Workers that live at the moment."""
        ...

    def submit(self, job: Job, archive: Archive) -> int:
        """Queue one job and return its ticket. Earlier ones begin first."""
        ...

    def wait(self, n_slots: int) -> bool:
        """Wait for an outcome, or for more slots than some; return whether :meth:`next` is due.

        A worker that comes while the others are at long jobs would stand idle until one of them
        ends, if only outcomes were waited for. Something must be submitted.

        Args:
            n_slots: as many as there were when jobs were last submitted.

        Raises:
            BackendError: the place to evaluate is gone.
        """
        ...

    def next(self) -> tuple[int, Outcome]:
        """Return a ticket and its outcome as soon as there is one; a failed job is an outcome.

        Something must be submitted. Workers beyond a study's fewest that have been idle for a while
        are released in here, so nobody needs to say that there is nothing to do.

        Raises:
            BackendError: the place to evaluate is gone.
        """
        ...

    def cancel(self, ticket: int) -> None:
        """Forget a ticket: :meth:`next` will not return it."""
        ...

    def build(self, recipe: Recipe, *, start: Start | None = None) -> SharedWeights:
        """Return the shared weights of a recipe, whatever else is submitted.

        Args:
            recipe: what to build.
            start: the artifact it begins with, where there is one.

        Raises:
            EvaluationError: it cannot be built.
        """
        ...

    def close(self) -> None:
        """Release everything and restore the user's module."""
        ...


def cannot_build(recipe: Recipe, reason: str) -> EvaluationError:
    """Return the error of a recipe whose shared weights nobody could make."""
    return EvaluationError(f"{recipe} cannot be built: {' '.join(reason.split())}")


class OneAtATime(ABC):
    """The queue of a backend that evaluates one job after the other, in this process."""

    n_slots = 1
    n_ready = 0
    workers = 1

    def __init__(self) -> None:
        self._n_tickets = 0
        self.queue: dict[int, tuple[Job, Archive]] = {}
        """What is submitted, by ticket, the oldest first."""

    @abstractmethod
    def evaluate(self, job: Job, archive: Archive) -> Outcome:
        """Evaluate one job."""

    def submit(self, job: Job, archive: Archive) -> int:
        """Queue one job; nothing begins before :meth:`next` is called."""
        self._n_tickets += 1
        self.queue[self._n_tickets] = job, archive
        return self._n_tickets

    def wait(self, n_slots: int) -> bool:
        """Return that :meth:`next` is due: nothing is evaluated before."""
        return True

    def next(self) -> tuple[int, Outcome]:
        """Evaluate the oldest queued job."""
        ticket = next(iter(self.queue))
        return ticket, self.evaluate(*self.queue.pop(ticket))

    def cancel(self, ticket: int) -> None:
        """Forget a queued job."""
        self.queue.pop(ticket, None)

"""What storage remembers, as frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.recipe import Recipe
from moeash.evaluation.outcome import Job, Outcome, Status
from moeash.study.facts import StudyFacts


def now() -> str:
    """Return this moment: UTC, ISO 8601, in milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


Stage = Literal["search", "refined", "merged", "distilled", "tuned"]
StoredStatus = Literal["running", "interrupted", "failed", "finished"]
"""What the process that runs a study says of it."""

StudyStatus = Literal["running", "interrupted", "crashed", "failed", "finished"]
"""Where a study stands: ``crashed`` when the process that ran it died without a word."""


def standing(stored: StoredStatus, holder: str | None) -> StudyStatus:
    """Return where a study stands: it runs exactly while a living process holds it.

    Args:
        stored: what storage says, read *after* the holder was asked for: a process that ends
            stores how it ended first, and lets go of the study then.
        holder: who holds the study; None when nobody does.
    """
    if holder is not None:
        return "running"
    return "crashed" if stored == "running" else stored


@dataclass(frozen=True)
class EventRecord:
    """A stored event; see :mod:`moeash.study.events`.

    Attributes:
        id: increases strictly within a storage, so that a stream can resume after it; 0 for the
            last passing event, which is overwritten by the next.
        created_at: UTC, ISO 8601.
        kind: names the event.
        payload: the event's values.
    """

    id: int
    created_at: str
    kind: str
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class StudyRecord:
    """A stored study.

    Attributes:
        id: key of the row.
        facts: what never changes.
        status: what the process that ran it last said.
        ending: why its search ended, once it did.
        reason: why it was interrupted or failed: one line.
        owner: the process that ran it last.
        activity: the last passing event: what was being done.
        created_at: UTC, ISO 8601.
        updated_at: UTC, ISO 8601, of the last write.
    """

    id: int
    facts: StudyFacts
    status: StoredStatus
    ending: str | None
    reason: str | None
    owner: str | None
    activity: EventRecord | None
    created_at: str
    updated_at: str


@dataclass(frozen=True)
class EvaluationRecord:
    """A stored evaluation.

    Attributes:
        number: 1, 2, ... within the study, in the order the study proposed them.
        stage: proposed by the search, or made of another solution: refined, merged, distilled or
            tuned.
        generation: of the search; otherwise that of the evaluation it began with.
        parent: number of the evaluation it was made of.
        job: what was evaluated.
        outcome: what became of it.
        created_at: UTC, ISO 8601.
    """

    number: int
    stage: Stage
    generation: int
    parent: int | None
    job: Job
    outcome: Outcome
    created_at: str

    @property
    def recipe(self) -> Recipe:
        """What was built."""
        return self.job.recipe

    @property
    def candidate(self) -> Candidate:
        """The point of the search space."""
        return self.job.recipe.candidate


@dataclass(frozen=True)
class GenerationRecord:
    """A stored generation.

    Attributes:
        index: 1, 2, ...
        hypervolume: of the front after it.
        n_evaluations: distinct candidates after it.
        n_front: size of the front after it.
        n_batches: forward batches spent on it.
        elapsed_s: wall time it took when it was first evaluated.
    """

    index: int
    hypervolume: float
    n_evaluations: int
    n_front: int
    n_batches: int
    elapsed_s: float


@dataclass(frozen=True)
class Points:
    """The complete evaluations of a study as columns: what a front is found in.

    Attributes:
        numbers: ``(n,)`` of the evaluations, increasing.
        metric: ``(n,)`` as measured.
        sizes: ``(n, m)`` in the order they were asked for.
    """

    numbers: NDArray[np.int64]
    metric: NDArray[np.float64]
    sizes: NDArray[np.float64]


@dataclass(frozen=True)
class Count:
    """How many evaluations of one stage have one status, and what they took.

    Attributes:
        stage: of the evaluations.
        status: of the evaluations.
        n: how many.
        n_retriable: of them, failures that say nothing about their candidate.
        n_batches: forward batches they took.
        duration_s: seconds they took.
        smallest_bytes: the smallest file among those that are wanted; None when there are none.
    """

    stage: Stage
    status: Status
    n: int
    n_retriable: int
    n_batches: int
    duration_s: float
    smallest_bytes: int | None


@dataclass(frozen=True)
class StudySummary:
    """A stored study, and its evaluations and generations as counts.

    Attributes:
        record: the study.
        holder: the living process that holds it; None when there is none.
        counts: of its evaluations, one for each stage and status that occurs.
        n_generations: stored.
        hypervolume: of the last generation; None before there is one.
        last_event: the newest; None before there is one.
    """

    record: StudyRecord
    holder: str | None
    counts: tuple[Count, ...]
    n_generations: int
    hypervolume: float | None
    last_event: EventRecord | None

    @property
    def status(self) -> StudyStatus:
        """Where the study stands."""
        return standing(self.record.status, self.holder)

    @property
    def smallest_bytes(self) -> int | None:
        """The smallest wanted file; None when there is none."""
        return min((c.smallest_bytes for c in self.counts if c.smallest_bytes), default=None)

    def n(self, *, stage: Stage | None = None, status: Status | None = None) -> int:
        """Return how many evaluations there are of a stage and a status."""
        return sum(
            count.n
            for count in self.counts
            if stage in (None, count.stage) and status in (None, count.status)
        )

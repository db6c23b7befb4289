"""What storage remembers, as frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from moeash.core.candidate import Candidate
from moeash.core.recipe import Recipe
from moeash.evaluation.outcome import Job, Outcome


def now() -> str:
    """Return this moment: UTC, ISO 8601, in milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


Stage = Literal["search", "refined", "merged"]
StudyStatus = Literal["running", "interrupted", "failed", "finished"]


REMEASURED = "remeasured_baseline"
"""Where :attr:`StudyFacts.remeasured_baseline` is in the environment."""


@dataclass(frozen=True)
class StudyFacts:
    """What is known of a study when it is created; it never changes afterwards.

    Attributes:
        name: unique in its storage.
        spec: the specification as plain JSON values.
        fingerprint: digest of what identifies the study: spec without its budget, network, data.
        network_fingerprint: of the float state and the roles of its parameters.
        data_fingerprint: of the search split.
        environment: versions, threads and device the numbers were measured with, how kept tensors
            are stored, and the remeasured baseline.
        metric_name: name of the metric.
        baseline: the float network's metric on the search split.
        original_bytes: float32 bytes of the state.
        n_shared: shared weights.
        n_kept: kept elements.
        n_batches: forward batches of a full evaluation.
        objectives: names of the minimised sizes.
        reference: hypervolume reference point in natural direction: metric, then sizes.
    """

    name: str
    spec: Mapping[str, Any]
    fingerprint: str
    network_fingerprint: str
    data_fingerprint: str
    environment: Mapping[str, Any]
    metric_name: str
    baseline: float
    original_bytes: int
    n_shared: int
    n_kept: int
    n_batches: int
    objectives: tuple[str, ...]
    reference: tuple[float, ...]

    @property
    def remeasured_baseline(self) -> float | None:
        """The float network's metric with BatchNorms measured again, where candidates' are."""
        value: float | None = self.environment.get(REMEASURED)
        return value

    @property
    def baseline_text(self) -> str:
        """The float network's metric for people; both where there are two."""
        again = self.remeasured_baseline
        text = f"{self.baseline:.4f}"
        return text if again is None else f"{text} ({again:.4f} with BatchNorms measured again)"


@dataclass(frozen=True)
class StudyRecord:
    """A stored study.

    Attributes:
        id: key of the row.
        facts: what never changes.
        status: where it stands.
        ending: why its search ended, once it did.
        created_at: UTC, ISO 8601.
        updated_at: UTC, ISO 8601, of the last write.
        workers: that live, as far as its process last said; None before it said anything.
    """

    id: int
    facts: StudyFacts
    status: StudyStatus
    ending: str | None
    created_at: str
    updated_at: str
    workers: int | None = None


@dataclass(frozen=True)
class EvaluationRecord:
    """A stored evaluation.

    Attributes:
        number: 1, 2, ... within the study, in the order the study proposed them.
        stage: proposed by the search, or made of one of its solutions: refined, merged.
        generation: of the search; otherwise that of the evaluation it began with.
        parent: number of the evaluation that was refined, or whose entries were merged.
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
class EventRecord:
    """Something that happened to a study's workers, and was dealt with.

    Attributes:
        created_at: UTC, ISO 8601.
        text: one line.
    """

    created_at: str
    text: str

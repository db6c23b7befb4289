"""The storage contract. One test class runs on every implementation.

One process writes a study at a time, and holds its lock while it does; any number may read. Every
write is durable when the call returns: whoever is killed afterwards loses nothing that was stored.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from moeash.evaluation.outcome import Job, Outcome
from moeash.study.storage.records import (
    EvaluationRecord,
    GenerationRecord,
    Stage,
    StudyFacts,
    StudyRecord,
    StudyStatus,
)


class Storage(Protocol):
    """Remembers studies. Every method raises StorageError when the database refuses."""

    url: str

    def create_study(self, facts: StudyFacts) -> StudyRecord:
        """Store a new study; StudyExistsError when the name is taken."""
        ...

    def study(self, name: str) -> StudyRecord:
        """Return a study; StudyNotFoundError, with near names, when there is none."""
        ...

    def studies(self) -> Sequence[StudyRecord]:
        """Return all studies, oldest first."""
        ...

    def set_status(self, study_id: int, status: StudyStatus, ending: str | None = None) -> None:
        """Record where a study stands; ``ending`` None leaves the stored one."""
        ...

    def add_evaluation(
        self,
        study_id: int,
        *,
        number: int,
        stage: Stage,
        generation: int,
        parent: int | None,
        job: Job,
        outcome: Outcome,
    ) -> EvaluationRecord:
        """Store one evaluation; a second one with the same key or number is a StorageError."""
        ...

    def evaluations(self, study_id: int) -> Sequence[EvaluationRecord]:
        """Return all evaluations of a study by number."""
        ...

    def put_generation(self, study_id: int, generation: GenerationRecord) -> None:
        """Store a generation; one stored before stays as it is."""
        ...

    def generations(self, study_id: int) -> Sequence[GenerationRecord]:
        """Return all generations of a study by index."""
        ...

    def lock(self, study: str) -> AbstractContextManager[None]:
        """Hold a study for writing; StudyLockedError when another process does.

        The lock dies with its process, however that dies.
        """
        ...

    def close(self) -> None:
        """Release connections."""
        ...

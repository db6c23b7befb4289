"""The storage contract. One test class runs on every implementation.

One process writes a study at a time, and holds its lock while it does; any number may read. Every
write is durable when the call returns: whoever is killed afterwards loses nothing that was stored.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from moeash.evaluation.outcome import Job, Outcome
from moeash.study.storage.records import (
    EvaluationRecord,
    EventRecord,
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

    def add_evaluations(self, study_id: int, records: Sequence[EvaluationRecord]) -> None:
        """Store several evaluations, all or none; errors as :meth:`add_evaluation`."""
        ...

    def hold(self, study_id: int, job: Job, outcome: Outcome) -> None:
        """Keep an outcome whose number is not known yet; :meth:`evaluations` does not show it.

        :meth:`add_evaluation` of the same key takes its place.
        """
        ...

    def held(self, study_id: int) -> Mapping[str, Outcome]:
        """Return the outcomes held, by key."""
        ...

    def drop_held(self, study_id: int) -> None:
        """Forget the outcomes held."""
        ...

    def evaluations(self, study_id: int) -> Sequence[EvaluationRecord]:
        """Return all evaluations of a study by number."""
        ...

    def forget_retriable(self, study_id: int) -> int:
        """Forget failures that say nothing about their candidates; return how many.

        Generations from the first of them on are forgotten too: they will have another story.
        """
        ...

    def put_generation(self, study_id: int, generation: GenerationRecord) -> None:
        """Store a generation; one stored before stays as it is."""
        ...

    def generations(self, study_id: int) -> Sequence[GenerationRecord]:
        """Return all generations of a study by index."""
        ...

    def set_workers(self, study_id: int, n_workers: int | None) -> None:
        """Record how many workers live."""
        ...

    def add_event(self, study_id: int, text: str) -> None:
        """Record what happened to a study's workers."""
        ...

    def events(self, study_id: int) -> Sequence[EventRecord]:
        """Return the events of a study, oldest first."""
        ...

    def lock(self, study: str) -> AbstractContextManager[None]:
        """Hold a study for writing; StudyLockedError when another process does.

        The lock dies with its process, however that dies.
        """
        ...

    def holder(self, study: str) -> str | None:
        """Return who holds a study for writing, in words; None when nobody does."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...

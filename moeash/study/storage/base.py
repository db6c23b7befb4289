"""The storage contract. One test class runs on every implementation.

One process writes a study at a time, and holds its lock while it does; any number may read. Every
write but :meth:`Storage.set_activity` is durable when the call returns: whoever is killed
afterwards loses nothing that was stored.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from moeash.core.solutions.objectives import SizeName
from moeash.evaluation.outcome import Job, Outcome, Status
from moeash.study.events import Event
from moeash.study.facts import StudyFacts
from moeash.study.storage.records import (
    EvaluationRecord,
    EventRecord,
    GenerationRecord,
    Points,
    Stage,
    StoredStatus,
    StudyRecord,
    StudySummary,
)


class Storage(Protocol):
    """Remembers studies. Every method raises StorageError when the database refuses."""

    url: str

    # ------------------------------------------------------------------ studies

    def create_study(self, facts: StudyFacts) -> StudyRecord:
        """Store a new study, which runs; StudyExistsError when the name is taken."""
        ...

    def study(self, name: str) -> StudyRecord:
        """Return a study; StudyNotFoundError, with near names, when there is none."""
        ...

    def studies(self) -> Sequence[StudyRecord]:
        """Return all studies, oldest first."""
        ...

    def summaries(self, names: Collection[str] | None = None) -> Sequence[StudySummary]:
        """Return studies with counts of all they hold, oldest first; no evaluation is read.

        Args:
            names: of the studies wanted, those that do not exist being left out; None for all.
        """
        ...

    def set_status(
        self,
        study_id: int,
        status: StoredStatus,
        *,
        ending: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Record where a study stands.

        Args:
            study_id: of the study.
            status: ``running`` makes this process the study's owner.
            ending: why its search ended; None leaves the stored one.
            reason: why it was interrupted or failed, in one line; None forgets the stored one.
        """
        ...

    def set_spec(self, study_id: int, spec: Mapping[str, Any]) -> None:
        """Record that a study's files have moved: a spec that differs in nothing but paths."""
        ...

    def set_activity(self, study_id: int, event: Event) -> None:
        """Overwrite what is being done. Cheap: it may be lost with the machine's power."""
        ...

    # ------------------------------------------------------------------ evaluations

    def add_evaluations(self, study_id: int, records: Sequence[EvaluationRecord]) -> None:
        """Store evaluations, their artifacts and their ``evaluated`` events, all or nothing.

        A second evaluation with the same recipe or number is a StorageError. Outcomes held under
        the same recipes are held no longer.
        """
        ...

    def evaluation(self, study_id: int, number: int) -> EvaluationRecord | None:
        """Return one evaluation; None when there is none of that number."""
        ...

    def evaluations(
        self,
        study_id: int,
        *,
        after: int = 0,
        limit: int | None = None,
        stage: Stage | None = None,
        status: Status | None = None,
        numbers: Sequence[int] | None = None,
    ) -> Sequence[EvaluationRecord]:
        """Return evaluations by number, without their artifacts.

        Args:
            study_id: of the study.
            after: only numbers above this one.
            limit: at most so many.
            stage: only of this stage.
            status: only of this status.
            numbers: only these.
        """
        ...

    def points(
        self, study_id: int, sizes: Sequence[SizeName], *, floor: float = float("-inf")
    ) -> Points:
        """Return metric and sizes of the complete evaluations, those below ``floor`` left out."""
        ...

    def hold(self, study_id: int, job: Job, outcome: Outcome) -> None:
        """Keep an outcome whose number is not known yet; :meth:`evaluations` does not show it.

        :meth:`add_evaluations` of the same recipe takes its place. A recipe that is held or
        evaluated already is a StorageError.
        """
        ...

    def held(self, study_id: int) -> Mapping[str, Outcome]:
        """Return the outcomes held, by :attr:`Job.key`, without their artifacts."""
        ...

    def drop_held(self, study_id: int) -> None:
        """Forget the outcomes held."""
        ...

    def forget_retriable(self, study_id: int) -> int:
        """Forget failures that say nothing about their candidates; return how many.

        Generations from the first of them on are forgotten too: they will have another story.
        """
        ...

    # ------------------------------------------------------------------ artifacts

    def artifact(self, study_id: int, fingerprint: str) -> bytes:
        """Return the artifact of the weights with this fingerprint, after checking its digest.

        A StorageError says when there is none, or when it is missing or damaged.
        """
        ...

    def artifacts(self, study_id: int) -> Mapping[str, int]:
        """Return which artifacts there are: bytes by fingerprint."""
        ...

    # ------------------------------------------------------------------ generations, events

    def put_generation(self, study_id: int, generation: GenerationRecord) -> None:
        """Store a generation and its event.

        One stored before stays as it is, without an event, unless it had fewer evaluations: a
        budget had ended it early.
        """
        ...

    def generations(self, study_id: int) -> Sequence[GenerationRecord]:
        """Return all generations of a study by index."""
        ...

    def add_events(self, study_id: int, events: Sequence[Event]) -> None:
        """Store lasting events in their order, all or nothing."""
        ...

    def events(
        self,
        study_id: int,
        *,
        after: int = 0,
        kinds: Collection[str] | None = None,
        limit: int | None = None,
        newest: bool = False,
    ) -> Sequence[EventRecord]:
        """Return events of a study, oldest first.

        Args:
            study_id: of the study.
            after: only those with a larger id.
            kinds: only these.
            limit: at most so many.
            newest: where ``limit`` leaves some out, leave out the oldest.
        """
        ...

    def n_events(self, study_id: int, kind: str, *, after: int = 0) -> int:
        """Return how many events of a kind have an id above ``after``."""
        ...

    # ------------------------------------------------------------------ the writer

    def lock(self, study: str) -> AbstractContextManager[None]:
        """Hold a study for writing; StudyLockedError when another process does.

        The lock dies with its process, however that dies. Where it is lost behind its holder's
        back, because a server restarted or a lock file was deleted, the next write takes it again
        when nobody has had the study meanwhile, and is a StudyLockedError, with nothing written,
        when somebody has. The end of the block never fails.
        """
        ...

    def holder(self, study: str) -> str | None:
        """Return who holds a study for writing, in words; None when nobody does."""
        ...

    def beside(self, what: str) -> str | None:
        """Return a folder for large files that may be deleted at any time; None where none is.

        It need not exist. That of an SQLite database lies beside it, that of PostgreSQL in the
        folder that ``MOEASH_ARTIFACTS`` names, which all machines share.
        """
        ...

    def close(self) -> None:
        """Release connections."""
        ...

"""The evaluations of a running study: numbered in the order of proposal, stored once."""

from collections.abc import Sequence

from moeash.evaluation.outcome import Job, Outcome
from moeash.study.progress import Progress
from moeash.study.storage.base import Storage
from moeash.study.storage.records import EvaluationRecord, Stage, now


class Ledger:
    """Remembers what a study has proposed and what came of it.

    Attributes:
        known: the stored evaluations by key.
    """

    def __init__(self, storage: Storage, study_id: int, progress: Progress) -> None:
        self._storage = storage
        self._study_id = study_id
        self._progress = progress
        self.known = {r.job.key: r for r in storage.evaluations(study_id)}
        self._numbers = {r.number for r in self.known.values()}
        self._proposed: dict[str, int] = {}
        self._held = dict(storage.held(study_id))

    def propose(self, job: Job) -> EvaluationRecord | None:
        """Give a job its number; return its record when it is stored already.

        Numbers follow the order of proposal, which replay repeats, not the order of completion.
        """
        if job.key not in self._proposed:
            self._proposed[job.key] = self._number(job.key)
        record = self.known.get(job.key)
        if record is not None:
            self._progress.evaluated(record, stored_before=True)
        return record

    def record(
        self, job: Job, outcome: Outcome, *, stage: Stage, generation: int, parent: int | None
    ) -> EvaluationRecord:
        """Store the outcome of a proposed job."""
        (record,) = self.record_all([(job, outcome)], stage, generation, parent)
        return record

    def record_all(
        self,
        answers: Sequence[tuple[Job, Outcome]],
        stage: Stage,
        generation: int,
        parent: int | None,
    ) -> list[EvaluationRecord]:
        """Store the outcomes of proposed jobs that are there at the same time, in one commit."""
        records = [
            EvaluationRecord(
                self._proposed[job.key], stage, generation, parent, job, outcome, now()
            )
            for job, outcome in answers
        ]
        self._storage.add_evaluations(self._study_id, records)
        for record in records:
            self.known[record.job.key] = record
            self._held.pop(record.job.key, None)
            self._progress.evaluated(record, stored_before=False)
        return records

    def outcome(self, key: str) -> Outcome | None:
        """Return the outcome of a job that is stored or held."""
        record = self.known.get(key)
        return self._held.get(key) if record is None else record.outcome

    def hold(self, job: Job, outcome: Outcome) -> None:
        """Keep an outcome before its job is proposed, so that no crash costs it."""
        self._storage.hold(self._study_id, job, outcome)
        self._held[job.key] = outcome

    def drop_held(self) -> None:
        """Forget outcomes whose jobs were never proposed."""
        if self._held:
            self._storage.drop_held(self._study_id)
            self._held.clear()

    def _number(self, key: str) -> int:
        if key in self.known:
            return self.known[key].number
        number = len(self._proposed) + 1
        if number in self._numbers:  # the study is being continued beyond an earlier merge pass
            number = max(self._numbers) + 1
        self._numbers.add(number)
        return number

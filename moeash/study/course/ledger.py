"""The evaluations of a running study: numbered in the order of proposal, stored once."""

from collections.abc import Sequence

from moeash.evaluation.outcome import Job, Outcome
from moeash.study.course.journal import Journal
from moeash.study.course.phase import Answer
from moeash.study.events import Evaluated
from moeash.study.storage.base import Storage
from moeash.study.storage.records import EvaluationRecord, now


class Ledger:
    """Remembers what a study has proposed and what came of it.

    Attributes:
        known: the stored evaluations by key.
    """

    def __init__(self, storage: Storage, study_id: int, journal: Journal) -> None:
        self._storage = storage
        self._study_id = study_id
        self._journal = journal
        self.known = {r.job.key: r for r in storage.evaluations(study_id)}
        self._numbers = {r.number for r in self.known.values()}
        self._proposed: dict[str, int] = {}
        self._held = dict(storage.held(study_id))

    @property
    def n_proposed(self) -> int:
        """Distinct evaluations proposed so far in this course, which replay repeats."""
        return len(self._proposed)

    def propose(self, job: Job) -> None:
        """Give a job its number.

        Numbers follow the order of proposal, which replay repeats, not the order of completion.
        """
        if job.key not in self._proposed:
            self._proposed[job.key] = self._number(job.key)

    def outcome(self, key: str) -> Outcome | None:
        """Return the outcome of a job that is stored or held."""
        record = self.known.get(key)
        return self._held.get(key) if record is None else record.outcome

    def store(self, answers: Sequence[Answer]) -> list[EvaluationRecord]:
        """Store answers in one commit; those that are stored already are left as they are.

        Returns:
            The records of all of them, in their order.
        """
        new: list[EvaluationRecord] = []
        for proposal, outcome in answers:
            self.propose(proposal.job)
            if proposal.job.key not in self.known:
                new.append(
                    EvaluationRecord(
                        self._proposed[proposal.job.key],
                        proposal.stage,
                        proposal.generation,
                        proposal.parent,
                        proposal.job,
                        outcome,
                        now(),
                    )
                )
        if new:
            self._storage.add_evaluations(self._study_id, new)
        fresh = {record.job.key for record in new}
        self.known |= {record.job.key: record for record in new}
        records = [self.known[proposal.job.key] for proposal, _ in answers]
        for record in records:
            self._held.pop(record.job.key, None)
            self._journal.pass_on(Evaluated(record, record.job.key not in fresh))
        return records

    def hold(self, job: Job, outcome: Outcome) -> None:
        """Keep an outcome before its turn comes, so that no crash costs it."""
        if job.key not in self._held:
            self._storage.hold(self._study_id, job, outcome)
            self._held[job.key] = outcome

    def drop_held(self) -> None:
        """Forget outcomes whose turn never came."""
        if self._held:
            self._storage.drop_held(self._study_id)
            self._held.clear()

    def _number(self, key: str) -> int:
        if key in self.known:
            return self.known[key].number
        number = len(self._proposed) + 1
        if number in self._numbers:  # the study is being continued beyond an earlier merge phase
            number = max(self._numbers) + 1
        self._numbers.add(number)
        return number

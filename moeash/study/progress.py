"""What a running study reports, so that a terminal, a log or a test can show it."""

from typing import Protocol

from moeash.study.facts import StudyFacts
from moeash.study.storage.records import EvaluationRecord, GenerationRecord


class Progress(Protocol):
    """Receives a study's events, in order, in the process that runs it."""

    def started(self, facts: StudyFacts, *, n_stored: int) -> None:
        """The network is loaded; ``n_stored`` evaluations are known already."""
        ...

    def generation_started(self, index: int, *, n_candidates: int, n_new: int) -> None:
        """A generation was proposed, ``n_new`` of it not answered by storage."""
        ...

    def evaluated(self, record: EvaluationRecord, *, stored_before: bool) -> None:
        """An evaluation is stored."""
        ...

    def generation_ended(self, generation: GenerationRecord) -> None:
        """A generation is complete."""
        ...

    def search_ended(self, reason: str) -> None:
        """The search is over, with the reason in words."""
        ...

    def refine_started(self, total: int) -> None:
        """``total`` solutions of the front are made again with more effort."""
        ...

    def merge_started(self, parent: EvaluationRecord, *, position: int, total: int) -> None:
        """The merge pass turns to the ``position``-th of ``total`` solutions."""
        ...

    def merge_ended(self, parent: EvaluationRecord, *, entries: int, trials: int) -> None:
        """The merge pass of one solution ended with ``entries`` entries after ``trials``."""
        ...

    def note(self, message: str) -> None:
        """Something a person should know."""
        ...


class Silent:
    """Reports nothing."""

    def started(self, facts: StudyFacts, *, n_stored: int) -> None:
        """Ignore."""

    def generation_started(self, index: int, *, n_candidates: int, n_new: int) -> None:
        """Ignore."""

    def evaluated(self, record: EvaluationRecord, *, stored_before: bool) -> None:
        """Ignore."""

    def generation_ended(self, generation: GenerationRecord) -> None:
        """Ignore."""

    def search_ended(self, reason: str) -> None:
        """Ignore."""

    def refine_started(self, total: int) -> None:
        """Ignore."""

    def merge_started(self, parent: EvaluationRecord, *, position: int, total: int) -> None:
        """Ignore."""

    def merge_ended(self, parent: EvaluationRecord, *, entries: int, trials: int) -> None:
        """Ignore."""

    def note(self, message: str) -> None:
        """Ignore."""

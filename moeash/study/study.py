"""A study as people read it: facts, evaluations, front."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from moeash.errors import InputError
from moeash.study.solution import Solution, floor_of, front_of, pick
from moeash.study.spec.output import Pick
from moeash.study.spec.spec import StudySpec
from moeash.study.storage.base import Storage
from moeash.study.storage.records import (
    EvaluationRecord,
    GenerationRecord,
    StudyFacts,
    StudyRecord,
    StudyStatus,
)

if TYPE_CHECKING:
    import pandas as pd

    from moeash.evaluation.task import Task


def status_of(storage: Storage, name: str) -> StudyStatus:
    """Return where a study stands: it runs exactly while a living process holds it.

    What a process killed with kill -9 has left behind still says "running".
    """
    held = storage.holder(name) is not None  # asked first: whoever ends says so, then lets go
    stored = storage.study(name).status
    if held:
        return "running"
    return "interrupted" if stored == "running" else stored


class Study:
    """One stored study. Every call reads storage anew, so a running study can be watched."""

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage = storage
        self.name = name
        self.record: StudyRecord = storage.study(name)
        self.task: Task | None = None
        """Set by whoever ran the study in this process with a module that no spec can name."""

    def __repr__(self) -> str:
        return f"Study({self.name!r}, {self.storage.url!r})"

    @property
    def facts(self) -> StudyFacts:
        """What never changes."""
        return self.record.facts

    @cached_property
    def spec(self) -> StudySpec:
        """What the study was made with."""
        return StudySpec.from_dict(self.facts.spec)

    @property
    def status(self) -> StudyStatus:
        """Where it stands now."""
        return status_of(self.storage, self.name)

    def evaluations(self) -> Sequence[EvaluationRecord]:
        """Return every evaluation: complete, stopped and failed, by number."""
        return self.storage.evaluations(self.record.id)

    def generations(self) -> Sequence[GenerationRecord]:
        """Return the generations by index."""
        return self.storage.generations(self.record.id)

    def solutions(self) -> list[Solution]:
        """Return the complete evaluations by number."""
        return [
            Solution(self.facts, record)
            for record in self.evaluations()
            if record.outcome.status == "complete"
        ]

    def front(self) -> list[Solution]:
        """Return the wanted solutions nobody dominates, smallest first.

        Wanted means within ``evaluation.max_drop`` of the baseline where the spec sets one.
        """
        floor = self.wanted_floor
        return front_of([s for s in self.solutions() if s.metric >= floor])

    @property
    def wanted_floor(self) -> float:
        """Lowest metric a wanted solution has; -inf without ``evaluation.max_drop``."""
        return floor_of(self.facts.baseline, self.spec.evaluation.max_drop)

    def solution(self, number: int) -> Solution:
        """Return one complete evaluation by its id.

        Raises:
            InputError: there is none of that number, or it is not complete.
        """
        for record in self.evaluations():
            if record.number == number:
                if record.outcome.status != "complete":
                    raise InputError(
                        f"evaluation {number} of {self.name!r} was {record.outcome.status}, "
                        "so it has no measured metric; pick one that `moeash front` lists"
                    )
                return Solution(self.facts, record)
        raise InputError(f"study {self.name!r} has no evaluation {number}; see `moeash front`")

    def pick(
        self,
        how: Pick = "smallest",
        *,
        max_drop: float | None = None,
        max_bytes: int | None = None,
    ) -> Solution:
        """Choose a solution of the front."""
        return pick(self.front(), how, max_drop=max_drop, max_bytes=max_bytes)

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row an evaluation, with ``on_front`` and the candidate's values as columns."""
        import pandas as pd  # half a second of imports that most commands do without

        front = {s.id for s in self.front()}
        rows = []
        for record in self.evaluations():
            outcome, sizes = record.outcome, record.outcome.sizes
            metric = outcome.metric
            size_bytes = None if sizes is None else sizes.size_bytes
            rows.append(
                {
                    "id": record.number,
                    **record.candidate.as_dict(),
                    "stage": record.stage,
                    "status": outcome.status,
                    "on_front": record.number in front,
                    "metric": metric,
                    "bound": outcome.bound,
                    "drop": None if metric is None else self.facts.baseline - metric,
                    "size_bytes": size_bytes,
                    "ratio": size_bytes and self.facts.original_bytes / size_bytes,
                    "entries": None if sizes is None else sizes.entries,
                    "bits_per_weight": None if sizes is None else sizes.bits_per_weight,
                    "generation": record.generation,
                    "parent": record.parent,
                    "n_batches": outcome.n_batches,
                    "duration_s": outcome.duration_s,
                    "error": outcome.error,
                    "retriable": outcome.retriable,
                }
            )
        return pd.DataFrame(rows)

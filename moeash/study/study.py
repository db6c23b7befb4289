"""A study as people read it: facts, evaluations, front."""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from moeash.core.solutions.objectives import as_minimised
from moeash.errors import InputError, StorageError
from moeash.study.events import HoldoutOpened
from moeash.study.facts import StudyFacts
from moeash.study.solution import Solution, front_rows, pick
from moeash.study.spec.output import Pick
from moeash.study.storage.base import Storage
from moeash.study.storage.records import (
    EvaluationRecord,
    GenerationRecord,
    StudyRecord,
    StudyStatus,
    standing,
)

if TYPE_CHECKING:
    import pandas as pd

    from moeash.evaluation.task import Task
    from moeash.study.spec.spec import StudySpec


class Study:
    """One stored study, as :func:`moeash.run` and :func:`moeash.open_study` return it.

    Every method reads storage anew, so a running study can be watched.

    Attributes:
        storage: where it is remembered.
        name: unique in its storage.
        record: the study as it was stored when this object was made.
        spec: what the study was made with, and its files where they are now.
        allowed: modules, and functions as ``package.module:function``, that may run although only
            the stored spec names them.
        task: what candidates are evaluated on; set by whoever ran the study in this process with a
            module that no spec can name.

    Example:
        ::

            study = moeash.open_study("digits", "moeash.db")
            for solution in study.front():
                print(solution.id, solution.recipe, solution.size_bytes, solution.metric)
            study.pick("smallest", max_drop=0.01).as_dict()
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage = storage
        self.name = name
        self.record: StudyRecord = storage.study(name)
        self.allowed: frozenset[str] = frozenset()
        self.task: Task | None = None

    def __repr__(self) -> str:
        return f"Study({self.name!r}, {self.storage.url!r})"

    @property
    def facts(self) -> StudyFacts:
        """What never changes."""
        return self.record.facts

    @cached_property
    def spec(self) -> "StudySpec":
        """What the study was made with; who opens the study may say where its files are now."""
        from moeash.study.spec.spec import StudySpec  # the options of everything there is

        return StudySpec.from_dict(self.facts.spec)

    @property
    def status(self) -> StudyStatus:
        """Where the study stands now; ``crashed`` when its process died without a word."""
        holder = self.storage.holder(self.name)  # asked first, see standing()
        return standing(self.storage.study(self.name).status, holder)

    @property
    def holdout_fingerprint(self) -> str | None:
        """Of the images that solutions were reported on; None before the first."""
        last = self.storage.events(
            self.record.id, kinds=(HoldoutOpened.kind,), limit=1, newest=True
        )
        return str(last[0].payload["fingerprint"]) if last else None

    def note_holdout_opened(self, number: int, fingerprint: str | None) -> None:
        """Remember that a solution was reported on the holdout split.

        Args:
            number: of the solution.
            fingerprint: of the images; None: there are none.
        """
        if fingerprint is None:
            return
        with suppress(StorageError):  # whoever may not write there may report all the same
            self.storage.add_events(self.record.id, [HoldoutOpened(number, fingerprint)])

    def evaluations(self) -> Sequence[EvaluationRecord]:
        """Return every evaluation: complete, stopped and failed, by number."""
        return self.storage.evaluations(self.record.id)

    def generations(self) -> Sequence[GenerationRecord]:
        """Return the generations by index."""
        return self.storage.generations(self.record.id)

    def solutions(self) -> list[Solution]:
        """Return the complete evaluations by number."""
        records = self.storage.evaluations(self.record.id, status="complete")
        return [Solution(self.facts, record) for record in records]

    def front(self) -> list[Solution]:
        """Return the wanted solutions nobody dominates, smallest first.

        Wanted means within ``evaluation.max_drop`` of the baseline where the spec sets one. Of
        solutions with equal objectives the one proposed first is kept.
        """
        records = self.storage.evaluations(self.record.id, numbers=self.front_numbers())
        front = [Solution(self.facts, record) for record in records]
        return sorted(front, key=lambda s: (s.size_bytes, -s.metric))

    def front_numbers(self) -> list[int]:
        """Return the numbers of the front's solutions, increasing; cheaper than the front."""
        facts = self.facts
        points = self.storage.points(self.record.id, facts.objectives, floor=facts.wanted_floor)
        if not len(points.numbers):
            return []
        f = as_minimised(points.metric, points.sizes)
        return [int(number) for number in points.numbers[front_rows(f)]]

    def solution(self, number: int) -> Solution:
        """Return one complete evaluation by its number.

        Raises:
            InputError: there is none of that number, or it is not complete.
        """
        record = self.storage.evaluation(self.record.id, number)
        if record is None:
            raise InputError(f"study {self.name!r} has no evaluation {number}; see `moeash front`")
        if record.outcome.status != "complete":
            raise InputError(
                f"evaluation {number} of {self.name!r} was {record.outcome.status}, "
                "so it has no measured metric; pick one that `moeash front` lists"
            )
        return Solution(self.facts, record)

    def artifact(self, fingerprint: str) -> bytes:
        """Return the stored ``.moeash`` bytes of a solution that takes long to build.

        Args:
            fingerprint: of its shared weights.

        Raises:
            StorageError: there are none, or they are missing or damaged.
        """
        return self.storage.artifact(self.record.id, fingerprint)

    def pick(
        self,
        how: Pick = "smallest",
        *,
        max_drop: float | None = None,
        max_bytes: int | None = None,
    ) -> Solution:
        """Choose a solution of the front.

        Args:
            how: ``smallest`` in bytes, ``best`` in metric, or the ``knee`` of the front.
            max_drop: only solutions at most this far below the float network.
            max_bytes: only solutions of at most so many bytes.

        Raises:
            NothingMeetsError: no solution is within the limits; names the nearest.
            InputError: ``how`` is no pick.
        """
        variables = self.facts.variables  # for an error to say which bound was in the way
        return pick(self.front(), how, max_drop=max_drop, max_bytes=max_bytes, variables=variables)

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row an evaluation, with ``on_front`` and the candidate's values as columns."""
        import pandas as pd  # half a second of imports that most commands do without

        front = set(self.front_numbers())
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
                    "worker": outcome.worker,
                    "ended_at": outcome.ended_at,
                }
            )
        return pd.DataFrame(rows)

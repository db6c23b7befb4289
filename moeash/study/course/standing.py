"""Where a study stands: the front it has found, its hypervolume, and what the search is told."""

from collections.abc import Iterable, Sequence

import numpy as np

from moeash.core.solutions.objectives import Sizes, as_minimised
from moeash.evaluation.outcome import Archive, Outcome
from moeash.searches.base import Fitness
from moeash.searches.hypervolume import hypervolume
from moeash.study.facts import StudyFacts, floor_of
from moeash.study.solution import Solution, front_of
from moeash.study.storage.records import EvaluationRecord, GenerationRecord

MARGIN = 0.1
"""How far below the worst measured metric the reference lies, relative to the float network's
distance from it, so that the worst solution has a share in the hypervolume."""


class Standing:
    """The evaluations of a study's search so far.

    Attributes:
        floor: lowest metric a wanted solution has.
        archive: what a new evaluation has to beat: the front of the wanted ones.
        n_evaluations: distinct evaluations seen.
    """

    def __init__(self, facts: StudyFacts, max_drop: float | None) -> None:
        self.facts = facts
        self.floor = floor_of(facts.baseline, max_drop)
        self.archive = Archive(facts.objectives)
        self.n_evaluations = 0
        self._keys: set[str] = set()
        self._elite: list[EvaluationRecord] = []
        self._worst = float("inf")
        self._metric_reference = facts.reference[0]

    def add(self, records: Iterable[EvaluationRecord]) -> None:
        """Take evaluations into account."""
        new = [record for record in records if record.job.key not in self._keys]
        self._keys |= {record.job.key for record in new}
        self.n_evaluations = len(self._keys)
        wanted = [record for record in new if self._is_wanted(record)]
        if not wanted:
            return
        self._worst = min([self._worst, *(_metric(record.outcome) for record in wanted)])
        elite = [*self._elite, *wanted]
        self.archive = Archive.of(self.facts.objectives, [record.outcome for record in elite])
        self._elite = [
            r for r in elite if not self.archive.rules_out(_metric(r.outcome), _sizes(r.outcome))
        ]

    def has(self, key: str) -> bool:
        """Return whether a key's evaluation is taken into account."""
        return key in self._keys

    def front(self) -> list[Solution]:
        """Return the wanted solutions nobody dominates, smallest first."""
        return front_of([Solution(self.facts, record) for record in self._elite])

    def fitness(self, record: EvaluationRecord) -> Fitness:
        """Return what the search is told of an evaluation.

        A stopped evaluation enters with the best it could still have been: that is dominated
        already, and the only statement about it that is true.
        """
        outcome = record.outcome
        if outcome.status == "failed":
            return Fitness(None)
        assert outcome.bound is not None and outcome.sizes is not None
        sizes = np.array([outcome.sizes.vector(self.facts.objectives)])
        f = as_minimised(np.array([outcome.bound]), sizes)[0]
        return Fitness(tuple(f.tolist()), max(0.0, self.floor - outcome.bound))

    def hypervolume(self, front: Sequence[Solution]) -> float:
        """Return the volume a front dominates within the study's reference box.

        The metric keeps its unit; sizes are relative to the box, so that studies of different
        networks compare.
        """
        if not front:
            return 0.0
        if self._metric_reference is None:
            # A metric without a worst value: fixed by what the first generation measured, which
            # replay repeats.
            baseline, worst = self.facts.baseline, self._worst
            span = max(baseline - worst, 1e-3 * max(1.0, abs(worst)))
            self._metric_reference = worst - MARGIN * span
        reference = np.array([self._metric_reference, *self.facts.reference[1:]], dtype=np.float64)
        metric = np.array([solution.metric for solution in front])
        sizes = np.array([_sizes(s.record.outcome).vector(self.facts.objectives) for s in front])
        worst_f = as_minimised(reference[:1], reference[1:])[0]
        scale = np.abs(np.where(worst_f == 0, 1.0, worst_f))
        scale[0] = 1.0
        return hypervolume(as_minimised(metric, sizes) / scale, worst_f / scale)

    def generation(
        self, index: int, records: Iterable[EvaluationRecord], elapsed_s: float
    ) -> GenerationRecord:
        """Return what a generation has come to.

        Args:
            index: of the generation.
            records: its evaluations, all of them taken into account; those first proposed by an
                earlier generation cost it nothing.
            elapsed_s: wall time it took.
        """
        front = self.front()
        own = {r.number: r.outcome.n_batches for r in records if r.generation == index}
        return GenerationRecord(
            index=index,
            hypervolume=self.hypervolume(front),
            n_evaluations=self.n_evaluations,
            n_front=len(front),
            n_batches=sum(own.values()),
            elapsed_s=elapsed_s,
        )

    def _is_wanted(self, record: EvaluationRecord) -> bool:
        metric = record.outcome.metric
        return metric is not None and metric >= self.floor


def _metric(outcome: Outcome) -> float:
    assert outcome.metric is not None
    return outcome.metric


def _sizes(outcome: Outcome) -> Sizes:
    assert outcome.sizes is not None
    return outcome.sizes

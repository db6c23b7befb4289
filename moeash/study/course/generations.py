"""Search by generations: all candidates of one are measured before the next is bred."""

import time
from collections.abc import Callable, Mapping, Sequence

from moeash.core.solutions.recipe import Recipe
from moeash.evaluation.outcome import Job, Outcome
from moeash.searches.base import Search
from moeash.study.course.budget import Budget, Ending
from moeash.study.course.journal import Journal
from moeash.study.course.phase import Answer, Proposal
from moeash.study.course.standing import Standing
from moeash.study.course.widening import Widening
from moeash.study.events import GenerationStarted
from moeash.study.storage.records import EvaluationRecord

STALE_GENERATIONS = 100
"""Generations in a row without a new candidate after which the space counts as exhausted.

Evolution may propose known points for ever, and a budget of evaluations would never be reached.
"""


class Generations:
    """The search phase, generation by generation."""

    name = "search"

    def __init__(
        self,
        search: Search,
        standing: Standing,
        budget: Budget,
        journal: Journal,
        *,
        widening: Widening,
        known: Mapping[str, EvaluationRecord],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin before the first generation.

        Args:
            search: proposes generations.
            standing: what was found so far.
            budget: ends the search.
            journal: hears of generations.
            widening: the space, which may turn out too narrow.
            known: the stored evaluations by key.
            clock: of the time a generation takes.
        """
        self._search = search
        self._standing = standing
        self._budget = budget
        self._journal = journal
        self._widening = widening
        self._known = known
        self._clock = clock
        self.ending: Ending | None = None
        self._index = 0
        self._stale = 0
        self._keys: list[str] = []  # of the open generation, as the search proposed them
        self._answers: dict[str, EvaluationRecord] = {}
        self._started = 0.0

    def ask(self, n_free: int) -> Sequence[Proposal]:
        """Return the next generation, as far as the budget goes; nothing while one is open."""
        if self._keys or self.ending is not None:
            return ()
        candidates = self._search.ask() if self._stale < STALE_GENERATIONS else []
        if not candidates:
            self.ending = "exhausted"
            return ()
        self._index += 1
        self._started = self._clock()
        jobs = [Job(Recipe(candidate), self._standing.floor) for candidate in candidates]
        distinct = self._within_budget({job.key: job for job in jobs})
        self._keys = [job.key for job in jobs if job.key in distinct]
        n_new = len(distinct.keys() - self._known.keys())
        self._journal.say(GenerationStarted(self._index, len(self._keys), n_new))
        # Fixed for the whole generation, so that no outcome depends on the order of evaluation.
        archive = self._standing.archive
        return [Proposal(job, archive, "search", self._index) for job in distinct.values()]

    def _within_budget(self, jobs: dict[str, Job]) -> dict[str, Job]:
        """Leave out what is one evaluation too many; that ends the search with this generation."""
        new = [key for key in jobs if not self._standing.has(key)]
        left = self._budget.evaluations_left(self._standing.n_evaluations)
        beyond = set() if left is None else set(new[left:])
        return {key: job for key, job in jobs.items() if key not in beyond}

    def tell(self, proposal: Proposal, outcome: Outcome) -> Sequence[Answer]:
        """Let every answer be stored as it arrives."""
        return ((proposal, outcome),)

    def stored(self, records: Sequence[EvaluationRecord]) -> None:
        """Collect answers; the last one of a generation ends it."""
        self._answers |= {record.job.key: record for record in records}
        if self._keys and self._answers.keys() >= set(self._keys):
            self._end_generation()

    def wants(self, proposal: Proposal) -> bool:
        """Want every proposal."""
        return True

    def _end_generation(self) -> None:
        records = [self._answers[key] for key in self._keys]
        n_before = self._standing.n_evaluations
        self._standing.add(records)
        n_evaluations = self._standing.n_evaluations
        self._keys, self._answers = [], {}
        generation = self._standing.generation(self._index, records, self._clock() - self._started)
        self._journal.end_generation(generation)
        self._stale = 0 if n_evaluations > n_before else self._stale + 1
        ending = self._budget.end_generation(
            self._index, hypervolume=generation.hypervolume, evaluations=n_evaluations
        )
        if ending is None:  # the last generation may lack what the budget left out
            self._search.tell([self._standing.fitness(record) for record in records])
            self._widening.widen(self._search)
        size = self._widening.space.size
        self.ending = "exhausted" if size is not None and n_evaluations >= size else ending

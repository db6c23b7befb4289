"""Search in a steady state: a free worker gets the next child at once.

What is proposed depends on the order in which evaluations end, so a continued study does not
propose its stored evaluations again: it starts with the population they make, in the order of their
numbers. A "generation" is every ``population`` evaluations.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from moeash.core.solutions.recipe import Recipe
from moeash.evaluation.outcome import Job, Outcome
from moeash.searches.steady_nsga2 import SteadyNsga2
from moeash.study.course.budget import Budget, Ending
from moeash.study.course.journal import Journal
from moeash.study.course.phase import Answer, Proposal
from moeash.study.course.standing import Standing
from moeash.study.course.widening import Widening
from moeash.study.events import GenerationStarted
from moeash.study.storage.records import EvaluationRecord


class SteadyState:
    """The search phase, child by child."""

    name = "search"

    def __init__(
        self,
        search: SteadyNsga2,
        standing: Standing,
        budget: Budget,
        journal: Journal,
        *,
        widening: Widening,
        population: int,
        stored: Iterable[EvaluationRecord],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin, or begin where stored evaluations end.

        Args:
            search: proposes candidates one by one.
            standing: what was found so far.
            budget: ends the search.
            journal: hears of generations.
            widening: the space, which may turn out too narrow.
            population: evaluations a generation.
            stored: evaluations of this study, of any phase.
            clock: of the time a generation takes.
        """
        self._search = search
        self._standing = standing
        self._budget = budget
        self._journal = journal
        self._widening = widening
        self._population = population
        searched = [record for record in stored if record.stage == "search"]
        self._replayed = sorted(searched, key=lambda record: record.number)
        self._clock = clock
        self.ending: Ending | None = None
        self._n_asked = 0
        self._n_told = 0
        self._block: list[EvaluationRecord] = []
        self._begin_block()

    def ask(self, n_free: int) -> Sequence[Proposal]:
        """Return stored evaluations first, then as many children as workers are free."""
        if self._replayed:
            records, self._replayed = self._replayed, []
            self._n_asked += len(records)
            archive = self._standing.archive
            return [Proposal(r.job, archive, "search", r.generation) for r in records]
        if self.ending is not None:
            return ()
        room = self._room()
        wanted = n_free if room is None else min(n_free, room)
        candidates = self._search.propose(wanted) if wanted > 0 else []
        if wanted > 0 and not candidates and self._n_asked == self._n_told:
            self.ending = "exhausted"
            self._end_block()
        self._n_asked += len(candidates)
        jobs = [Job(Recipe(candidate), self._standing.floor) for candidate in candidates]
        return [Proposal(job, self._standing.archive, "search", 0) for job in jobs]

    def tell(self, proposal: Proposal, outcome: Outcome) -> Sequence[Answer]:
        """Give an answer the generation in which it arrives."""
        self._n_told += 1
        index = (self._n_told - 1) // self._population + 1
        return ((replace(proposal, generation=index), outcome),)

    def stored(self, records: Sequence[EvaluationRecord]) -> None:
        """Let answers into the population, those of a generation that are there at once together.

        Whatever takes the study over a generation's end enters after it has ended.
        """
        rest = list(records)
        while rest:
            room = self._population - len(self._block)
            now, rest = rest[:room], rest[room:]
            self._block += now
            self._standing.add(now)
            self._search.tell([r.candidate for r in now], [self._standing.fitness(r) for r in now])
            if len(self._block) == self._population:
                self._end_block()
        if self.ending is None:
            self.ending = self._budget.spent(self._standing.n_evaluations)
        if self.ending is not None and self._n_told == self._n_asked:
            self._end_block()

    def wants(self, proposal: Proposal) -> bool:
        """Want every proposal."""
        return True

    def _room(self) -> int | None:
        """Return how many more may be proposed before the budget is certainly spent."""
        room = self._budget.evaluations_left(self._n_asked)
        generations = self._budget.options.generations
        if generations is not None:
            left = generations * self._population - self._n_asked
            room = left if room is None else min(room, left)
        return room

    def _begin_block(self) -> None:
        index = self._n_told // self._population + 1
        self._block_started = self._clock()
        self._journal.say(GenerationStarted(index, self._population, self._population))

    def _end_block(self) -> None:
        if not self._block:
            return
        index = -(-self._standing.n_evaluations // self._population)
        elapsed = self._clock() - self._block_started
        generation = self._standing.generation(index, self._block, elapsed)
        self._block = []
        self._journal.end_generation(generation)
        ending = self._budget.end_generation(
            index,
            hypervolume=generation.hypervolume,
            evaluations=self._standing.n_evaluations,
        )
        if self.ending is None:
            self.ending = ending
        if self.ending is None:
            self._widening.widen(self._search)
            self._begin_block()

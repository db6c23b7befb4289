"""Steady-state NSGA-II: one child at a time, so no worker waits for the slowest of a generation.

A child is bred from the population as it is when a worker becomes free, and enters it when it is
measured. What is proposed therefore depends on the order in which evaluations end: with more than
one worker a run is *not* reproducible bit by bit, though every measurement in it is.

Source:
    Durillo, Nebro, Luna, Alba: On the effect of the steady-state selection scheme in
    multi-objective genetic algorithms, EMO 2009. Differs: several children are out at a time.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.evaluator import Evaluator
from pymoo.core.population import Population
from pymoo.problems.static import StaticProblem

from moeash.core.solutions.candidate import Candidate
from moeash.searches.base import Fitness
from moeash.searches.nsga2 import (
    RoundIntegers,
    as_values,
    initial_population,
    operators,
    problem_of,
)
from moeash.searches.options import SearchOptions
from moeash.searches.space import Space

MAX_MATINGS = 50
"""Matings that may repeat known points before a point is drawn at random instead."""

MAX_DRAWS = 1000


class SteadyNsga2:
    """Proposes candidates whenever asked; learns of them whenever they are measured."""

    def __init__(self, space: Space, options: SearchOptions, *, seed: int) -> None:
        self._space = space
        self._options, self._seed = options, seed
        self._size = options.population
        self._problem = problem_of(space, 1 + len(options.objectives))
        self._repair = RoundIntegers(space)
        operations = operators(self._repair)
        self._algorithm = NSGA2(pop_size=self._size, eliminate_duplicates=True, **operations)
        self._algorithm.setup(self._problem, termination=("n_gen", 10**9), seed=seed)
        self._rng = np.random.default_rng([seed, 0x57EA])
        self._initial = self._spread_over(space)
        self._population: Any = Population.empty()
        self._known: set[Candidate] = set()

    def propose(self, n: int) -> list[Candidate]:
        """Return ``n`` candidates that were never proposed or told; fewer when no more are left."""
        found: list[Candidate] = []
        while self._initial and len(found) < n:
            self._take([self._initial.pop()], found)
        if len(self._population) >= 2:
            for _ in range(MAX_MATINGS):
                if len(found) == n or self._exhausted:
                    break
                children = self._algorithm.mating(
                    self._problem,
                    self._population,
                    n - len(found),
                    algorithm=self._algorithm,
                    random_state=self._rng,
                )
                self._take([self._space.decode(x) for x in children.get("X")], found)
        low, high = self._space.draw_bounds
        for _ in range(MAX_DRAWS):
            if len(found) == n or self._exhausted:
                break
            x = self._rng.uniform(low, high)
            self._take([self._space.decode(x)], found)
        return found

    def tell(self, candidates: Sequence[Candidate], told: Sequence[Fitness]) -> None:
        """Report candidates, proposed here or known from storage.

        Those that are there at the same time enter together, for the price of one.
        """
        self._known.update(candidates)
        f, g = as_values(told, self._problem.n_obj)
        new = Population.new(X=np.array([self._space.encode(c) for c in candidates]))
        Evaluator().eval(StaticProblem(self._problem, F=f, G=g), new)
        self._population = self._algorithm.survival.do(
            self._problem,
            Population.merge(self._population, new),
            n_survive=self._size,
            algorithm=self._algorithm,
            random_state=self._rng,
        )

    def widen(self, space: Space) -> None:
        """Breed in a wider space from now on; first come candidates spread over what is new."""
        self._initial = self._spread_over(space.beyond(self._space)) + self._initial
        self._space = self._repair.space = space
        self._problem = self._algorithm.problem = problem_of(space, self._problem.n_obj)

    def _spread_over(self, space: Space) -> list[Candidate]:
        """Return candidates spread over a space, the first one last."""
        x = initial_population(space, self._size, self._seed, self._options.initial)
        return [space.decode(row) for row in x][::-1]

    @property
    def _exhausted(self) -> bool:
        return self._space.size is not None and len(self._known) >= self._space.size

    def _take(self, candidates: Sequence[Candidate], found: list[Candidate]) -> None:
        """Add to ``found`` those that are new."""
        for candidate in candidates:
            if candidate not in self._known:
                self._known.add(candidate)
                found.append(candidate)

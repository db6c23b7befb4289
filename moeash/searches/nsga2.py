"""NSGA-II by ask and tell, on pymoo.

pymoo sees bounds and objective values only: no torch, no Ray, no storage. ``Problem._evaluate`` is
never called. The per-algorithm random state makes the proposals a function of the seed and of what
was told, which is what resume by replay rests on.

Source:
    Deb, Pratap, Agarwal, Meyarivan: A fast and elitist multiobjective genetic algorithm: NSGA-II,
    IEEE TEC 6(2), 2002. Initial population: arXiv 2501.03095, Algorithm 1. Differs: the printed
    ``start + i * step`` for i = 1..NP never yields the lower bound and overshoots the upper one;
    ``low + (i - 1) * step`` is used.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.evaluator import Evaluator
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.problems.static import StaticProblem

from moeash.core.solutions.candidate import Candidate
from moeash.errors import InputError
from moeash.searches.base import Fitness
from moeash.searches.options import Initial, SearchOptions
from moeash.searches.space import Space

FAILED_VIOLATION = 1e9
"""Constraint violation of a failed candidate: worse than any measured one, and finite."""


class RoundIntegers(Repair):  # type: ignore[misc]
    """Round the integers of a coded population.

    Attributes:
        space: whose integers and bounds.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space

    def _do(self, problem: Any, X: NDArray[Any], **kwargs: Any) -> NDArray[Any]:
        return self.space.rounded(X.astype(np.float64))


class Nsga2Search:
    """NSGA-II with binary tournament, SBX, polynomial mutation and elitist survival."""

    def __init__(self, space: Space, options: SearchOptions, *, seed: int) -> None:
        self._space = space
        self._options, self._seed = options, seed
        self._repair = RoundIntegers(space)
        self._algorithm = NSGA2(
            pop_size=options.population,
            sampling=initial_population(space, options.population, seed, options.initial),
            eliminate_duplicates=True,
            evaluator=Evaluator(),
            **operators(self._repair),
        )
        # The study decides when to stop; the algorithm itself never does.
        problem = problem_of(space, 1 + len(options.objectives))
        self._algorithm.setup(problem, termination=("n_gen", 10**9), seed=seed)
        self._asked: Any = None
        self._next: Any = None

    def ask(self) -> list[Candidate]:
        """Return the next offspring; empty when every mating repeated known points."""
        self._asked = self._algorithm.ask() if self._next is None else self._next
        self._next = None
        if self._asked is None or len(self._asked) == 0:
            return []
        return [self._space.decode(x) for x in self._asked.get("X")]

    def tell(self, told: Sequence[Fitness]) -> None:
        """Report the last generation, in the order it was proposed."""
        assert self._asked is not None
        f, g = as_values(told, self._algorithm.problem.n_obj)
        problem = StaticProblem(self._algorithm.problem, F=f, G=g)
        self._algorithm.evaluator.eval(problem, self._asked)
        self._algorithm.tell(infills=self._asked)

    def widen(self, space: Space) -> None:
        """Breed in a wider space from now on; the next generation is spread over what is new."""
        new = space.beyond(self._space)
        options = self._options
        x = initial_population(new, options.population, self._seed, options.initial)
        self._next = Population.new(X=x)
        self._space = self._repair.space = space
        self._algorithm.problem = problem_of(space, 1 + len(options.objectives))


def problem_of(space: Space, n_objectives: int) -> Problem:
    """Return the bounds of a space as pymoo's problem, with one constraint: the violation told."""
    return Problem(
        n_var=len(space.variables),
        n_obj=n_objectives,
        n_ieq_constr=1,
        xl=space.lower,
        xu=space.upper,
    )


def operators(repair: RoundIntegers) -> dict[str, Any]:
    """Return the operators of variation, as arguments of pymoo's NSGA2."""
    return {
        "crossover": SBX(prob=0.9, eta=15, vtype=float, repair=repair),
        "mutation": PM(eta=20, vtype=float, repair=repair),
        "repair": repair,
    }


def as_values(
    told: Sequence[Fitness], n_objectives: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return objectives ``(n, n_objectives)`` and violations ``(n, 1)`` as pymoo needs them.

    A failed candidate has the worst violation and, as pymoo needs some number, objectives nobody
    would take for a measurement.
    """
    f = np.full((len(told), n_objectives), 1e300)
    g = np.zeros((len(told), 1))
    for i, one in enumerate(told):
        if one.minimised is None:
            g[i] = FAILED_VIOLATION
        else:
            f[i] = one.minimised
            g[i] = one.violation
    return f, g


def initial_population(
    space: Space, population: int, seed: int, initial: Initial
) -> NDArray[np.float64]:
    """Return up to ``(population, n)`` coded rows, without duplicates.

    ``linear`` spaces the first variable equally over its bounds as it is searched (Algorithm 1),
    ``log`` geometrically; further variables, and all of them with ``random``, are drawn as a Latin
    hypercube.
    """
    rng = np.random.default_rng([seed, 0x1217])
    n = len(space.variables)
    strata = np.argsort(rng.random((n, population)), axis=1).T
    unit = (strata + rng.random((population, n))) / population
    x = space.lower + unit * (space.upper - space.lower)
    low, high = float(space.lower[0]), float(space.upper[0])
    if initial == "linear" or (initial == "log" and space.variables[0].log):
        x[:, 0] = np.linspace(low, high, population)
    elif initial == "log":
        if low <= 0:
            raise InputError(
                f"initial = 'log' needs a first variable above 0, but "
                f"{space.variables[0].name!r} starts at {low:g}; use 'linear' or 'random'"
            )
        x[:, 0] = np.geomspace(low, high, population)
    x = space.rounded(x)
    _, first = np.unique(x, axis=0, return_index=True)
    return np.asarray(x[np.sort(first)], dtype=np.float64)

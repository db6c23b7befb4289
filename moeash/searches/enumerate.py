"""Searches without evolution: every point in order, or points at random. The oracles."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.variables import Integer, Real
from moeash.errors import InputError
from moeash.searches.base import Fitness
from moeash.searches.space import Space


class ExhaustiveSearch:
    """Every point of an integer space, in ascending order: the exact front for one integer."""

    def __init__(self, space: Space, *, population: int) -> None:
        if space.size is None:
            names = [v.name for v in space.variables if isinstance(v, Real)]
            raise InputError(
                f"exhaustive search needs integers only, but {names} are real; "
                "fix them to one value or use algorithm = 'nsga2' or 'random'"
            )
        self._population = population
        self._points = self._enumerate(space)
        self._proposed: set[Candidate] = set()

    @staticmethod
    def _enumerate(space: Space) -> Iterator[Candidate]:
        axes = [
            range(v.low, v.high + 1) if isinstance(v, Integer) else (v.low,)
            for v in space.variables
        ]
        names = [v.name for v in space.variables]
        for point in itertools.product(*axes):
            yield Candidate.of(dict(zip(names, point, strict=True)))

    def ask(self) -> list[Candidate]:
        """Return the next points; empty when all were proposed."""
        new = (point for point in self._points if point not in self._proposed)
        points = list(itertools.islice(new, self._population))
        self._proposed.update(points)
        return points

    def tell(self, told: Sequence[Fitness]) -> None:
        """Ignore the outcomes: the order is fixed."""

    def widen(self, space: Space) -> None:
        """Go on with every point of a wider space that was not proposed."""
        self._points = self._enumerate(space)


class RandomSearch:
    """Independent uniform draws (in coded space), never the same point twice."""

    _MAX_REDRAWS = 1000

    def __init__(self, space: Space, *, population: int, seed: int) -> None:
        self._space = space
        self._population = population
        self._rng = np.random.default_rng([seed, 0x4A4D])
        self._seen: set[Candidate] = set()

    def ask(self) -> list[Candidate]:
        """Return the next draws; fewer, and at last none, when the space is exhausted."""
        drawn: list[Candidate] = []
        low, high = self._space.draw_bounds
        redraws = 0
        while len(drawn) < self._population and redraws < self._MAX_REDRAWS:
            if self._space.size is not None and len(self._seen) >= self._space.size:
                break
            x = self._rng.uniform(low, high)
            candidate = self._space.decode(x)
            if candidate in self._seen:
                # A small remainder of a finite space is taken from a list, not by luck.
                redraws += self._space.size is None
                if self._space.size is not None and len(self._seen) * 2 > self._space.size:
                    candidate = self._pick_remaining()
                else:
                    continue
            self._seen.add(candidate)
            drawn.append(candidate)
        return drawn

    def _pick_remaining(self) -> Candidate:
        left = [c for c in ExhaustiveSearch._enumerate(self._space) if c not in self._seen]
        return left[int(self._rng.integers(len(left)))]

    def tell(self, told: Sequence[Fitness]) -> None:
        """Ignore the outcomes: draws are independent."""

    def widen(self, space: Space) -> None:
        """Draw from a wider space."""
        self._space = space

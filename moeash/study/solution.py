"""Solutions: complete evaluations seen beside their study's baseline, and the front of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from moeash.core.solutions.objectives import as_minimised
from moeash.core.solutions.pareto import knee, non_dominated
from moeash.core.solutions.recipe import Recipe
from moeash.core.solutions.variables import Variable
from moeash.errors import InputError, NothingMeetsError
from moeash.names import nearest
from moeash.study.facts import StudyFacts
from moeash.study.spec.output import Pick
from moeash.study.storage.records import EvaluationRecord


@dataclass(frozen=True)
class Solution:
    """A complete evaluation of a study.

    Attributes:
        facts: of the study.
        record: the evaluation as stored.
    """

    facts: StudyFacts
    record: EvaluationRecord

    @property
    def id(self) -> int:
        """Its number in the study."""
        return self.record.number

    @property
    def recipe(self) -> Recipe:
        """Its name: a candidate and the steps taken after it."""
        return self.record.recipe

    @property
    def metric(self) -> float:
        """Measured on the search split, higher is better."""
        assert self.record.outcome.metric is not None
        return self.record.outcome.metric

    @property
    def drop(self) -> float:
        """How far below the float network; negative when above."""
        return self.facts.baseline - self.metric

    @property
    def noise(self) -> float:
        """Standard error of the drop; 0 where it is not known, or too small to matter."""
        return self.record.outcome.noise or 0.0

    @property
    def cautious_drop(self) -> float:
        """How far below the float network it may well be on other images."""
        return self.record.outcome.cautious_drop(self.facts.baseline)

    def is_within(self, max_drop: float | None) -> bool:
        """Tell whether a limit is held, luck allowed for.

        A drop of exactly so much is within, whatever the last bit of a difference says.
        """
        return max_drop is None or self.cautious_drop <= max_drop + 1e-12

    @property
    def size_bytes(self) -> int:
        """Bytes of the file."""
        assert self.record.outcome.sizes is not None
        return self.record.outcome.sizes.size_bytes

    @property
    def entries(self) -> int:
        """Codebook entries that some weight uses."""
        assert self.record.outcome.sizes is not None
        return self.record.outcome.sizes.entries

    @property
    def bits_per_weight(self) -> float:
        """Bits of index payload and tables per shared weight."""
        assert self.record.outcome.sizes is not None
        return self.record.outcome.sizes.bits_per_weight

    @property
    def ratio(self) -> float:
        """float32 bytes of the same state over bytes of the file."""
        return self.facts.original_bytes / self.size_bytes

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        record = self.record
        return {
            "id": self.id,
            "recipe": self.recipe.as_dict(),
            "stage": record.stage,
            "metric": self.metric,
            "metric_name": self.facts.metric_name,
            "drop": self.drop,
            "noise": self.record.outcome.noise,
            "size_bytes": self.size_bytes,
            "ratio": self.ratio,
            "entries": self.entries,
            "bits_per_weight": self.bits_per_weight,
            "generation": record.generation,
            "parent": record.parent,
            "fingerprint": record.outcome.fingerprint,
        }


def minimised(solutions: Sequence[Solution]) -> NDArray[np.float64]:
    """Return ``F`` of solutions of one study, ``(n, 1 + m)``."""
    metric = np.array([s.metric for s in solutions])
    sizes = [
        s.record.outcome.sizes.vector(s.facts.objectives)  # type: ignore[union-attr]
        for s in solutions
    ]
    return as_minimised(metric, np.array(sizes).reshape(len(solutions), -1))


def front_rows(f: NDArray[np.float64]) -> list[int]:
    """Return the rows that no other row dominates; of equal rows the first alone.

    Args:
        f: ``(n, m)`` values to minimise, in the order of the evaluations' numbers.

    Example:
        >>> front_rows(np.array([[1.0, 5.0], [2.0, 2.0], [3.0, 3.0], [2.0, 2.0]]))
        [0, 1]
    """
    rows = np.flatnonzero(non_dominated(f)) if len(f) else np.empty(0, dtype=np.int64)
    _, first = np.unique(f[rows], axis=0, return_index=True)
    return sorted(rows[first].tolist())


def front_of(solutions: Sequence[Solution]) -> list[Solution]:
    """Return the solutions nobody dominates, smallest first; one of each set of equals.

    Of solutions with equal objectives the one proposed first is kept.
    """
    if not solutions:
        return []
    solutions = sorted(solutions, key=lambda s: s.id)
    front = [solutions[row] for row in front_rows(minimised(solutions))]
    return sorted(front, key=lambda s: (s.size_bytes, -s.metric))


def pick(
    front: Sequence[Solution],
    how: Pick,
    *,
    max_drop: float | None = None,
    max_bytes: int | None = None,
    variables: Sequence[Variable] = (),
) -> Solution:
    """Choose one solution of a front.

    Args:
        front: from :func:`front_of`.
        how: ``smallest`` in bytes, ``best`` in metric (ties: smaller), or the ``knee``.
        max_drop: only solutions at most this far below the float network, luck allowed for:
            :attr:`Solution.cautious_drop`.
        max_bytes: only solutions of at most so many bytes.
        variables: of the search space; where a bound held the nearest solution back, an error says
            so.

    Raises:
        NothingMeetsError: no solution is within the limits; names the nearest.
        InputError: ``how`` is no pick, or a limit no number.
    """
    for name, limit in (("max_drop", max_drop), ("max_bytes", max_bytes)):
        if limit is not None and not math.isfinite(limit):
            raise InputError(f"{name} is {limit}, needed a finite number; leave it out for none")
    if how not in get_args(Pick):
        raise InputError(f"no pick {how!r}; {nearest(how, get_args(Pick))}")
    if not front:
        raise NothingMeetsError(
            "the study has no wanted solution yet, so there is nothing to pick; let it run longer, "
            "or allow a larger evaluation.max_drop"
        )
    small = [s for s in front if max_bytes is None or s.size_bytes <= max_bytes]
    if not small:
        least = min(front, key=lambda s: s.size_bytes)
        raise NothingMeetsError(
            f"no solution within {max_bytes:,} bytes; the smallest one, id {least.id}, takes "
            f"{least.size_bytes:,} at a drop of {least.drop:.4f}{least.facts.unit}"
            + _bound(least, variables)
        )
    eligible = [s for s in small if s.is_within(max_drop)]
    if not eligible:
        closest = min(small, key=lambda s: s.cautious_drop)
        limits = f"a drop of {max_drop}{closest.facts.unit}"
        if max_bytes is not None:
            limits += f" and {max_bytes:,} bytes"
        raise NothingMeetsError(
            f"no solution within {limits}; the best one, id {closest.id}, drops "
            f"{closest.drop:.4f} at {closest.size_bytes:,} bytes"
            + _luck(closest)
            + _bound(closest, variables)
        )
    if how == "knee":
        return eligible[knee(minimised(eligible))]
    if how == "best":
        return min(eligible, key=lambda s: (-s.metric, s.size_bytes))
    return min(eligible, key=lambda s: (s.size_bytes, -s.metric))


def _luck(solution: Solution) -> str:
    if not solution.noise:
        return ""
    return (
        f", and may well drop {solution.cautious_drop:.4f} on other images; a larger search split "
        "tells better, as does evaluation.metric = 'neg_divergence'"
    )


def at_bound(solution: Solution, variables: Sequence[Variable]) -> str | None:
    """Say which bounds of the search space a solution lies at; None when it lies inside.

    Args:
        solution: its candidate names the variables.
        variables: of the search space.
    """
    values = solution.recipe.candidate.as_dict()
    found = []
    for variable in variables:
        value = values.get(variable.name)
        sides = [
            side
            for side, bound in (("lowest", variable.low), ("highest", variable.highest))
            if value == bound
        ]
        if sides and variable.low < variable.high:
            found.append(f"{variable.name} = {value}, the {sides[0]} allowed")
    return " and ".join(found) or None


def cut_ends(front: Sequence[Solution], variables: Sequence[Variable]) -> list[str]:
    """Say which ends of a front lie at a bound of the search space, so that it may go on there.

    Args:
        front: smallest first.
        variables: of the search space, those whose bounds somebody has chosen.
    """
    if not front:
        return []
    smallest, best = front[0], max(front, key=lambda s: s.metric)
    ends = (
        (smallest, f"its smallest solution, {smallest.size_bytes:,} bytes,", "smaller"),
        (best, f"its best solution, at a drop of {best.drop:.4f}{best.facts.unit},", "better"),
    )
    found = [(which, at_bound(solution, variables), more) for solution, which, more in ends]
    return [
        f"the front ends at a bound of the search: {which} has {bound}; a wider range may find "
        f"{more} ones"
        for which, bound, more in found
        if bound is not None
    ]


def _bound(solution: Solution, variables: Sequence[Variable]) -> str:
    bound = at_bound(solution, variables)
    return "" if bound is None else f"; it has {bound}, so a wider search may find another"

"""Solutions: complete evaluations seen beside their study's baseline, and the front of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from moeash.core.objectives import as_minimised
from moeash.core.pareto import knee, non_dominated
from moeash.errors import InputError
from moeash.names import nearest
from moeash.study.spec.output import Pick
from moeash.study.storage.records import EvaluationRecord, StudyFacts


@dataclass(frozen=True)
class Solution:
    """A complete evaluation of a study."""

    facts: StudyFacts
    record: EvaluationRecord

    @property
    def id(self) -> int:
        """Its number in the study."""
        return self.record.number

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
    def size_bytes(self) -> int:
        """Bytes of the file."""
        assert self.record.outcome.sizes is not None
        return self.record.outcome.sizes.size_bytes

    @property
    def entries(self) -> int:
        """Codebook entries."""
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
            "recipe": record.recipe.as_dict(),
            "stage": record.stage,
            "metric": self.metric,
            "metric_name": self.facts.metric_name,
            "drop": self.drop,
            "size_bytes": self.size_bytes,
            "ratio": self.ratio,
            "entries": self.entries,
            "bits_per_weight": self.bits_per_weight,
            "generation": record.generation,
            "parent": record.parent,
            "fingerprint": record.outcome.fingerprint,
        }


def floor_of(baseline: float, max_drop: float | None) -> float:
    """Return the lowest metric within ``max_drop`` of the baseline; -inf for None.

    A drop of exactly ``max_drop`` is within, whatever the last bit of a subtraction says.
    """
    return float("-inf") if max_drop is None else baseline - max_drop - 1e-12


def minimised(solutions: Sequence[Solution]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return ``F`` of solutions of one study, ``(n, 1 + m)``."""
    metric = np.array([s.metric for s in solutions])
    sizes = [
        s.record.outcome.sizes.vector(s.facts.objectives)  # type: ignore[union-attr, arg-type]
        for s in solutions
    ]
    return as_minimised(metric, np.array(sizes).reshape(len(solutions), -1))


def front_of(solutions: Sequence[Solution]) -> list[Solution]:
    """Return the solutions nobody dominates, smallest first; one of each set of equals.

    Of solutions with equal objectives the one proposed first is kept.
    """
    if not solutions:
        return []
    solutions = sorted(solutions, key=lambda s: s.id)
    f = minimised(solutions)
    keep = non_dominated(f)
    seen: set[tuple[float, ...]] = set()
    front = []
    for solution, row, on_front in zip(solutions, f, keep, strict=True):
        if on_front and tuple(row) not in seen:
            seen.add(tuple(row))
            front.append(solution)
    return sorted(front, key=lambda s: (s.size_bytes, -s.metric))


def pick(
    front: Sequence[Solution],
    how: Pick,
    *,
    max_drop: float | None = None,
    max_bytes: int | None = None,
) -> Solution:
    """Choose one solution of a front.

    Args:
        front: from :func:`front_of`.
        how: ``smallest`` in bytes, ``best`` in metric (ties: smaller), or the ``knee``.
        max_drop: only solutions at most this far below the float network.
        max_bytes: only solutions of at most so many bytes.

    Raises:
        InputError: no solution is within the limits; names the nearest. Or ``how`` is no pick.
    """
    if how not in get_args(Pick):
        raise InputError(f"no pick {how!r}; {nearest(how, get_args(Pick))}")
    if not front:
        raise InputError("the study has no complete evaluation yet, so there is nothing to pick")
    small = [s for s in front if max_bytes is None or s.size_bytes <= max_bytes]
    if not small:
        least = min(front, key=lambda s: s.size_bytes)
        raise InputError(
            f"no solution within {max_bytes:,} bytes; the smallest one, id {least.id}, takes "
            f"{least.size_bytes:,} at a drop of {least.drop:.4f}"
        )
    eligible = [s for s in small if s.metric >= floor_of(s.facts.baseline, max_drop)]
    if not eligible:
        front = small
        closest = min(front, key=lambda s: s.drop)
        raise InputError(
            f"no solution within a drop of {max_drop}; the best one, id {closest.id}, "
            f"drops {closest.drop:.4f} at {closest.size_bytes:,} bytes"
        )
    if how == "knee":
        return eligible[knee(minimised(eligible))]
    if how == "best":
        return min(eligible, key=lambda s: (-s.metric, s.size_bytes))
    return min(eligible, key=lambda s: (s.size_bytes, -s.metric))

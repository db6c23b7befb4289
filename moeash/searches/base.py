"""The contract every search algorithm fulfils."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from moeash.core.solutions.candidate import Candidate


@dataclass(frozen=True)
class Fitness:
    """What a search is told about one candidate: objectives and constraint violation.

    Attributes:
        minimised: the objective vector ``F``. For an evaluation that was stopped it holds the best
            the candidate could still have reached, which is dominated already. ``None`` for a
            failed candidate: it has a violation instead of a made-up measurement.
        violation: how far the candidate breaks a constraint; 0 when feasible.
    """

    minimised: tuple[float, ...] | None
    violation: float = 0.0


class Search(Protocol):
    """Proposes generations of candidates; deterministic for a seed and what it is told."""

    def ask(self) -> list[Candidate]:
        """Return the next generation; empty when the space is exhausted."""
        ...

    def tell(self, told: Sequence[Fitness]) -> None:
        """Report the last generation, in the order it was proposed."""
        ...

"""The contract every search algorithm fulfils."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from moeash.core.solutions.candidate import Candidate
from moeash.searches.space import Space


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


class Widens(Protocol):
    """Has a space that may turn out too narrow."""

    def widen(self, space: Space) -> None:
        """Go on in a space that reaches further; between generations."""
        ...


class Search(Widens, Protocol):
    """Proposes generations of candidates; deterministic for a seed and what it is told."""

    def ask(self) -> list[Candidate]:
        """Return the next generation; empty when the space is exhausted."""
        ...

    def tell(self, told: Sequence[Fitness]) -> None:
        """Report the last generation, in the order it was proposed."""
        ...

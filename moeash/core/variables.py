"""Named variables a method offers to the search."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from moeash.core.candidate import Candidate
from moeash.errors import InputError


@dataclass(frozen=True)
class Integer:
    """An integer in ``[low, high]``, both included."""

    name: str
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise InputError(f"{self.name} has bounds [{self.low}, {self.high}]; low exceeds high")


@dataclass(frozen=True)
class Real:
    """A real number in ``[low, high]``; ``log`` searches its logarithm, so ``low`` must be > 0."""

    name: str
    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise InputError(f"{self.name} has bounds [{self.low}, {self.high}]; low exceeds high")
        if self.log and not self.low > 0:
            raise InputError(f"{self.name} is searched on a log scale, so low must exceed 0")


Variable = Integer | Real


def middle(variables: Sequence[Variable]) -> Candidate:
    """Return the candidate in the middle of every variable's bounds."""
    values: dict[str, int | float | str] = {}
    for variable in variables:
        if isinstance(variable, Integer):
            values[variable.name] = (variable.low + variable.high) // 2
        elif variable.log:
            values[variable.name] = sqrt(variable.low * variable.high)
        else:
            values[variable.name] = (variable.low + variable.high) / 2
    return Candidate.of(values)

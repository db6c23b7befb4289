"""Named variables a method offers to the search."""

from dataclasses import dataclass

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

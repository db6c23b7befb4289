"""Named variables a method offers to the search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from numbers import Integral
from numbers import Real as AnyReal
from typing import Any

from moeash.core.solutions.candidate import Candidate
from moeash.errors import InputError


@dataclass(frozen=True)
class Integer:
    """An integer in ``[low, high]``, both included.

    Attributes:
        name: of the variable.
        low: lowest value, above 0 with ``log``.
        high: highest value a search begins with.
        log: search its logarithm.
        widest: how far a search may go beyond ``high`` where that cuts its front off; None: not.
    """

    name: str
    low: int
    high: int
    log: bool = False
    widest: int | None = None

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise InputError(f"{self.name} has bounds [{self.low}, {self.high}]; low exceeds high")
        if self.widest is not None and self.widest < self.high:
            raise InputError(f"{self.name} goes to {self.high}, and at most to {self.widest}")
        if self.log and not self.low > 0:
            raise InputError(f"{self.name} is searched on a log scale, so low must exceed 0")

    @property
    def highest(self) -> int:
        """The highest value that any search may try."""
        return self.high if self.widest is None else self.widest

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"kind": "integer"} | vars(self)


@dataclass(frozen=True)
class Real:
    """A real number in ``[low, high]``; ``log`` searches its logarithm, so ``low`` must be > 0."""

    name: str
    low: float
    high: float
    log: bool = False

    @property
    def highest(self) -> float:
        """The highest value that any search may try."""
        return self.high

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise InputError(f"{self.name} has bounds [{self.low}, {self.high}]; low exceeds high")
        if self.log and not self.low > 0:
            raise InputError(f"{self.name} is searched on a log scale, so low must exceed 0")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"kind": "real"} | vars(self)


Variable = Integer | Real


def variable_of(plain: Mapping[str, Any]) -> Variable:
    """Return what :meth:`Integer.as_dict` or :meth:`Real.as_dict` returned.

    Example:
        >>> variable_of(Integer("k", 2, 256).as_dict())
        Integer(name='k', low=2, high=256, log=False, widest=None)
    """
    values = {name: value for name, value in plain.items() if name != "kind"}
    return Integer(**values) if plain["kind"] == "integer" else Real(**values)


def candidate_of(variables: Sequence[Variable], values: Mapping[str, Any]) -> Candidate:
    """Return the candidate that a person's values are; bounds are the search's, not a person's.

    Raises:
        InputError: a variable is missing or unknown, or its value is not of its kind.

    Example:
        >>> candidate_of([Integer("k", 2, 256)], {"k": 300.0})
        Traceback (most recent call last):
        moeash.errors.InputError: candidate has k = 300.0, needed a whole number
    """
    names = {variable.name for variable in variables}
    if not isinstance(values, Mapping):
        raise InputError(f"candidate is {values!r}, needed a value of each of {sorted(names)}")
    if names != set(values):
        raise InputError(
            f"candidate has {sorted(map(str, values))}, the method needs {sorted(names)}"
        )
    taken: dict[str, int | float | str] = {}
    for variable in variables:
        value = values[variable.name]
        number = None if isinstance(value, bool) else value
        if isinstance(variable, Integer) and isinstance(number, Integral):
            taken[variable.name] = int(number)
        elif isinstance(variable, Real) and isinstance(number, AnyReal):
            taken[variable.name] = float(number)
        else:
            words = "a whole number" if isinstance(variable, Integer) else "a number"
            raise InputError(f"candidate has {variable.name} = {value!r}, needed {words}")
        if isinstance(variable, Real) and variable.log and value < 0:
            raise InputError(f"candidate has {variable.name} = {value!r}, needed 0 or more")
    return Candidate.of(taken)


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

"""The search space: named variables with bounds, and their real-valued coding for the optimiser."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from moeash.core.solutions.candidate import Candidate, Value
from moeash.core.solutions.variables import Integer, Real, Variable


@dataclass(frozen=True)
class Space:
    """An ordered set of variables.

    Values are coded as themselves or, with ``log``, by their natural logarithm.
    ``decode(encode(c)) == c`` for integers and to within one rounding for reals.
    """

    variables: tuple[Variable, ...]

    @property
    def lower(self) -> NDArray[np.float64]:
        """``(n,)`` coded lower bounds."""
        return np.array([_code(v, v.low) for v in self.variables], dtype=np.float64)

    @property
    def upper(self) -> NDArray[np.float64]:
        """``(n,)`` coded upper bounds."""
        return np.array([_code(v, v.high) for v in self.variables], dtype=np.float64)

    @property
    def draw_bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Bounds, each ``(n,)`` coded, between which uniform draws give integers equal shares."""
        half = [0.5 if isinstance(v, Integer) else 0.0 for v in self.variables]
        pairs = list(zip(self.variables, half, strict=True))
        low = [_code(variable, variable.low - more) for variable, more in pairs]
        high = [_code(variable, variable.high + more) for variable, more in pairs]
        return np.array(low, dtype=np.float64), np.array(high, dtype=np.float64)

    def rounded(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return coded rows ``(any, n)`` with integers rounded, within the bounds."""
        x = np.clip(x, self.lower, self.upper)
        for column, variable in enumerate(self.variables):
            if isinstance(variable, Integer):
                values = np.exp(x[:, column]) if variable.log else x[:, column]
                whole = np.clip(np.rint(values), variable.low, variable.high)
                x[:, column] = np.log(whole) if variable.log else whole
        return x

    @property
    def wider(self) -> "Space | None":
        """The space with twice the bounds that may go on; None: none may."""
        variables = tuple(_wider(variable) for variable in self.variables)
        return None if variables == self.variables else Space(variables)

    def beyond(self, narrower: "Space") -> "Space":
        """Return the part of this space that lies beyond the bounds of a narrower one."""
        pairs = zip(self.variables, narrower.variables, strict=True)
        return Space(tuple(_beyond(now, before) for now, before in pairs))

    @property
    def size(self) -> int | None:
        """Number of points, or None when a real variable makes it a continuum."""
        total = 1
        for v in self.variables:
            if isinstance(v, Real):
                if v.low < v.high:
                    return None
            else:
                total *= v.high - v.low + 1
        return total

    def decode(self, x: Sequence[float] | NDArray[np.float64]) -> Candidate:
        """Return the candidate of a coded row, clipped to the bounds."""
        values: dict[str, Value] = {}
        for variable, coded in zip(self.variables, x, strict=True):
            # Clipped in code first: the exponential of a stray value overflows.
            low, high = _code(variable, variable.low), _code(variable, variable.high)
            value = min(max(float(coded), low), high)
            value = exp(value) if variable.log else value
            if isinstance(variable, Integer):
                value = round(value)
            values[variable.name] = min(max(value, variable.low), variable.high)
        return Candidate.of(values)

    def encode(self, candidate: Candidate | Mapping[str, Value]) -> NDArray[np.float64]:
        """Return the coded row of a candidate."""
        values = [_code(v, float(candidate[v.name])) for v in self.variables]
        return np.array(values, dtype=np.float64)


def _wider(variable: Variable) -> Variable:
    if isinstance(variable, Real):
        return variable
    return replace(variable, high=min(2 * variable.high, variable.highest))


def _beyond(variable: Variable, narrower: Variable) -> Variable:
    if isinstance(variable, Integer) and isinstance(narrower, Integer):
        return replace(variable, low=narrower.high + 1) if variable != narrower else variable
    return variable


def _code(variable: Variable, value: float) -> float:
    return log(value) if variable.log else float(value)

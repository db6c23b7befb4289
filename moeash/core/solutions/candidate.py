"""A candidate: one point of the search space, small, frozen, hashable and picklable."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from moeash.errors import InputError

Value = int | float | str


@dataclass(frozen=True)
class Candidate:
    """Named values, e.g. ``{"k": 37}``, held in a canonical order.

    Attributes:
        items: ``(name, value)`` pairs sorted by name.
    """

    items: tuple[tuple[str, Value], ...]

    def __post_init__(self) -> None:
        for name, value in self.items:
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"candidate has {name} = {value}, needed a finite number")

    @classmethod
    def of(cls, values: Mapping[str, Value]) -> "Candidate":
        """Build a candidate from a mapping."""
        return cls(tuple(sorted(values.items())))

    def __getitem__(self, name: str) -> Value:
        return dict(self.items)[name]

    def as_dict(self) -> dict[str, Value]:
        """Return the values by name."""
        return dict(self.items)

    def __str__(self) -> str:
        return " ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in self.items
        )

"""What options of staged fixing may be."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from moeash.errors import InputError
from moeash.options.kinds import Bounds

Fraction = Annotated[float, Bounds(0, 1, above=True)]
"""Share of the weights that are fixed."""

Share = Annotated[float, Bounds(0, 1)]
"""Weight of a part of the loss."""


def check_range(name: str, low_and_high: tuple[float, float], demand: str) -> None:
    """Refuse a range that is none."""
    low, high = low_and_high
    if low > high:
        raise InputError(f"method.{name} is {list(low_and_high)}, needed [low, high] with {demand}")


def check_fractions(fractions: Sequence[float]) -> None:
    """Refuse stages that do not fix more and more, up to all weights."""
    ascending = all(a < b for a, b in pairwise(fractions))
    if not fractions or not ascending or fractions[-1] != 1:
        raise InputError(
            f"method.fractions is {list(fractions)}, needed ascending shares that end with 1, "
            "such as [0.5, 0.9, 1]"
        )

"""What the options of methods that fix weights in stages have in common."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, ClassVar

from moeash.errors import InputError
from moeash.options.kinds import Bounds
from moeash.options.tables import Options

Fraction = Annotated[float, Bounds(0, 1, above=True)]
"""Share of the weights that are fixed."""


class StagedOptions(Options):
    """Options that say when weights are fixed, and how the others are trained in between.

    The classes of the methods declare these fields, each with its published defaults.

    Attributes:
        zero_below: weights of smaller magnitude are at no distance from 0.
        fractions: share of the weights that is fixed after each stage, up to 1.
        epochs: passes over the training images of every stage but the first.
        learning_rate: of the method's optimiser.
        start: ``.moeash`` file of the solution to begin with.
        start_fingerprint: of that solution; what identifies a study is not where the file is.
    """

    zero_below: float
    fractions: tuple[float, ...]
    epochs: int
    learning_rate: float
    start: str | None
    start_fingerprint: str | None

    table: ClassVar[str] = "method"
    calibration_images: ClassVar[int] = 0
    refines: ClassVar[bool] = False
    trains: ClassVar[bool] = True
    mergeable: ClassVar[bool] = True
    needs_coder: ClassVar[None] = None


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

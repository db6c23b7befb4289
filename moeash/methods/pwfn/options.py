"""The options of Probabilistic Weight Fixing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from moeash.core.solutions.variables import Real, Variable
from moeash.methods.fixing.options import (
    Fraction,
    StagedOptions,
    check_fractions,
    check_range,
)
from moeash.options.tables import Count, Positive


@dataclass(frozen=True)
class PwfnOptions(StagedOptions):
    """Probabilistic Weight Fixing: how far a weight may move is learnt from noise on it.

    Attributes:
        delta: how many of its standard deviations a weight is moved at most, while weights are in
            reach; lowest and highest, searched on a log scale. A larger one means fewer entries.
        zero_below: weights of smaller magnitude are at no distance from 0. Rounded down to a power
            of two, of which entries are multiples.
        fractions: share of the weights that is fixed after each stage, up to 1.
        epochs: passes over the training images before each stage fixes weights; the first stage
            sees a twentieth of one.
        learning_rate: of SGD with momentum 0.9 and weight decay 1e-4.
        start: .moeash file of a solution to begin with, of any study of the network; default: the
            float network, which remains what outputs are compared with.
        start_fingerprint: of that solution; never in a file.
    """

    delta: tuple[Positive, Positive] = (0.5, 4.0)
    zero_below: Positive = 2.0**-7
    fractions: tuple[Fraction, ...] = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99, 1.0)
    epochs: Count = 3
    learning_rate: Positive = 1e-3
    start: str | None = None
    start_fingerprint: str | None = field(default=None, metadata={"in_files": False})

    name: ClassVar[Literal["pwfn"]] = "pwfn"

    def check(self) -> None:
        """Refuse a range that is none, and stages that do not end with all weights."""
        check_range("delta", self.delta, "0 < low <= high")
        check_fractions(self.fractions)

    def space(self) -> Sequence[Variable]:
        """Return the one variable, delta."""
        return (Real("delta", *self.delta, log=True),)

    @property
    def least_exponent(self) -> int:
        """The exponent of the smallest power of two; ``-b`` of the paper."""
        return math.floor(math.log2(self.zero_below))

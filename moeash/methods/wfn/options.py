"""The options of Weight Fixing Networks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from moeash.core.solutions.variables import Real, Variable
from moeash.methods.fixing.options import (
    Fraction,
    StagedOptions,
    check_fractions,
    check_range,
)
from moeash.options.kinds import Bounds
from moeash.options.tables import Count, NotNegative, Positive

Delta = Annotated[float, Bounds(0.0001, 1)]
"""Mean relative distance; below the lowest hardly two weights share an entry."""


@dataclass(frozen=True)
class WfnOptions(StagedOptions):
    """Weight Fixing Networks: sums of few powers of two, fixed in stages while training.

    Attributes:
        delta: bound of the mean relative distance that weights of an entry are moved, lowest and
            highest; searched on a log scale. A larger one means fewer entries.
        regularisation: value of the pull towards likely entries, relative to the loss; lowest and
            highest. Equal bounds fix it, 0 is no pull.
        zero_below: weights of smaller magnitude are at no distance from 0.
        fractions: share of the weights that is fixed after each stage, up to 1.
        epochs: passes over the training images before each stage but the first fixes weights.
        learning_rate: of Adam.
        start: .moeash file of a solution to begin with, of any study of the network; default: the
            float network, which remains what outputs are compared with.
        start_fingerprint: of that solution; never in a file.
    """

    delta: tuple[Delta, Delta] = (0.01, 0.05)
    regularisation: tuple[NotNegative, NotNegative] = (0.4, 0.4)
    zero_below: Positive = 2.0**-7
    fractions: tuple[Fraction, ...] = (0.3, 0.6, 0.8, 0.9, 0.95, 0.975, 0.99, 0.9975, 0.999, 1.0)
    epochs: Count = 3
    learning_rate: Positive = 2e-5
    start: str | None = None
    start_fingerprint: str | None = field(default=None, metadata={"in_files": False})

    name: ClassVar[Literal["wfn"]] = "wfn"

    def check(self) -> None:
        """Refuse ranges that are none, and stages that do not end with all weights."""
        check_range("delta", self.delta, "0.0001 <= low <= high")
        check_range("regularisation", self.regularisation, "0 <= low <= high")
        check_fractions(self.fractions)

    def space(self) -> Sequence[Variable]:
        """Return delta and, unless it is fixed, the regularisation."""
        delta = Real("delta", *self.delta, log=True)
        if self.regularisation[0] == self.regularisation[1]:
            return (delta,)
        return delta, Real("regularisation", *self.regularisation)

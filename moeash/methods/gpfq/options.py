"""The options of GPFQ."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from moeash.core.solutions.variables import Integer, Variable
from moeash.errors import InputError
from moeash.methods.bounds import Levels
from moeash.options.tables import Count, Options, Positive

Variant = Literal["nearest", "l0", "l1", "stochastic"]
VARIANTS: tuple[str, ...] = get_args(Variant)


@dataclass(frozen=True)
class GpfqOptions(Options):
    """Greedy path-following quantisation, one symmetric alphabet a layer.

    Attributes:
        levels: lowest and highest number of positive symbols; b bits of the paper are 2**(b-1).
        scale: C of the paper: the alphabet reaches to C times the mean over neurons of their
            largest magnitude.
        variant: ``nearest``; ``l0`` and ``l1``, which favour zeros; or ``stochastic`` rounding.
        bias_correction: add the mean output error of a layer to its bias, where it has one.
        images: calibration images used, at most.
    """

    levels: tuple[Levels, Levels] = (1, 16)
    scale: Positive = 1.16
    variant: Variant = "nearest"
    bias_correction: bool = False
    images: Count = 1000

    table: ClassVar[str] = "method"
    name: ClassVar[Literal["gpfq"]] = "gpfq"
    refines: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    mergeable: ClassVar[bool] = False
    needs_coder: ClassVar[None] = None

    def check(self) -> None:
        """Refuse a range that is none."""
        if self.levels[0] > self.levels[1]:
            raise InputError(
                f"method.levels is {list(self.levels)}, needed [low, high] with 1 <= low <= high"
            )

    def space(self) -> Sequence[Variable]:
        """Return the one variable, the number of positive symbols."""
        return (Integer("levels", *self.levels),)

    @property
    def calibration_images(self) -> int:
        """Images looked at, at most."""
        return self.images

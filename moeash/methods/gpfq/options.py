"""The options of GPFQ."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from moeash.core.variables import Integer, Variable
from moeash.errors import InputError

Variant = Literal["nearest", "l0", "l1", "stochastic"]
VARIANTS: tuple[str, ...] = get_args(Variant)


@dataclass(frozen=True)
class GpfqOptions:
    """Greedy path-following quantisation, one symmetric alphabet a layer.

    Attributes:
        levels: lowest and highest number of positive symbols; b bits of the paper are 2**(b-1).
        scale: C of the paper: the alphabet reaches to C times the mean over neurons of their
            largest magnitude.
        variant: ``nearest``; ``l0`` and ``l1``, which favour zeros; or ``stochastic`` rounding.
        bias_correction: add the mean output error of a layer to its bias, where it has one.
        images: calibration images used, at most.
    """

    levels: tuple[int, int] = (1, 16)
    scale: float = 1.16
    variant: Variant = "nearest"
    bias_correction: bool = False
    images: int = 1000

    name: ClassVar[Literal["gpfq"]] = "gpfq"
    refines: ClassVar[bool] = False
    mergeable: ClassVar[bool] = False
    needs_coder: ClassVar[None] = None

    def __post_init__(self) -> None:
        if not 1 <= self.levels[0] <= self.levels[1]:
            raise InputError(
                f"method.levels must be [low, high] with 1 <= low <= high, got {self.levels}"
            )
        if not self.scale > 0:
            raise InputError(f"method.scale must be above 0, got {self.scale}")
        if self.variant not in VARIANTS:
            raise InputError(
                f"method.variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}"
            )
        if self.images < 1:
            raise InputError(f"method.images must be at least 1, got {self.images}")

    def space(self) -> Sequence[Variable]:
        """Return the one variable, the number of positive symbols."""
        return (Integer("levels", *self.levels),)

    @property
    def calibration_images(self) -> int:
        """Images looked at, at most."""
        return self.images

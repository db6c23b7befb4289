"""Options of GPFQ."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from moeash.codec.pools import Coder
from moeash.errors import InputError
from moeash.options.tables import Count, Options, Positive

Variant = Literal["nearest", "l0", "l1", "stochastic"]


@dataclass(frozen=True)
class GpfqOptions(Options):
    """``[method]`` of name ``gpfq``.

    Attributes:
        levels: lowest and highest number of positive symbols; b bits of the paper are 2**(b-1).
        scale: C of the paper.
        variant: quantiser of the paper: nearest, l0 or l1 with soft or hard thresholds, stochastic.
        bias_correction: add the mean output error of a layer to its bias, where it has one.
        images: calibration images used, at most.
    """

    name: ClassVar[str] = "gpfq"
    table: ClassVar[str] = "method"
    needs_coder: ClassVar[Coder | None] = None
    mergeable: ClassVar[bool] = False

    levels: tuple[Count, Count] = (1, 16)
    scale: Positive = 1.16
    variant: Variant = "nearest"
    bias_correction: bool = False
    images: Count = 1000

    def check(self) -> None:
        """Refuse a range that is none."""
        if self.levels[0] > self.levels[1]:
            raise InputError(
                f"method.levels is {list(self.levels)}, needed [low, high] with 1 <= low <= high"
            )

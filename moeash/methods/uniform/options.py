"""The options of the base method."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from moeash.core.statistics import Centre
from moeash.core.variables import Integer, Variable
from moeash.errors import InputError


@dataclass(frozen=True)
class UniformOptions:
    """k uniform bins, every weight to the bin it falls in.

    Attributes:
        k: lowest and highest number of bins the search may try.
        centre: the value of an entry: the mean of its members, or the middle of its bin.
        zero_aligned: shift the bins so that one is centred on zero, with the entry exactly 0.
        clip: range the bins span; weights outside join the end bins. Default: all weights.
    """

    k: tuple[int, int] = (2, 256)
    centre: Centre = "mean"
    zero_aligned: bool = False
    clip: tuple[float, float] | None = None

    name: ClassVar[Literal["uniform"]] = "uniform"
    calibration_images: ClassVar[int] = 0
    refines: ClassVar[bool] = False
    mergeable: ClassVar[bool] = True
    needs_coder: ClassVar[None] = None

    def __post_init__(self) -> None:
        if not 1 <= self.k[0] <= self.k[1]:
            raise InputError(f"method.k must be [low, high] with 1 <= low <= high, got {self.k}")
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise InputError(f"method.clip must be [low, high] with low < high, got {self.clip}")

    def space(self) -> Sequence[Variable]:
        """Return the one variable, k."""
        return (Integer("k", *self.k),)

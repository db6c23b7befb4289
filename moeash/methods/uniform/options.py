"""The options of the base method."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from moeash.core.solutions.variables import Integer, Variable
from moeash.core.statistics import Centre
from moeash.errors import InputError
from moeash.methods.bounds import MOST_BINS, Bins
from moeash.options.tables import Options

LEAST, FINEST = 2, 256
"""Bins of the coarsest grid a search tries, and of the finest it begins with, at least: indices of
one byte."""


@dataclass(frozen=True)
class UniformOptions(Options):
    """k uniform bins, every weight to the bin it falls in.

    Attributes:
        k: lowest and highest number of bins the search may try. Default: from 2 to 256, or as many
            as make steps of an eighth of a typical weight's standard deviation; where that cuts
            the front off, the search goes on, up to four times as far.
        centre: the value of an entry: the mean of its members, or the middle of its bin.
        zero_aligned: shift the bins so that one is centred on zero, with the entry exactly 0.
        clip: range the bins span; weights outside join the end bins. Default: all weights.
    """

    k: tuple[Bins, Bins] | None = None
    centre: Centre = "mean"
    zero_aligned: bool = False
    clip: tuple[float, float] | None = None

    table: ClassVar[str] = "method"
    name: ClassVar[Literal["uniform"]] = "uniform"
    calibration_images: ClassVar[int] = 0
    refines: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    mergeable: ClassVar[bool] = True
    needs_coder: ClassVar[None] = None

    def check(self) -> None:
        """Refuse ranges that are none."""
        if self.k is not None and self.k[0] > self.k[1]:
            raise InputError(
                f"method.k is {list(self.k)}, needed [low, high] with 1 <= low <= high"
            )
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise InputError(
                f"method.clip is {list(self.clip)}, needed [low, high] with low < high"
            )

    def space(self) -> Sequence[Variable]:
        """Return the one variable, k; where none is given, as far as any network may ask for."""
        if self.k is None:
            return (Integer("k", LEAST, FINEST, widest=MOST_BINS),)
        return (Integer("k", *self.k),)

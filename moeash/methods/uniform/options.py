"""Options of uniform bins."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from moeash.codec.pools import Coder
from moeash.errors import InputError
from moeash.options.tables import Count, Options

Centre = Literal["mean", "midpoint"]


@dataclass(frozen=True)
class UniformOptions(Options):
    """``[method]`` of name ``uniform``.

    Attributes:
        k: lowest and highest number of bins the search may try.
        centre: value of an entry: the mean of its weights, or the middle of its bin.
        zero_aligned: shift the bins so that one is centred on zero, with the entry exactly 0.
        clip: range the bins span; weights outside join the end bins. Default: all weights.
    """

    name: ClassVar[str] = "uniform"
    table: ClassVar[str] = "method"
    needs_coder: ClassVar[Coder | None] = None
    mergeable: ClassVar[bool] = True

    k: tuple[Count, Count] = (2, 256)
    centre: Centre = "mean"
    zero_aligned: bool = False
    clip: tuple[float, float] | None = None

    def check(self) -> None:
        """Refuse ranges that are none."""
        if self.k[0] > self.k[1]:
            raise InputError(
                f"method.k is {list(self.k)}, needed [low, high] with 1 <= low <= high"
            )
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise InputError(
                f"method.clip is {list(self.clip)}, needed [low, high] with low < high"
            )

"""Options of second-order error feedback."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from moeash.codec.pools import Coder
from moeash.core.trellis import States
from moeash.errors import InputError
from moeash.options.tables import Count, NotNegative, Options, Positive


@dataclass(frozen=True)
class FeedbackOptions(Options):
    """``[method]`` of name ``feedback``.

    Attributes:
        k: lowest and highest number of bins over the range of the balanced weights.
        rate: what a bit is worth, lowest and highest, searched on a log scale; equal bounds fix it.
        sketches: random sketches of the output per calibration image.
        damping: added to the diagonal of the curvature, relative to its mean. auto: 0.1, and at
            least 30 over the number of images, as the curvature of few is mostly noise.
        balance: exponent of the balancing of rows in front of BatchNorms and between layers with
            only ReLUs and pooling between them; 0 switches it off.
        trellis: states of the trellis that the weights of a column follow, 0 for none. k then
            counts entries half as far apart, so ask for 1.6 times as many. Needs the adaptive
            coder. With 8, files of equal outputs were 4 % smaller for ResNet-20, 6 % for
            LeNet-300-100, and larger for LeNet-5 at half a bit a weight.
        images: calibration images used, at most.
    """

    name: ClassVar[str] = "feedback"
    table: ClassVar[str] = "method"

    k: tuple[Count, Count] = (4, 128)
    rate: tuple[Positive, Positive] = (0.02, 0.1)
    sketches: Count = 4
    damping: Positive | Literal["auto"] = "auto"
    balance: NotNegative = 0.25
    trellis: States = 0
    images: Count = 5000

    def check(self) -> None:
        """Refuse ranges that are none."""
        if self.k[0] > self.k[1]:
            raise InputError(
                f"method.k is {list(self.k)}, needed [low, high] with 1 <= low <= high"
            )
        if self.rate[0] > self.rate[1]:
            raise InputError(
                f"method.rate is {list(self.rate)}, needed [low, high] with 0 < low <= high"
            )

    @property
    def needs_coder(self) -> Coder | None:
        """Adaptive for trellises: other coders take 0.7 bits a weight more for their paths."""
        return "adaptive" if self.trellis else None

    @property
    def mergeable(self) -> bool:
        """Whether entries may be merged: merged ones follow no trellis."""
        return not self.trellis

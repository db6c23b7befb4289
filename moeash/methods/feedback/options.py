"""The options of second-order error feedback."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from moeash.core.bins import MAX_BINS
from moeash.core.solutions.variables import Integer, Real, Variable
from moeash.core.trellis import States
from moeash.errors import InputError
from moeash.methods.bounds import Bins
from moeash.options.kinds import Bounds
from moeash.options.tables import Count, NotNegative, Options, Positive

Damping = Positive | Literal["auto"]

MAX_SKETCHES = 256
"""The gradients of all sketches of a batch are in memory at a time."""


@dataclass(frozen=True)
class FeedbackOptions(Options):
    """Uniform bins of one global codebook, assigned with second-order error feedback.

    Attributes:
        k: lowest and highest number of bins over the range of the balanced weights. Default: from
            the coarsest grid that is of use to the finest that pays, as calibration images see it;
            without any, by how weights are spread.
        rate: what a bit is worth, lowest and highest; searched on a log scale. One value means the
            same trade on every network; equal bounds fix it.
        sketches: random sketches of the output per calibration image; more is less noise.
        damping: added to the diagonal of the curvature, relative to its mean. ``auto``: 0.1, and at
            least 30 over the number of images, as the curvature of few is mostly noise, and more in
            layers with more columns than a sixth of the positions they were seen at. Files of
            equal outputs were 2 % smaller for ResNet-20 with 0.1 than with 0.03, 6 % for
            LeNet-300-100 and 11 % for LeNet-5.
        balance: exponent of the balancing of rows in front of BatchNorms and between layers with
            only ReLUs and pooling between them; 0 switches it off. Layers are balanced less where
            the highest k could not hold their rows, and a note says so.
        trellis: states of the trellis that the weights of a column follow, 4, 8 or 16; 0 for none.
            k then counts entries half as far apart: ask for 1.6 times as many. Needs the adaptive
            coder, and entries cannot be merged, as merged ones follow no trellis. With 8, files of
            equal outputs were 4 % smaller for ResNet-20, 6 % for LeNet-300-100, 3 % for
            EfficientNet-Lite0, and larger for LeNet-5 at half a bit a weight and for a CNN of
            55,000 weights.
        images: calibration images used, at most.
    """

    k: tuple[Bins, Bins] | None = None
    rate: tuple[Positive, Positive] = (0.02, 0.1)
    sketches: Annotated[int, Bounds(1, MAX_SKETCHES)] = 4
    damping: Damping = "auto"
    balance: NotNegative = 0.25
    trellis: States = 0
    images: Count = 5000

    table: ClassVar[str] = "method"
    name: ClassVar[Literal["feedback"]] = "feedback"
    refines: ClassVar[bool] = True
    trains: ClassVar[bool] = False

    def check(self) -> None:
        """Refuse ranges that are none."""
        if self.k is not None and self.k[0] > self.k[1]:
            raise InputError(
                f"method.k is {list(self.k)}, needed [low, high] with 1 <= low <= high"
            )
        if self.rate[0] > self.rate[1]:
            raise InputError(
                f"method.rate is {list(self.rate)}, needed [low, high] with 0 < low <= high"
            )

    def space(self) -> Sequence[Variable]:
        """Return k and, unless it is fixed, the rate."""
        return self.space_of(self.k or (1, MAX_BINS))

    def space_of(self, bins: tuple[int, int]) -> Sequence[Variable]:
        """Return the space where k has these bounds: on a log scale where they were found."""
        k = Integer("k", *bins, log=self.k is None)
        if self.rate[0] == self.rate[1]:
            return (k,)
        return k, Real("rate", *self.rate, log=True)

    @property
    def calibration_images(self) -> int:
        """Images looked at, at most."""
        return self.images

    @property
    def mergeable(self) -> bool:
        """Whether entries may be merged: not on a trellis, which merged entries do not follow."""
        return not self.trellis

    @property
    def needs_coder(self) -> Literal["adaptive"] | None:
        """The adaptive coder on a trellis: tables would take some 0.7 bits a weight more."""
        return "adaptive" if self.trellis else None

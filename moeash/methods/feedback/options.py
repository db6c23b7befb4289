"""The options of second-order error feedback."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from moeash.core.trellis import N_STATES, States
from moeash.core.variables import Integer, Real, Variable
from moeash.errors import InputError

Damping = float | Literal["auto"]


@dataclass(frozen=True)
class FeedbackOptions:
    """Uniform bins of one global codebook, assigned with second-order error feedback.

    Attributes:
        k: lowest and highest number of bins over the range of the balanced weights.
        rate: what a bit is worth, lowest and highest; searched on a log scale. One value means the
            same trade on every network; equal bounds fix it.
        sketches: random sketches of the output per calibration image; more is less noise.
        damping: added to the diagonal of the curvature, relative to its mean. ``auto``: 0.1, and at
            least 30 over the number of images, as the curvature of few is mostly noise. Files of
            equal outputs were 2 % smaller for ResNet-20 with 0.1 than with 0.03, 6 % for
            LeNet-300-100 and 11 % for LeNet-5.
        balance: exponent of the balancing of rows in front of BatchNorms and between layers with
            only ReLUs and pooling between them; 0 switches it off.
        trellis: states of the trellis that the weights of a column follow, 4, 8 or 16; 0 for none.
            k then counts entries half as far apart: ask for 1.6 times as many. Needs the adaptive
            coder, and entries cannot be merged, as merged ones follow no trellis. With 8, files of
            equal outputs were 4 % smaller for ResNet-20, 6 % for LeNet-300-100, and larger for
            LeNet-5 at half a bit a weight and for a CNN of 55,000 weights.
        images: calibration images used, at most.
    """

    k: tuple[int, int] = (4, 128)
    rate: tuple[float, float] = (0.02, 0.1)
    sketches: int = 4
    damping: Damping = "auto"
    balance: float = 0.25
    trellis: States = 0
    images: int = 5000

    name: ClassVar[Literal["feedback"]] = "feedback"
    refines: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 1 <= self.k[0] <= self.k[1]:
            raise InputError(f"method.k must be [low, high] with 1 <= low <= high, got {self.k}")
        if not 0 < self.rate[0] <= self.rate[1]:
            raise InputError(
                f"method.rate must be [low, high] with 0 < low <= high, got {self.rate}"
            )
        if self.trellis not in N_STATES:
            raise InputError(f"method.trellis must be one of {N_STATES}, got {self.trellis}")
        if isinstance(self.damping, str):
            if self.damping != "auto":
                raise InputError(f"method.damping must be a number or 'auto', got {self.damping!r}")
        elif not self.damping > 0:
            raise InputError(f"method.damping must be above 0, got {self.damping}")
        if not self.balance >= 0:
            raise InputError(f"method.balance must be at least 0, got {self.balance}")
        if self.images < 1 or self.sketches < 1:
            raise InputError(
                f"method.images and method.sketches must be at least 1, got {self.images} and "
                f"{self.sketches}"
            )

    def space(self) -> Sequence[Variable]:
        """Return k and, unless it is fixed, the rate."""
        k = Integer("k", *self.k)
        if self.rate[0] == self.rate[1]:
            return (k,)
        return k, Real("rate", *self.rate, log=True)

    @property
    def calibration_images(self) -> int:
        """Images looked at, at most."""
        return self.images

    @property
    def mergeable(self) -> bool:
        """Not with a trellis: merged entries follow none."""
        return not self.trellis

    @property
    def needs_coder(self) -> Literal["adaptive"] | None:
        """With a trellis the adaptive coder: tables would take some 0.7 bits a weight more."""
        return "adaptive" if self.trellis else None

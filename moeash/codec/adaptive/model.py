"""What the adaptive coder's kernel learns and looks up.

What for is in :mod:`moeash.codec.adaptive.coder`. Every number is part of the file format.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moeash.codec.adaptive import _rows

N_CONTEXTS = 8
N_STATISTICS = 6
N_LANES = 16
"""Inputs of a mixture as they lie in memory: contexts, statistics, a constant, nothing."""

CONTEXT_SLOTS = 1024
UNARY = 8
"""Magnitudes below this are coded by modelled decisions alone."""

BY_HALF = 2
"""Decisions on a magnitude that the two halves of a trellis take apart."""

N_DECISIONS = UNARY + 1 + BY_HALF
LOCAL = 5
"""The context that forgets at every tensor."""

KNOTS = 33
COLUMN_SCALES = 16
COUNT_LIMIT = 250
STEP_LIMIT = 5801
RESTART_STEPS = 100
"""Learning steps a mixture keeps at a new tensor: fewer means a higher learning rate."""

MIN_PROBABILITY = 24
ESCAPE_LENGTHS = 32
PLACE_SCALES = 32
PLACE_LEVELS = 4
PLACE_BITS = 4
"""Leading bits of a place within its unit that are adaptive."""

_LAYOUT = (
    N_CONTEXTS,
    N_STATISTICS,
    CONTEXT_SLOTS,
    UNARY,
    LOCAL,
    KNOTS,
    COUNT_LIMIT,
    STEP_LIMIT,
    MIN_PROBABILITY,
    ESCAPE_LENGTHS,
    BY_HALF,
    N_LANES,
    PLACE_SCALES,
    PLACE_LEVELS,
    PLACE_BITS,
)
if _rows.layout() != _LAYOUT:  # it would read and write files nobody else can read
    raise ImportError("the adaptive kernel was built from another version; install moeash again")


class Tables(NamedTuple):
    """The functions of the model, tabulated.

    Attributes:
        stretch: ``(4096,)`` int16, 256 ln(p / (1 - p)) of the middle of p's twelve leading bits.
        squash: ``(4096,)`` int32, its inverse at ``x + 2048``, in 1/65536.
        logs: ``(8192,)`` int16, 256 ln(mean + 1/64) of a mean magnitude: below 4 in steps of
            1/1024, then to 256 in steps of 1/16.
        learning: ``(STEP_LIMIT + 1,)`` int32, learning rate of a mixture by its steps.
        reciprocal: ``(4096,)`` int32, 65536 / n rounded down.
        counting: ``(COUNT_LIMIT + 1,)`` int64, 65536 / (n + 1.5) rounded down.
    """

    stretch: NDArray[np.int16]
    squash: NDArray[np.int32]
    logs: NDArray[np.int16]
    learning: NDArray[np.int32]
    reciprocal: NDArray[np.int32]
    counting: NDArray[np.int64]


_ONE = 1 << 62
_DECAY = 4593706758521714574  # 2**62 exp(-1 / 256), rounded


@lru_cache(maxsize=1)
def tables() -> Tables:
    """Return the tables, computed once from integers alone."""
    positive = []  # squash at 0, 1, ..., 2047
    power = _ONE
    for _ in range(2048):
        positive.append((_ONE << 16) // (_ONE + power))
        power = power * _DECAY >> 62
    squash = [65536 - p for p in [*positive[:0:-1]]]
    squash = [squash[0], *squash, *positive]

    stretch = []
    x = -2047
    for leading in range(4096):
        while x < 2047 and squash[x + 2048] < 16 * leading + 8:
            x += 1
        stretch.append(x)

    least = _ONE
    for _ in range(1100):
        least = least * _DECAY >> 62
    logs = []
    for denominator in (2048, 32):
        exponent, power = -1100, least
        for i in range(4096):
            mean = _ONE * (2 * i + 1) // denominator + _ONE // 64
            while (power << 62) // _DECAY <= mean:
                power = (power << 62) // _DECAY
                exponent += 1
            logs.append(exponent)

    return Tables(
        stretch=np.array(stretch, dtype=np.int16),
        squash=np.array(squash, dtype=np.int32),
        logs=np.array(logs, dtype=np.int16),
        learning=np.array([3 + 6000 // (200 + n) for n in range(STEP_LIMIT + 1)], dtype=np.int32),
        reciprocal=np.array([65536 // max(n, 1) for n in range(4096)], dtype=np.int32),
        counting=np.array([131072 // (2 * n + 3) for n in range(COUNT_LIMIT + 1)], dtype=np.int64),
    )


@dataclass(frozen=True, eq=False)
class Model:
    """What is learned and carried from tensor to tensor; 380 kB whatever is coded.

    Attributes:
        slots: uint32, probability (22 bits) and count (10 bits) per context and decision; first
            those of the magnitude, ``(N_CONTEXTS, CONTEXT_SLOTS, UNARY)``, then those of the sign,
            ``(N_CONTEXTS, CONTEXT_SLOTS)``, then those half 1 of a trellis has for itself,
            ``(N_CONTEXTS, CONTEXT_SLOTS, BY_HALF)``; flat.
        weights: int32, ``(N_DECISIONS, N_LANES)`` flat, 65536 is one.
        refinements: int32, ``(COLUMN_SCALES, N_DECISIONS, KNOTS)`` flat, probabilities of 30 bits.
        steps: ``(N_DECISIONS,)`` int32, learning steps of each mixture.
        escapes: uint32, probabilities of 32 bits: by length, then by length and leading bits.
        places: uint32, as slots, ``(PLACE_SCALES, PLACE_LEVELS, 2**PLACE_BITS)`` flat; last by the
            bits of the place before, behind a one.
        tensor_mean: ``(2,)`` int32, running mean magnitude (16 fraction bits) and its count.
    """

    slots: NDArray[np.uint32]
    weights: NDArray[np.int32]
    refinements: NDArray[np.int32]
    steps: NDArray[np.int32]
    escapes: NDArray[np.uint32]
    places: NDArray[np.uint32]
    tensor_mean: NDArray[np.int32]

    @classmethod
    def new(cls) -> "Model":
        """Return a model that has seen nothing."""
        weights = np.zeros((N_DECISIONS, N_LANES), dtype=np.int32)
        weights[:, :N_CONTEXTS] = 12288  # 1.5 / 8
        squash = tables().squash
        knots = squash[np.minimum(np.arange(KNOTS) * 128, 4095)].astype(np.int32) << 14
        return cls(
            slots=np.full(N_CONTEXTS * CONTEXT_SLOTS * N_DECISIONS, 1 << 31, dtype=np.uint32),
            weights=weights.ravel(),
            refinements=np.tile(knots, COLUMN_SCALES * N_DECISIONS),
            steps=np.zeros(N_DECISIONS, dtype=np.int32),
            escapes=np.full(ESCAPE_LENGTHS * 5, 1 << 31, dtype=np.uint32),
            places=np.full(PLACE_SCALES * PLACE_LEVELS << PLACE_BITS, 1 << 31, dtype=np.uint32),
            tensor_mean=np.array([1 << 15, 0], dtype=np.int32),
        )

    def start_tensor(self) -> None:
        """Forget what belongs to the last tensor alone."""
        size = CONTEXT_SLOTS * UNARY
        self.slots[LOCAL * size : (LOCAL + 1) * size] = 1 << 31
        sign = N_CONTEXTS * size + LOCAL * CONTEXT_SLOTS
        self.slots[sign : sign + CONTEXT_SLOTS] = 1 << 31
        half = N_CONTEXTS * CONTEXT_SLOTS * (UNARY + 1) + LOCAL * CONTEXT_SLOTS * BY_HALF
        self.slots[half : half + CONTEXT_SLOTS * BY_HALF] = 1 << 31
        np.minimum(self.steps, RESTART_STEPS, out=self.steps)
        self.tensor_mean[1] = 0

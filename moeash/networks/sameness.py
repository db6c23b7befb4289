"""Whether a network that was rewritten is still the same function."""

from torch import Tensor

SAME_FUNCTION = 1e-3
"""How far float32 rounding may move outputs, relative to the largest, when a network is rewritten
so that it should be the same function."""


def distance(expected: Tensor, outputs: Tensor) -> float:
    """Return how far outputs are from expected ones, relative to the largest finite one.

    What is equal is not apart, be it infinite as masked scores are; NaN is infinitely far.
    """
    differs = expected != outputs
    if not differs.any():
        return 0.0
    largest = expected[expected.isfinite()].abs().amax() if expected.isfinite().any() else 0.0
    moved = float((outputs - expected)[differs].abs().amax() / largest)
    return moved if moved >= 0 else float("inf")

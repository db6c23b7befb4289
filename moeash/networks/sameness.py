"""Whether a network that was rewritten is still the same function."""

import torch
from torch import Tensor

SAME_FUNCTION = 1e-3
"""How far float32 rounding may move outputs, relative to the largest, when a network is rewritten
so that it should be the same function."""


def distance(expected: Tensor, outputs: Tensor) -> float:
    """Return how far outputs are from expected ones, relative to the largest; NaN is infinitely."""
    if not expected.numel() or torch.equal(expected, outputs):
        return 0.0
    moved = float((outputs - expected).abs().max() / expected.abs().max())
    return moved if moved >= 0 else float("inf")

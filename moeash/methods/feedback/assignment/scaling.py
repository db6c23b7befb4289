"""Layers brought to the middle of float32's range before weights are assigned.

The costs ``(w - c)^2 + U_tt^2 penalty L(c)`` are float32. Weights of 1e20 have squares that are
infinite, and so has a price that one layer's curvature set in a layer of a far smaller one. But
costs may be multiplied by anything: here weights and entries are multiplied by one power of two,
the variances by another, and the price makes up for both. Powers of two round nothing, so where no
cost was out of range every choice stays what it was, bit for bit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOST = 126
"""Largest power of two by which float32 numbers are multiplied either way."""

DEAREST = 2.0**64
"""Highest price after scaling: what a weight could lose by distance is then below the rounding of
what it pays for bits, so that a higher one would choose the same entries."""


@dataclass(frozen=True, eq=False)
class Scaled:
    """One layer in units in which no cost is infinite.

    Attributes:
        weight: as given, largest magnitude of weights and entries in [1/2, 1).
        entries: likewise.
        variance: ``(groups, columns)``, of every group the largest in [1/2, 1).
        sensitivity: ``(groups, rows)``, likewise.
        price: ``(groups, 1)`` float32, nats per bit in the units of each group, at most DEAREST.
    """

    weight: Tensor
    entries: Tensor
    variance: Tensor
    sensitivity: Tensor
    price: Tensor


def scaled(
    weight: Tensor, entries: Tensor, variance: Tensor, sensitivity: Tensor, price: float
) -> Scaled:
    """Return a layer's arrays, and the price of a bit, in units in which no cost is infinite.

    Args:
        weight: any shape, finite, float32.
        entries: ``(n_entries,)`` float32, finite.
        variance: ``(groups, columns)`` float32, finite and positive.
        sensitivity: ``(groups, rows)`` float32, likewise.
        price: nats per bit, at least 0.
    """
    length = max(*exponents(weight.reshape(1, -1)), *exponents(entries.reshape(1, -1)))
    spreads, weighed = exponents(variance), exponents(sensitivity)
    prices = [
        _times(price, here - there - 2 * length)
        for here, there in zip(spreads, weighed, strict=True)
    ]
    return Scaled(
        weight * 2.0**-length,
        entries * 2.0**-length,
        variance * _powers(variance, spreads),
        sensitivity * _powers(sensitivity, weighed),
        torch.tensor(prices, dtype=torch.float32, device=variance.device).unsqueeze(1),
    )


def _powers(like: Tensor, exponents: Sequence[int]) -> Tensor:
    return like.new_tensor([2.0**-e for e in exponents]).unsqueeze(1)


def _times(price: float, power: int) -> float:
    """Return ``price * 2**power``, at most DEAREST; below the least number bits are free."""
    if price and math.frexp(price)[1] + power > math.frexp(DEAREST)[1]:
        return DEAREST
    return min(math.ldexp(price, power), DEAREST)


def exponents(values: Tensor) -> list[int]:
    """Return e by row with the largest magnitude in ``[2**(e - 1), 2**e)``, within MOST.

    0 for rows of zeros, or without any value.
    """
    if not values.shape[1]:
        return [0] * len(values)
    largest: list[float] = values.abs().amax(1).tolist()
    return [max(-MOST, min(MOST, math.frexp(x)[1])) if x < math.inf else 0 for x in largest]


def out_of_range(magnitude: Tensor, limit: int) -> Tensor:
    """Return by which power of 4 to divide magnitudes outside ``2**-limit`` to ``2**limit``.

    Args:
        magnitude: float64, at least 0, finite.
        limit: see above.

    Returns:
        In the same shape: 1 where a magnitude is within, or 0.
    """
    halves = torch.frexp(magnitude).exponent // 2
    usual = (magnitude == 0) | ((magnitude > 2.0**-limit) & (magnitude < 2.0**limit))
    return torch.where(usual, 1.0, torch.ldexp(torch.ones_like(magnitude), 2 * halves))

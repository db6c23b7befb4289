"""The pull of free weights towards their likely centres: a soft minimum of distances.

For one weight w with distances d_j to the centres of the last stage, p = softmin(d / tau) and the
pull is f(w) = sum of p_j d_j. The distance is |w - c_j| / |w|, but |w - c_j| for weights up to
``zero_below``, which have no distance from 0. The loss is the mean of f over the free weights.

Source: Weight Fixing Networks (ECCV 2022), the authors' code. The code forms all distances and
their gradients, a matrix of weights by centres, in every step. The few nearest centres do not
replace them: at tau = 0.05 neighbours at a relative distance of 0.02 all count, and around 0 all
small centres do. But the pull is a function of one number, and it is smooth between two centres.
So it is tabulated once per stage, as polynomials on intervals half a tau wide, from the full sum
in float64: a step looks one polynomial up for each weight, whatever the number of centres.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

TEMPERATURE = 0.05
"""tau, in units of distance."""

_DEGREE, _WIDTH = 7, 0.5
"""Degree of a polynomial, and width of its interval in units of tau."""

_BEYOND = 4.0
"""How far the table reaches, in units of the largest centre; behind it the full sum is taken."""


def full_pull(weights: Tensor, centres: Tensor, zero_below: float) -> Tensor:
    """Return the pull of each weight as the sum over all centres: the definition.

    Args:
        weights: ``(n,)``.
        centres: ``(k,)``, sorted, at least one.
        zero_below: see above.
    """
    sizes = weights.abs()
    small = sizes <= zero_below
    distances = (weights[:, None] - centres).abs() / torch.where(small, 1.0, sizes)[:, None]
    distances = distances.masked_fill(small[:, None] & (centres == 0), 0.0)
    return ((-distances / TEMPERATURE).softmax(1) * distances).sum(1)


class Pull:
    """The pull of one codebook as a table.

    Args:
        centres: the codebook of the last stage, sorted, at least one.
        zero_below: weights up to it have no distance from 0.
        device: of the weights.
    """

    def __init__(
        self, centres: Sequence[float], zero_below: float, device: torch.device | str = "cpu"
    ) -> None:
        self._zero_below = zero_below
        wide = np.asarray(centres, dtype=np.float64)
        self._limit = _BEYOND * max(float(np.abs(wide).max()), zero_below)
        edges = _edges(wide, zero_below, self._limit)
        middles, halves = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
        # Interpolation at Chebyshev's nodes: errors of the same size all over the interval.
        nodes = np.cos(np.pi * (np.arange(_DEGREE + 1) + 0.5) / (_DEGREE + 1))
        points = torch.from_numpy(middles[:, None] + halves[:, None] * nodes)
        values = full_pull(points.ravel(), torch.from_numpy(wide), zero_below).numpy()
        coefficients = np.linalg.solve(
            np.vander(nodes, increasing=True), values.reshape(points.shape).T
        )
        self._edges = torch.from_numpy(edges).float().to(device)
        self._middles = torch.from_numpy(middles).float().to(device)
        self._halves = torch.from_numpy(halves).float().to(device)
        self._coefficients = torch.from_numpy(coefficients).float().to(device)
        self._centres = torch.from_numpy(wide).float().to(device)

    def __call__(self, weights: Tensor) -> Tensor:
        """Return the pull of each weight, of their shape; gradients are those of the full sum."""
        pull: Tensor = _Lookup.apply(weights, self)
        return pull

    def mean(self, weights: Sequence[Tensor], free: Sequence[Tensor]) -> Tensor:
        """Return the mean pull of the free weights; 0 where none is free.

        Args:
            weights: tensors of any shapes, at least one.
            free: of the same shapes, true where a weight is not fixed.
        """
        chosen = [w[mask] for w, mask in zip(weights, free, strict=True)]
        total = torch.stack([self(w).sum() for w in chosen]).sum()
        return total / max(1, sum(w.numel() for w in chosen))

    def tabulated(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pull of each weight and its derivative, without gradients."""
        weights = weights.float()
        place = torch.bucketize(weights, self._edges, right=True) - 1
        place.clamp_(0, self._middles.numel() - 1)
        half = self._halves[place]
        x = (weights - self._middles[place]) / half
        value = self._coefficients[_DEGREE][place]
        slope = torch.zeros_like(value)
        for row in reversed(self._coefficients[:_DEGREE]):
            slope = slope * x + value
            value = value * x + row[place]
        slope = slope / half
        beyond = weights.abs() > self._limit
        if bool(beyond.any()):
            with torch.enable_grad():
                far = weights[beyond].clone().requires_grad_()
                pull = full_pull(far, self._centres, self._zero_below)
                (slope[beyond],) = torch.autograd.grad(pull.sum(), far)
            value[beyond] = pull.detach()
        return value, slope


def scaled(pull: Tensor, loss: Tensor, regularisation: float) -> Tensor:
    """Return the pull scaled to ``regularisation`` times the value of a loss.

    Only its direction matters then. The factor has no gradient; it is 0 where there is no pull.
    """
    factor = regularisation * loss.detach() / pull.detach()
    return torch.where(pull.detach() > 0, factor, 0.0) * pull


class _Lookup(torch.autograd.Function):
    """Looks the pull up, and keeps one number a weight for the gradient."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, pull: Pull) -> Tensor:
        value, slope = pull.tabulated(weights)
        ctx.save_for_backward(slope.to(weights.dtype))
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return gradients[0] * slope, None


def _edges(centres: Any, zero_below: float, limit: float) -> Any:
    """Return the ends of intervals inside which the pull is smooth.

    It has kinks at the centres and at 0, and steps at the weights that just count as small. Where
    distances are relative an interval is narrow in relation to its weights.
    """
    # Exactly zero_below is small still, and float32 is what weights come in. An interval includes
    # its lower end: a centre of exactly zero_below must not begin one.
    last = np.float32(zero_below)
    above = float(np.nextafter(last, np.float32(np.inf)))
    fixed = np.unique([*centres[centres != last], 0.0, -last, above, -limit, limit])
    edges = []
    for low, high in pairwise(fixed):
        near, far = sorted((abs(low), abs(high)))
        if far <= above:
            parts = math.ceil((high - low) / (_WIDTH * TEMPERATURE))
            edges.append(np.linspace(low, high, parts + 1)[:-1])
        else:
            parts = math.ceil(math.log(far / near) / math.log1p(_WIDTH * TEMPERATURE))
            edges.append(np.geomspace(low, high, parts + 1)[:-1])
    return np.append(np.concatenate(edges), limit)

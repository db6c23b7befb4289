"""Noise on the weights while training: what a network forgives is learnt as a deviation.

A weight is drawn as w = m + sigma * eps for every batch, its mean m being the network's own
parameter. Layers need not know: :func:`torch.func.functional_call` runs any module with the drawn
weights in the place of its parameters, whatever its kernels, groups or dilations.

Source: Probabilistic Weight Fixing (NeurIPS 2023), the authors' code. Differs: the code adds the
pull on sigma to its gradient, also where a weight is fixed; here it is the loss of which that is
the gradient, without the fixed weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from moeash.methods.pwfn.sigmas import LEAST, MOST

STRENGTH = 2.0**-11
"""Strength of the pull that raises deviations."""


@dataclass(frozen=True, eq=False)
class Draw:
    """One draw of the weights, by the names of their parameters.

    Attributes:
        weights: for the forward pass; gradients reach means and deviations through them.
        noise: the standard normal values behind them, without gradients.
    """

    weights: Mapping[str, Tensor]
    noise: Mapping[str, Tensor]


def draw(
    means: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], generator: torch.Generator | None
) -> Draw:
    """Draw every weight once.

    Args:
        means: parameters by name.
        sigmas: their deviations by the same names; at least ``LEAST`` is used.
        generator: on the device of the means. None draws no noise: the weights are the means.
    """
    weights, noise = {}, {}
    for name, mean in means.items():
        eps = torch.zeros_like(mean, requires_grad=False)
        if generator is not None:
            eps.normal_(generator=generator)
        weights[name] = mean + sigmas[name].clamp_min(LEAST) * eps
        noise[name] = eps
    return Draw(weights, noise)


def raising(
    sigmas: Mapping[str, Tensor],
    noise: Mapping[str, Tensor],
    free: Mapping[str, Tensor],
    strength: float = STRENGTH,
) -> Tensor:
    """Return the loss that raises the deviations of weights that are not fixed, up to ``MOST``.

    It is ``strength`` times the sum of 1/2 relu(MOST - sigma)^2 |eps|.

    Args:
        sigmas: deviations by name, at least one.
        noise: of the draw the other loss was computed with.
        free: of the same shapes, true where a weight is not fixed.
        strength: of the pull.
    """
    terms = [
        ((MOST - sigma).relu().square() * noise[name].abs() * free[name]).sum()
        for name, sigma in sigmas.items()
    ]
    return 0.5 * strength * torch.stack(terms).sum()

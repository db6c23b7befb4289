"""The training of Probabilistic Weight Fixing: noise says how far each weight may move.

Source: the authors' code. SGD with momentum 0.9 and weight decay 1e-4, gradients of length 1 at
most, a twentieth of an epoch before the first stage fixes weights. Differs: deviations begin from
the network at hand, where the authors load a checkpoint trained apart; the loss may be the
divergence from the float network's outputs in the place of the labels' cross-entropy.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeash.core.codebook import SharedWeights
from moeash.core.solutions.candidate import Candidate
from moeash.methods.fixing.outcome import Fixing
from moeash.methods.fixing.training import StagedFixing
from moeash.methods.pwfn.clustering import cluster
from moeash.methods.pwfn.noise import draw, raising
from moeash.methods.pwfn.options import PwfnOptions
from moeash.methods.pwfn.sigmas import initial_sigmas
from moeash.methods.training.session import Seen, Session
from moeash.networks.network import Network


class PwfnTraining(StagedFixing):
    """The training of one candidate."""

    first_epochs = 0.05
    longest_gradient = 1.0

    def __init__(
        self,
        options: PwfnOptions,
        candidate: Candidate,
        network: Network,
        start: SharedWeights | None,
        session: Session,
    ) -> None:
        self._options = options
        self._delta = float(candidate["delta"])
        self.sigmas: dict[str, Tensor] = {}
        """Standard deviations of the weights by name, float32 leaves."""
        super().__init__(options, network, start, session)

    def _optimiser_of(
        self, weights: Sequence[Tensor], kept: Sequence[Tensor]
    ) -> torch.optim.Optimizer:
        rate = self._options.learning_rate
        return torch.optim.SGD([*weights, *kept], lr=rate, momentum=0.9, weight_decay=1e-4)

    def _companions(self) -> Mapping[str, Mapping[str, Tensor]]:
        return {"sigma": self.sigmas}

    def _take(self, fixing: Fixing) -> None:
        if not self.sigmas:
            for name, mean in self.means.items():
                sigmas = torch.from_numpy(initial_sigmas(mean.detach().cpu().numpy()))
                self.sigmas[name] = sigmas.to(self._device).requires_grad_()
        super()._take(fixing)

    def _rule(self, stage: int, weights: NDArray[np.float32]) -> Fixing:
        sigmas = np.maximum(self._flat(self.sigmas), 0)  # a step of SGD may have gone below
        clustering = cluster(
            weights,
            sigmas,
            self._options.fractions[stage],
            self._delta,
            self._options.least_exponent,
        )
        with torch.no_grad():
            for name, part in self._parted(clustering.sigmas).items():
                self.sigmas[name].copy_(part)
        return clustering.fixing

    def _drawn(self, seen: Seen) -> Mapping[str, Tensor]:
        generator = seen.noise
        if self.device_type != "cpu":
            generator = torch.Generator(self._device).manual_seed(seen.noise.initial_seed())
        self._draw = draw(self.means, self.sigmas, generator)
        return self._draw.weights

    @property
    def device_type(self) -> str:
        """The kind of device the network is on."""
        return torch.device(self._device).type

    def addend(self, loss: Tensor) -> Tensor | None:
        """Return what raises standard deviations; None where no free weight has one."""
        # As published, of weights and not of biases.
        sigmas = {name: sigma for name, sigma in self.sigmas.items() if sigma.ndim > 1}
        return raising(sigmas, self._draw.noise, self.free) if sigmas else None

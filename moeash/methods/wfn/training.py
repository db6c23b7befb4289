"""The training of Weight Fixing Networks: free weights are pulled towards likely entries.

Source: the authors' code. Adam without schedule, gradients of length 0.5 at most; the first stage
fixes weights of the trained network as they are. Differs: the loss may be the divergence from the
float network's outputs in the place of the labels' cross-entropy.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeash.core.codebook import SharedWeights
from moeash.core.solutions.candidate import Candidate
from moeash.methods.fixing.outcome import Fixing
from moeash.methods.fixing.training import StagedFixing
from moeash.methods.training.session import Session
from moeash.methods.wfn.options import WfnOptions
from moeash.methods.wfn.regularising import Pull, scaled
from moeash.methods.wfn.select import select, stage_deltas
from moeash.networks.network import Network


class WfnTraining(StagedFixing):
    """The training of one candidate."""

    first_epochs = 0.0
    longest_gradient = 0.5

    def __init__(
        self,
        options: WfnOptions,
        candidate: Candidate,
        network: Network,
        start: SharedWeights | None,
        session: Session,
    ) -> None:
        self._options = options
        self._deltas = stage_deltas(float(candidate["delta"]), len(options.fractions))
        self._regularisation = float(
            candidate.as_dict().get("regularisation", options.regularisation[0])
        )
        super().__init__(options, network, start, session)

    def _optimiser_of(
        self, weights: Sequence[Tensor], kept: Sequence[Tensor]
    ) -> torch.optim.Optimizer:
        return torch.optim.Adam([*weights, *kept], lr=self._options.learning_rate)

    def _rule(self, stage: int, weights: NDArray[np.float32]) -> Fixing:
        fraction = self._options.fractions[stage]
        return select(weights, fraction, self._deltas[stage], self._options.zero_below)

    def _take(self, fixing: Fixing) -> None:
        super()._take(fixing)
        self._pull = None
        if self._regularisation and fixing.entries.size:
            entries = fixing.entries.tolist()
            self._pull = Pull(entries, self._options.zero_below, self._device)

    def addend(self, loss: Tensor) -> Tensor | None:
        """Return the pull towards the entries, scaled to the loss; None before there are any."""
        if self._pull is None:
            return None
        pull = self._pull.mean(list(self.means.values()), list(self.free.values()))
        return scaled(pull, loss, self._regularisation)

"""Weight Fixing Networks as a method.

A published system moeash is measured against: one codebook of sums of few powers of two for the
whole network, chosen greedily so that few entries stand for many weights, and training in between.

Source: Weight Fixing Networks (ECCV 2022); methods.md section 2. Entropies and counts of that
paper leave out the entry 0; those of moeash do not.
"""

import numpy as np
from numpy.typing import NDArray

from moeash.core.codebook import SharedWeights
from moeash.core.solutions.candidate import Candidate
from moeash.methods.fixing.method import FixingMethod
from moeash.methods.fixing.outcome import Fixing
from moeash.methods.training.session import Session
from moeash.methods.wfn.ladder import candidates
from moeash.methods.wfn.options import WfnOptions
from moeash.methods.wfn.select import HIGHEST_ORDER, select
from moeash.methods.wfn.training import WfnTraining
from moeash.networks.network import Network


class Wfn(FixingMethod):
    """Weight Fixing Networks."""

    options: WfnOptions

    def _most_entries(self, largest: float) -> int:
        """Return how many values are proposed with any number of powers."""
        proposed = [
            candidates(self.options.delta[0], self.options.zero_below, largest, order)
            for order in range(HIGHEST_ORDER + 1)
        ]
        return int(np.unique(np.concatenate(proposed)).size)

    def _fixing(self, weights: NDArray[np.float32], candidate: Candidate) -> Fixing:
        return select(weights, 1.0, float(candidate["delta"]), self.options.zero_below)

    def _training(
        self,
        candidate: Candidate,
        network: Network,
        start: SharedWeights | None,
        session: Session,
    ) -> WfnTraining:
        return WfnTraining(self.options, candidate, network, start, session)

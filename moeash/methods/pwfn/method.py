"""Probabilistic Weight Fixing as a method.

A published system moeash is measured against: as WFN one codebook of sums of few powers of two,
but how far a weight may move is learnt, from noise on it.

Source: Probabilistic Weight Fixing (NeurIPS 2023); methods.md section 3.
"""

import numpy as np
from numpy.typing import NDArray

from moeash.core.codebook import SharedWeights
from moeash.core.solutions.candidate import Candidate
from moeash.methods.fixing.method import FixingMethod
from moeash.methods.fixing.outcome import Fixing
from moeash.methods.pwfn.clustering import HIGHEST_ORDER, cluster, proposed_centres
from moeash.methods.pwfn.options import PwfnOptions
from moeash.methods.pwfn.sigmas import initial_sigmas
from moeash.methods.pwfn.training import PwfnTraining
from moeash.methods.training.session import Session
from moeash.networks.network import Network


class Pwfn(FixingMethod):
    """Probabilistic Weight Fixing."""

    options: PwfnOptions

    def _most_entries(self, largest: float) -> int:
        """Return how many values are proposed with the most powers, all others among them."""
        return len(proposed_centres(largest, HIGHEST_ORDER, self.options.least_exponent))

    def _fixing(self, weights: NDArray[np.float32], candidate: Candidate) -> Fixing:
        # Without training the deviations are the first ones, here of all weights as one tensor.
        sigmas = initial_sigmas(weights)
        delta, least = float(candidate["delta"]), self.options.least_exponent
        return cluster(weights, sigmas, 1.0, delta, least).fixing

    def _training(
        self,
        candidate: Candidate,
        network: Network,
        start: SharedWeights | None,
        session: Session,
    ) -> PwfnTraining:
        return PwfnTraining(self.options, candidate, network, start, session)

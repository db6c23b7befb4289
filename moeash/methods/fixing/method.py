"""What WFN and PWFN have in common as methods."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeash.core.codebook import SharedWeights, State, keep_all
from moeash.core.progress import Progress, silent
from moeash.core.solutions.candidate import Candidate
from moeash.methods.base import Preparation
from moeash.methods.fixing.options import StagedOptions
from moeash.methods.fixing.outcome import Fixing, shared_weights
from moeash.methods.fixing.starting import read_start
from moeash.methods.fixing.training import StagedFixing
from moeash.methods.training.method import TrainedMethod
from moeash.methods.training.session import Session
from moeash.networks.network import Network


@dataclass(frozen=True)
class FixingPrepared:
    """What every candidate needs beside the network.

    Attributes:
        most_entries: no candidate has more, unless training makes weights larger than any is.
        n_weights: shared ones.
    """

    most_entries: int
    n_weights: int


class FixingMethod(TrainedMethod):
    """A method that fixes weights in stages."""

    options: StagedOptions  # type: ignore[assignment]

    @abstractmethod
    def _most_entries(self, largest: float) -> int:
        """Return how many entries there are to choose from for weights of a magnitude."""

    @abstractmethod
    def _fixing(self, weights: NDArray[np.float32], candidate: Candidate) -> Fixing:
        """Return what the rule of the last stage fixes all weights to."""

    @abstractmethod
    def _training(
        self,
        candidate: Candidate,
        network: Network,
        start: SharedWeights | None,
        session: Session,
    ) -> StagedFixing:
        """Return the training of a candidate."""

    def prepare(self, preparation: Preparation) -> FixingPrepared:
        """Look at the largest weight."""
        weights = flat_weights(preparation.network.state)
        most = self._most_entries(float(np.abs(weights).max(initial=0)))
        return FixingPrepared(min(most, weights.size), weights.size)

    def notes(self, prepared: FixingPrepared) -> Sequence[str]:
        """Return how many weights are fixed, and when."""
        fractions = self.options.fractions
        return (
            f"{prepared.n_weights:,} weights are fixed by {self.name} in {len(fractions)} stages, "
            f"{self.options.epochs * (len(fractions) - 1)} epochs in all",
        )

    def most_entries(self, prepared: FixingPrepared) -> int:
        """Return how many entries there are to choose from."""
        return prepared.most_entries

    def compress(
        self,
        prepared: FixingPrepared,
        candidate: Candidate,
        *,
        network: Network,
        refined: bool = False,
        progress: Progress = silent,
    ) -> SharedWeights:
        """Fix the weights as they are, all at once."""
        fixing = self._fixing(flat_weights(network.state), candidate)
        return shared_weights(fixing, network.state, keep_all(network.state))

    def start(self, network: Network) -> SharedWeights | None:
        """Return the solution in the file that the options name, if they name one."""
        options = self.options
        if options.start is None:
            return None
        return read_start(options.start, options.start_fingerprint, network)

    def train(
        self,
        prepared: FixingPrepared,
        candidate: Candidate,
        *,
        network: Network,
        session: Session,
        start: SharedWeights | None = None,
    ) -> SharedWeights:
        """Fix weights in stages and train the others in between.

        Raises:
            InputError: labels are wanted of images that have none.
            TrainingError: the training diverged.
        """
        training = self._training(candidate, network, start, session)
        session.train(training)
        return training.shared()


def flat_weights(state: State) -> NDArray[np.float32]:
    """Return all shared weights one after the other, float32."""
    parts = [
        p.values.ravel().astype(np.float32)
        for p in state
        if p.role == "shared" and p.values is not None
    ]
    return np.concatenate([np.zeros(0, dtype=np.float32), *parts])

"""Methods that train: minutes to hours a candidate, so that each solution's file is stored."""

from abc import abstractmethod
from typing import Any

from moeash.core.codebook import SharedWeights
from moeash.core.solutions.candidate import Candidate
from moeash.methods.base import Method
from moeash.methods.training.session import Session
from moeash.networks.network import Network


class TrainedMethod(Method):
    """A method whose candidates are trained.

    Its :meth:`compress` takes seconds and trains nothing: what the method makes of the weights as
    they are. How kept tensors are stored is decided on it, and it needs no images.
    """

    @property
    def keeps_artifacts(self) -> bool:
        """A solution cannot be rebuilt in seconds."""
        return True

    def start(self, network: Network) -> SharedWeights | None:
        """Return the solution that candidates begin with; None: the float network.

        Args:
            network: it must fit.

        Raises:
            InputError: its file cannot be read, or does not fit.
        """
        return None

    @abstractmethod
    def train(
        self,
        prepared: Any,
        candidate: Candidate,
        *,
        network: Network,
        session: Session,
        start: SharedWeights | None = None,
    ) -> SharedWeights:
        """Return the shared weights of a candidate, trained.

        The module is left as it was.

        Args:
            prepared: from :meth:`prepare`.
            candidate: a value for every variable of :meth:`space`.
            network: the network that was prepared.
            session: where to train.
            start: the solution to begin with; None: the float network.

        Raises:
            InputError: the images do not fit the training.
            TrainingError: the training did not come to its end.
        """

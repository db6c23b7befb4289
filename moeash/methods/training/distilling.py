"""Distill a solution: move its weights among its own entries, towards fewer bits at equal outputs.

The network computes with what lies between two entries at first, with less of it in every step, and
with entries alone at last, so that what is trained in the end is what the file will hold. The loss
is the divergence from the float network's outputs on training images (or the labels, or both), plus
``rate`` times the bits a shared weight costs (:mod:`.code_lengths`): training with a penalty on the
entropy in the manner of Oktay et al. (ICLR 2020, arXiv:1906.06624), here on the solution's own
entries and from the solution, with straight-through gradients and annealed rounding in the place of
noise. Number and values of the entries stay, and so do rows of an embedding that hardly any step
meets (:class:`moeash.methods.training.trainable.Meetings`).
"""

from collections.abc import Mapping

from torch import Tensor

from moeash.core.codebook import SharedWeights
from moeash.core.solutions.recipe import Distill
from moeash.errors import InputError
from moeash.methods.training.code_lengths import bits, code_lengths, slopes
from moeash.methods.training.positions import places_of, tensors_of
from moeash.methods.training.session import Seen, Session, steps_an_epoch
from moeash.methods.training.solution import EPSILON, SolutionTraining
from moeash.methods.training.trainable import Meetings, some_of
from moeash.networks.network import Network

COUNT_EVERY = 50
"""Steps between counts of the entries' statistics."""

LEAST_EPSILON = 1e-20
"""Where a bit is worth nothing: smaller gradients have no square in float32."""

HALFWAY = 0.5
"""Entries a weight has to move by at least until another one is the nearest."""


def distill(
    step: Distill, start: SharedWeights, network: Network, session: Session
) -> SharedWeights:
    """Return a solution distilled.

    Args:
        step: how.
        start: the solution.
        network: the float network it is of.
        session: where to train.

    Raises:
        InputError: there are too few steps for any weight to reach another entry.
        TrainingError: the training diverges.
    """
    trainee = Distilling(step, start, network, session)
    session.train(trainee)
    return trainee.shared()


class Distilling(SolutionTraining):
    """The training of one solution's indices."""

    def __init__(
        self, step: Distill, start: SharedWeights, network: Network, session: Session
    ) -> None:
        refuse_standstill(step, len(session.images), session.options.batch_size)
        super().__init__(step, start, network, session)
        self._moved_a_step = step.learning_rate
        self._places = places_of(start, session.device)
        self._n_shared = sum(place.tensor.size for place in self._places)
        self._a_bit_is_worth = step.rate / max(1, self._n_shared)
        self._lengths: list[Tensor] = []
        some = some_of(session.images, session.device)
        self._meetings = Meetings(network, some, session.device)

    @property
    def moved_a_step(self) -> float:
        """How far a weight moves in a step at first, in entries."""
        return self._moved_a_step

    @property
    def epsilon(self) -> float:
        """A hundredth of what a bit is worth to a weight, where that is less than Adam's own.

        In a network of millions of weights, or one of single values near 0, every gradient may be
        below 1e-8, and nothing would move.
        """
        return min(EPSILON, max(LEAST_EPSILON, self._a_bit_is_worth / 100))

    def moving(self) -> Mapping[str, Tensor]:
        """Return the positions."""
        return tensors_of(self._places)

    def weights(self, seen: Seen) -> Mapping[str, Tensor]:
        """Return what lies at the positions, rounded to entries as far as the step has them."""
        softness = self.softness(seen)
        return {place.tensor.name: place.values(softness) for place in self._places}

    def softness(self, seen: Seen) -> float:
        """Return how far a step's weights may lie between entries: 1 at first, 0 in the last."""
        return 1 - seen.step / max(1, seen.steps - 1)

    def push(self) -> None:
        """Push weights towards cheaper entries."""
        for place, lengths in zip(self._places, self._lengths, strict=True):
            gradient = place.position.grad
            if gradient is None:
                continue  # outputs may still depend on it: it stays
            rare = self._meetings.meet(place.tensor.name, gradient)
            gradient.add_(slopes(place, lengths), alpha=self._a_bit_is_worth)
            if rare is not None:
                gradient[rare] = 0

    def confine(self) -> None:
        """Keep positions among the entries."""
        for place in self._places:
            place.position.clamp_(0, len(place.entries) - 1)

    def begin(self, stage: int) -> None:
        """Make the optimiser, and count."""
        super().begin(stage)
        self._count()

    def step(self, seen: Seen) -> Tensor:
        """Take one step."""
        if seen.step % COUNT_EVERY == 0:
            self._count()
        return super().step(seen)

    def tensors(self) -> dict[str, Tensor]:
        """Return all that changes."""
        lengths = {f"lengths/{i}": t for i, t in enumerate(self._lengths)}
        return {**super().tensors(), **lengths, **self._meetings.tensors()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take what :meth:`tensors` returned."""
        super().load(tensors)
        self._meetings.load(tensors)
        self._lengths = [tensors[f"lengths/{i}"] for i in range(len(self._places))]

    def words(self) -> str:
        """Return the bits a shared weight costs by its tensor's statistics."""
        spent = sum(
            bits(place, lengths).item()
            for place, lengths in zip(self._places, self._lengths, strict=True)
        )
        return f"{spent / max(1, self._n_shared):.3f} bits"

    def shared(self) -> SharedWeights:
        """Return the solution as it is now."""
        return self.with_weights({place.tensor.name: place.shared() for place in self._places})

    def _count(self) -> None:
        self._lengths = [code_lengths(place) for place in self._places]


def refuse_standstill(step: Distill, n_images: int, batch_size: int) -> None:
    """Refuse a training that ends before a weight gets halfway to another entry.

    Adam moves no weight much further than its learning rate in a step, and that falls along a
    cosine from one end of the training to the other: half of it on average.

    Args:
        step: how to train.
        n_images: to train on.
        batch_size: images a step.

    Raises:
        InputError: no index would change.
    """
    an_epoch = steps_an_epoch(n_images, batch_size)
    n_steps = step.epochs * an_epoch
    reach = step.learning_rate * (n_steps + 1) / 2
    if reach < HALFWAY:
        raise InputError(
            f"distilling would change nothing: {n_images:,} images make {an_epoch:,} "
            f"step{'s'[: an_epoch != 1]} an epoch, and {n_steps:,} in all move a weight by "
            f"{reach:.2g} of the way to the next entry at most, where half of it is needed; raise "
            "distill.epochs or distill.learning_rate, or lower training.batch_size"
        )

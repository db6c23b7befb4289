"""Train a solution towards the float network's outputs: what distilling and tuning share.

Adam, cosine learning rate (Loshchilov and Hutter, ICLR 2017). Kept parameters are free.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from moeash.core.codebook import KeptTensor, SharedTensor, SharedWeights
from moeash.core.solutions.recipe import Tune
from moeash.methods.training.checkpoints import load_optimiser, optimiser_tensors
from moeash.methods.training.kept import KeptTensors
from moeash.methods.training.losses import decoded_tensors, lesson_of, outputs_of
from moeash.methods.training.norms import live_norms, unfold
from moeash.methods.training.session import Seen, Session
from moeash.networks.network import Network

KEPT_A_STEP = 1e-4
"""How far a kept parameter moves in a step at first."""

EPSILON = 1e-8
"""Adam's, as its authors have it: gradients no larger than this move less than others."""


class SolutionTraining(ABC):
    """The training of one solution, in one stage, but for what of it moves.

    Args:
        step: how.
        start: the solution.
        network: the float network it is of.
        session: where to train.
    """

    def __init__(
        self, step: Tune, start: SharedWeights, network: Network, session: Session
    ) -> None:
        self._start = start
        self._n_steps = step.epochs * session.steps_an_epoch
        device = session.device
        self._outputs = outputs_of(network, session)
        self._lesson = lesson_of(self._outputs, network, session, step.temperature)
        norms = live_norms(network) if session.options.norms == "batch" else ()
        gathered = [name for norm in norms for name in norm.statistics]
        self._kept = KeptTensors(start.kept, network, device, gathered)
        if norms:
            some, _ = next(iter(session.images.batches(session.options.batch_size)))
            tensors = {**self._kept.tensors, **decoded_tensors(start, device)}
            unfold(norms, tensors, lambda: self._outputs(tensors, some.to(device)))
            # The float network, which the lesson asks, computes as it always does.
            self._outputs = replace(self._outputs, norms=tuple(norm.module for norm in norms))

    # ------------------------------------------------------------------ what moves

    @property
    @abstractmethod
    def moved_a_step(self) -> float:
        """How far what moves does so in a step at first."""

    @property
    def epsilon(self) -> float:
        """Adam's epsilon: gradients no larger than this move less than others."""
        return EPSILON

    @abstractmethod
    def moving(self) -> Mapping[str, Tensor]:
        """Return the leaves that move, by names of their own in a checkpoint."""

    @abstractmethod
    def weights(self, seen: Seen) -> Mapping[str, Tensor]:
        """Return the shared weights a step computes with, differentiable, by tensor."""

    @abstractmethod
    def confine(self) -> None:
        """Put leaves that have moved too far back; called without gradients."""

    @abstractmethod
    def push(self) -> None:
        """Add to the gradients of the leaves what is not in the loss."""

    def pace(self, seen: Seen) -> float:
        """Return the share of the learning rates in a step: a cosine from 1 to 0."""
        return 0.5 * (1 + math.cos(math.pi * seen.step / seen.steps))

    # ------------------------------------------------------------------ Trainee

    @property
    def stages(self) -> Sequence[int]:
        """One stage."""
        return (self._n_steps,)

    def begin(self, stage: int) -> None:
        """Make the optimiser."""
        self._optimiser = torch.optim.Adam(
            [
                {"params": list(self.moving().values()), "base": self.moved_a_step},
                {"params": self._kept.leaves, "base": KEPT_A_STEP},
            ],
            eps=self.epsilon,
        )

    def step(self, seen: Seen) -> Tensor:
        """Take one step."""
        scores = self._outputs({**self._kept.tensors, **self.weights(seen)}, seen.inputs)
        loss = self._lesson.loss(scores, seen)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.push()
        for group in self._optimiser.param_groups:
            group["lr"] = group["base"] * self.pace(seen)
        self._optimiser.step()
        with torch.no_grad():
            self.confine()
        return loss.detach()

    def end(self, stage: int) -> None:  # noqa: B027  the one stage ends for both alike
        """Leave everything as it is."""

    def tensors(self) -> dict[str, Tensor]:
        """Return all that changes."""
        return {**self.moving(), **self._kept.saved(), **optimiser_tensors(self._optimiser)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take what :meth:`tensors` returned."""
        with torch.no_grad():
            for name, leaf in self.moving().items():
                leaf.copy_(tensors[name])
        self._kept.load(tensors)
        load_optimiser(self._optimiser, tensors)

    def with_weights(self, weights: Mapping[str, SharedTensor]) -> SharedWeights:
        """Return the solution with other indices where they are given, and the trained parameters.

        Args:
            weights: shared tensors by name.
        """
        kept: Mapping[str, KeptTensor] = self._kept.stored()
        tensors = (weights.get(t.name, kept.get(t.name, t)) for t in self._start.tensors)
        return replace(self._start, tensors=tuple(tensors))

"""Variants of distilling that were tried, each but for one thing the one that is compared with."""

from dataclasses import replace

import torch
from torch import Tensor

from moeash.core.codebook import SharedWeights
from moeash.methods.training.code_lengths import UNSEEN
from moeash.methods.training.distilling import COUNT_EVERY, Distilling
from moeash.methods.training.positions import Places, below_of
from moeash.methods.training.session import Seen


class RoundedThroughout(Distilling):
    """The network computes with entries from the first step on: what the other rows vary."""

    def softness(self, seen: Seen) -> float:
        """Let nothing lie between two entries."""
        return 0.0


class Constant(RoundedThroughout):
    """The learning rate stays."""

    def pace(self, seen: Seen) -> float:
        """Return all of it."""
        return 1.0


class KeptAsTheyAre(RoundedThroughout):
    """Kept parameters stay."""

    def begin(self, stage: int) -> None:
        """Let them move by nothing."""
        super().begin(stage)
        self._optimiser.param_groups[1]["base"] = 0.0


class Averaged(RoundedThroughout):
    """What is stored is the entry nearest to a moving average of a weight's positions."""

    DECAY = 0.998

    def begin(self, stage: int) -> None:
        """Begin with the first positions."""
        super().begin(stage)
        self._averages = [place.position.detach().clone() for place in self._places]

    def step(self, seen: Seen) -> Tensor:
        """Take one step."""
        loss = super().step(seen)
        for average, place in zip(self._averages, self._places, strict=True):
            average.lerp_(place.position.detach(), 1 - self.DECAY)
        return loss

    def shared(self) -> SharedWeights:
        """Return the solution of the averages."""
        places = zip(self._places, self._averages, strict=True)
        averaged = [replace(place, position=average) for place, average in places]
        return self.with_weights({place.tensor.name: place.shared() for place in averaged})


class AnnealedInTheFirstHalf(Distilling):
    """The network computes with entries alone from the middle of the training on."""

    def softness(self, seen: Seen) -> float:
        """Return what is left of the first half."""
        return max(0.0, 1 - 2 * seen.step / seen.steps)


class Freezing(RoundedThroughout):
    """A tenth of the weights after the other stays, those nearest to their entries first."""

    STAGES = 10

    def begin(self, stage: int) -> None:
        """Begin with none."""
        super().begin(stage)
        self._frozen = [torch.zeros_like(p.position, dtype=torch.bool) for p in self._places]
        self._pinned = [place.position.detach().clone() for place in self._places]
        self._n_frozen = 0

    def step(self, seen: Seen) -> Tensor:
        """Take one step."""
        stage = seen.step * self.STAGES // seen.steps
        if stage > self._n_frozen:
            self._n_frozen = stage
            self._freeze(stage / self.STAGES)
        return super().step(seen)

    def confine(self) -> None:
        """Put what is frozen back."""
        super().confine()
        for place, frozen, pinned in zip(self._places, self._frozen, self._pinned, strict=True):
            place.position.copy_(torch.where(frozen, pinned, place.position))

    def _freeze(self, share: float) -> None:
        with torch.no_grad():
            for i, place in enumerate(self._places):
                distance = (place.position - place.nearest()).abs()
                distance[self._frozen[i]] = -1
                n = round(share * distance.numel())
                nearest = distance.flatten().argsort(stable=True)[:n]
                new = torch.zeros(distance.numel(), dtype=torch.bool)
                new[nearest] = True
                new = new.reshape(distance.shape) & ~self._frozen[i]
                self._pinned[i] = torch.where(new, place.nearest().float(), self._pinned[i])
                self._frozen[i] |= new


class ByRows(RoundedThroughout):
    """An entry's bits are those of the row a weight stands in, beside those of its tensor."""

    WEIGHT = 30.0
    """Weights of a row that the tensor's statistics count for."""

    def step(self, seen: Seen) -> Tensor:
        """Take one step."""
        if seen.step % COUNT_EVERY == 0:
            self._rows = [self._lengths_of(place) for place in self._places]
        return super().step(seen)

    def push(self) -> None:
        """Push weights towards entries that are cheaper in their row."""
        for place, lengths in zip(self._places, self._rows, strict=True):
            if place.position.grad is None:
                continue
            rows = place.position.detach().reshape(len(lengths), -1)
            below = below_of(rows, lengths.shape[1])
            change = lengths.gather(1, below + 1) - lengths.gather(1, below)
            place.position.grad.add_(
                change.reshape(place.position.shape), alpha=self._a_bit_is_worth
            )

    def _lengths_of(self, place: Places) -> Tensor:
        n_entries = len(place.entries)
        rows = place.nearest().reshape(place.position.shape[0], -1)
        counts = torch.zeros(len(rows), n_entries).scatter_add_(
            1, rows, torch.ones_like(rows, dtype=torch.float32)
        )
        shares = counts.sum(0) + UNSEEN
        mixed = counts + self.WEIGHT * shares / shares.sum()
        return -torch.log2(mixed / mixed.sum(1, keepdim=True))

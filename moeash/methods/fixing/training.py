"""Training in stages, each of which fixes more weights to entries of one codebook.

A stage trains the weights that are free, together with the kept parameters, and then asks the
method's rule which weights to fix, and to what. The last stage fixes all. Fixed weights are put
back after every step, so neither momentum nor weight decay moves them; kept parameters are stored
as they came out of the training.

Source: the outer loops of Weight Fixing Networks (ECCV 2022) and Probabilistic Weight Fixing
(NeurIPS 2023), methods.md 2.3 and 3.5. Differs: the parameters that are fixed are those the study
shares, where the papers choose them by the kind of layer; layers of every kind are run as they are.
With the statistics of batches BatchNorms gather theirs once more when all weights are fixed: the
last stage moves weights, and nothing is trained behind it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeash.core.codebook import SharedWeights, entropy, keep_all
from moeash.core.solutions.recipe import entries_text
from moeash.data.inputs import Batch
from moeash.errors import TrainingError
from moeash.methods.fixing.options import StagedOptions
from moeash.methods.fixing.outcome import Fixing, free_all, shared_weights
from moeash.methods.fixing.starting import kept_of
from moeash.methods.training.checkpoints import load_optimiser, optimiser_tensors
from moeash.methods.training.kept import KeptTensors
from moeash.methods.training.losses import DTYPES, lesson_of, outputs_of
from moeash.methods.training.norms import averaging, live_norms, unfold
from moeash.methods.training.session import Seen, Session
from moeash.networks.network import Network

DIVERGED = 2.0**30
"""The size of a weight that no training of networks means to reach."""

GATHERED_FROM = 100
"""Batches, at most, of which BatchNorms gather statistics at last."""


class StagedFixing(ABC):
    """The training of one candidate, but for what a method has of its own.

    Args:
        options: of the method.
        network: to be compressed.
        start: the solution to begin with; None: the float network.
        session: where to train.
    """

    first_epochs: float
    """Epochs of the first stage."""

    longest_gradient: float
    """Gradients are shortened to it, over all parameters together."""

    def __init__(
        self,
        options: StagedOptions,
        network: Network,
        start: SharedWeights | None,
        session: Session,
    ) -> None:
        self._schedule = options
        self._network = network
        self._device = session.device
        self._steps_an_epoch = session.steps_an_epoch
        self._outputs = outputs_of(network, session)
        self._lesson = lesson_of(self._outputs, network, session)
        norms = live_norms(network) if session.options.norms == "batch" else ()
        gathered = [name for norm in norms for name in norm.statistics]
        kept = keep_all(network.state) if start is None else kept_of(start, network.state)
        self._kept = KeptTensors(kept.values(), network, session.device, gathered)
        values = None if start is None else start.decoded()
        self.means: dict[str, Tensor] = {}
        """Weights by name, float32 leaves in the shapes they have in the network."""
        for parameter in network.state:
            if parameter.role == "shared" and parameter.values is not None:
                array = parameter.values if values is None else values[parameter.name]
                leaf = torch.tensor(array, dtype=torch.float32, device=self._device)
                self.means[parameter.name] = leaf.requires_grad_()
        self._dtypes = {
            p.name: DTYPES.get(p.dtype, torch.float32)
            for p in network.state
            if p.name in self.means
        }
        if norms:
            some, _ = next(iter(session.images.batches(session.options.batch_size)))
            tensors = {**self._kept.tensors, **self.means}
            unfold(norms, tensors, lambda: self._run(self.means, some.to(session.device)))
            # The float network, which the lesson asks, computes as it always does.
            self._outputs = replace(self._outputs, norms=tuple(norm.module for norm in norms))
        self._norms = norms
        n_batches = min(session.steps_an_epoch, GATHERED_FROM)
        self._again = partial(session.seen, 0, n_batches, n_batches)
        self._take(free_all(sum(mean.numel() for mean in self.means.values())))

    # ------------------------------------------------------------------ of a method

    @abstractmethod
    def _optimiser_of(
        self, weights: Sequence[Tensor], kept: Sequence[Tensor]
    ) -> torch.optim.Optimizer:
        """Return the optimiser of a stage."""

    @abstractmethod
    def _rule(self, stage: int, weights: NDArray[np.float32]) -> Fixing:
        """Return what a stage fixes of all weights, flat."""

    def _drawn(self, seen: Seen) -> Mapping[str, Tensor]:
        """Return the weights a step computes with."""
        return self.means

    def addend(self, loss: Tensor) -> Tensor | None:
        """Return what a step adds to the loss."""
        return None

    def _companions(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Return further numbers a weight that are trained and fixed with it, by what they are."""
        return {}

    # ------------------------------------------------------------------ Trainee

    @property
    def stages(self) -> Sequence[int]:
        """The steps of each stage."""
        first = math.ceil(self.first_epochs * self._steps_an_epoch)
        others = len(self._schedule.fractions) - 1
        return [first] + others * [self._schedule.epochs * self._steps_an_epoch]

    def begin(self, stage: int) -> None:
        """Make a new optimiser: what an old one remembers would move fixed weights."""
        self._optimiser = self._optimiser_of(self.leaves(), self._kept.leaves)

    def step(self, seen: Seen) -> Tensor:
        """Take one step."""
        loss = self._lesson.loss(self._run(self._drawn(seen), seen.inputs), seen)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        unreached = [leaf for leaf in self.leaves() if leaf.grad is None]
        addend = self.addend(loss)
        if addend is not None:
            addend.backward()  # type: ignore[no-untyped-call]
        for leaf in unreached:
            # What it would do to the outputs is not known, so it stays: no pull moves it either.
            leaf.grad = None
        for leaf, fixed, _ in self._fixed_leaves:
            if leaf.grad is not None:
                leaf.grad.masked_fill_(fixed, 0)
        torch.nn.utils.clip_grad_norm_([*self.leaves(), *self._kept.leaves], self.longest_gradient)
        self._optimiser.step()
        with torch.no_grad():
            for leaf, fixed, value in self._fixed_leaves:
                torch.where(fixed, value, leaf, out=leaf)
        return loss.detach()

    def _run(self, weights: Mapping[str, Tensor], inputs: Batch) -> Tensor:
        """Return the scores of the network with weights, float32, in the place of its own."""
        typed = {name: weight.to(self._dtypes[name]) for name, weight in weights.items()}
        return self._outputs({**self._kept.tensors, **typed}, inputs)

    def end(self, stage: int) -> None:
        """Fix weights.

        Raises:
            TrainingError: a step made a weight NaN, infinite or nearly so.
        """
        weights = self._flat(self.means)
        largest = float(np.abs(weights).max(initial=0))
        if not largest < DIVERGED:
            raise TrainingError(
                f"the training diverged in stage {stage + 1}: a weight is {largest:g} in size; "
                "lower the learning rate, or look for images with extreme values"
            )
        self._take(self._rule(stage, weights))
        if self._norms and stage == len(self._schedule.fractions) - 1:
            with averaging(self._norms, self._kept.tensors), torch.no_grad():
                for seen in self._again():
                    self._run(self.means, seen.inputs)

    def tensors(self) -> dict[str, Tensor]:
        """Return all that changes."""
        return {
            **{f"weight/{name}": mean for name, mean in self.means.items()},
            **{
                f"{what}/{name}": tensor
                for what, companion in self._companions().items()
                for name, tensor in companion.items()
            },
            **self._kept.saved(),
            "fixed/entries": torch.from_numpy(self.fixing.entries),
            "fixed/indices": torch.from_numpy(self.fixing.indices),
            **optimiser_tensors(self._optimiser),
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take what :meth:`tensors` returned."""
        with torch.no_grad():
            for what, named in {"weight": self.means, **self._companions()}.items():
                for name, tensor in named.items():
                    tensor.copy_(tensors[f"{what}/{name}"])
        self._kept.load(tensors)
        entries, indices = (tensors[f"fixed/{n}"].cpu().numpy() for n in ("entries", "indices"))
        self._take(Fixing(entries, indices))
        load_optimiser(self._optimiser, tensors)

    def words(self) -> str:
        """Return how much is fixed, to how many entries, and their entropy, zero included."""
        counts = np.bincount(self.fixing.indices[self.fixing.fixed])
        n_fixed, n_weights = int(counts.sum()), self.fixing.indices.size
        if not n_fixed:
            return "nothing fixed"
        bits = entropy([counts])
        return f"{n_fixed / n_weights:.4g} fixed, {entries_text(len(counts))}, {bits:.2f} bits"

    # ------------------------------------------------------------------ results

    def shared(self) -> SharedWeights:
        """Return the solution, once all weights are fixed."""
        return shared_weights(self.fixing, self._network.state, self._kept.stored())

    @property
    def free(self) -> Mapping[str, Tensor]:
        """Which weights are not fixed yet, by name, in the shapes of :attr:`means`."""
        return self._free

    def _take(self, fixing: Fixing) -> None:
        """Set weights to what they are fixed to, and remember which those are."""
        self.fixing = fixing
        fixed = self._parted(fixing.fixed)
        values = self._parted(fixing.applied(self._flat(self.means)))
        self._free = {name: ~mask for name, mask in fixed.items()}
        with torch.no_grad():
            for name, mean in self.means.items():
                mean.copy_(values[name])
        companions = self._companions().values()
        self._fixed_leaves = [
            (named[name], mask, named[name].detach().clone())
            for named in (self.means, *companions)
            for name, mask in fixed.items()
        ]

    def _flat(self, named: Mapping[str, Tensor]) -> NDArray[np.float32]:
        """Return all weights one after the other, in the order of :attr:`means`."""
        parts = [named[name].detach().flatten().cpu().numpy() for name in self.means]
        return np.concatenate([np.zeros(0, dtype=np.float32), *parts])

    def _parted(self, flat: NDArray[np.generic]) -> dict[str, Tensor]:
        """Return parts of a flat array by name, in the shapes of the weights."""
        parts, begin = {}, 0
        for name, mean in self.means.items():
            part = flat[begin : begin + mean.numel()].reshape(tuple(mean.shape))
            parts[name] = torch.from_numpy(np.ascontiguousarray(part)).to(self._device)
            begin += mean.numel()
        return parts

    def leaves(self) -> list[Tensor]:
        """Return all numbers a weight that are trained: means first, then their companions."""
        companions = (c.values() for c in self._companions().values())
        return [*self.means.values(), *(tensor for values in companions for tensor in values)]

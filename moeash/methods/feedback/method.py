"""Uniform bins of one global codebook, weights assigned with second-order error feedback.

The house method. The codebook is the base method's: k uniform bins, zero-aligned. What changes is
who goes where: rounding one weight moves the weights not yet rounded so that the network's outputs
move least, as calibration images see it. No labels, no training.

Source: methods.md section 6; GPTQ (arXiv 2210.17323) for the recursion. Differences are listed in
:mod:`moeash.methods.feedback.assignment.columns` and
:mod:`moeash.methods.feedback.curvature.measuring`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moeash.core.codebook import (
    COUNT_DTYPE,
    Codebook,
    Parameter,
    SharedWeights,
    State,
    index_dtype,
    keep,
    keep_all,
    share,
)
from moeash.core.progress import Progress, silent
from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.variables import Variable
from moeash.data.inputs import Batch, joined
from moeash.data.splits import sample
from moeash.errors import InputError, RescalingError
from moeash.methods.base import Images, Method, Preparation
from moeash.methods.feedback.assignment.columns import zero_aligned_entries
from moeash.methods.feedback.assignment.sequential import BATCH, Rehearsal
from moeash.methods.feedback.balancing.grids import bins_of
from moeash.methods.feedback.balancing.scales import Balancing
from moeash.methods.feedback.compressing import Compressed, compress
from moeash.methods.feedback.options import FeedbackOptions
from moeash.methods.feedback.preparing import PreparedLayers, Settings, nearest_only, prepare
from moeash.networks.network import Network
from moeash.networks.pickling import PickledAsArrays

DAMPING = 0.1
"""Least damping of coupled rows; see the option."""

FEW = 0.03
"""Least damping with a thousand images, and as much more as there are fewer: the curvature of few
is mostly noise."""

SCARCE = 0.25
"""Least damping of a layer seen at one position for every column; it grows with the square root of
columns for a position, as directions that were not seen cost nothing without. With 200 images
files of equal outputs were 0 to 10 % smaller for LeNet-300-100 and -2 to 5 % for LeNet-5, with
1,000 up to 6 % for both; .16 gained less, and .08 or .2 for every column of a position erred at one
end."""

TRELLIS_BINS = 1.6
"""With a trellis k counts so many times the bins of a grid that is as fine without."""

SEQUENTIAL = 500
"""Calibration images with which refined candidates are compressed layer after layer: ten seconds
for ResNet-20 on one core. Files of equal outputs were 6 % smaller there; shallow networks gain
nothing."""


@dataclass(frozen=True, eq=False)
class FeedbackPrepared(PickledAsArrays):
    """What every candidate needs.

    Attributes:
        layers: factors of every calibrated layer, balanced, and what undoes the balancing.
        images: ``(n, ...)`` with which refined candidates are compressed; None when there will be
            none, or no calibration images.
        bins: lowest and highest k of the search.
        notes: what people should know about the preparation.
    """

    layers: PreparedLayers
    images: Batch | None
    bins: tuple[int, int]
    notes: tuple[str, ...]


class Feedback(Method):
    """Second-order error feedback on the one global codebook."""

    options: FeedbackOptions

    @property
    def rescales(self) -> bool:
        """Whether rows are balanced."""
        return self.options.balance > 0

    def weights(
        self, prepared: FeedbackPrepared, network: Network
    ) -> Sequence[NDArray[np.floating[Any]]]:
        """Return the balanced weights."""
        layers = prepared.layers
        tensors = [*(factor.weight for factor in layers.factors), *layers.plain.values()]
        return [tensor.detach().cpu().numpy() for tensor in tensors]

    @property
    def _finest(self) -> int | None:
        """Bins of the finest grid of the space, or of one that is as fine without a trellis."""
        if self.options.k is None:
            return None
        highest = self.options.k[1]
        return max(1, round(highest / TRELLIS_BINS)) if self.options.trellis else highest

    def space(self, prepared: FeedbackPrepared | None = None) -> Sequence[Variable]:
        """Return k and the rate; k within what was prepared."""
        return self.options.space() if prepared is None else self.options.space_of(prepared.bins)

    def prepare(self, preparation: Preparation) -> FeedbackPrepared:
        """Measure the curvature of every layer on the calibration split and factorise it.

        Without a calibration split every weight goes to its nearest entry, and a note says so.
        """
        network = preparation.network
        split = preparation.splits.get("calibration")
        if split is None:
            shared = [p.name for p in network.state if p.role == "shared"]
            note = (
                "method feedback has no calibration split, so every weight goes to its nearest "
                "entry; add [data.splits.calibration], or calibration= from Python (unlabelled "
                "images suffice)"
            )
            layers = nearest_only(network.module, shared)
            return FeedbackPrepared(layers, None, self._bins(layers), (note,))
        order = sample(len(split), self.options.images, preparation.seed)
        notes = []
        try:
            balancing = Balancing(self.options.balance, finest=self._finest)
            layers = self._measure(preparation, split, order, balancing)
        except RescalingError as error:
            alone = Balancing(0.0, through_norms=False, finest=self._finest)
            layers = self._measure(preparation, split, order, alone)
            notes.append(f"rows are not balanced: {error}")
        notes.append(
            f"{layers.n_calibrated:,} weights in {len(layers.factors)} layers are assigned "
            f"with feedback from {len(order):,} calibration images"
        )
        for name, reason in layers.reasons.items():
            notes.append(f"{name} goes to its nearest entries: {reason}")
        notes += layers.notes
        images = None
        if preparation.refines:
            n_images = min(SEQUENTIAL, self.options.images)
            some = sample(len(split), n_images, preparation.seed)
            images = joined([x.clone() for x, _ in split.batches(BATCH, order=some)])
        return FeedbackPrepared(layers, images, self._bins(layers), tuple(notes))

    def _bins(self, layers: PreparedLayers) -> tuple[int, int]:
        """Return the lowest and the highest k of the search."""
        if self.options.k is not None:
            return self.options.k
        found = layers.bins or bins_of(list(layers.plain.values()))
        if not self.options.trellis:
            return found
        coarsest, finest = (round(TRELLIS_BINS * n_bins) for n_bins in found)
        return coarsest, finest

    def _measure(
        self,
        preparation: Preparation,
        split: Images,
        order: NDArray[np.int64],
        balancing: Balancing,
    ) -> PreparedLayers:
        options, network = self.options, preparation.network

        def batches() -> Iterator[Batch]:
            done = 0
            for x, _ in split.batches(BATCH, order=order):
                yield x
                done += len(x)
                preparation.progress("measuring curvature", done, len(order))

        if options.damping == "auto":
            damping, scarce = max(DAMPING, FEW * (1000 / len(order))), SCARCE
        else:
            damping, scarce = options.damping, 0.0
        settings = Settings(
            sketches=options.sketches,
            damping=damping,
            scarce=scarce,
            common_order=options.trellis > 0,
            balancing=balancing,
            seed=preparation.seed,
        )
        return prepare(
            network.module,
            batches(),
            settings,
            shared=[p.name for p in network.state if p.role == "shared"],
            unscaled=network.folded,
            output=network.output,
            progress=preparation.progress,
        )

    def notes(self, prepared: FeedbackPrepared) -> Sequence[str]:
        """Return how many weights are assigned with feedback, and which are not and why."""
        return prepared.notes

    def most_entries(self, prepared: FeedbackPrepared) -> int:
        """Return the entries of the largest grid of the space."""
        low, high = prepared.bins
        # A grid through 0 has up to 2 entries more than k, not always for the highest k.
        grids = range(max(low, high - 2), high + 1)
        return max(len(zero_aligned_entries(*prepared.layers.span, k)) for k in grids)

    def compress(
        self,
        prepared: FeedbackPrepared,
        candidate: Candidate,
        *,
        network: Network,
        refined: bool = False,
        progress: Progress = silent,
    ) -> SharedWeights:
        """Return the shared weights of ``(k, rate)``, of a refined candidate layer by layer."""
        values = candidate.as_dict()
        rehearsal = None
        if refined and prepared.layers.factors:  # else there is nothing to do better
            if prepared.images is None:
                raise InputError(
                    "this was prepared without what refined candidates need; prepare it with "
                    "refines=True"
                )
            rehearsal = Rehearsal(network.module, prepared.images, network.state)
        result = compress(
            prepared.layers,
            int(values["k"]),
            float(values.get("rate", self.options.rate[0])),
            trellis=self.options.trellis,
            rehearsal=rehearsal,
            progress=progress,
        )
        return shared_weights(network.state, result)


def shared_weights(state: State, result: Compressed) -> SharedWeights:
    """Return one candidate's network as shared weights.

    Args:
        state: the float state.
        result: indices and moved kept tensors.
    """
    codebook = Codebook(result.entries.cpu().numpy())
    dtype = index_dtype(len(codebook))
    assigned = {}
    for name, chosen in result.indices.items():
        indices = chosen.flatten().cpu().numpy().astype(dtype)
        counts = np.bincount(indices, minlength=len(codebook)).astype(COUNT_DTYPE)
        assigned[name] = (0, indices, counts)
    kept = keep_all(state)
    for parameter in state:
        moved = result.kept.get(parameter.name)
        if moved is not None and parameter.role == "kept":
            kept[parameter.name] = keep(_moved(parameter, moved))
    return share(state, [codebook], assigned, kept)


def _moved(parameter: Parameter, values: Tensor) -> Parameter:
    array = values.detach().cpu().float().numpy().reshape(parameter.shape)
    return Parameter(parameter.name, parameter.shape, parameter.dtype, "kept", array)

"""Uniform bins of one global codebook, weights assigned with second-order error feedback.

The house method. The codebook is the base method's: k uniform bins, zero-aligned. What changes is
who goes where: rounding one weight moves the weights not yet rounded so that the network's outputs
move least, as calibration images see it. No labels, no training.

Source: methods.md section 6; GPTQ (arXiv 2210.17323) for the recursion. Differences are listed in
:mod:`moeash.methods.feedback.network` and :mod:`moeash.methods.feedback.curvature`.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from moeash.core.candidate import Candidate
from moeash.core.codebook import (
    COUNT_DTYPE,
    Codebook,
    KeptTensor,
    Parameter,
    SharedWeights,
    State,
    index_dtype,
    keep,
    keep_all,
    share,
)
from moeash.core.trellis import N_STATES, States
from moeash.core.variables import Integer, Real, Variable
from moeash.data.splits import sample
from moeash.errors import InputError
from moeash.methods.base import Images, Preparation
from moeash.methods.feedback import network as error_feedback
from moeash.methods.feedback.curvature import CurvatureKind
from moeash.methods.feedback.network import Compressed, RescalingError
from moeash.methods.feedback.rows import ROWS, Rows
from moeash.methods.feedback.sequential import Rehearsal

Damping = float | Literal["auto"] | None


@dataclass(frozen=True, eq=False)
class FeedbackPrepared:
    """What every candidate needs.

    Attributes:
        state: the float state.
        networks: by damping: factors of every calibrated layer, balanced, and what undoes the
            balancing.
        kept: the kept parameters, where a candidate does not move them.
        rehearsal: what refined candidates are compressed with; None when there are none.
        notes: what people should know about the preparation.
    """

    state: State
    networks: tuple[error_feedback.Prepared, ...]
    kept: dict[str, KeptTensor]
    rehearsal: Rehearsal | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Feedback:
    """Second-order error feedback on the one global codebook.

    Attributes:
        k: lowest and highest number of bins over the range of the balanced weights.
        rate: what a bit is worth, lowest and highest; searched on a log scale. One value means the
            same trade on every network; equal bounds fix it.
        curvature: ``gradients`` of the output, or ``inputs`` of each layer.
        sketches: random sketches of the output per calibration image.
        temperature: of the softmax whose Hessian weighs the outputs.
        damping: added to the diagonal, relative to its mean. ``auto``: 0.1, with independent rows
            0.03, and at least 30 over the number of images, as the curvature of few is mostly
            noise. With coupled rows files of equal outputs were 2 % smaller for ResNet-20 with 0.1
            than with 0.03, 6 % for LeNet-300-100 and 11 % for LeNet-5.
        dampings: how many dampings the search chooses from, half a decade apart around
            ``damping``; each is as much memory as the weights' factors. 1: it is not searched.
        balance: exponent of the balancing of rows in front of BatchNorms and between layers with
            only ReLUs and pooling between them; 0 switches it off.
        rows: ``coupled``: the error of a weight moves to later rows, too, as far as the images show
            that they can take it up; ``independent``: to later columns of its row only. Coupled
            rows, as trellises, are assigned on the CPU wherever the network is.
        trellis: states of the trellis that the weights of a column follow, 4, 8 or 16; 0 for none.
            k then counts entries half as far apart: ask for 1.6 times as many. Needs the adaptive
            coder. With 8, files of equal outputs were 4 % smaller for ResNet-20, 6 % for
            LeNet-300-100, and larger for LeNet-5 at half a bit a weight and for a CNN of 55,000
            weights. A merge pass leaves it, as merged entries follow no trellis: disable merging.
        sequential: calibration images with which refined solutions are compressed layer after
            layer, see :mod:`moeash.methods.feedback.sequential`; 0: solutions are not refined.
            Takes two passes up to each layer, half a minute for ResNet-20 on one core, and gave
            files of equal outputs that were 6 % smaller there; shallow networks gain nothing.
        images: calibration images used, at most.
        batch_size: calibration images a pass.
    """

    k: tuple[int, int] = (4, 128)
    rate: tuple[float, float] = (0.02, 0.1)
    curvature: CurvatureKind = "gradients"
    sketches: int = 4
    temperature: float = 4.0
    damping: Damping = "auto"
    dampings: int = 1
    balance: float = 0.25
    rows: Rows = "coupled"
    trellis: States = 0
    sequential: int = 500
    images: int = 5000
    batch_size: int = 100

    name = "feedback"

    def __post_init__(self) -> None:
        if not 1 <= self.k[0] <= self.k[1]:
            raise InputError(f"method.k must be [low, high] with 1 <= low <= high, got {self.k}")
        if not 0 < self.rate[0] <= self.rate[1]:
            raise InputError(
                f"method.rate must be [low, high] with 0 < low <= high, got {self.rate}"
            )
        if self.trellis not in N_STATES:
            raise InputError(f"method.trellis must be one of {N_STATES}, got {self.trellis}")
        if self.rows not in ROWS:
            raise InputError(f"method.rows must be {' or '.join(ROWS)}, got {self.rows!r}")
        if isinstance(self.damping, str) and self.damping != "auto":
            raise InputError(f"method.damping must be a number or 'auto', got {self.damping!r}")
        if self.sequential < 0:
            raise InputError(f"method.sequential must be at least 0, got {self.sequential}")
        if self.images < 1 or self.batch_size < 1 or self.dampings < 1:
            raise InputError(
                "method.images, method.batch_size and method.dampings must be at least 1"
            )

    def space(self) -> Sequence[Variable]:
        """Return k and, unless they are fixed, the rate and the damping in half decades."""
        space: list[Variable] = [Integer("k", *self.k)]
        if self.rate[0] != self.rate[1]:
            space.append(Real("rate", *self.rate, log=True))
        if self.dampings > 1:
            space.append(Integer("damping", *self._half_decades()))
        return space

    def _half_decades(self) -> tuple[int, int]:
        return -(self.dampings // 2), (self.dampings - 1) // 2

    @property
    def calibration_images(self) -> int:
        """Images looked at, at most."""
        return self.images

    def prepare(self, preparation: Preparation) -> FeedbackPrepared:
        """Measure the curvature of every layer on the calibration split and factorise it.

        Without a calibration split every weight goes to its nearest entry, and a note says so.
        """
        network = preparation.network
        shared = [p.name for p in network.state if p.role == "shared"]
        split = preparation.splits.get("calibration")
        if split is None:
            nearest = error_feedback.nearest_only(network.module, shared)
            prepared = (nearest,) * self.dampings
            rehearsal = None
            notes = [
                "method feedback has no calibration split, so every weight goes to its nearest "
                "entry; add [data.splits.calibration], or calibration= from Python (unlabelled "
                "images suffice)"
            ]
        else:
            try:
                prepared = self._measure(preparation, split, shared, rescale=True)
                notes = []
            except RescalingError as error:
                prepared = self._measure(preparation, split, shared, rescale=False)
                notes = [f"rows are not balanced: {error}"]
            rehearsal = self._rehearsal(preparation, split)
            one = prepared[0]
            notes.append(
                f"{one.n_calibrated:,} weights in {len(one.factors)} layers are assigned "
                f"with feedback from {min(self.images, len(split)):,} calibration images"
            )
            for name, reason in one.reasons.items():
                notes.append(f"{name} goes to its nearest entries: {reason}")
        return FeedbackPrepared(
            state=network.state,
            networks=prepared,
            kept=keep_all(network.state),
            rehearsal=rehearsal,
            notes=tuple(notes),
        )

    def _measure(
        self, preparation: Preparation, split: Images, shared: list[str], *, rescale: bool
    ) -> tuple[error_feedback.Prepared, ...]:
        module = preparation.network.module
        device = next(module.parameters()).device
        order = sample(len(split), self.images, preparation.seed)
        damping = self._damping(len(order))
        low, high = self._half_decades()
        return error_feedback.prepare_each(
            module,
            (x.to(device) for x, _ in split.batches(self.batch_size, order=order)),
            [damping * 10 ** (i / 2) for i in range(low, high + 1)],
            shared=shared,
            kind=self.curvature,
            sketches=self.sketches,
            temperature=self.temperature,
            common_order=self.trellis > 0,
            rows=self.rows,
            balance=self.balance if rescale else 0.0,
            through_norms=rescale,
            unscaled=preparation.network.folded,
            seed=preparation.seed,
        )

    def _rehearsal(self, preparation: Preparation, split: Images) -> Rehearsal | None:
        if not self.sequential:
            return None
        order = sample(len(split), min(self.sequential, self.images), preparation.seed)
        images = [x.clone() for x, _ in split.batches(self.batch_size, order=order)]
        network = copy.deepcopy(preparation.network.module)
        return Rehearsal(network, torch.cat(images), self.batch_size)

    @property
    def refines(self) -> bool:
        """Whether solutions are compressed again layer after layer."""
        return self.sequential > 0

    def _damping(self, n_images: int) -> float:
        if isinstance(self.damping, float | int):
            return self.damping
        few = 0.03 * max(1.0, 1000 / n_images)
        # None is what studies stored that were made before "auto".
        return max(0.1, few) if self.damping == "auto" and self.rows == "coupled" else few

    def notes(self, prepared: FeedbackPrepared) -> Sequence[str]:
        """Return how many weights are assigned with feedback, and which are not and why."""
        return prepared.notes

    def compress(
        self, prepared: FeedbackPrepared, candidate: Candidate, *, refined: bool = False
    ) -> SharedWeights:
        """Return the shared weights of ``(k, rate, damping)``, of a refined one layer by layer."""
        values = candidate.as_dict()
        rate = float(values.get("rate", self.rate[0]))
        network = prepared.networks[int(values.get("damping", 0)) - self._half_decades()[0]]
        result = error_feedback.compress(
            network,
            int(values["k"]),
            rate,
            trellis=self.trellis,
            rehearsal=prepared.rehearsal if refined else None,
        )
        return shared_weights(prepared, result)


def shared_weights(prepared: FeedbackPrepared, result: Compressed) -> SharedWeights:
    """Return one candidate's network as shared weights."""
    codebook = Codebook(result.entries.cpu().numpy())
    dtype = index_dtype(len(codebook))
    assigned = {}
    for name, chosen in result.indices.items():
        indices = chosen.flatten().cpu().numpy().astype(dtype)
        counts = np.bincount(indices, minlength=len(codebook)).astype(COUNT_DTYPE)
        assigned[name] = (0, indices, counts)
    kept = dict(prepared.kept)
    for parameter in prepared.state:
        moved = result.kept.get(parameter.name)
        if moved is not None and parameter.role == "kept":
            kept[parameter.name] = keep(_moved(parameter, moved))
    return share(prepared.state, [codebook], assigned, kept)


def _moved(parameter: Parameter, values: torch.Tensor) -> Parameter:
    array = values.detach().cpu().float().numpy().reshape(parameter.shape)
    return Parameter(parameter.name, parameter.shape, parameter.dtype, "kept", array)

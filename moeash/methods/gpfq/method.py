"""GPFQ as a method: greedy path-following quantisation with an alphabet per layer.

A published system moeash is measured against. Its alphabets belong to layers, so a solution has as
many codebooks as layers; the merge pass, which needs one global codebook, leaves it alone.

Source: as :mod:`moeash.methods.gpfq.layers`; methods.md section 1.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moeash.core.candidate import Candidate
from moeash.core.codebook import (
    COUNT_DTYPE,
    Codebook,
    SharedWeights,
    State,
    index_dtype,
    keep_all,
    share,
)
from moeash.core.variables import Integer, Variable
from moeash.data.splits import sample
from moeash.errors import InputError
from moeash.methods.base import Preparation
from moeash.methods.gpfq.layers import (
    VARIANTS,
    GpfqLayer,
    Variant,
    quantisable,
    quantise_gpfq,
    symmetric_alphabet,
)


@dataclass(frozen=True, eq=False)
class GpfqPrepared:
    """What every candidate needs.

    Attributes:
        state: the float state; what GPFQ cannot quantise is kept in it.
        module: a copy of the float network.
        batches: calibration images.
        seed: of the stochastic variant.
        notes: what was quantised, and what was kept and why.
    """

    state: State
    module: nn.Module
    batches: tuple[Tensor, ...]
    seed: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Gpfq:
    """Greedy path-following quantisation, one symmetric alphabet a layer.

    Attributes:
        levels: lowest and highest number of positive symbols; b bits of the paper are 2**(b-1).
        scale: C of the paper.
        quantile: of the magnitudes of a row that sets its layer's radius; 1 is the maximum.
        variant: ``nearest``, ``l0``, ``l1`` or ``stochastic``.
        threshold: of l0 and l1, in units of the weights.
        bias_correction: add the mean output error of a layer to its bias, where it has one.
        images: calibration images used, at most.
        batch_size: calibration images a pass.
    """

    levels: tuple[int, int] = (1, 16)
    scale: float = 1.16
    quantile: float = 1.0
    variant: Variant = "nearest"
    threshold: float = 0.1
    bias_correction: bool = False
    images: int = 1000
    batch_size: int = 100

    name = "gpfq"
    refines = False

    def __post_init__(self) -> None:
        if not 1 <= self.levels[0] <= self.levels[1]:
            raise InputError(
                f"method.levels must be [low, high] with 1 <= low <= high, got {self.levels}"
            )
        if self.variant not in VARIANTS:
            raise InputError(f"method.variant is one of {', '.join(VARIANTS)}")

    def space(self) -> Sequence[Variable]:
        """Return the one variable, the number of positive symbols."""
        return (Integer("levels", *self.levels),)

    @property
    def calibration_images(self) -> int:
        """Images looked at, at most."""
        return self.images

    def prepare(self, preparation: Preparation) -> GpfqPrepared:
        """Copy the network and hold the calibration images.

        Raises:
            InputError: there is no calibration split; GPFQ is defined by its inputs.
        """
        split = preparation.splits.get("calibration")
        if split is None:
            raise InputError(
                "method gpfq needs calibration images; add [data.splits.calibration], or "
                "calibration= from Python (unlabelled images suffice)"
            )
        network = preparation.network
        module = copy.deepcopy(network.module)
        order = sample(len(split), self.images, preparation.seed)
        batches = tuple(x.clone() for x, _ in split.batches(self.batch_size, order=order))
        names, reasons = quantisable(module, batches)
        left = [p.name for p in network.state if p.role == "shared" and p.name not in names]
        state = tuple(replace(p, role="kept") if p.name in left else p for p in network.state)
        n_quantised = sum(
            p.values.size for p in state if p.role == "shared" and p.values is not None
        )
        notes = [f"{n_quantised:,} weights are quantised by GPFQ from {len(order):,} images"]
        notes += [f"{name} is kept: {reasons.get(name, 'it is no weight')}" for name in left]
        return GpfqPrepared(state, module, batches, preparation.seed, tuple(notes))

    def notes(self, prepared: GpfqPrepared) -> Sequence[str]:
        """Return how many weights are quantised, and what is kept and why."""
        return prepared.notes

    def compress(
        self, prepared: GpfqPrepared, candidate: Candidate, *, refined: bool = False
    ) -> SharedWeights:
        """Quantise layer by layer with ``candidate["levels"]`` positive symbols."""
        generator = torch.Generator().manual_seed(prepared.seed)
        alphabet = partial(
            symmetric_alphabet,
            levels=int(candidate["levels"]),
            scale=self.scale,
            quantile=self.quantile,
            variant=self.variant,
            threshold=self.threshold,
            generator=generator if self.variant == "stochastic" else None,
        )
        quantised = quantise_gpfq(prepared.module, prepared.batches, alphabet)
        layers = {layer.name: layer for layer in quantised}
        state = tuple(
            replace(p, role="kept") if p.role == "shared" and p.name not in layers else p
            for p in prepared.state
        )
        if self.bias_correction:
            state = _corrected(state, layers)
        codebooks: list[Codebook] = []
        assigned = {}
        for parameter in state:
            if parameter.role == "shared":
                codebook, indices, counts = _used(layers[parameter.name])
                assigned[parameter.name] = (len(codebooks), indices, counts)
                codebooks.append(codebook)
        return share(state, codebooks, assigned, keep_all(state))


def _used(layer: GpfqLayer) -> tuple[Codebook, NDArray[Any], NDArray[np.int64]]:
    """Return a layer's alphabet without the symbols it does not use, indices and counts."""
    chosen = layer.indices.flatten().cpu().numpy()
    used, indices = np.unique(chosen, return_inverse=True)
    codebook = Codebook(layer.entries.cpu().numpy()[used])
    narrow = indices.reshape(-1).astype(index_dtype(len(codebook)))
    return codebook, narrow, np.bincount(narrow, minlength=len(codebook)).astype(COUNT_DTYPE)


def _corrected(state: State, layers: dict[str, GpfqLayer]) -> State:
    shifts = {
        name.removesuffix("weight") + "bias": layer.bias_shift for name, layer in layers.items()
    }
    return tuple(
        replace(p, values=(p.values + shifts[p.name].cpu().numpy()).astype(p.values.dtype))
        if p.name in shifts and p.role == "kept" and p.values is not None
        else p
        for p in state
    )

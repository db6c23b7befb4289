"""GPFQ as a method: greedy path-following quantisation with an alphabet per layer.

A published system moeash is measured against. Its alphabets belong to layers, so a solution has as
many codebooks as layers; the merge pass, which needs one global codebook, leaves it alone.

Source: as :mod:`moeash.methods.gpfq.layers`; methods.md section 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moeash.core.codebook import (
    COUNT_DTYPE,
    Codebook,
    SharedWeights,
    State,
    index_dtype,
    keep_all,
    share,
)
from moeash.core.progress import Progress, silent
from moeash.core.solutions.candidate import Candidate
from moeash.data.inputs import Batch, joined
from moeash.data.splits import sample
from moeash.errors import InputError
from moeash.methods.base import Method, Preparation
from moeash.methods.gpfq.layers import GpfqLayer, quantisable, quantise_gpfq, symmetric_alphabet
from moeash.methods.gpfq.options import GpfqOptions
from moeash.networks.network import Network
from moeash.networks.pickling import PickledAsArrays

BATCH = 100
"""Calibration images a pass: changes time and memory, and the last bits of sums."""


@dataclass(frozen=True, eq=False)
class GpfqPrepared(PickledAsArrays):
    """What every candidate needs.

    Attributes:
        images: ``(n, ...)`` calibration images.
        n_layers: layers that are quantised.
        seed: of the stochastic variant.
        notes: what is quantised, and what is kept and why.
    """

    images: Batch
    n_layers: int
    seed: int
    notes: tuple[str, ...]


class Gpfq(Method):
    """Greedy path-following quantisation, one symmetric alphabet a layer."""

    options: GpfqOptions

    def prepare(self, preparation: Preparation) -> GpfqPrepared:
        """Hold the calibration images, and see which layers the network has.

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
        order = sample(len(split), self.options.images, preparation.seed)
        batches: list[Batch] = []
        for x, _ in split.batches(BATCH, order=order):
            batches.append(x.clone())
            preparation.progress("reading images", sum(map(len, batches)), len(order))
        names, reasons = quantisable(network.module, batches)
        shared = [p for p in network.state if p.role == "shared"]
        sizes = [p.values.size for p in shared if p.name in names and p.values is not None]
        notes = [f"{sum(sizes):,} weights are quantised by GPFQ from {len(order):,} images"]
        notes += [
            f"{p.name} is kept: {reasons.get(p.name, 'it is no weight')}"
            for p in shared
            if p.name not in names
        ]
        return GpfqPrepared(joined(batches), len(sizes), preparation.seed, tuple(notes))

    def notes(self, prepared: GpfqPrepared) -> Sequence[str]:
        """Return how many weights are quantised, and what is kept and why."""
        return prepared.notes

    def most_entries(self, prepared: GpfqPrepared) -> int:
        """Return the symbols of all layers with the highest number of levels."""
        # The l0 variant has the threshold, with either sign, besides.
        symbols = 2 * self.options.levels[1] + (3 if self.options.variant == "l0" else 1)
        return prepared.n_layers * symbols

    def compress(
        self,
        prepared: GpfqPrepared,
        candidate: Candidate,
        *,
        network: Network,
        refined: bool = False,
        progress: Progress = silent,
    ) -> SharedWeights:
        """Quantise layer by layer with ``candidate["levels"]`` positive symbols."""
        generator = torch.Generator().manual_seed(prepared.seed)
        alphabet = partial(
            symmetric_alphabet,
            levels=int(candidate["levels"]),
            scale=self.options.scale,
            variant=self.options.variant,
            generator=generator if self.options.variant == "stochastic" else None,
        )
        images = prepared.images
        quantised = quantise_gpfq(
            network.module,
            [images[start : start + BATCH] for start in range(0, len(images), BATCH)],
            alphabet,
            shared={p.name for p in network.state if p.role == "shared"},
            state=network.state,
            progress=progress,
        )
        layers = {layer.name: layer for layer in quantised}
        state = tuple(
            replace(p, role="kept") if p.role == "shared" and p.name not in layers else p
            for p in network.state
        )
        if self.options.bias_correction:
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

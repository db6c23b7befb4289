"""A network of the ablation, one way to compress it, and what a file of it costs."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from measure import divergence, images_of
from torch import Tensor, nn

from moeash.codec.size import size
from moeash.compression.folding import IMAGES, fold_norms
from moeash.core.codebook import SharedWeights
from moeash.core.kept import Keeping, KeptPrecision
from moeash.data.splits import load_splits
from moeash.methods.feedback.assignment.sequential import Rehearsal
from moeash.methods.feedback.compressing import Compressed
from moeash.methods.feedback.method import shared_weights
from moeash.methods.feedback.preparing import PreparedLayers, Settings, prepare
from moeash.networks.loading.sources import read_network
from moeash.networks.norms import find_norms
from moeash.networks.writing.inplace import load_into
from moeash.study.spec.reading import load_spec

BASE = Settings(sketches=2, damping=0.03, rows="independent")
"""How every row prepares but for what it changes: half the method's sketches for the time they
take, and each row of a weight by itself: coupling them is one of the things that are added to this
base."""


@dataclass(frozen=True)
class Scale:
    """How a network is compared.

    Attributes:
        k: every row tries it first; the rules of assignment are compared at it.
        kl: at which bytes are compared, in nats an image.
        calibration: images.
        measured: search images the KL is the mean of.
    """

    k: int
    kl: float
    calibration: int
    measured: int


SCALES = {
    "resnet20": Scale(k=57, kl=0.03, calibration=1000, measured=2000),
    "lenet300": Scale(k=33, kl=0.004, calibration=5000, measured=5000),
}


@dataclass(frozen=True)
class Row:
    """One way to compress.

    Attributes:
        name: in the table.
        assign: makes a candidate.
        under: the row it is compared with, by name.
        settings: how the network is measured and factorised.
        compress: arguments of :func:`moeash.methods.feedback.compressing.compress` that differ.
        rate: what a bit is worth.
        coder: of the file.
        kept: precision of kept floats.
        two_vectors: keep BatchNorms as the scale and shift they come down to.
        folded: fold BatchNorms into the layers before them first.
        norms_only: only for networks with BatchNorms.
    """

    name: str
    assign: Callable[["Bench", "Row", int], Compressed | SharedWeights]
    under: str = "feedback"
    settings: Settings = BASE
    compress: Mapping[str, Any] = field(default_factory=dict)
    rate: float = 0.02
    coder: str = "adaptive"
    kept: KeptPrecision = "float16"
    two_vectors: bool = True
    folded: bool = False
    norms_only: bool = False


class Bench:
    """A network, its calibration images, and what it answers on the KL images."""

    def __init__(self, spec: Path) -> None:
        """Load everything once."""
        task = load_spec(spec).task()
        assert task.data is not None
        self.name, self._notes = task.network.source, task.notes
        self.scale = SCALES[self.name]
        splits = load_splits(task.data)
        self.network = read_network(task.network)
        self.module = self.network.module.eval()
        self.calibration = images_of(splits["calibration"], self.scale.calibration, 100)
        self._images_kl = images_of(splits["search"], self.scale.measured, 250)
        self._exact = self._outputs(self.module)
        self.weights = [p.name for p in self.network.state if p.role == "shared"]
        self.prepared = lru_cache(self._prepared)

    @cached_property
    def with_norms_folded(self) -> "Bench":
        """The same bench with BatchNorms folded into the layers before them."""
        other = copy.copy(self)
        twin = replace(self.network, module=copy.deepcopy(self.module))
        other.network = fold_norms(twin, self.calibration[0][:IMAGES]).network
        other.module = other.network.module
        other.prepared = lru_cache(other._prepared)
        return other

    def _outputs(self, module: nn.Module) -> Tensor:
        with torch.inference_mode():
            return torch.cat([module(x) for x in self._images_kl])

    def _prepared(self, settings: Settings) -> PreparedLayers:
        return prepare(
            self.module,
            self.calibration,
            settings,
            shared=self.weights,
            unscaled=self.network.folded,
        )

    def rehearsal(self, count: int) -> Rehearsal:
        """Return what layers are compressed one after the other with."""
        return Rehearsal(self.module, torch.cat(self.calibration)[:count])

    def pack(self, result: Compressed, row: Row) -> SharedWeights:
        """Return what goes into the file."""
        return self.stored(self.shared(result), row)

    def shared(self, result: Compressed) -> SharedWeights:
        """Return a candidate with its kept tensors in the network's precision."""
        return shared_weights(self.network.state, result)

    def stored(self, shared: SharedWeights, row: Row) -> SharedWeights:
        """Return a candidate with its kept tensors as the file stores them."""
        norms = find_norms(self.module, self.network.state) if row.two_vectors else ()
        return Keeping(row.kept, norms).apply(shared)

    def twin(self, shared: SharedWeights) -> nn.Module:
        """Return the network with the weights a file decodes to."""
        module = copy.deepcopy(self.module)
        load_into(module, shared.decoded())
        return module

    def measure(self, shared: SharedWeights, coder: str) -> dict[str, float]:
        """Return the bytes of the file and the KL of what it decodes to."""
        return {
            "size_bytes": size(shared, coder=coder, notes=self._notes).total,
            "kl": divergence(self._exact, self._outputs(self.twin(shared))),
            "entries": shared.n_entries,
        }

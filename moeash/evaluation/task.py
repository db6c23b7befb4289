"""A task: everything a worker needs to evaluate candidates of one study, small and picklable.

A task says *where* a network and its images come from; an
:class:`~moeash.evaluation.evaluate.Evaluator` loads them once and then answers any number of jobs.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from moeash.codec.pools import Coder
from moeash.compression.keeping import KeptChoice, NormsChoice
from moeash.core.kept import Keeping
from moeash.core.objectives import SizeName
from moeash.data.sources import load_source
from moeash.data.splits import Split, draw_splits
from moeash.data.unlabelled import Unlabelled
from moeash.errors import SpecError
from moeash.evaluation.assess import Precision
from moeash.methods.base import Method
from moeash.networks.checkpoints import fit, load_checkpoint
from moeash.networks.network import Network
from moeash.networks.parameters import read_state
from moeash.networks.sources import load_network


@dataclass(frozen=True)
class NetworkTask:
    """Where the network comes from and which parameters it shares.

    Attributes:
        source: a built-in name, ``torchvision:NAME``, ``package.module:factory``, or a module.
        checkpoint: safetensors or torch file; default: the weights the source brings.
        weights: torchvision weights enum name.
        options: keyword arguments of the factory.
        include: patterns of parameters to share; default: every float of two or more dimensions.
        exclude: patterns of parameters to keep.
        share_all: share 1-D float parameters too.
    """

    source: str | nn.Module
    checkpoint: str | None = None
    weights: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None
    share_all: bool = False

    def load(self) -> Network:
        """Load the network and read its state."""
        if isinstance(self.source, nn.Module):
            module, name = self.source, type(self.source).__name__
            if self.checkpoint is not None:
                fit(module, load_checkpoint(self.checkpoint), self.checkpoint)
        else:
            name = self.source
            module = load_network(
                self.source,
                checkpoint=self.checkpoint,
                weights=self.weights,
                options=dict(self.options),
            )
        state = read_state(
            module,
            include=self.include,
            exclude=self.exclude,
            all=self.share_all,
        )
        return Network(module, state, name)


@dataclass(frozen=True)
class DataTask:
    """Where the images come from and how they are split."""

    source: str
    root: str | None
    options: Mapping[str, Any]
    splits: Mapping[str, Mapping[str, Any]]

    def load(self) -> dict[str, Split]:
        """Draw the splits; images are read when a split is first used."""
        source = load_source(self.source, root=self.root, options=dict(self.options))
        return draw_splits(source, self.splits)


@dataclass(frozen=True)
class Task:
    """What one study evaluates.

    Attributes:
        network: the network.
        data: the images; None when ``evaluate`` measures the network itself.
        evaluate: ``evaluate(module) -> float``, higher is better, for what is not classification.
        metric: name of the metric on the search split.
        method: turns candidates into shared weights.
        objectives: the sizes the study minimises.
        coder: entropy coder of the file.
        kept: how kept floats are stored.
        norms: how BatchNorms are stored.
        fold_norms: fold BatchNorms into the layers before them first.
        remeasure_norms: calibration images on which every candidate's BatchNorm statistics are
            measured again; 0: they are kept.
        notes: short texts stored in the file, counted in its bytes.
        batch_size: images a forward pass.
        n_threads: torch and kernel threads; None leaves torch as it is.
        device: torch device.
        seed: of the method's random draws.
        precision: arithmetic of the forward pass.
        calibration: inputs for the method, where they do not come with ``data``.
        keeping: what ``kept`` and ``norms`` came to when the study began; None: decide it.
    """

    network: NetworkTask
    data: DataTask | None
    evaluate: Callable[[nn.Module], float] | None
    metric: str
    method: Method
    objectives: tuple[SizeName, ...]
    coder: Coder
    kept: KeptChoice
    norms: NormsChoice
    notes: Mapping[str, str]
    batch_size: int
    n_threads: int | None
    device: str
    seed: int
    precision: Precision = "float32"
    calibration: Unlabelled | None = None
    keeping: Keeping | None = None
    fold_norms: bool = False
    remeasure_norms: int = 0

    def __post_init__(self) -> None:
        if (self.data is None) == (self.evaluate is None):
            raise SpecError("a task measures either images (data) or a function (evaluate)")
        if self.kept == "auto" and self.data is None:
            raise SpecError(
                "kept = 'auto' measures what rounding does on images of the search split, and here "
                "a function measures; choose float16 or float32"
            )


def available_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

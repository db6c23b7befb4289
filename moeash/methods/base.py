"""The contract every method fulfils.

A method turns (network, candidate) into :class:`~moeash.core.codebook.SharedWeights`. What follows
(size, accuracy, merging, export, plots) is common to all methods and never asks which one it was.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moeash.core.bins import Grid, Indices
from moeash.core.candidate import Candidate
from moeash.core.codebook import Codebook, SharedWeights
from moeash.core.progress import Progress, silent
from moeash.core.variables import Variable
from moeash.networks.network import Network


class Images(Protocol):
    """What a method reads images from: a split of the study, or unlabelled inputs."""

    def __len__(self) -> int: ...

    def batches(
        self, batch_size: int, order: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images and labels; a method that calibrates ignores the labels."""
        ...


@dataclass(frozen=True)
class Preparation:
    """What a method may look at once per study.

    Attributes:
        network: the float network.
        splits: the study's splits by name; a method may use ``calibration`` and ``train``, never
            ``search`` or ``holdout``.
        seed: of every random draw the method makes.
        n_threads: threads it may use; they change the time, never the result.
        progress: hears how far the preparation is.
    """

    network: Network
    splits: Mapping[str, Images]
    seed: int
    n_threads: int
    progress: Progress = silent


class Method(Protocol):
    """A way from a candidate to shared weights; deterministic."""

    name: str

    def space(self) -> Sequence[Variable]:
        """Return the variables a candidate has; the first is k."""
        ...

    @property
    def calibration_images(self) -> int:
        """How many images of a calibration split it looks at, at most; 0: it needs none."""
        ...

    def prepare(self, preparation: Preparation) -> Any:
        """Return the picklable arrays every candidate needs: the work of once per study."""
        ...

    def notes(self, prepared: Any) -> Sequence[str]:
        """Return what people should know about the preparation, one line each."""
        ...

    @property
    def refines(self) -> bool:
        """Whether it has a slower way from a candidate to better weights: ``refined=True``."""
        ...

    def compress(
        self, prepared: Any, candidate: Candidate, *, refined: bool = False
    ) -> SharedWeights:
        """Return the shared weights of a candidate; never touches the network.

        Kept tensors come in the network's own precision. How the file stores them is the study's
        choice, not the method's.
        """
        ...


@dataclass(frozen=True, eq=False)
class GridAssignment:
    """Shared weights of one codebook, told without looking at any weight.

    Attributes:
        grid: the bins.
        lookup: ``(grid.n_bins,)`` unsigned, the entry of each bin.
        codebook: the entries.
        counts: ``(n_tensors, n_entries)`` int64, weights of each shared tensor per entry.
    """

    grid: Grid
    lookup: Indices
    codebook: Codebook
    counts: NDArray[np.int64]


@runtime_checkable
class GridMethod(Protocol):
    """A method that gives every weight the entry of its bin, so that a device can do it.

    Its prepared arrays have ``state`` and ``kept``.
    """

    def assignment(self, prepared: Any, candidate: Candidate) -> GridAssignment:
        """Return what ``compress`` would assign."""
        ...


@dataclass(frozen=True)
class MethodEntry:
    """One row of the table of methods.

    Attributes:
        build: makes the method from its options; the dataclass whose fields are its options.
        summary: one line for people.
    """

    build: Callable[..., Method]
    summary: str

"""The contract every method fulfils, and what it takes to add one.

A method turns (network, candidate) into :class:`~moeash.core.codebook.SharedWeights`. What follows
(size, accuracy, merging, export, plots) is common to all methods and never asks which one it was.

A new method is a folder with

* ``options.py``: its options, a frozen dataclass that needs no torch, documented by its
  ``Attributes:`` and checked in ``__post_init__`` with :class:`~moeash.errors.InputError`; the
  members it needs are listed in :mod:`moeash.methods.options`, where it is entered by name;
* ``method.py``: a class that derives from :class:`Method`, entered in
  :mod:`moeash.methods.registry`;
* the classes its prepared value consists of, entered in :mod:`moeash.methods.stored`;

and a subclass of the contract in ``tests/contracts/method.py``.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moeash.core.bins import Grid, Indices
from moeash.core.codebook import Codebook, SharedWeights
from moeash.core.progress import Progress, silent
from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.variables import Variable
from moeash.data.inputs import Batch
from moeash.methods.options import MethodOptions
from moeash.networks.network import Network


class Images(Protocol):
    """What a method reads images from: a split of the study, or unlabelled inputs."""

    def __len__(self) -> int: ...

    def batches(
        self, batch_size: int, order: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Yield images and labels; a method that calibrates ignores the labels."""
        ...

    def fingerprint(self) -> str:
        """Return 32 hex digits that change with the images."""
        ...


@dataclass(frozen=True)
class Preparation:
    """What a method may look at once per study.

    Attributes:
        network: the float network; its module holds its float weights.
        splits: the study's splits by name; a method may use ``calibration`` and ``train``, never
            ``search`` or ``holdout``.
        seed: of every random draw the method makes.
        n_threads: threads it may use; they change the time, never the result.
        refines: whether refined candidates will be asked for; what only they need is prepared only
            then.
        progress: told a few times a second at most what is going on.
    """

    network: Network
    splits: Mapping[str, Images]
    seed: int
    n_threads: int
    refines: bool = True
    progress: Progress = silent


@dataclass(frozen=True)
class Method(ABC):
    """A way from a candidate to shared weights; deterministic.

    It is its options and nothing else, so it is picklable and costs nothing to make.

    Attributes:
        options: what it was configured with.
    """

    options: MethodOptions

    @property
    def name(self) -> str:
        """Its name in a spec."""
        return self.options.name

    def space(self, prepared: Any = None) -> Sequence[Variable]:
        """Return the variables a candidate has.

        Args:
            prepared: from :meth:`prepare`; bounds may follow from what it has measured, and are as
                wide as any without it.
        """
        return self.options.space()

    @property
    def calibration_images(self) -> int:
        """How many images of a calibration split it looks at, at most; 0: it needs none."""
        return self.options.calibration_images

    @property
    def refines(self) -> bool:
        """Whether it has a slower way from a candidate to better weights: ``refined=True``."""
        return self.options.refines

    @property
    def mergeable(self) -> bool:
        """Whether neighbouring entries of its codebook may be merged; then it has exactly one."""
        return self.options.mergeable

    @property
    def needs_coder(self) -> str | None:
        """The entropy coder its files need; None: any will do."""
        return self.options.needs_coder

    @property
    def rescales(self) -> bool:
        """Whether it rescales rows or columns, so that entries have other units than weights."""
        return False

    @property
    def keeps_artifacts(self) -> bool:
        """Whether its solutions cannot be rebuilt in seconds, so that their files are stored."""
        return False

    @abstractmethod
    def prepare(self, preparation: Preparation) -> Any:
        """Return what every candidate needs: the work of once per study.

        It consists of dataclasses entered in :mod:`moeash.methods.stored`, tuples, lists, dicts,
        tensors, arrays and plain values, so that it can be pickled to workers and stored beside a
        study; never of modules. The module is left as it was.
        """

    @abstractmethod
    def notes(self, prepared: Any) -> Sequence[str]:
        """Return what people should know about the preparation, one line each."""

    @abstractmethod
    def most_entries(self, prepared: Any) -> int:
        """Return how many codebook entries any candidate of its space can have, in all codebooks.

        No candidate has more; whether one has as many depends on the weights.
        """

    def weights(self, prepared: Any, network: Network) -> Sequence[NDArray[np.floating[Any]]]:
        """Return the float weights that entries stand for, in the units that entries have.

        Args:
            prepared: from :meth:`prepare`.
            network: the network that was prepared.
        """
        return [p.values for p in network.state if p.role == "shared" and p.values is not None]

    @abstractmethod
    def compress(
        self,
        prepared: Any,
        candidate: Candidate,
        *,
        network: Network,
        refined: bool = False,
        progress: Progress = silent,
    ) -> SharedWeights:
        """Return the shared weights of a candidate.

        Kept tensors come in the network's own precision. How the file stores them is the study's
        choice, not the method's.

        Args:
            prepared: from :meth:`prepare`, in this process or another; never written to.
            candidate: a value for every variable of :meth:`space`.
            network: the network that was prepared. Its module may hold any weights; it may run
                with others in the meantime and holds what it held afterwards, bit for bit.
            refined: take the slower way; only where :attr:`refines`.
            progress: told what is going on, where it takes long.
        """


@dataclass(frozen=True, eq=False)
class GridAssignment:
    """Shared weights of one codebook, known without looking at any weight.

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

    It leaves kept tensors as they are.
    """

    def assignment(self, prepared: Any, candidate: Candidate) -> GridAssignment:
        """Return what ``compress`` would assign."""
        ...

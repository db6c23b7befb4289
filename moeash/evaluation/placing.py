"""How a candidate gets into the network: built on the host, or where the network lives.

Both give the same weights, sizes and fingerprints; a method that is bins of one grid may take the
second way, which moves no weights and, until a fingerprint is wanted, no indices.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from moeash.compression.compressor import Compressor
from moeash.core.codebook import KeptTensor, SharedWeights, State, keep_all, share
from moeash.core.merge import merge_runs
from moeash.core.progress import Progress, silent
from moeash.core.solutions.recipe import Merge
from moeash.errors import InputError
from moeash.evaluation.outcome import Job
from moeash.methods.base import GridAssignment, GridMethod
from moeash.networks.writing.device import DeviceWriter
from moeash.networks.writing.inplace import WeightWriter


class Placed(Protocol):
    """One candidate, ready to be sized, written and, if it is worth it, identified."""

    @property
    def outline(self) -> SharedWeights:
        """Shared weights with every count right; their indices may be left out."""
        ...

    def write(self) -> None:
        """Write it into the network."""
        ...

    def fingerprint(self) -> str:
        """Return the fingerprint of its shared weights."""
        ...


@dataclass(frozen=True, eq=False)
class PlacedOnHost:
    """Built on the host."""

    outline: SharedWeights
    writer: WeightWriter

    def write(self) -> None:
        """Write it into the network."""
        self.writer.write(self.outline)

    def fingerprint(self) -> str:
        """Return the fingerprint of its shared weights."""
        return self.outline.fingerprint()


@dataclass(frozen=True, eq=False)
class PlacedOnDevice:
    """Known by its grid and codebook; its indices live on the device."""

    outline: SharedWeights
    assignment: GridAssignment
    lookup: NDArray[Any]
    state: State
    kept: Mapping[str, KeptTensor]
    writer: DeviceWriter

    def write(self) -> None:
        """Write it into the network."""
        self.writer.write(self.assignment.grid, self.lookup, self.outline.codebooks[0])

    def fingerprint(self) -> str:
        """Return the fingerprint of its shared weights, fetching the indices."""
        codebook = self.outline.codebooks[0]
        indices = self.writer.indices(self.assignment.grid, self.lookup, len(codebook))
        assigned = {t.name: (0, indices[t.name], t.counts) for t in self.outline.shared}
        shared = share(self.state, [codebook], assigned, self.kept)
        return shared.fingerprint()


class HostPlacing:
    """Builds candidates on the host."""

    def __init__(self, compressor: Compressor) -> None:
        self._compressor = compressor

    def place(self, job: Job, progress: Progress = silent) -> Placed:
        """Return a candidate."""
        shared = self._compressor.build(job.recipe, start=job.start, progress=progress)
        return PlacedOnHost(shared, self._compressor.writer)

    def forget(self) -> None:
        """Learn that somebody else has written to the network: the writer notices by itself."""


class DevicePlacing:
    """Lets candidates come about on the device."""

    def __init__(self, method: GridMethod, compressor: Compressor) -> None:
        work, network = compressor.groundwork, compressor.network
        self._method = method
        self._prepared = work.prepared
        self._state = network.state
        self._kept = work.stored.keeping.stored(keep_all(network.state))
        self._writer = DeviceWriter(network.module, network.state, self._kept)
        # Zeros without memory stand in for indices: sizes need counts alone.
        self._nothing: Mapping[str, NDArray[Any]] = {
            p.name: np.broadcast_to(np.uint8(0), (int(np.prod(p.shape)),))
            for p in network.state
            if p.role == "shared"
        }

    def place(self, job: Job, progress: Progress = silent) -> Placed:
        """Return a candidate."""
        assignment = self._method.assignment(self._prepared, job.recipe.candidate)
        assigned = {
            name: (0, nothing, counts)
            for (name, nothing), counts in zip(
                self._nothing.items(), assignment.counts, strict=True
            )
        }
        outline = share(self._state, [assignment.codebook], assigned, self._kept)
        lookup = assignment.lookup
        for step in job.recipe.steps:
            if not isinstance(step, Merge):
                raise InputError(f"a method on a grid takes merges only, got the step {step}")
            outline = merge_runs(outline, step.runs)
            lookup = np.repeat(np.arange(len(step.runs), dtype=np.uint32), step.runs)[lookup]
        return PlacedOnDevice(outline, assignment, lookup, self._state, self._kept, self._writer)

    def forget(self) -> None:
        """Learn that somebody else has written to the network."""
        self._writer.forget()

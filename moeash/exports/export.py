"""From a solution of a study to a verified file.

The order is the promise: build the weights and compare their fingerprint with the one that was
measured; write a temporary file; read it back, decode it, compare bit for bit; measure *the decoded
network* on the holdout split; only then rename into place. Whatever fails on the way, an existing
file stays as it was. Of several formats, none gets its name before all are verified.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from moeash.codec.size import size
from moeash.core.codebook import SharedWeights
from moeash.core.progress import Progress, silent
from moeash.data.unlabelled import Given
from moeash.errors import ExportError, InputError, RebuildMismatchError
from moeash.evaluation.caches import check_caches
from moeash.evaluation.holdout import HoldoutResult, measure_holdout
from moeash.evaluation.loading import arithmetic, load_network
from moeash.evaluation.task import Task
from moeash.exports.building import check_rebuilt
from moeash.exports.formats.base import Source, metadata_of
from moeash.exports.formats.names import WITH_NETWORK, FormatName, targets
from moeash.exports.formats.table import TABLE
from moeash.exports.runnable import runnable_of_task
from moeash.files import as_path
from moeash.networks.writing.inplace import load_into, write_float
from moeash.study.artifacts import Build
from moeash.study.solution import Solution
from moeash.tracing.derived import following
from moeash.tracing.watching import in_eval_mode

ROUNDING = 1e-4
"""Relative difference of a function's values on equal weights that rounding may explain."""


@dataclass(frozen=True)
class WrittenFile:
    """A file that was exported.

    Attributes:
        name: in its folder.
        format: of the file, or of the one it belongs to.
        size_bytes: ``stat`` of it.
    """

    name: str
    format: FormatName
    size_bytes: int


@dataclass(frozen=True)
class ExportReport:
    """What was exported and how it measured.

    Attributes:
        path: the file; of several the first.
        solution: the solution as ``moeash front`` shows it.
        size_bytes: ``stat`` of that file.
        ratio: float32 bytes of the same state over ``size_bytes``.
        n_shared: shared weights.
        n_kept: kept elements.
        holdout: the decoded network on the holdout split; None when the study has none.
        holdout_float: the float network on the same images.
        holdout_remeasured: the float network with BatchNorms measured again, where the study's
            solutions have theirs so.
        files: all files, those of each format together, in one folder.
        holdout_fingerprint: of the images of the holdout split.
    """

    path: str
    solution: dict[str, Any]
    size_bytes: int
    ratio: float
    n_shared: int
    n_kept: int
    holdout: HoldoutResult | None
    holdout_float: HoldoutResult | None
    holdout_remeasured: HoldoutResult | None = None
    files: tuple[WrittenFile, ...] = ()
    holdout_fingerprint: str | None = None

    @property
    def holdout_drop(self) -> float | None:
        """How far the decoded network's metric is below the float network's on the holdout."""
        if self.holdout is None or self.holdout_float is None:
            return None
        return self.holdout_float.metric - self.holdout.metric

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self) | {"holdout_drop": self.holdout_drop}


def export_solution(
    task: Task,
    solution: Solution,
    build: Build,
    to: str | Path,
    progress: Progress = silent,
    *,
    formats: Sequence[str] = (),
    inputs: Given | None = None,
) -> ExportReport:
    """Write a solution to files that decode to exactly the network that was measured.

    Args:
        task: of the solution's study.
        solution: the solution to export.
        build: builds its recipe.
        to: target; an existing file is replaced only after everything has been verified.
        progress: hears what is being done.
        formats: names of formats; see :func:`moeash.exports.formats.names.targets`.
        inputs: to run the network on, for formats that need it, in the place of the study's.

    Raises:
        RebuildMismatchError: the built weights are not the ones that were measured, or the function
            that measured them gives another value on the decoded network.
        InputError: a format is unknown, cannot hold the network, or needs what is not there.
        ExportError: a file cannot be written or does not decode to the same weights.
    """
    files = targets(as_path(to), formats)
    needs_network = any(name in WITH_NETWORK for name, _ in files)
    if inputs is not None and not needs_network:
        named = " and ".join(name for name, _ in files)
        raise InputError(f"format {named} holds the weights alone; leave out inputs")
    progress(f"building solution {solution.id}", 0, None)
    shared = build(solution.record.recipe)
    _check_same(task, solution, shared)
    source = Source(
        shared,
        metadata_of(
            shared,
            study=solution.facts.name,
            recipe=solution.recipe.key,
            **{f"note_{key}": text for key, text in task.notes.items()},
        ),
        network=runnable_of_task(task, shared, inputs) if needs_network else None,
        coder=task.codec.coder,
        notes=task.notes,
    )
    written: list[tuple[FormatName, Path]] = []
    with ExitStack() as stack:
        for name, path in files:
            progress(f"writing and verifying {path.name}", 0, None)
            paths = stack.enter_context(TABLE[name].placing(source, path))
            written += [(name, each) for each in paths]
        arrays = shared.decoded()
        _check_function(task, solution, arrays)
        holdout = measure_holdout(task, arrays, progress)
    sizes = [WrittenFile(path.name, name, path.stat().st_size) for name, path in written]
    return ExportReport(
        path=str(files[0][1]),
        solution=solution.as_dict(),
        size_bytes=sizes[0].size_bytes,
        ratio=shared.original_bytes / sizes[0].size_bytes,
        n_shared=shared.n_shared,
        n_kept=shared.n_kept,
        holdout=None if holdout is None else holdout.decoded,
        holdout_float=None if holdout is None else holdout.exact,
        holdout_remeasured=None if holdout is None else holdout.remeasured,
        files=tuple(sizes),
        holdout_fingerprint=None if holdout is None else holdout.fingerprint,
    )


def _check_same(task: Task, solution: Solution, shared: SharedWeights) -> None:
    check_rebuilt(solution, shared)
    size_bytes = size(shared, coder=task.codec.coder, notes=task.notes).total
    if size_bytes != solution.size_bytes:
        raise ExportError(
            f"solution {solution.id} would take {size_bytes} bytes, the front says "
            f"{solution.size_bytes}; the study was run by a moeash with another container"
        )


def _check_function(task: Task, solution: Solution, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Have a user's function measure the decoded network: it must give what it gave before."""
    if task.evaluate is None:
        return
    network = load_network(task)
    try:
        with arithmetic(task), in_eval_mode(network.module):
            load_into(network.module, arrays)
            with following(network.module) as runs:
                value = float(task.evaluate(network.module))
            # What the search was led by leads this value too, and no two values tell.
            check_caches(network, runs)
    finally:
        write_float(network.module, network.state)
    if not abs(value - solution.metric) <= ROUNDING * max(1.0, abs(solution.metric)):
        raise RebuildMismatchError(
            f"evaluate(module) gives {value:.6g} on the decoded network, {solution.metric:.6g} was "
            f"measured for solution {solution.id}; is it deterministic, and does it leave the "
            "module as it is?"
        )

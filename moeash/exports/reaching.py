"""One file of one network for a goal: prepare once, reach it, write, measure what was written."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from moeash.codec.container import Container, write
from moeash.codec.size import size
from moeash.core.progress import Progress, silent
from moeash.errors import InputError
from moeash.evaluation.comparing import Comparison
from moeash.evaluation.evaluate import Evaluator
from moeash.evaluation.goals import Goal, reach
from moeash.evaluation.holdout import Outputs, outputs_of
from moeash.evaluation.loading import arithmetic, load_network
from moeash.evaluation.task import Task
from moeash.methods.training.method import TrainedMethod
from moeash.networks.writing.inplace import load_into, write_float
from moeash.runtime.threads import default_threads
from moeash.tracing.watching import in_eval_mode

DIVERGENCE = "neg_divergence"
"""The metric that is minus the Kullback-Leibler divergence from the float network, in nats."""


@dataclass(frozen=True)
class Measured:
    """The decoded network on a split.

    Attributes:
        n_images: images.
        divergence: Kullback-Leibler divergence from the float network, in nats.
        top1: share of images whose label has the highest output.
        top1_float: the same of the float network.
        metric_name: the study's metric.
        metric: its value.
        drop: how far that is below the float network's.
    """

    n_images: int
    divergence: float
    top1: float
    top1_float: float
    metric_name: str
    metric: float
    drop: float


@dataclass(frozen=True)
class GoalReport:
    """What was written for a goal.

    Attributes:
        path: the file.
        recipe: the solution.
        size_bytes: of the file.
        ratio: float32 bytes of the same state over ``size_bytes``.
        entries: codebook entries that some weight uses.
        bits_per_weight: of indices and their tables.
        n_shared: shared weights.
        n_kept: kept elements.
        n_evaluated: recipes that were built to find it.
        search: what was decoded, on the search split.
        holdout: likewise on the holdout split, which nothing has looked at; None without one.
        notes: what people should know about the preparation.
    """

    path: str
    recipe: str
    size_bytes: int
    ratio: float
    entries: int
    bits_per_weight: float
    n_shared: int
    n_kept: int
    n_evaluated: int
    search: Measured
    holdout: Measured | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def compress_for(
    task: Task,
    to: str | Path,
    *,
    max_kl: float | None = None,
    max_drop: float | None = None,
    max_bytes: int | None = None,
    comparison: Comparison | None = None,
    progress: Progress = silent,
) -> GoalReport:
    """Compress a network for a goal and write it to a verified file.

    Args:
        task: which network, which images, which method.
        to: target; an existing file is replaced only after everything has been verified.
        max_kl: largest divergence from the float network on the search split, in nats.
        max_drop: largest drop of the task's metric there; of top-1 where that is the divergence.
        max_bytes: largest file. The divergence is then as small as possible.
        comparison: what measures, of a network without images; the drop is then one of agreement
            with the float network, and there is no holdout split.
        progress: hears what is being done.

    Raises:
        InputError: not exactly one limit is given, or the method trains its candidates.
        NothingMeetsError: nothing within the method's bounds meets the limit.
        ExportError: the file cannot be written or does not decode to the same network.
    """
    if [max_kl, max_drop, max_bytes].count(None) != 2:
        raise InputError(
            f"got max_kl={max_kl}, max_drop={max_drop}, max_bytes={max_bytes}, needed exactly one "
            "of them: it says how far to go"
        )
    if isinstance(task.method, TrainedMethod):
        raise InputError(
            f"method {task.method.name} trains every candidate; run a study instead (moeash run)"
        )
    own = task.evaluation.metric if comparison is None else "agreement"
    metric = DIVERGENCE if max_drop is None else ("top1" if own == DIVERGENCE else own)
    goal = Goal(max_kl if max_drop is None else max_drop, max_bytes)
    task = replace(
        task,
        evaluation=replace(task.evaluation, metric=metric),
        n_threads=default_threads(),
        refines=task.method.refines,
        trains=False,
        evaluate=None if comparison is None else comparison.by(metric),
    )
    evaluator = Evaluator(task, progress=progress)
    try:
        reached = reach(
            evaluator,
            tuple(evaluator.compressor.space),
            goal,
            baseline=evaluator.assessment.baseline,
            refines=task.method.refines,
            progress=progress,
        )
        notes = evaluator.compressor.notes
        progress("building what was found", 0, None)
        shared = evaluator.compressor.build(reached.recipe, progress=progress)
    finally:
        evaluator.close()
    named = own if own != DIVERGENCE else "top1"
    measured: dict[str, Measured] = {}

    def measure(container: Container) -> None:
        arrays = container.shared.decoded()
        if comparison is None:
            found = outputs_of(task, arrays, ("search", "holdout"), progress)
            measured.update({name: _compared(outputs, named) for name, outputs in found.items()})
        else:
            progress("measuring the decoded network", 0, None)
            outputs = _outputs_in_place(task, comparison, arrays)
            measured["search"] = _compared(outputs, named)

    progress("writing and verifying the file", 0, None)
    size_bytes = write(to, shared, coder=task.codec.coder, notes=task.notes, check=measure)
    report = size(shared, coder=task.codec.coder, notes=task.notes)
    return GoalReport(
        path=str(to),
        recipe=str(reached.recipe),
        size_bytes=size_bytes,
        ratio=shared.original_bytes / size_bytes,
        entries=report.n_entries,
        bits_per_weight=report.bits_per_weight,
        n_shared=shared.n_shared,
        n_kept=shared.n_kept,
        n_evaluated=reached.n_evaluated,
        search=measured["search"],
        holdout=measured.get("holdout"),
        notes=notes,
    )


def _compared(outputs: Outputs, metric: str) -> Measured:
    own = outputs.measured(outputs.decoded, metric)
    float_own = outputs.measured(outputs.exact, metric)
    return Measured(
        n_images=own.n_images,
        divergence=0.0 - outputs.measured(outputs.decoded, DIVERGENCE).metric,
        top1=own.top1,
        top1_float=float_own.top1,
        metric_name=metric,
        metric=own.metric,
        drop=float_own.metric - own.metric,
    )


def _outputs_in_place(
    task: Task, comparison: Comparison, arrays: Mapping[str, NDArray[Any]]
) -> Outputs:
    """Run decoded arrays in the module itself, which gets its own weights back."""
    network = load_network(task)
    try:
        with arithmetic(task), in_eval_mode(network.module):
            load_into(network.module, arrays)
            return comparison.outputs(network.module)
    finally:
        write_float(network.module, network.state)

"""From a solution of a study to a verified file.

The order is the promise: rebuild the weights and compare their fingerprint with the one that was
measured; write a temporary file; read it back, decode it, compare bit for bit; measure *the decoded
network* on the holdout split; only then rename into place. Whatever fails on the way, an existing
file stays as it was.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from moeash.codec.container import Container, write
from moeash.errors import ExportError, RebuildMismatchError
from moeash.evaluation.evaluate import Evaluator
from moeash.evaluation.holdout import HoldoutResult, measure_holdout, outputs_on
from moeash.evaluation.metrics import load_metric
from moeash.networks.inplace import load_into
from moeash.study.solution import Solution


@dataclass(frozen=True)
class ExportReport:
    """What was exported and how it measured.

    Attributes:
        path: the file.
        solution: the solution as ``moeash front`` shows it.
        size_bytes: ``stat`` of the file.
        ratio: float32 bytes of the same state over ``size_bytes``.
        n_shared: shared weights.
        n_kept: kept elements.
        holdout: the decoded network on the holdout split; None when the study has none.
        holdout_float: the float network on the same images.
        holdout_remeasured: the float network with BatchNorms measured again, where the study's
            solutions have theirs so.
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

    @property
    def holdout_drop(self) -> float | None:
        """How far the decoded network's metric is below the float network's on the holdout."""
        if self.holdout is None or self.holdout_float is None:
            return None
        return self.holdout_float.metric - self.holdout.metric

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self) | {"holdout_drop": self.holdout_drop}


def export_solution(evaluator: Evaluator, solution: Solution, to: str | Path) -> ExportReport:
    """Write a solution to a file that decodes to exactly the network that was measured.

    Args:
        evaluator: of the solution's study, loaded.
        solution: the solution to export.
        to: target; an existing file is replaced only after everything has been verified.

    Raises:
        RebuildMismatchError: the rebuilt weights are not the ones that were measured.
        ExportError: the file cannot be written or does not decode to the same weights.
    """
    shared = evaluator.build(solution.record.job)
    fingerprint = shared.fingerprint()
    if fingerprint != solution.record.outcome.fingerprint:
        raise RebuildMismatchError(
            f"solution {solution.id} rebuilds to other weights than were measured "
            f"({fingerprint[:12]}, measured {str(solution.record.outcome.fingerprint)[:12]}); "
            "the network, the method's version or its library changed since the study ran"
        )
    sizes = evaluator.sizes(shared)
    if sizes.size_bytes != solution.size_bytes:
        raise ExportError(
            f"solution {solution.id} would take {sizes.size_bytes} bytes, the front says "
            f"{solution.size_bytes}; the study was run by a moeash with another container"
        )
    holdout: _Holdout | None = None

    def measure(container: Container) -> None:
        nonlocal holdout
        holdout = _measure(evaluator, container)

    task = evaluator.task
    write(to, shared, coder=task.codec.coder, notes=task.notes, check=measure)
    size_bytes = Path(to).stat().st_size
    return ExportReport(
        path=str(to),
        solution=solution.as_dict(),
        size_bytes=size_bytes,
        ratio=shared.original_bytes / size_bytes,
        n_shared=shared.n_shared,
        n_kept=shared.n_kept,
        holdout=None if holdout is None else holdout.decoded,
        holdout_float=None if holdout is None else holdout.exact,
        holdout_remeasured=None if holdout is None else holdout.remeasured,
    )


@dataclass(frozen=True)
class _Holdout:
    decoded: HoldoutResult
    exact: HoldoutResult
    remeasured: HoldoutResult | None


def _measure(evaluator: Evaluator, container: Container) -> _Holdout | None:
    """Measure the decoded and the float network on the holdout split."""
    split = evaluator.splits.get("holdout")
    if split is None:
        return None
    task, module = evaluator.task, evaluator.network.module
    metric = load_metric(task.evaluation.metric)

    def outputs() -> Tensor:
        options = task.evaluation
        return outputs_on(module, split, batch_size=options.batch_size, device=options.device)

    evaluator.restore()
    exact = outputs()
    again: Tensor | None = None
    try:
        load_into(module, container.shared.decoded())
        decoded = outputs()
        if evaluator.remeasuring is not None:
            evaluator.restore()
            evaluator.remeasuring.measure()
            again = outputs()
    finally:
        evaluator.restore()
    return _Holdout(
        measure_holdout(decoded, exact, split, metric),
        measure_holdout(exact, exact, split, metric),
        None if again is None else measure_holdout(again, exact, split, metric),
    )

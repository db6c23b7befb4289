"""Measure a finished solution on the holdout split, once, and say how sure the number is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moeash.compression.remeasuring import IMAGES, Remeasuring, calibration_images
from moeash.core.progress import Progress, silent
from moeash.data.splits import Split, load_splits
from moeash.errors import DataError, InputError
from moeash.evaluation.loading import arithmetic, load_network
from moeash.evaluation.metrics import Metric, load_metric, predicted
from moeash.evaluation.task import Task
from moeash.networks.writing.inplace import load_into, write_float
from moeash.tracing.outputs import chosen
from moeash.tracing.watching import in_eval_mode


@dataclass(frozen=True)
class HoldoutResult:
    """A network on the holdout split.

    Attributes:
        n_images: images measured.
        metric_name: the study's metric.
        metric: its value.
        top1: share of images whose label has the highest output.
        top1_low: lower end of the 95 % Wilson interval of ``top1``.
        top1_high: its upper end.
    """

    n_images: int
    metric_name: str
    metric: float
    top1: float
    top1_low: float
    top1_high: float


@dataclass(frozen=True)
class Holdout:
    """A solution on the holdout split, beside what it was made from.

    Attributes:
        fingerprint: of the split.
        decoded: the decoded network.
        exact: the float network.
        remeasured: the float network with BatchNorms measured again, where the study's solutions
            have theirs so.
    """

    fingerprint: str | None
    decoded: HoldoutResult
    exact: HoldoutResult
    remeasured: HoldoutResult | None = None


def wilson_interval(successes: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion; 95 % for the default z.

    Source:
        E. B. Wilson, JASA 22 (1927), 209-212.
    """
    if not 0 <= successes <= n or n == 0:
        raise InputError(f"got {successes} successes of {n}; needed 0 <= successes <= n, n > 0")
    p, z2 = successes / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z * sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # The interval touches 0 and 1 exactly at the extremes; rounding must not push past them.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def outputs_on(module: nn.Module, split: Split, *, batch_size: int, device: str) -> Tensor:
    """Return the module's outputs ``(n, n_classes)`` on a split, in split order, on the CPU."""
    with torch.inference_mode():
        return torch.cat([chosen(module(x.to(device))).cpu() for x, _ in split.batches(batch_size)])


def measure_outputs(
    outputs: Tensor, float_outputs: Tensor, labels: NDArray[np.int64], metric: Metric
) -> HoldoutResult:
    """Return the metric and top-1 of outputs; ``float_outputs`` serve metrics without labels."""
    tally = metric.start(metric.targets(labels, float_outputs))
    tally.add(outputs)
    n, right = len(labels), int((predicted(outputs) == labels).sum())
    low, high = wilson_interval(right, n)
    return HoldoutResult(n, metric.name, tally.value(), right / n, low, high)


@dataclass(frozen=True)
class Outputs:
    """What networks return on a split, ``(n, n_classes)`` each.

    Attributes:
        labels: of the split.
        exact: of the float network.
        decoded: of the decoded network.
        remeasured: of the float network with BatchNorms measured again, where the study's
            solutions have theirs so.
        fingerprint: of the holdout split; None of others.
    """

    labels: NDArray[np.int64]
    exact: Tensor
    decoded: Tensor
    remeasured: Tensor | None = None
    fingerprint: str | None = None

    def measured(self, outputs: Tensor, metric: str) -> HoldoutResult:
        """Return what some of them are by a metric."""
        return measure_outputs(outputs, self.exact, self.labels, load_metric(metric))


def outputs_of(
    task: Task, arrays: Mapping[str, NDArray[Any]], names: Sequence[str], progress: Progress
) -> dict[str, Outputs]:
    """Run decoded arrays, and the float network beside them, on splits of a task.

    The network is loaded anew, as somebody would who is given the file; and once more for the float
    weights, so that neither keeps anything of the other. A module given from Python is there once.

    Args:
        task: of the study; its images come from ``data``.
        arrays: the decoded tensors by ``state_dict`` key.
        names: of the splits; those that the task does not have are left out.
        progress: hears what is measured.

    Raises:
        DataError: the holdout images are not those that solutions were reported on before.
    """
    splits = {} if task.data is None else load_splits(task.data)
    wanted = {name: splits[name] for name in names if name in splits}
    if not wanted:
        return {}
    holdout = wanted["holdout"].fingerprint() if "holdout" in wanted else None
    _check_holdout(task, holdout)
    where = " and ".join(wanted) + (" split" if len(wanted) == 1 else " splits")
    device, batch_size = task.evaluation.device, task.evaluation.batch_size

    def outputs(module: nn.Module, what: str) -> dict[str, Tensor]:
        progress(f"measuring {what} on the {where}", 0, None)
        return {
            name: outputs_on(module, split, batch_size=batch_size, device=device)
            for name, split in wanted.items()
        }

    network = load_network(task)
    module = network.module
    with arithmetic(task), in_eval_mode(module):
        try:
            load_into(module, arrays)
            decoded = outputs(module, "the decoded network")
        finally:
            write_float(module, network.state)
    network = load_network(task)
    module = network.module
    with arithmetic(task), in_eval_mode(module):
        exact = outputs(module, "the float network")
        again: dict[str, Tensor] = {}
        if task.codec.norms == "remeasured":
            images = calibration_images(splits, IMAGES, task.seed)
            Remeasuring(network, images, device).measure()
            again = outputs(module, "the float network with its BatchNorms measured again")
            write_float(module, network.state)
    return {
        name: Outputs(
            split.labels,
            exact[name],
            decoded[name],
            again.get(name),
            holdout if name == "holdout" else None,
        )
        for name, split in wanted.items()
    }


def _check_holdout(task: Task, found: str | None) -> None:
    """Refuse to report on other images than before: numbers of both would stand side by side."""
    before = task.holdout_fingerprint
    if found is not None and before is not None and found != before:
        assert task.data is not None
        raise DataError(
            f"solutions of this study were reported on another holdout split (fingerprint "
            f"{before[:12]}, now {found[:12]}): images of {task.data.source!r} in "
            f"{task.data.root!r} have changed; give the folder that holds what was there "
            "(--set data.root=...)"
        )


def measure_holdout(
    task: Task, arrays: Mapping[str, NDArray[Any]], progress: Progress = silent
) -> Holdout | None:
    """Measure decoded arrays, and the float network beside them, on a task's holdout split.

    Args:
        task: as :func:`outputs_of`.
        arrays: likewise.
        progress: hears what is measured.

    Returns:
        None when the study has no images or no holdout split.
    """
    found = outputs_of(task, arrays, ("holdout",), progress).get("holdout")
    if found is None:
        return None
    metric = task.evaluation.metric
    return Holdout(
        found.fingerprint,
        found.measured(found.decoded, metric),
        found.measured(found.exact, metric),
        None if found.remeasured is None else found.measured(found.remeasured, metric),
    )

"""Measure a finished solution on the holdout split, once, and say how sure the number is."""

from dataclasses import dataclass
from math import sqrt

import torch
from torch import nn

from moeash.data.splits import Split
from moeash.errors import InputError
from moeash.evaluation.metrics import Metric, predicted


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


def outputs_on(module: nn.Module, split: Split, *, batch_size: int, device: str) -> torch.Tensor:
    """Return the module's outputs ``(n, n_classes)`` on a split, in split order, on the CPU."""
    with torch.inference_mode():
        return torch.cat([module(x.to(device)).cpu() for x, _ in split.batches(batch_size)])


def measure_holdout(
    outputs: torch.Tensor, float_outputs: torch.Tensor, split: Split, metric: Metric
) -> HoldoutResult:
    """Return the metric and top-1 of outputs; ``float_outputs`` serve metrics without labels."""
    tally = metric.start(metric.targets(split.labels, float_outputs))
    tally.add(outputs)
    right = int((predicted(outputs) == split.labels).sum())
    low, high = wilson_interval(right, len(split))
    return HoldoutResult(len(split), metric.name, tally.value(), right / len(split), low, high)

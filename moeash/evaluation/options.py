"""What is measured of a compressed network, and how."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from moeash.options.kinds import Bounds
from moeash.options.tables import Count, NotNegative, Options

METRIC_NAMES = ("top1", "macro_f1", "neg_cross_entropy", "agreement", "neg_divergence")
"""Names of the built-in metrics, see :data:`moeash.evaluation.metrics.METRICS`."""

_NATS = ("neg_cross_entropy", "neg_divergence")


def unit_of(metric: str) -> str:
    """Return the unit of a metric and of drops in it, with a space before; empty for shares."""
    return " nats" if metric in _NATS else ""


Precision = Literal["float32", "tf32", "bf16"]
"""Arithmetic of the forward pass. The last two are faster on GPUs and give other numbers."""

MAX_THREADS = 1024
"""Torch starts as many as it is told, whatever the machine has."""


@dataclass(frozen=True)
class EvaluationOptions(Options):
    """``[evaluation]``.

    Attributes:
        metric: top1, macro_f1, neg_cross_entropy, agreement or neg_divergence, or
            package.module:function; higher is better.
        batch_size: images a forward pass.
        max_drop: solutions further below the float network are not wanted; in units of the metric.
        threads: torch threads; default: all cores, or OMP_NUM_THREADS of them, on Ray the CPUs of
            a worker.
        device: torch device; cuda is the GPU a worker is assigned.
        precision: arithmetic of forward passes: float32, or on GPUs tf32 or bf16.
    """

    table: ClassVar[str] = "evaluation"

    metric: str = "top1"
    batch_size: Count = 500
    max_drop: NotNegative | None = None
    threads: Annotated[int, Bounds(1, MAX_THREADS)] | None = None
    device: str = "cpu"
    precision: Precision = "float32"

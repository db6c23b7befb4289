"""Metrics over a classifier's outputs, with exact upper bounds while batches remain.

A metric is higher-is-better. Its tally is fed the outputs batch by batch, in a fixed order, and can
say at any moment the highest value it could still end with: that is what makes stopping early
exact instead of a guess.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeash.errors import EvaluationError, SpecError
from moeash.names import find_function, is_reference, nearest

MOST = 1e100
"""Largest magnitude of a metric: drops, volumes and squares of them are finite numbers then."""


def check_finite(value: float, what: str) -> None:
    """Refuse a metric that nothing can be computed with.

    Args:
        value: of the metric.
        what: came to it, in front of the value in a message.

    Raises:
        EvaluationError: it is NaN, infinite, or larger than anything that is measured.
    """
    if not abs(value) <= MOST:
        raise EvaluationError(f"{what} {value}; it must be a finite number within ±{MOST:g}")


def worst_of(function: Callable[..., Any]) -> float | None:
    """Return the attribute ``reference`` of a user's function; None where it has none."""
    worst = _attribute(function, "reference", None)
    if worst is not None:
        check_finite(worst, "the function's attribute 'reference' is")
    return worst


def _attribute(function: Callable[..., Any], name: str, default: float | None) -> float | None:
    value = getattr(function, name, default)
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise EvaluationError(
            f"the function's attribute {name!r} is {value!r}; it must be a number"
        ) from error


Scores = NDArray[np.bool_] | NDArray[np.float64]
"""What every image adds to a metric that is their mean: right or wrong, or a number."""


class Tally(Protocol):
    """Accumulates one metric over one evaluation."""

    def add(self, outputs: Tensor) -> None:
        """Take the outputs ``(b, n_classes)`` of the next ``b`` images."""
        ...

    def value(self) -> float:
        """Return the metric; all images must have been added."""
        ...

    def upper_bound(self) -> float:
        """Return the highest metric still possible whatever the remaining outputs are."""
        ...

    def scores(self) -> Scores | None:
        """Return what each image adds, ``(n,)``, where the metric is their mean and luck counts.

        None for others and for a divergence: every image tells how far it moved.
        """
        ...


class Metric(Protocol):
    """A metric over outputs and targets."""

    @property
    def name(self) -> str:
        """What specs call it."""
        ...

    @property
    def reference(self) -> float | None:
        """Worst value it can have, the hypervolume reference; None where there is none."""
        ...

    def targets(self, labels: NDArray[np.int64], float_outputs: Tensor) -> NDArray[Any]:
        """Return what outputs are compared with, one row an image.

        The labels, the float network's classes, or its outputs.
        """
        ...

    def start(self, targets: NDArray[Any]) -> Tally:
        """Return an empty tally over ``targets`` in evaluation order."""
        ...


def predicted(outputs: Tensor) -> NDArray[np.int64]:
    """Return the class of each row, -1 where an output is NaN: a broken output is never right."""
    classes = outputs.argmax(dim=1)
    classes[torch.isnan(outputs).any(dim=1)] = -1
    return classes.cpu().numpy()


class _Top1Tally:
    def __init__(self, targets: NDArray[np.int64]) -> None:
        self._targets = targets
        self._seen = 0
        self._right = np.zeros(len(targets), dtype=np.bool_)
        # Where the float network's own output is broken (agreement) nothing can be right.
        self._possible = int((targets >= 0).sum())

    def add(self, outputs: Tensor) -> None:
        now = self._targets[self._seen : self._seen + len(outputs)]
        right = (predicted(outputs) == now) & (now >= 0)
        self._right[self._seen : self._seen + len(outputs)] = right
        self._possible -= int((now >= 0).sum())
        self._seen += len(outputs)

    def value(self) -> float:
        assert self._seen == len(self._targets)
        return int(self._right.sum()) / len(self._targets)

    def upper_bound(self) -> float:
        return (int(self._right.sum()) + self._possible) / len(self._targets)

    def scores(self) -> Scores:
        return self._right


@dataclass(frozen=True)
class Top1:
    """Share of images whose highest output is the label."""

    name: str = "top1"
    reference: float = 0.0

    def targets(self, labels: NDArray[np.int64], float_outputs: Tensor) -> NDArray[np.int64]:
        """Return the labels."""
        return labels

    def start(self, targets: NDArray[np.int64]) -> Tally:
        """Return an empty tally."""
        return _Top1Tally(targets)


@dataclass(frozen=True)
class Agreement(Top1):
    """Share of images on which the network chooses the class the float network chose.

    Needs no labels.
    """

    name: str = "agreement"

    def targets(self, labels: NDArray[np.int64], float_outputs: Tensor) -> NDArray[np.int64]:
        """Return the float network's classes."""
        return predicted(float_outputs)


class _MacroF1Tally:
    """F1 of class c is ``2 TP_c / (n_c + P_c)``: n_c labels, P_c predictions of c.

    One more correct prediction of c raises it (numerator by 2, denominator by 1, ratio at most 2);
    a wrong one only adds to some P_c. So all classes reach their maximum together, when every
    remaining image is predicted right: the bound is attained.
    """

    def __init__(self, targets: NDArray[np.int64]) -> None:
        self._targets = targets
        self._classes = int(targets.max()) + 1
        self._support = np.bincount(targets, minlength=self._classes)
        self._predictions = np.zeros(self._classes, dtype=np.int64)
        self._true_positives = np.zeros(self._classes, dtype=np.int64)
        self._seen = 0

    def add(self, outputs: Tensor) -> None:
        now = self._targets[self._seen : self._seen + len(outputs)]
        classes = predicted(outputs)
        inside = classes[(classes >= 0) & (classes < self._classes)]
        self._predictions += np.bincount(inside, minlength=self._classes)
        self._true_positives += np.bincount(now[classes == now], minlength=self._classes)
        self._seen += len(outputs)

    def _f1(self, true_positives: NDArray[np.int64], predictions: NDArray[np.int64]) -> float:
        present = self._support > 0
        f1 = 2 * true_positives[present] / (self._support + predictions)[present]
        return float(f1.mean())

    def value(self) -> float:
        assert self._seen == len(self._targets)
        return self._f1(self._true_positives, self._predictions)

    def upper_bound(self) -> float:
        left = np.bincount(self._targets[self._seen :], minlength=self._classes)
        return self._f1(self._true_positives + left, self._predictions + left)

    def scores(self) -> None:
        return None


@dataclass(frozen=True)
class MacroF1:
    """Unweighted mean of the per-class F1 over the classes that occur among the labels.

    Source:
        The metric of arXiv 2501.03095 (there "F1"; the averaging is not stated, macro assumed).
    """

    name: str = "macro_f1"
    reference: float = 0.0

    def targets(self, labels: NDArray[np.int64], float_outputs: Tensor) -> NDArray[np.int64]:
        """Return the labels."""
        return labels

    def start(self, targets: NDArray[np.int64]) -> Tally:
        """Return an empty tally."""
        return _MacroF1Tally(targets)


class _MeanTally(ABC):
    """A mean of one score an image, with a bound that rounding cannot break.

    Scores not seen yet stand at the best one. Value and bound are then one sum over one array, and
    a sum in a fixed order never falls in floating point when an addend rises.
    """

    def __init__(self, targets: NDArray[Any], best: float = 0.0) -> None:
        self._targets = targets
        self._best = best
        self._scores = np.full(len(targets), best)
        self._seen = 0

    @abstractmethod
    def _score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the scores ``(b,)`` of a batch, targets on the device of the outputs."""

    def add(self, outputs: Tensor) -> None:
        now = slice(self._seen, self._seen + len(outputs))
        targets = torch.tensor(self._targets[now]).to(outputs.device)
        self._scores[now] = self._score(outputs, targets).cpu().numpy()
        self._seen += len(outputs)

    def value(self) -> float:
        assert self._seen == len(self._targets)
        return self.upper_bound()

    def upper_bound(self) -> float:
        return float(self._scores.sum()) / len(self._scores)

    def scores(self) -> Scores | None:
        return self._scores


class _NegativeCrossEntropyTally(_MeanTally):
    def _score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = torch.nn.functional.cross_entropy(outputs.double(), targets, reduction="none")
        if not bool(torch.isfinite(losses).all()):
            raise EvaluationError(
                "the network's outputs are not finite, so they have no cross-entropy; "
                "use metric = 'top1', which counts them as wrong"
            )
        return -losses


@dataclass(frozen=True)
class NegativeCrossEntropy:
    """Minus the mean cross-entropy in nats: smoother than accuracy, needs labels."""

    name: str = "neg_cross_entropy"
    reference: float | None = None

    def targets(self, labels: NDArray[np.int64], float_outputs: Tensor) -> NDArray[np.int64]:
        """Return the labels."""
        return labels

    def start(self, targets: NDArray[np.int64]) -> Tally:
        """Return an empty tally."""
        return _NegativeCrossEntropyTally(targets)


class _NegativeDivergenceTally(_MeanTally):
    def _score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        expected = targets.double().log_softmax(1)
        losses = (expected.exp() * (expected - outputs.double().log_softmax(1))).sum(1)
        if not bool(torch.isfinite(losses).all()):
            raise EvaluationError(
                "the network's outputs are not finite, so they have no divergence; "
                "use metric = 'agreement', which counts them as wrong"
            )
        # Equal outputs may come out a rounding error below the least divergence there is.
        return -losses.clamp(min=0.0)

    def scores(self) -> None:
        return None


@dataclass(frozen=True)
class NegativeDivergence:
    """Minus the mean Kullback-Leibler divergence of the outputs from the float network's, in nats.

    Needs no labels; 0 is the float network. Of all metrics it moves least by chance: every image
    counts by how far its class probabilities moved, not only where the decision flipped.
    """

    name: str = "neg_divergence"
    reference: float | None = None

    def targets(self, labels: NDArray[np.int64], float_outputs: Tensor) -> NDArray[np.float32]:
        """Return the float network's outputs, ``(n, n_classes)``."""
        return float_outputs.float().cpu().numpy()

    def start(self, targets: NDArray[np.float32]) -> Tally:
        """Return an empty tally."""
        return _NegativeDivergenceTally(targets)


class _UserScoreTally(_MeanTally):
    def __init__(
        self, function: Callable[[Tensor, Tensor], Tensor], best: float, targets: NDArray[np.int64]
    ) -> None:
        super().__init__(targets, best)
        self._function = function

    def _score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        scores = torch.as_tensor(self._function(outputs, targets)).double()
        if scores.shape != (len(outputs),) or not bool((scores.abs() <= MOST).all()):
            raise EvaluationError(
                f"the metric function returned shape {tuple(scores.shape)}; it must return one "
                f"finite score within ±{MOST:g} for each of {len(outputs)} images"
            )
        if float(scores.max()) > self._best:
            raise EvaluationError(
                f"the metric function returned {float(scores.max())}, above its stated best "
                f"{self._best}; set the attribute 'best' on the function"
            )
        return scores


@dataclass(frozen=True)
class MeanScore:
    """Mean of a user function ``score(outputs, labels) -> (b,)``, one score an image.

    The function's attribute ``best`` (default infinity: never stop early) is the highest score an
    image can get, and ``reference`` (default: none) the worst mean it can have.
    """

    name: str
    score: Callable[[Tensor, Tensor], Tensor]

    @property
    def reference(self) -> float | None:
        """Worst mean that counts."""
        return worst_of(self.score)

    def targets(self, labels: NDArray[np.int64], float_outputs: Tensor) -> NDArray[np.int64]:
        """Return the labels."""
        return labels

    def start(self, targets: NDArray[np.int64]) -> Tally:
        """Return an empty tally."""
        best = _attribute(self.score, "best", np.inf)
        if best is None or not best > -np.inf:  # infinity: there is no best score
            raise EvaluationError(f"the function's attribute 'best' is {best}; leave it out")
        return _UserScoreTally(self.score, best, targets)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (Top1(), MacroF1(), NegativeCrossEntropy(), Agreement(), NegativeDivergence())
}


def load_metric(name: str) -> Metric:
    """Return a metric by name, or ``package.module:function`` as a :class:`MeanScore`.

    Raises:
        SpecError: no such metric, or the function cannot be imported.
    """
    if name in METRICS:
        return METRICS[name]
    if not is_reference(name):
        raise SpecError(
            f"no metric {name!r}; {nearest(name, [*METRICS, 'package.module:function'])}"
        )
    return MeanScore(name, find_function(name, error=SpecError))

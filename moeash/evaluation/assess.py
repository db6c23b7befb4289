"""Measure whatever weights a module holds right now: on images, or by a user's function.

Images are visited hardest first: sorted once by the float network's margin, so that a compressed
network makes its mistakes early and a hopeless one is found out after few batches. The order, and
with it every batch, is fixed for the study, so numbers do not depend on where a pass stops.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moeash.data.splits import Split
from moeash.errors import EvaluationError
from moeash.evaluation.forward import Forward
from moeash.evaluation.metrics import Metric, Scores, check_finite, predicted, worst_of
from moeash.evaluation.options import Precision
from moeash.networks.pickling import read_only_tensor
from moeash.networks.writing.places import Places
from moeash.tracing.derived import FOLLOWED_INPUTS, Run, followed_run, following

Hopeless = Callable[[float], bool]
"""Tells from the highest metric still possible whether measuring on is pointless."""


@dataclass(frozen=True)
class Measurement:
    """A measured metric, or the bound at which measuring stopped.

    Attributes:
        metric: None where measuring stopped.
        bound: the highest metric that was still possible.
        n_batches: forward batches spent.
        noise: standard error of the drop, see :func:`noise_of`; None where it is not known.
    """

    metric: float | None
    bound: float
    n_batches: int
    noise: float | None = None


@dataclass(frozen=True, eq=False)
class FloatPass:
    """What one pass of the float network over the split told; the same for all workers.

    Attributes:
        baseline: its metric.
        order: ``(n,)`` int64 positions of the images, hardest first.
        targets: of the metric, one row an image, in the split's own order.
        sample: some of its outputs, see :func:`sample_of`.
        scores: what each image adds to the metric, likewise; None where it is no such mean.
        channels_last: how images were laid out, see :class:`moeash.evaluation.forward.Forward`.
    """

    baseline: float
    order: NDArray[np.int64]
    targets: NDArray[Any]
    sample: tuple[float, ...]
    scores: Scores | None = None
    channels_last: bool = False


def noise_of(scores: Scores | None, before: Scores | None) -> float | None:
    """Return the standard error of a drop that other images of the same kind would have shown.

    Images are compared one by one with the float network: those that both get right, or both get
    wrong, say nothing. One image is added that there was not, as one that changed sides, or that
    moved as far as the furthest: a few images that have not changed do not prove that none will.

    Args:
        scores: of the images, ``(n,)``.
        before: of the float network, likewise.
    """
    if scores is None or before is None:
        return None
    moved = before.astype(np.float64) - scores.astype(np.float64)
    one_more = 1.0 if scores.dtype == np.bool_ else float(np.abs(moved).max()) ** 2
    return math.sqrt(float(np.square(moved - moved.mean()).sum()) + one_more) / len(moved)


SAMPLED_IMAGES, SAMPLED = 16, 256
"""Images whose outputs are sampled, and numbers in a sample."""


def sample_of(outputs: Tensor) -> tuple[float, ...]:
    """Return a sample of outputs ``(n, classes)``, to tell later whether the function is the same.

    Weights alone do not say so: the code that uses them may have changed.
    """
    flat = outputs[:SAMPLED_IMAGES].detach().float().flatten().nan_to_num()
    places = torch.linspace(0, flat.numel() - 1, min(SAMPLED, flat.numel())).long()
    return tuple(flat[places].tolist())


class Assessment(Protocol):
    """Measures the module's present weights."""

    baseline: float
    """The metric of the float network."""

    reference: float | None
    """Worst value the metric can have; None where there is none."""

    n_batches: int
    """Forward batches of a full measurement."""

    float_pass: FloatPass | None
    """What the float network measured on images; None when a function measures."""

    runs: list[Run]
    """Of the float network, followed; for :func:`moeash.evaluation.caches.check_caches`."""

    def measure(self, hopeless: Hopeless) -> Measurement:
        """Measure, stopping as soon as ``hopeless`` says so."""
        ...


class SplitAssessment:
    """A metric on a split of images, hardest first."""

    def __init__(
        self,
        module: nn.Module,
        split: Split | None,
        metric: Metric,
        *,
        batch_size: int,
        device: str,
        precision: Precision = "float32",
        float_pass: FloatPass | None = None,
        images: NDArray[np.float32] | None = None,
    ) -> None:
        """Measure the float network, unless another assessment of the same task has done so.

        Args:
            module: the network, holding its float weights unless ``float_pass`` is given.
            split: the images; None when ``images`` are given.
            metric: what is measured.
            batch_size: images a forward pass.
            device: torch device of ``module``.
            precision: arithmetic of the forward pass.
            float_pass: what the other assessment measured.
            images: its :attr:`images`; may be read-only and shared between processes.
        """
        assert split is not None or (images is not None and float_pass is not None)
        self._forward = Forward(module, device, precision)
        self._places = Places.of(module)
        self._metric = metric
        self._split = split
        self._batch_size = batch_size
        self.runs: list[Run] = []
        known = float_pass or self._measure_float()
        self._forward = replace(self._forward, channels_last=known.channels_last)
        self.float_pass: FloatPass | None = known
        self.baseline = known.baseline
        self.reference = metric.reference
        self.order = known.order
        self._targets = known.targets[self.order]
        self._scores = None if known.scores is None else known.scores[self.order]
        self.n_batches = -(-len(self.order) // batch_size)
        self._ordered = None if images is None else read_only_tensor(images)
        self._on_device: list[Tensor] = []

    @property
    def images(self) -> NDArray[np.float32] | None:
        """``(n, c, h, w)`` float32 in the order they are visited; None when they are streamed."""
        if self._split is not None and not self._split.in_memory:
            return None
        return self._in_order().numpy()

    def use_shared(self, images: NDArray[np.float32]) -> None:
        """Use an equal copy of :attr:`images`, perhaps a shared one, and let the own one go."""
        self._ordered = read_only_tensor(images)
        self._on_device.clear()
        self._split = None

    def _measure_float(self) -> FloatPass:
        split = self._split
        assert split is not None
        forward = self._fastest(split)
        found = []
        for x, _ in split.batches(self._batch_size):
            images = x.to(self._forward.device)
            version = images._version
            found.append(forward.first(images).cpu())
            if images._version != version and split.in_memory:
                raise EvaluationError(
                    f"{type(forward.module).__name__} writes to the images it is given, and every "
                    "evaluation reads the same ones; let it copy them first, x = x.clone()"
                )
        self._check_places()
        outputs = torch.cat(found)
        labels = split.labels
        if outputs.ndim != 2:
            raise EvaluationError(
                f"the network gives outputs of shape {tuple(outputs.shape)} for {len(split)} "
                "images; a classifier gives (images, classes). For anything else use "
                "moeash.search(module, evaluate=...)"
            )
        if int(labels.max()) >= outputs.shape[1]:
            raise EvaluationError(
                f"the search split has label {int(labels.max())} but the network has only "
                f"{outputs.shape[1]} outputs; the network or the data is the wrong one"
            )
        targets = self._metric.targets(labels, outputs)
        tally = self._metric.start(targets)
        tally.add(outputs)
        classes = targets if targets.ndim == 1 else predicted(outputs)
        check_finite(tally.value(), f"metric {self._metric.name} of the float network is")
        order = hardest_first(outputs, classes)
        return FloatPass(
            tally.value(),
            order,
            targets,
            sample_of(outputs),
            tally.scores(),
            forward.channels_last,
        )

    def _fastest(self, split: Split) -> Forward:
        """Return the passes to measure with.

        A run on few images is followed in front of any other: what is kept of it is made then.
        """
        few, _ = next(iter(split.batches(FOLLOWED_INPUTS)))
        images = few.clone()
        self.runs = followed_run(self._forward.module, lambda: self._forward(images))
        return self._forward.fastest(few.clone())

    def _in_order(self) -> Tensor:
        # Reordered once, then reused: a pass over the images costs no copy any more.
        if self._ordered is None:
            assert self._split is not None
            ((self._ordered, _),) = self._split.batches(len(self.order), order=self.order)
        return self._ordered

    def _batches(self) -> Iterator[Tensor]:
        if self._split is not None and not self._split.in_memory:
            for x, _ in self._split.batches(self._batch_size, order=self.order):
                yield x
            return
        images = self._in_order()
        for position in range(self.n_batches):
            if position == len(self._on_device):
                start = position * self._batch_size
                self._on_device.append(
                    images[start : start + self._batch_size].to(self._forward.device)
                )
            yield self._on_device[position]

    def _check_places(self) -> None:
        self._places.check(f"forward of {type(self._forward.module).__name__}")

    def measure(self, hopeless: Hopeless) -> Measurement:
        """Measure, stopping before the first batch that can no longer make a difference."""
        tally = self._metric.start(self._targets)
        if hopeless(tally.upper_bound()):  # some metrics have a best value, and it may be taken
            return Measurement(None, tally.upper_bound(), 0)
        n_batches = 0
        for x in self._batches():
            tally.add(self._forward(x))
            n_batches += 1
            if n_batches < self.n_batches and hopeless(tally.upper_bound()):
                self._check_places()
                return Measurement(None, tally.upper_bound(), n_batches)
        self._check_places()
        check_finite(tally.value(), f"metric {self._metric.name} is")
        noise = noise_of(tally.scores(), self._scores)
        return Measurement(tally.value(), tally.value(), n_batches, noise)


class FunctionAssessment:
    """A user's ``evaluate(module) -> float``."""

    n_batches = 1
    float_pass: FloatPass | None = None

    def __init__(self, module: nn.Module, evaluate: Callable[[nn.Module], float]) -> None:
        """Measure the float module.

        Raises:
            EvaluationError: the function gives no finite number, or moves the module's tensors.
        """
        self._places = Places.of(module)
        self._module = module
        self._evaluate = evaluate
        self.reference = worst_of(evaluate)
        with following(module) as self.runs:
            self.baseline = self.measure(lambda bound: False).bound

    def measure(self, hopeless: Hopeless) -> Measurement:
        """Call the function; it cannot be stopped early.

        Raises:
            EvaluationError: it gives no finite number, or it has moved the module's tensors, now or
                before: weights are written where they were.
        """
        self.check_places()
        given = self._evaluate(self._module)
        self.check_places()
        try:
            value = float(given)
        except Exception as error:  # whatever the object's own __float__ raises
            raise EvaluationError(
                f"evaluate(module) returned {type(given).__name__}; it must return a finite number"
            ) from error
        check_finite(value, "evaluate(module) returned")
        return Measurement(value, value, 1)

    def check_places(self) -> None:
        """Refuse to go on with tensors that have moved.

        Raises:
            EvaluationError: names one of them.
        """
        self._places.check("evaluate(module)")


def hardest_first(outputs: Tensor, targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return image positions by ascending margin: target's output minus the highest other one.

    Args:
        outputs: ``(n, n_classes)`` of the float network.
        targets: ``(n,)``; -1 (no class) sorts first.
    """
    scores = outputs.double().numpy().copy()
    rows = np.arange(len(targets))
    own = scores[rows, targets].copy()
    scores[rows, targets] = -np.inf
    with np.errstate(invalid="ignore"):  # infinity minus infinity is NaN, which sorts first
        margin = own - scores.max(axis=1) if scores.shape[1] > 1 else own
    margin[(targets < 0) | np.isnan(margin)] = -np.inf
    return np.argsort(margin, kind="stable").astype(np.int64)

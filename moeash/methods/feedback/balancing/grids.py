"""What a network loses on uniform grids, and which of them are worth trying.

k counts bins over the range of the balanced weights, and one row may set that range: 16 bins are
much for one network and 500 little for another. What does carry over is the loss: grids that lose
more than COARSEST of what the outputs say are of no use, and those that lose less than FINEST take
bytes that gain nothing. :class:`Grids` looks for both, on some calibration images. The quadratic
model of the curvature cannot: the loss it predicts is up to 25 times too high and 6 times too low.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, log

import torch
from torch import Tensor, nn

from moeash.data.inputs import Batch, call
from moeash.methods.bounds import LEAST_RANGE, MOST_BINS, spread_bins
from moeash.methods.feedback.assignment.columns import (
    Factor,
    assign_feedback,
    entropy_bits,
    nearest,
    output_shift,
    span_of,
    zero_aligned_entries,
)
from moeash.networks.writing.borrowing import Borrowed
from moeash.tracing.outputs import OutputOf, chosen, in_rows
from moeash.tracing.watching import in_eval_mode

COARSEST = 0.05
"""What the coarsest grid worth trying loses, a share of what the outputs say: on CIFAR-10 and MNIST
a tenth of a nat."""

FINEST = 2e-4
"""What the finest grid worth trying loses, likewise: on CIFAR-10 and MNIST 0.0004 nats."""

FALL = 2.5
"""A loss falls about as this power of the bins: 2 where errors add up as the quadratic model has
it, more where coarse grids leave out whole rows."""

CLOSE = 1.3
"""A loss so many times another is as good as it."""

TRIES = 12
"""Grids looked at for one loss, at most."""

BEST = 0.07
"""What a bit is worth in units of ``step^2 curvature`` on the grid that suits a row best, about the
middle of the rates that were. Where entries are only rounded to, theory has ``ln 2 / 6 = 0.12``."""

STRIDES = torch.tensor(sorted([*(1 << i for i in range(13)), *(3 << i for i in range(12))]))
"""Of sub-grids: close enough for steps to be within a fifth of the best."""


@dataclass(frozen=True)
class OnGrid:
    """A network on one grid.

    Attributes:
        lost: the divergence of the outputs as a share of what they say; maybe no number.
        bits: a weight, by each tensor's own statistics.
    """

    lost: float
    bits: float


class GridLoss:
    """What networks of the same function lose on grids over the range of their weights.

    Weights are assigned with feedback, every row by itself and bits for free. The loss is the
    divergence of the outputs from the network's on some images, in nats, as a share of what these
    say, ``log(classes) - entropy``; of single values the squared change, as a share of their
    variance.

    Args:
        network: the float network.
        batches: images, as many as a pass may hold in each.
        plain: shared weights without a factor, by key.
        output: names the tensor that counts of what the network returns.
    """

    def __init__(
        self,
        network: nn.Module,
        batches: Sequence[Batch],
        plain: Mapping[str, Tensor],
        output: OutputOf | None = None,
    ) -> None:
        self._network, self._batches, self._plain, self._output = network, batches, plain, output
        with torch.no_grad(), in_eval_mode(network):
            self._expected = self._outputs()
        if self._has_classes:
            negative_entropy = (self._expected.exp() * self._expected).sum(1).mean()
            self._said = float(negative_entropy) + log(self._expected.shape[1])
        else:
            self._said = float(self._expected.var(correction=0))

    @property
    def _has_classes(self) -> bool:
        return self._expected.shape[1] > 1

    def _outputs(self) -> Tensor:
        """Return logarithms of shares ``(any, classes)``, or single values ``(any, 1)``."""
        returned = (chosen(call(self._network, batch), self._output) for batch in self._batches)
        tensor = torch.cat([in_rows(values) for values in returned]).double()
        return tensor.log_softmax(1) if tensor.shape[1] > 1 else tensor

    def of(self, factors: Sequence[Factor], kept: Mapping[str, Tensor]) -> "Grids":
        """Return one network on any grid.

        Args:
            factors: its layers.
            kept: its kept tensors that belong to them, by ``state_dict`` key.
        """
        weights = [*(factor.weight for factor in factors), *self._plain.values()]
        low, high = span_of(weights)
        n_weights = sum(weight.numel() for weight in weights)

        def measured(bins: int) -> OnGrid:
            if not low < high:
                return OnGrid(0.0, 0.0)
            lost, bits = self._measured(factors, kept, zero_aligned_entries(low, high, bins))
            return OnGrid(lost, bits / n_weights)

        return Grids(measured, weights)

    @torch.no_grad()
    def _measured(
        self, factors: Sequence[Factor], kept: Mapping[str, Tensor], entries: Tensor
    ) -> tuple[float, float]:
        """Return what is lost with some entries, and the bits of all weights."""
        values, bits = dict(kept), 0.0
        for name, weight in self._plain.items():
            grid = entries.to(weight.device)
            indices = nearest(weight, grid)
            bits += entropy_bits(indices)
            values[name] = grid[indices]
        for factor in factors:
            grid = entries.to(factor.weight.device)
            indices = assign_feedback(factor, grid)
            bits += entropy_bits(indices)
            values[factor.name] = grid[indices]
            if factor.absorber is not None:
                shift = output_shift(factor, indices, grid).to(values[factor.absorber])
                sign = -1 if factor.absorber.endswith("running_mean") else 1
                values[factor.absorber] = values[factor.absorber] + sign * shift
        with Borrowed(self._network) as borrowed:
            borrowed.put(values)
            got = self._outputs()
        if self._has_classes:
            moved = (self._expected.exp() * (self._expected - got)).sum(1).mean()
        else:
            moved = (self._expected - got).square().mean()
        return float(moved) / self._said if self._said > 0 else 0.0, bits


def strides(factor: Factor, price: float, step: float) -> Tensor:
    """Return which entries are worth their bits, every m-th, by layer, or by row of an embedding.

    A step s of a row with the curvature c costs ``s^2 c / 24`` and saves bits with ``log2 s``. So
    at one price the best steps have one ``price / (s^2 c)``, BEST, and no step is the best of rows
    that matter a thousandth of others as well: there nearest entries spend bits that nobody sees,
    and code lengths alone do not lead from a fine grid to a coarse one. A Gaussian whose best step
    is four times that of the grid takes a bit more on it at equal error.

    Rows of other layers have one m together. What the images say of one row is less certain: with
    an m for each, files of EfficientNet-Lite0 diverged by a third more at equal bytes, as 200
    images hardly met some channels.

    Args:
        factor: a layer.
        price: nats per bit.
        step: of the grid.

    Returns:
        ``(groups, rows)`` int64, of STRIDES; one value unless the layer is an embedding whose rows
        are independent.
    """
    precision = factor.variance.double().reciprocal().mean(1, keepdim=True)
    curvature = precision * factor.sensitivity.double()
    if factor.rows is not None or len(curvature) > 1 or not factor.lookup:
        curvature = curvature.mean().expand_as(curvature)
    worth = price / (step * step * BEST) if price else 0.0  # a grid of one entry has no step
    wanted = (worth / curvature).sqrt().clamp(1, float(STRIDES[-1]))
    known = STRIDES.to(wanted.device)
    return known[torch.bucketize(wanted, (known[1:] * known[:-1]).double().sqrt())]


class Grids:
    """One network on grids of any number of bins, each of which is measured once.

    Args:
        measured: returns what is lost on a grid of so many bins.
        weights: of the network, whose spread says where to look first.
    """

    def __init__(self, measured: Callable[[int], OnGrid], weights: Sequence[Tensor]) -> None:
        self._measured, self._weights = measured, weights
        self._known: dict[int, OnGrid] = {}

    def on(self, bins: int) -> OnGrid:
        """Return what is lost on a grid, and what it costs."""
        if bins not in self._known:
            self._known[bins] = self._measured(bins)
        return self._known[bins]

    def finest(self) -> int:
        """Return the bins of the grid that loses FINEST."""
        first = bins_of(self._weights)[1]
        return bins_losing(lambda bins: self.on(bins).lost, FINEST, first)

    def finest_bits(self) -> float:
        """Return how many bits a weight takes on the grid that loses FINEST; inf if all lose more.

        Where a few rows take the whole range, even MOST_BINS leave nothing of the others: that
        takes few bits and loses everything.
        """
        on_grid = self.on(self.finest())
        return on_grid.bits if _ratio(on_grid.lost, FINEST) <= CLOSE else inf

    def useful(self) -> tuple[int, int]:
        """Return the bins of the coarsest and the finest grid worth trying."""
        finest = self.finest()
        guess = round(finest * (FINEST / COARSEST) ** (1 / FALL))
        coarsest = bins_losing(lambda bins: self.on(bins).lost, COARSEST, guess)
        return coarsest, max(LEAST_RANGE * coarsest, finest)


def bins_of(weights: Sequence[Tensor]) -> tuple[int, int]:
    """Return the bins of the coarsest and the finest grid worth trying without any images.

    Args:
        weights: of every shared tensor.
    """
    spreads = [(float(w.double().square().mean()) ** 0.5, w.numel()) for w in weights]
    return spread_bins(*span_of(weights), spreads)


def bins_losing(lost: Callable[[int], float], wanted: float, first: int) -> int:
    """Return the bins with which about ``wanted`` is lost; the most there may be if it is more.

    Losses are noise where they are small, so the first grid that is close is taken.

    Args:
        lost: what a grid of so many bins loses, see :class:`GridLoss`.
        wanted: above 0.
        first: bins to try first.
    """
    too_few, enough, bins = 1, MOST_BINS, min(max(2, first), MOST_BINS)
    for _ in range(TRIES):
        ratio = _ratio(lost(bins), wanted)
        if ratio <= 1:
            enough = bins
        else:
            too_few = bins
        if 1 / CLOSE <= ratio <= CLOSE or enough - too_few <= max(1, too_few // 10):
            break
        bins = round(bins * min(max(ratio ** (1 / FALL), 0.25), 4.0))
        if not too_few < bins < enough:
            bins = round((too_few * enough) ** 0.5)
    return bins if ratio <= CLOSE else enough


def _ratio(lost: float, wanted: float) -> float:
    return max(0.0, lost) / wanted if isfinite(lost) else inf

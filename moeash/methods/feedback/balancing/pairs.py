"""Pairs of layers whose channels can be rescaled against each other, and by how much.

A ReLU lets positive factors through, and so do pooling and flattening: multiplying row j of one
layer (and its bias) by a and the columns of the next layer that read channel j by 1/a leaves the
network's function as it was. Without a BatchNorm behind the layer this is what lets one global
codebook give every channel its own step, at no cost in bytes.

:func:`find_pairs` sees the pairs by running the network once; :func:`pair_scales` chooses a.

Source: the invariance is that of cross-layer equalisation (Nagel et al., arXiv 1906.04721), which
equalises ranges; the objective here is ours.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from moeash.data.inputs import Batch
from moeash.methods.feedback.assignment.columns import Factor
from moeash.networks.norms import key
from moeash.tracing.trace import Operation, Trace, trace

LAYER_TYPES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers with a row per output channel and columns per input channel."""

ELEMENTWISE = frozenset(
    {"relu", "relu_", "leaky_relu", "leaky_relu_", "contiguous"}
    | {"dropout", "dropout1d", "dropout2d", "dropout3d"}
)
"""Functions with f(a x) = a f(x) for every a > 0, element by element."""

POOLING = frozenset(
    f"{kind}{axes}d"
    for kind in ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool")
    for axes in (1, 2, 3)
)
"""Likewise for one factor per channel of ``(batch, channels, ...)``."""

FLATTENING = frozenset({"flatten", "reshape", "view"})
"""Functions that may merge positions into channels, each channel's elements side by side."""

SWEEPS = 2000
"""Sweeps over the pairs at most, each a few vector operations; hundreds are usual."""
SETTLED = 1e-5
"""Largest change of a squared scale, in logarithms, at which sweeping ends."""

LEAST_ROW = 0.01
"""Floor of a row's sensitivity relative to its layer's mean: nothing is gained by shrinking rows
that hardly matter further."""
LEAST_COLUMN = 1e-3
"""Likewise of a column's precision: inputs that are never active."""


@dataclass(frozen=True)
class Pair:
    """Two layers of which the second alone reads the first.

    Attributes:
        producer: ``state_dict`` key of the weight whose rows are scaled.
        consumer: ``state_dict`` key of the weight whose columns undo it.
    """

    producer: str
    consumer: str


def find_pairs(network: nn.Module, batch: Batch) -> tuple[Pair, ...]:
    """Run the network in eval mode and return the pairs, in execution order.

    A layer's output must reach exactly one layer, through functions that let positive factors
    through, and be read by nothing else; both layers are called once. What cannot be followed is
    not a pair. The run cannot prove what it did not see (a value read by Python code, a branch not
    taken), so check the rescaled network's outputs.

    Args:
        network: left as it is.
        batch: images ``(batch, ...)``.
    """
    owners: dict[int, list[str]] = {}
    for name, module in network.named_modules():
        if isinstance(module, LAYER_TYPES) and "weight" in module._parameters:
            owners.setdefault(id(module.weight), []).append(key(name, "weight"))
    following = _Following({names[0] for names in owners.values() if len(names) == 1})
    run = trace(network, batch)
    for operation in run.operations:
        following.follow(operation, run)
    for tensor in run.returned:
        following.lose(tensor)
    return tuple(
        Pair(producer, consumer)
        for producer, consumer in following.readers.items()
        if consumer is not None and following.calls[producer] == following.calls[consumer] == 1
    )


@dataclass(frozen=True)
class _Source:
    """Where a tensor comes from.

    Attributes:
        producer: key of the layer's weight.
        first: channels are its axis 1, as convolutions make and read them; else its last axis.
    """

    producer: str
    first: bool


class _Following:
    """Follows the outputs of layers through a run.

    Args:
        layers: keys of the layers' weights.
    """

    def __init__(self, layers: Collection[str]) -> None:
        self.calls: Counter[str] = Counter()
        self.readers: dict[str, str | None] = {}  # None: read twice, or by something else
        self._layers = layers
        self._sources: dict[int, _Source] = {}
        self._read: set[int] = set()

    def follow(self, operation: Operation, run: Trace) -> None:
        """Note what an operation read and made."""
        names = (run.names.get(tensor) for tensor in operation.reads)
        layer = next((name for name in names if name in self._layers), None)
        source = None if operation.first is None else self._sources.get(operation.first)
        for tensor in operation.reads:
            if tensor in self._sources and tensor in self._read:
                self.lose(tensor)
            self._read.add(tensor)
        if layer is not None:
            self.calls[layer] += 1
            first = operation.name.startswith("conv")
            if source is not None and source.first == first:
                self.readers.setdefault(source.producer, layer)
            elif source is not None and operation.first is not None:
                self.lose(operation.first)  # it is not the channels that become columns
            self._add(operation, _Source(layer, first))
        elif source is not None and _lets_through(operation, source, run):
            (made,) = operation.makes
            first = source.first and len(run.shapes[made]) > 2
            self._add(operation, _Source(source.producer, first))
            for tensor in operation.reads[1:]:
                self.lose(tensor)
        else:
            for tensor in operation.reads:
                self.lose(tensor)

    def lose(self, tensor: int) -> None:
        """Note that something reads a tensor that cannot undo a scale."""
        if tensor in self._sources:
            self.readers[self._sources[tensor].producer] = None

    def _add(self, operation: Operation, source: _Source) -> None:
        if len(operation.makes) == 1:
            self._sources[operation.makes[0]] = source
            self._read.discard(operation.makes[0])  # a function in place returns what it was given


def _lets_through(operation: Operation, source: _Source, run: Trace) -> bool:
    if len(operation.makes) != 1 or operation.first is None:
        return False
    if operation.name in ELEMENTWISE:
        return True
    before, after = run.shapes[operation.first], run.shapes[operation.makes[0]]
    flattened = operation.name in FLATTENING and len(after) == 2 and after[0] == before[0]
    return source.first and (operation.name in POOLING or flattened)


def pair_scales(
    factors: Sequence[Factor], pairs: Sequence[Pair], exponent: float
) -> dict[str, Tensor]:
    """Return by what to multiply the rows of every producer.

    With rows scaled by a and columns by 1/a, rounding weight w of row r and column c to one grid
    costs ``d_w = s_r p_c (a_c / a_r)^2`` (sensitivity, precision) and its bits grow with
    ``log(a_r / a_c)``. The scales minimise ``sum_w d_w / d - log(d_w / d)``, d the mean of d_w:
    every channel stands where its rows and columns ask for the same step. At high rates that is the
    optimum; at 1 to 2 bits per weight flatter scales are better, so ``s_r p_c`` enters with the
    power ``2 exponent``: 1/2 is theory, 0.25 to 0.4 measured best on two networks.

    The objective is convex in ``log a``: pair by pair, every channel is solved for exactly with the
    others held.

    Args:
        factors: the layers; those of no pair count towards the common step.
        pairs: whose layers are among the factors.
        exponent: 0 leaves all rows as they are.

    Returns:
        ``(groups, rows)`` float32 by name of the producer.
    """
    by_name = {factor.name: factor for factor in factors}
    before = {pair.consumer: pair.producer for pair in pairs}
    logs = {factor.name: _log_parts(factor, exponent) for factor in factors}
    moved = {pair.producer: torch.zeros_like(logs[pair.producer][0]) for pair in pairs}

    def rows(name: str) -> Tensor:
        log = logs[name][0]
        return (log - 2 * moved[name] if name in moved else log).exp()

    def columns(name: str) -> Tensor:
        log = logs[name][1]
        if name in before:
            log = log + 2 * _per_column(by_name[name], moved[before[name]])
        return log.exp()

    count = sum(factor.weight.numel() for factor in factors)
    for _ in range(SWEEPS if pairs else 0):
        mean = sum(float((rows(name).sum(1) * columns(name).sum(1)).sum()) for name in logs) / count
        largest = 0.0
        for pair in pairs:
            here, there = by_name[pair.producer], by_name[pair.consumer]
            own = rows(here.name) * columns(here.name).sum(1, keepdim=True) / mean
            other = columns(there.name) * rows(there.name).sum(1, keepdim=True) / mean
            other = other.reshape(own.numel(), -1).sum(1).reshape(own.shape)
            # own / x - other x + n_other - n_own = 0, x the square of the factor that is missing
            lead = here.weight.shape[2] - there.weight.numel() // own.numel()
            root = (lead * lead + 4 * own * other).sqrt()
            x = 2 * own / (lead + root) if lead > 0 else (root - lead) / (2 * other)
            moved[here.name] = moved[here.name] + x.log() / 2
            largest = max(largest, float(x.log().abs().max()))
        if largest < SETTLED:
            break
    return {name: log.exp().float() for name, log in moved.items()}


def _log_parts(factor: Factor, exponent: float) -> tuple[Tensor, Tensor]:
    """Return the logarithms of s_r ``(groups, rows)`` and p_c ``(groups, columns)``, flattened."""
    sensitivity = factor.sensitivity.double()
    sensitivity = sensitivity.maximum(LEAST_ROW * sensitivity.mean())
    variance = torch.empty_like(factor.variance).scatter_(1, factor.order, factor.variance)
    precision = variance.double().reciprocal()
    precision = precision.maximum(LEAST_COLUMN * precision.mean())
    return 2 * exponent * sensitivity.log(), 2 * exponent * precision.log()


def recolumned(factor: Factor, scale: Tensor) -> Factor:
    """Return the factor of a layer whose input channels are multiplied by ``scale``.

    Its columns are divided by it, so the layer's outputs stay. Exact: the curvature H becomes
    D H D, its inverse's factor U becomes ``U inv(D)``. Columns keep their order.

    Args:
        factor: the layer.
        scale: one positive factor per input channel, of any shape.
    """
    assert factor.rows is None  # rows are coupled once they are balanced
    wide = _per_column(factor, scale).to(factor.weight.dtype)
    ordered = wide.gather(1, factor.order)
    return replace(
        factor,
        weight=factor.weight / wide.unsqueeze(1),
        coupling=factor.coupling * ordered.unsqueeze(2) / ordered.unsqueeze(1),
        variance=factor.variance / ordered.square(),
        absorbed=factor.absorbed * wide,
    )


def _per_column(factor: Factor, channels: Tensor) -> Tensor:
    """Return ``(groups, columns)``: each channel's value for all columns that read it."""
    groups, _, columns = factor.weight.shape
    repeat = groups * columns // channels.numel()
    return channels.flatten().repeat_interleave(repeat).reshape(groups, columns)

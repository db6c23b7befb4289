"""Second-order feedback for a whole network: prepare once per study, compress per candidate.

:func:`prepare` runs the calibration images through the network, factorises every curvature and
balances the rows in front of BatchNorms and those that the next layer's columns can undo; then it
passes some of the images again to see which rows can take up each other's errors.
:func:`compress` turns ``(k, rate)`` into indices on one global codebook, and into the new values of
the kept tensors that make up for it at no cost in bytes: biases and BatchNorm statistics.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from moeash.core.trellis import States
from moeash.errors import InputError
from moeash.methods.feedback.columns import (
    PASSES,
    Factor,
    assign_feedback,
    balancing_scales,
    nearest,
    output_shift,
    prepare_feedback,
    rate_weight,
    rescaled,
    rescaled_statistics,
    safe_scales,
    zero_aligned_entries,
)
from moeash.methods.feedback.curvature import CurvatureKind, measure_curvature
from moeash.methods.feedback.pairs import Pair, find_pairs, pair_scales, recolumned
from moeash.methods.feedback.paths import assign_coupled, assign_trellis, nearest_path
from moeash.methods.feedback.rows import ROWS, Rows, Sample, coupled, measure_between
from moeash.methods.feedback.sequential import Lockstep, Rehearsal, twin
from moeash.networks.norms import NORM_TYPES
from moeash.networks.pickling import Travelling
from moeash.networks.sameness import SAME_FUNCTION, distance
from moeash.tracing.watching import in_eval_mode


class RescalingError(InputError):
    """Something beside the BatchNorm reads a layer, so its rows cannot be rescaled."""


Assign = Callable[[Factor, Tensor, float], Tensor]
"""(layer, entries ``(n_entries,)``, nats per bit) -> indices in the shape of the weight, int64."""


@dataclass(frozen=True, eq=False)
class Prepared(Travelling):
    """Everything about a network that does not depend on the candidate.

    Attributes:
        factors: the layers with a curvature, in execution order, rows already balanced.
        plain: shared weights without a curvature, by ``state_dict`` key; nearest entries for them.
        reasons: why, by the same keys.
        kept: values of kept tensors, by key: the biases and running statistics that belong to
            ``factors``. With them the balanced float weights are the same function as the network.
    """

    factors: tuple[Factor, ...]
    plain: dict[str, Tensor]
    reasons: dict[str, str]
    kept: dict[str, Tensor]

    @property
    def n_calibrated(self) -> int:
        """Number of weights assigned with feedback."""
        return sum(factor.weight.numel() for factor in self.factors)

    @property
    def span(self) -> tuple[float, float]:
        """Smallest and largest shared weight, or 0 where that reaches further."""
        weights = [*(factor.weight for factor in self.factors), *self.plain.values()]
        if not weights:
            raise InputError("the network has no weight to share")
        low = min(float(weight.min()) for weight in weights)
        high = max(float(weight.max()) for weight in weights)
        return min(low, 0.0), max(high, 0.0)


@dataclass(frozen=True, eq=False)
class Compressed:
    """One candidate's network.

    Attributes:
        entries: ``(n_entries,)`` float32, strictly increasing: the entries in use; with a trellis
            also the unused ones between them, so that an entry's position tells its parity.
        indices: by ``state_dict`` key, int64 in the shape of the weight.
        kept: new values of kept tensors by key; tensors not named keep theirs.
    """

    entries: Tensor
    indices: dict[str, Tensor]
    kept: dict[str, Tensor]

    @property
    def values(self) -> dict[str, Tensor]:
        """Every changed tensor of the ``state_dict``, by key."""
        return {name: self.entries[i] for name, i in self.indices.items()} | self.kept


def prepare(
    network: nn.Module, batches: Iterable[Tensor], *, damping: float = 0.01, **options: Any
) -> Prepared:
    """Measure and factorise a network: :func:`prepare_each` with one damping, same options."""
    (prepared,) = prepare_each(network, batches, (damping,), **options)
    return prepared


def prepare_each(
    network: nn.Module,
    batches: Iterable[Tensor],
    dampings: Sequence[float],
    *,
    shared: Collection[str] | None = None,
    kind: CurvatureKind = "gradients",
    sketches: int = 4,
    temperature: float = 4.0,
    act_order: bool = True,
    common_order: bool = False,
    rows: Rows = "coupled",
    balance: float = 0.25,
    through_norms: bool = True,
    through_pairs: bool = True,
    absorb: bool = True,
    unscaled: Collection[str] = (),
    seed: int = 0,
) -> tuple[Prepared, ...]:
    """Measure a network once and factorise it with each of several dampings.

    Args:
        network: the float network, left as it is.
        batches: unlabelled calibration images ``(batch, ...)``, iterated once.
        dampings: see :func:`moeash.methods.feedback.columns.prepare_feedback`.
        shared: ``state_dict`` keys to share; by default every linear and convolution weight the
            network calls. Keys without a curvature get nearest entries and a reason.
        kind: see :mod:`moeash.methods.feedback.curvature`.
        sketches: see :func:`moeash.methods.feedback.curvature.measure_curvature`.
        temperature: likewise.
        act_order: likewise.
        common_order: likewise; coupled rows then keep their own order, as trellises need it, too.
        rows: whether later rows take up errors of earlier ones, see
        :mod:`moeash.methods.feedback.rows`. If
            so, some images are kept in memory and passed once more for every damping.
        balance: exponent of :func:`moeash.methods.feedback.columns.balancing_scales` and
            :func:`moeash.methods.feedback.pairs.pair_scales`; 0 leaves the rows as they are.
        through_norms: let BatchNorms behind a layer undo its rescaling and take up constant
            changes. Right when nothing else reads the layer, which is checked on the first batch.
        through_pairs: let the next layer's columns undo it where a layer has no BatchNorm behind
            it, see :mod:`moeash.methods.feedback.pairs`. Checked likewise.
        absorb: let biases and running means take up constant changes of their layer's outputs.
            Without, no row in front of a BatchNorm is balanced either.
        unscaled: BatchNorms by module name whose layers keep their rows as they are: folded ones
            (:mod:`moeash.compression.folding`). Their means still absorb.
        seed: of the sketches.

    Raises:
        InputError: ``shared`` names no parameter, or an argument is out of range.
        DataError: there are no images.
    """
    state = network.state_dict()
    unknown = sorted(set(shared or ()) - set(state))
    if unknown:
        raise InputError(f"the network has no parameter {', '.join(map(repr, unknown))}")
    fixed = set(shared or ())
    if not absorb:
        fixed |= set(state)
    elif not through_norms:
        fixed |= {name for name in state if name.endswith("running_mean")}
    if rows not in ROWS:
        raise InputError(f"rows are {' or '.join(ROWS)}, got {rows!r}")
    first: Tensor | None = None
    again = Sample()

    def watched() -> Iterator[Tensor]:
        nonlocal first
        for batch in again.watch(batches) if rows == "coupled" else batches:
            if first is None:
                first = batch
            yield batch

    curvature = measure_curvature(
        network,
        watched(),
        kind=kind,
        sketches=sketches,
        temperature=temperature,
        fixed=fixed,
        seed=seed,
    )
    layers = [
        replace(c, norm=None) if c.norm in unscaled else c
        for c in curvature.layers
        if shared is None or c.name in shared
    ]
    left_out = curvature.left_out
    del curvature  # its matrices are twice as large as the factors: each goes when it is factorised
    factors: list[list[Factor]] = [[] for _ in dampings]
    names = {layer.name for layer in layers}
    while layers:
        layer = layers.pop(0)
        for damping, made in zip(dampings, factors, strict=True):
            made.append(
                prepare_feedback(
                    layer, damping=damping, act_order=act_order, common_order=common_order
                )
            )
    plain, reasons = {}, {}
    for name in sorted(set(shared or ()) - names):
        plain[name] = state[name].detach().float().clone()
        reasons[name] = left_out.get(name, "it is not the weight of a layer")
    assert first is not None
    prepared = []
    for made in factors:
        scaled, kept = _rescaled(
            network,
            made,
            first,
            balance,
            through_norms=through_norms,
            through_pairs=through_pairs,
            shared=set(shared or ()),
        )
        if rows == "coupled":
            between = measure_between(
                twin(network, _values(scaled, kept)),
                again.batches(len(first)),
                scaled,
                sketches=sketches,
                temperature=temperature,
                seed=seed + 1,  # other sketches than those that made the factors
            )
            scaled = [
                coupled(factor, between.pop(factor.name), natural_order=common_order)
                if factor.name in between
                else factor
                for factor in scaled
            ]
        prepared.append(Prepared(tuple(scaled), plain, reasons, kept))
    return tuple(prepared)


def _rescaled(
    network: nn.Module,
    factors: list[Factor],
    first: Tensor,
    balance: float,
    *,
    through_norms: bool,
    through_pairs: bool,
    shared: set[str],
) -> tuple[list[Factor], dict[str, Tensor]]:
    """Return the factors with balanced rows, and the kept tensors that undo it."""
    state = network.state_dict()
    kept = {
        factor.absorber: state[factor.absorber].detach().clone()
        for factor in factors
        if factor.absorber is not None
    }
    if through_norms:
        # Unbalanced factors are probed too: a running mean may absorb only what it alone reads.
        probed, undone = _balanced(network, factors, balance or 0.25)
        _check_same_function(network, probed, kept | undone, first, "through_norms")
        if balance:
            factors, kept = probed, kept | undone
    if through_pairs and balance:
        pairs = _usable(find_pairs(network, first), factors, shared)
        if pairs:
            factors, kept = _paired(network, factors, pairs, balance, kept)
            _check_same_function(network, factors, kept, first, "through_pairs")
    return factors, kept


def nearest_only(network: nn.Module, shared: Collection[str]) -> Prepared:
    """Return what :func:`compress` needs to send every weight to its nearest entry."""
    state = network.state_dict()
    plain = {name: state[name].detach().float().clone() for name in shared}
    return Prepared((), plain, dict.fromkeys(plain, "there are no calibration images"), {})


def compress(
    prepared: Prepared,
    k: int,
    rate: float,
    *,
    entries: Tensor | None = None,
    passes: int = PASSES,
    trellis: States = 0,
    rehearsal: Rehearsal | None = None,
    assign: Assign | None = None,
) -> Compressed:
    """Assign every shared weight to an entry of one global codebook.

    Args:
        prepared: from :func:`prepare`.
        k: bins over the range of the shared weights; the grid is moved so that 0 is an entry.
        rate: what a bit is worth, see :func:`moeash.methods.feedback.columns.rate_weight`.
        entries: another codebook than that grid, ``(n_entries,)`` float32, strictly increasing; a
            bit is still priced by k.
        passes: see :func:`moeash.methods.feedback.columns.assign_feedback`.
        trellis: states of the trellis every column follows, see
            :mod:`moeash.methods.feedback.paths`; groups then need a common order. 0: every entry
            is open to every weight.
        rehearsal: compress layer after layer, see :mod:`moeash.methods.feedback.sequential`. None:
        all for
            the inputs they have in the float network.
        assign: another rule for the layers with a curvature than these options name.

    Raises:
        InputError: k or the rate is out of range, or there is nothing to share.
    """
    if not rate >= 0:
        raise InputError(f"got rate {rate}, needed at least 0")
    low, high = prepared.span
    if entries is None:
        entries = zero_aligned_entries(low, high, k)
    zero = int(entries.abs().argmin())
    # A weight on a trellis has a choice of entries two steps apart.
    step = (high - low) / k * (2 if trellis else 1)
    price = rate_weight(prepared.factors, step, rate)
    indices = {}
    for name, weight in prepared.plain.items():
        grid = entries.to(weight.device)
        if trellis:
            indices[name] = nearest_path(weight, grid, zero, trellis)
        else:
            indices[name] = nearest(weight, grid)
    if assign is None:
        assign = _rule(zero, passes, trellis)
    kept = dict(prepared.kept)
    lockstep = None
    if rehearsal is not None:
        lockstep = Lockstep(rehearsal, _values(prepared.factors, kept))
        lockstep.put({name: entries.to(i.device)[i] for name, i in indices.items()})
    for factor in prepared.factors:
        grid = entries.to(factor.weight.device)
        shift: Tensor | float = 0.0
        if lockstep is not None:
            factor, shift = lockstep.aimed(factor)
        chosen = assign(factor, grid, price)
        indices[factor.name] = chosen
        values = {factor.name: grid[chosen]}
        if factor.absorber is not None:
            shift = shift + output_shift(factor, chosen, grid)
            sign = -1 if factor.absorber.endswith("running_mean") else 1
            before = kept[factor.absorber]
            values[factor.absorber] = kept[factor.absorber] = before + sign * shift.to(before)
        if lockstep is not None:
            lockstep.put(values)
    return only_used(entries, indices, kept, without_gaps=zero if trellis else None)


def _rule(zero: int, passes: int, trellis: States) -> Assign:
    """Return the method's own rule."""

    def assign(factor: Factor, entries: Tensor, price: float) -> Tensor:
        if trellis:
            return assign_trellis(factor, entries, zero, trellis, price=price, passes=passes)
        if factor.rows is not None:
            return assign_coupled(factor, entries, price=price, passes=passes)
        return assign_feedback(factor, entries, price=price, passes=passes)

    return assign


def only_used(
    entries: Tensor,
    indices: dict[str, Tensor],
    kept: dict[str, Tensor],
    *,
    without_gaps: int | None = None,
) -> Compressed:
    """Leave out entries no weight uses: all, or those outside the used ones and this one."""
    counts = torch.zeros(entries.numel(), dtype=torch.int64)
    for chosen in indices.values():
        counts += torch.bincount(chosen.flatten(), minlength=entries.numel()).cpu()
    used = counts > 0
    if without_gaps is not None:
        used[without_gaps] = True
        first, last = torch.nonzero(used).flatten()[[0, -1]].tolist()
        used[first : last + 1] = True
    place = used.long().cumsum(0) - 1
    renumbered = {name: place.to(chosen.device)[chosen] for name, chosen in indices.items()}
    return Compressed(entries[used], renumbered, kept)


def _balanced(
    network: nn.Module, factors: list[Factor], exponent: float
) -> tuple[list[Factor], dict[str, Tensor]]:
    """Balance the rows in front of BatchNorms; return the factors and the tensors that undo it."""
    norms, state = dict(network.named_modules()), network.state_dict()
    scales = balancing_scales(factors, exponent)
    balanced = []
    undone = {}
    for factor in factors:
        if factor.name in scales:
            norm = norms[str(factor.norm)]
            assert isinstance(norm, NORM_TYPES)
            mean, variance = norm.running_mean, norm.running_var
            assert mean is not None and variance is not None
            scale = safe_scales(scales[factor.name], variance, norm.eps)
            factor = rescaled(factor, scale)
            new_mean, new_variance = rescaled_statistics(mean, variance, norm.eps, scale.flatten())
            undone[f"{factor.norm}.running_mean"] = new_mean
            undone[f"{factor.norm}.running_var"] = new_variance
            if factor.absorber is not None and factor.absorber != f"{factor.norm}.running_mean":
                undone[factor.absorber] = state[factor.absorber] * scale.flatten()
        balanced.append(factor)
    return balanced, undone


def _usable(
    pairs: tuple[Pair, ...], factors: Sequence[Factor], shared: Collection[str]
) -> tuple[Pair, ...]:
    """Return the pairs of two assigned layers whose producer's bias can be scaled."""
    names = {factor.name for factor in factors}
    return tuple(
        pair
        for pair in pairs
        if {pair.producer, pair.consumer} <= names and _bias_of(pair.producer) not in shared
    )


def _bias_of(name: str) -> str:
    return name.removesuffix("weight") + "bias"


def _paired(
    network: nn.Module,
    factors: list[Factor],
    pairs: tuple[Pair, ...],
    exponent: float,
    kept: dict[str, Tensor],
) -> tuple[list[Factor], dict[str, Tensor]]:
    """Balance rows against the next layer's columns; return the factors and the kept tensors."""
    scales = pair_scales(factors, pairs, exponent)
    before = {pair.consumer: pair.producer for pair in pairs}
    state, kept = network.state_dict(), dict(kept)
    balanced = []
    for factor in factors:
        if factor.name in before:
            factor = recolumned(factor, scales[before[factor.name]])
        if factor.name in scales:
            scale = scales[factor.name]
            factor = rescaled(factor, scale)
            bias = _bias_of(factor.name)
            if bias in state:
                kept[bias] = kept.get(bias, state[bias]) * scale.flatten()
        balanced.append(factor)
    return balanced, kept


def _values(factors: Iterable[Factor], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the balanced float network by ``state_dict`` key."""
    return {factor.name: factor.weight for factor in factors} | dict(kept)


@torch.no_grad()
def _check_same_function(
    network: nn.Module,
    factors: list[Factor],
    kept: dict[str, Tensor],
    batch: Tensor,
    remedy: str,
) -> None:
    """Refuse a network where something else reads a rescaled layer than what undoes it."""
    with in_eval_mode(network):
        expected = network(batch)
    moved = distance(expected, twin(network, _values(factors, kept))(batch))
    if moved > SAME_FUNCTION:
        raise RescalingError(
            f"rescaling rows moved the outputs by {moved:.2g} of the largest, so something that "
            f"was not seen reads those layers: pass {remedy}=False"
        )

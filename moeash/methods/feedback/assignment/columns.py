"""Second-order error feedback: assign weights to entries of one global codebook.

Per layer, with curvature ``s_r H`` of row r, columns ordered by decreasing ``H_tt`` and U the upper
Cholesky factor of ``inv(H)`` in that order (``inv(H) = U'U``)::

    q_t = argmin over entries c of  s_r (w_t - c)^2 / U_tt^2 + rate L(c)
    w_s -= (w_t - q_t) U_ts / U_tt    for every s > t

``L(c)`` is the code length of entry c in bits in this tensor, re-estimated after every pass. Every
entry is a candidate, not only the nearest ones.

Everything that does not depend on the candidate (orders, factors) is made once by
:func:`prepare_feedback`.

Source: methods.md section 6 (after GPTQ, arXiv 2210.17323, and CERWU, arXiv 2505.18758). Differs:
all entries are candidates; the rate is dimensionless, see :func:`rate_weight`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moeash.errors import InputError
from moeash.methods.feedback.assignment.scaling import out_of_range, scaled
from moeash.methods.feedback.curvature.measuring import LayerCurvature
from moeash.methods.recursion import BLOCK, recurse
from moeash.networks.pickling import PickledAsArrays

PASSES = 2
"""Passes over a layer: one with the code lengths of nearest entries, one with those it gave."""

LEAST_SENSITIVITY = 1e-4
"""Floor of a row's sensitivity relative to its layer's mean, where images are many: dead rows go
where bits are cheapest, without a division by zero."""

USUAL = 60
"""Curvatures are brought to 1 where their mean is not between 2**-60 and 2**60, so that variances
are float32 numbers; what this takes from them the sensitivities get."""

MOST_SENSITIVE = 2.0**100
"""Sensitivities are held below this and above its inverse, far from where float32 ends."""


@dataclass(frozen=True, eq=False)
class RowFactor(PickledAsArrays):
    """How the rows of a layer take up each other's errors.

    See :mod:`moeash.methods.feedback.assignment.rows`.

    Attributes:
        order: ``(groups, rows)`` int64, the order in which the rows of a column are fixed.
        coupling: ``(groups, rows, rows)`` float32 in that order, what later rows take up of an
            error: above the diagonal, which is 1.
        relief: ``(groups, rows)`` float32 in that order, at least 1: by what an error's cost is
            divided once later rows have absorbed what they can.
    """

    order: Tensor
    coupling: Tensor
    relief: Tensor


@dataclass(frozen=True, eq=False)
class Factor(PickledAsArrays):
    """One layer, ready to be assigned.

    Attributes:
        name: ``state_dict`` key of its weight.
        shape: shape of the weight.
        weight: ``(groups, rows, columns)`` float32, natural column order.
        order: ``(groups, columns)`` int64, the order in which columns are fixed.
        coupling: ``(groups, columns, columns)`` float32, ``U_ts / U_tt`` above the diagonal.
        variance: ``(groups, columns)`` float32, ``U_tt^2`` in order: the inverse of the curvature
            that remains once later columns have absorbed what they can.
        damped: ``(groups, columns)`` float32, which share of that curvature is damping, in order.
        sensitivity: ``(groups, rows)`` float32, positive.
        absorber: see :class:`moeash.methods.feedback.curvature.measuring.LayerCurvature`.
        absorbed: ``(groups, columns)`` float32, natural order.
        norm: likewise.
        rows: how rows take up each other's errors; None: not at all.
        lookup: whether its rows are looked up, as an embedding's are.
    """

    name: str
    shape: tuple[int, ...]
    weight: Tensor
    order: Tensor
    coupling: Tensor
    variance: Tensor
    damped: Tensor
    sensitivity: Tensor
    absorber: str | None
    absorbed: Tensor
    norm: str | None
    rows: RowFactor | None = None
    lookup: bool = False

    @property
    def curvature(self) -> float:
        """Mean over the weights of ``sensitivity / variance``, in nats per squared weight unit."""
        precision = self.variance.double().reciprocal().mean(1)
        return float((precision * self.sensitivity.double().mean(1)).mean())


def prepare_feedback(
    layer: LayerCurvature,
    *,
    damping: float = 0.01,
    act_order: bool = True,
    common_order: bool = False,
    least: float = LEAST_SENSITIVITY,
) -> Factor:
    """Order and factorise one layer's curvature in float64; keep the result in float32.

    Args:
        layer: from :func:`moeash.methods.feedback.curvature.measuring.measure_curvature`.
        damping: added to the diagonal, relative to its mean; positive. A layer without any
            curvature (never active) gets the identity: nearest entries, or the cheapest.
        act_order: fix columns by decreasing curvature rather than in their natural order.
        common_order: one order for all groups, by their mean curvature, as trellises need it.
        least: floor of a row's sensitivity, relative to its layer's mean.

    Raises:
        InputError: the damping is not positive, or the curvature is not finite.
    """
    if not damping > 0:
        raise InputError(f"got damping {damping}, needed a positive number")
    if not bool(torch.isfinite(layer.gram).all()):
        raise InputError(f"the curvature of {layer.name!r} is not finite; check its inputs")
    columns = layer.gram.shape[1]
    natural = layer.gram.diagonal(dim1=1, dim2=2)
    mean = natural.mean(1, keepdim=True)
    # A damping of 0 would never grow.
    scale = torch.where(mean > 0, (damping * mean).clamp(min=1e-300), 1.0)
    diagonal = natural + scale
    level = out_of_range(natural.abs().mean(1), USUAL)
    order = torch.arange(columns, device=natural.device).expand_as(diagonal)
    if act_order:
        ranked = diagonal.mean(0, keepdim=True) if common_order else diagonal
        order = torch.argsort(ranked, dim=1, descending=True, stable=True).expand_as(diagonal)
    coupling = torch.empty(layer.gram.shape, dtype=torch.float32, device=natural.device)
    variance = torch.empty(natural.shape, dtype=torch.float32, device=natural.device)
    damped = torch.empty_like(variance)
    for group, chosen in enumerate(order):  # one at a time: bounded memory
        upper, added = _inverse_factor(
            layer.gram[group], chosen, level[group], float(scale[group] / level[group])
        )
        diag = upper.diagonal().clone()
        variance[group] = diag.square()
        damped[group] = added * upper.square().sum(1)
        coupling[group] = upper.div_(diag.unsqueeze(1))
    mean_sensitivity = layer.sensitivity.mean()
    floor = float(mean_sensitivity) * least if mean_sensitivity > 0 else 1.0
    sensitivity = layer.sensitivity.clamp(min=floor) * level.unsqueeze(1)
    return Factor(
        layer.name,
        layer.shape,
        layer.weight,
        order.contiguous(),
        coupling,
        variance,
        damped,
        sensitivity.clamp(1 / MOST_SENSITIVE, MOST_SENSITIVE).float(),
        layer.absorber,
        layer.absorbed.float(),
        layer.norm,
        lookup=layer.lookup,
    )


def _inverse_factor(
    gram: Tensor, order: Tensor, level: Tensor, damping: float
) -> tuple[Tensor, float]:
    """Return the upper Cholesky factor of ``inv(gram / level + damping I)``, and the damping.

    A Gram matrix is positive semi-definite but for rounding. Where rounding is larger than the
    damping (inputs that hardly vary, a bias that takes up almost all), the damping grows tenfold
    until it is not.

    Args:
        gram: ``(columns, columns)`` float64.
        order: ``(columns,)`` int64, of the columns in the factor.
        level: a number.
        damping: at first, positive.
    """
    failed = torch.empty((), dtype=torch.int32, device=gram.device)
    while True:
        # It may take gigabytes, so one piece of memory holds it, its factor, its inverse and that
        # one's factor: column by column, as LAPACK has them and would else copy.
        matrix = gram.mT[order.unsqueeze(1), order].contiguous().mT.div_(level)
        matrix.diagonal().add_(damping)
        torch.linalg.cholesky_ex(matrix, out=(matrix, failed))
        if not int(failed):
            torch.cholesky_inverse(matrix, out=matrix)
            torch.linalg.cholesky_ex(matrix, upper=True, out=(matrix, failed))
            if not int(failed):
                return matrix, damping
        damping *= 10


def span_of(weights: Sequence[Tensor]) -> tuple[float, float]:
    """Return the smallest and the largest of all weights, or 0 where that reaches further."""
    low = min(float(weight.min()) for weight in weights)
    high = max(float(weight.max()) for weight in weights)
    return min(low, 0.0), max(high, 0.0)


def zero_aligned_entries(low: float, high: float, k: int) -> Tensor:
    """Return the grid of step ``(high - low) / k`` through 0 that covers ``[low, high]``.

    Between k and k + 1 entries when the range spans 0; every value of the range is within half a
    step of an entry. The paper's bins, moved so that one centre is exactly 0. Nothing but 0 needs
    one entry.

    Args:
        low: smallest weight, at most 0 to make sense of the alignment.
        high: largest weight, above ``low``.
        k: requested bins, at least 1.

    Returns:
        ``(n_entries,)`` float32, strictly increasing.
    """
    if k >= 1 and low == high == 0:
        return torch.zeros(1)
    if not low < high or k < 1:
        raise InputError(f"no grid of {k} bins over [{low}, {high}]; needed low < high and k >= 1")
    step = (high - low) / k
    first, last = round(min(low, 0.0) / step), round(max(high, 0.0) / step)
    return (torch.arange(first, last + 1, dtype=torch.float64) * step).float()


def rate_weight(factors: Sequence[Factor], step: float, rate: float) -> float:
    """Return the price of a bit in nats for a dimensionless ``rate``.

    Rounding to a grid of this step costs about ``step^2 / 24`` times the curvature per weight, and
    at the optimum of rate and distortion one bit is worth that times ``2 ln 2``. So one value of
    ``rate`` means the same trade on every network and for every k; 0 ignores the rate, values of
    0.02 to 0.1 gave the best trades on three networks.
    """
    weights = sum(factor.weight.numel() for factor in factors)
    total = sum(factor.curvature * factor.weight.numel() for factor in factors)
    return rate * step * step * total / max(weights, 1)


def code_lengths(indices: Tensor, n_entries: int) -> Tensor:
    """Return the ideal code length of every entry in bits, ``(n_entries,)`` float32.

    Unused entries are given the probability of a thousandth occurrence: dear, not forbidden.
    """
    counts = torch.bincount(indices.flatten(), minlength=n_entries).double() + 1e-3
    return -(counts / counts.sum()).log2().float()


def entropy_bits(indices: Tensor) -> float:
    """Return the order-0 entropy of a tensor of indices, in bits for the whole tensor."""
    counts = torch.unique(indices, return_counts=True)[1].double()
    return float((counts * (counts.sum() / counts).log2()).sum())


def nearest(weight: Tensor, entries: Tensor) -> Tensor:
    """Return the index of the nearest entry, int64; a tie goes to the lower entry."""
    middles = (entries[1:].double() + entries[:-1].double()) / 2
    return torch.bucketize(weight.double().contiguous(), middles)


def assign_feedback(
    factor: Factor,
    entries: Tensor,
    *,
    price: float = 0.0,
    passes: int = PASSES,
    block: int = BLOCK,
) -> Tensor:
    """Assign every weight of a layer to an entry.

    Args:
        factor: from :func:`prepare_feedback`.
        entries: ``(n_entries,)`` float32, strictly increasing, on the factor's device.
        price: nats per bit, from :func:`rate_weight`; 0 ignores the code length.
        passes: how often code lengths are re-estimated; without a price one pass is all.
        block: columns per block, see :func:`moeash.methods.recursion.recurse`.

    Returns:
        Indices in the shape of the weight, int64. Deterministic for a fixed number of threads.

    Raises:
        InputError: a price is negative, there is no entry, or no pass.
    """
    if entries.ndim != 1 or entries.numel() == 0:
        raise InputError(f"needed a flat array of entries, got shape {tuple(entries.shape)}")
    if not price >= 0 or passes < 1:
        raise InputError(f"got price {price} and {passes} passes, needed >= 0 and >= 1")
    layer = scaled(factor.weight, entries, factor.variance, factor.sensitivity, price)
    entries = layer.entries
    place = factor.order.unsqueeze(1).expand_as(factor.weight)
    targets = layer.weight.gather(2, place)
    indices = nearest(targets, entries)
    for _ in range(passes if price else 1):
        penalty = None
        if price:
            lengths = code_lengths(indices, entries.numel())
            penalty = (layer.price * lengths).unsqueeze(1) / layer.sensitivity.unsqueeze(-1)
        choose = cheapest(entries, penalty, layer.variance)
        indices = recurse(targets, factor.coupling, choose, carry="error", block=block)
    natural = torch.empty_like(indices).scatter_(2, place, indices)
    return natural.reshape(factor.shape)


def output_shift(factor: Factor, indices: Tensor, entries: Tensor) -> Tensor:
    """Return what to add to every output of a layer after assignment, ``(outputs,)`` float32.

    Add it to a bias, subtract it from a BatchNorm's running mean; zeros without an absorber. This
    is bias correction weighted by what the outputs matter, and it costs no bytes.
    """
    lost = factor.weight - entries[indices].reshape(factor.weight.shape)
    return (lost @ factor.absorbed.unsqueeze(-1)).flatten()


def balancing_scales(factors: Sequence[Factor], exponent: float = 0.25) -> dict[str, Tensor]:
    """Return by what to multiply the rows in front of a BatchNorm so that one grid suits all.

    A row that matters s times as much deserves a finer step; scaling it up, and its BatchNorm's
    statistics with it, gives it one without a second codebook (see :func:`rescaled`). The scale is
    ``(sensitivity / geometric mean variance) ** exponent``, normalised to a geometric mean of 1
    over all such weights. At high rates theory says 1/2; at 1 to 2 bits per weight 1/4 measured
    better.

    Returns:
        ``(groups, rows)`` float32 by layer name, for the layers with a BatchNorm only.
    """
    raw = {}
    for factor in factors:
        if factor.norm is None:
            continue
        precision = -factor.variance.double().log().mean(1, keepdim=True)
        sensitivity = factor.sensitivity.double()
        # Rows that hardly matter keep their range: nothing is gained by shrinking them further.
        floor = 0.01 * sensitivity.mean(1, keepdim=True)
        raw[factor.name] = exponent * (sensitivity.maximum(floor).log() + precision)
    weights = {f.name: f.weight.shape[2] for f in factors}
    total = sum(float(log.sum()) * weights[name] for name, log in raw.items())
    count = sum(log.numel() * weights[name] for name, log in raw.items())
    return {name: (log - total / count).exp().float() for name, log in raw.items()}


def rescaled(factor: Factor, scale: Tensor) -> Factor:
    """Return the factor of a layer whose rows are multiplied by ``scale`` ``(groups, rows)``."""
    assert factor.rows is None  # rows are coupled once they are balanced
    return replace(
        factor,
        weight=factor.weight * scale.unsqueeze(-1),
        sensitivity=factor.sensitivity / scale.square(),
    )


def rescaled_statistics(
    mean: Tensor, variance: Tensor, eps: float, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the running mean and variance of a BatchNorm whose inputs are multiplied by ``scale``.

    Exact, epsilon included: ``scale^2 (variance + eps) - eps``; :func:`safe_scales` keeps it
    non-negative.
    """
    return mean * scale, scale.square() * (variance + eps) - eps


def safe_scales(scale: Tensor, variance: Tensor, eps: float) -> Tensor:
    """Raise scales so that the rescaled variance stays at least 0; only dead channels need it."""
    return scale.maximum((eps / (variance + eps)).sqrt().reshape(scale.shape))


def cheapest(
    entries: Tensor, penalty: Tensor | None, variance: Tensor
) -> Callable[[int, Tensor], tuple[Tensor, Tensor]]:
    """Return the rule ``argmin_c (w - c)^2 + variance_t penalty_rc`` for one column.

    Args:
        entries: ``(n_entries,)``.
        penalty: ``(groups, rows, n_entries)``, or what broadcasts to it; None: no penalty.
        variance: ``(groups, columns)``, in the order of the recursion.
    """
    if penalty is None:
        middles = (entries[1:] + entries[:-1]) / 2

        def round_off(t: int, target: Tensor) -> tuple[Tensor, Tensor]:
            indices = torch.bucketize(target.contiguous(), middles)
            return indices, entries[indices]

        return round_off

    weights = variance.T[:, :, None, None].contiguous()

    def weigh(t: int, target: Tensor) -> tuple[Tensor, Tensor]:
        cost = (target.unsqueeze(-1) - entries).square_().addcmul_(penalty, weights[t])
        indices = cost.argmin(-1)
        return indices, entries[indices]

    return weigh

"""Indices of a whole network on one global codebook: the work of once per candidate.

:func:`compress` turns ``(k, rate)`` into indices, and into the new values of the kept tensors that
make up for them at no cost in bytes: biases and BatchNorm statistics.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moeash.core.progress import Progress, silent
from moeash.core.trellis import States
from moeash.errors import InputError
from moeash.methods.feedback.assignment.columns import (
    PASSES,
    Factor,
    assign_feedback,
    nearest,
    output_shift,
    rate_weight,
    zero_aligned_entries,
)
from moeash.methods.feedback.assignment.paths import assign_freely, assign_trellis, nearest_path
from moeash.methods.feedback.assignment.sequential import Lockstep, Rehearsal
from moeash.methods.feedback.balancing.grids import strides
from moeash.methods.feedback.balancing.scales import balanced_values
from moeash.methods.feedback.preparing import PreparedLayers
from moeash.runtime.threads import spread

Assign = Callable[[Factor, Tensor, float], Tensor]
"""(layer, entries ``(n_entries,)``, nats per bit) -> indices in the shape of the weight, int64."""


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


def compress(
    prepared: PreparedLayers,
    k: int,
    rate: float,
    *,
    entries: Tensor | None = None,
    passes: int = PASSES,
    trellis: States = 0,
    rehearsal: Rehearsal | None = None,
    assign: Assign | None = None,
    progress: Progress = silent,
) -> Compressed:
    """Assign every shared weight to an entry of one global codebook.

    Args:
        prepared: from :func:`moeash.methods.feedback.preparing.prepare`.
        k: bins over the range of the shared weights; the grid is moved so that 0 is an entry.
        rate: what a bit is worth, see
            :func:`moeash.methods.feedback.assignment.columns.rate_weight`.
        entries: another codebook than that grid, ``(n_entries,)`` float32, strictly increasing; a
            bit is still priced by k, and every entry is open to every weight.
        passes: see :func:`moeash.methods.feedback.assignment.columns.assign_feedback`.
        trellis: states of the trellis every column follows, see
            :mod:`moeash.methods.feedback.assignment.paths`; groups then need a common order. 0:
            every entry is open to every weight.
        rehearsal: compress layer after layer, see
            :mod:`moeash.methods.feedback.assignment.sequential`. None: all for the inputs they have
            in the float network.
        assign: another rule for the layers with a curvature than these options name.
        progress: told after every layer.

    Raises:
        InputError: k or the rate is out of range, or there is nothing to share.
    """
    if not rate >= 0:
        raise InputError(f"got rate {rate}, needed at least 0")
    low, high = prepared.span
    on_grid = entries is None
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
        if on_grid and not trellis:
            assign = _coarsely(assign, zero, step)
    kept = dict(prepared.kept)
    with ExitStack() as stack:
        lockstep = None
        if rehearsal is not None:
            values = balanced_values(prepared.factors, kept)
            lockstep = stack.enter_context(Lockstep(rehearsal, values))
            lockstep.put({name: entries.to(i.device)[i] for name, i in indices.items()})
        beside = _beside_each_other(prepared.factors, entries, price, assign)
        stack.enter_context(closing(beside))
        for done, factor in enumerate(prepared.factors):
            grid = entries.to(factor.weight.device)
            shift: Tensor | float = 0.0
            if lockstep is None:
                chosen = next(beside)
            else:
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
            progress("assigning layers", done + 1, len(prepared.factors))
    return only_used(entries, indices, kept, without_gaps=zero if trellis else None)


def _beside_each_other(
    factors: Sequence[Factor], entries: Tensor, price: float, assign: Assign
) -> Generator[Tensor]:
    """Yield the indices of every layer in turn; torch's threads have a layer each.

    No layer looks at another here, and each is computed by one thread, so that indices do not
    depend on how many there are.
    """
    n_threads = torch.get_num_threads()

    @torch.no_grad()
    def chosen(factor: Factor) -> Tensor:
        return assign(factor, entries.to(factor.weight.device), price)

    try:
        yield from spread(chosen, factors, n_threads, prepare=lambda: torch.set_num_threads(1))
    finally:
        torch.set_num_threads(n_threads)


def _rule(zero: int, passes: int, trellis: States) -> Assign:
    """Return the method's own rule."""

    def assign(factor: Factor, entries: Tensor, price: float) -> Tensor:
        if trellis:
            return assign_trellis(factor, entries, zero, trellis, price=price, passes=passes)
        if factor.rows is None and factor.weight.device.type != "cpu":
            return assign_feedback(factor, entries, price=price, passes=passes)
        return assign_freely(factor, entries, price=price, passes=passes)

    return assign


def _coarsely(assign: Assign, zero: int, step: float) -> Assign:
    """Return a rule under which layers, or words, that matter little use every m-th entry only.

    See :func:`moeash.methods.feedback.balancing.grids.strides`. The rows of an embedding are
    divided by their m, and each part has code lengths of its own; the rows of other layers have one
    m together.
    """

    def assigned(factor: Factor, entries: Tensor, price: float) -> Tensor:
        found = strides(factor, price, step)
        made = torch.empty(factor.weight.shape, dtype=torch.int64, device=factor.weight.device)
        for stride in sorted(set(found.flatten().tolist())):
            rows = (found == stride).all(0)
            part = _rows_of(factor, rows)
            first = zero % stride
            if len(entries[first::stride]) == 1:  # nothing but 0 is left
                made[:, rows] = first
                continue
            chosen = assign(part, entries[first::stride], price)
            made[:, rows] = first + stride * chosen.reshape(part.weight.shape)
        return made.reshape(factor.shape)

    return assigned


def _rows_of(factor: Factor, rows: Tensor) -> Factor:
    """Return some rows of a layer of one group; all of any."""
    if bool(rows.all()):
        return factor
    weight = factor.weight[:, rows]
    return replace(
        factor,
        shape=tuple(weight.shape[1:]),
        weight=weight,
        sensitivity=factor.sensitivity[:, rows],
    )


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

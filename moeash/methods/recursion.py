"""The column recursion GPFQ and second-order feedback share.

Columns are fixed one after the other; what fixing a column did is carried into the later ones::

    for t in order:   q_t = choose(v_t);   v_s -= carried_t * coupling[t, s]   for every s > t

with ``carried = v - q`` (the error, second-order feedback) or ``carried = q`` (the value, GPFQ in
Gram form). All rows of a layer are independent and move together, and all groups of a grouped
convolution too. The columns are worked in blocks: within a block column by column, behind it one
matrix product per block.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

BLOCK = 64
"""Columns per block: behind a block, its effect on all later columns is one matrix product."""

Choose = Callable[[int, Tensor], tuple[Tensor, Tensor]]
"""(position t, targets ``(groups, rows)``) -> (indices int64, values), both ``(groups, rows)``."""


def recurse(
    targets: Tensor,
    coupling: Tensor,
    choose: Choose,
    *,
    carry: Literal["error", "value"],
    block: int = BLOCK,
) -> Tensor:
    """Fix every column in turn and return the chosen indices.

    Args:
        targets: ``(groups, rows, columns)`` float, columns in the order they are fixed.
        coupling: ``(groups, columns, columns)`` of the same dtype; only ``[t, s]`` with s > t is
            read.
        choose: picks the symbols of one column.
        carry: what a fixed column hands on.
        block: columns per block. Changes the rounding of the sums, not the recursion.

    Returns:
        ``(groups, rows, columns)`` int64.
    """
    groups, rows, columns = targets.shape
    # Column by column is the inner loop: one column of all rows must be contiguous.
    moving = targets.transpose(1, 2).contiguous().clone()
    chosen = torch.empty(groups, columns, rows, dtype=torch.int64, device=targets.device)
    carried = torch.empty_like(moving)
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        inner = coupling[:, start:stop, start:stop].unsqueeze(-1)
        here = moving[:, start:stop]
        for t in range(start, stop):
            target = moving[:, t]
            chosen[:, t], value = choose(t, target)
            out = carried[:, t]
            if carry == "error":
                torch.sub(target, value, out=out)
            else:
                out.copy_(value)
            i = t - start + 1
            here[:, i:].addcmul_(inner[:, i - 1, i:], out.unsqueeze(1), value=-1)
        if stop < columns:
            behind = coupling[:, start:stop, stop:].transpose(1, 2)
            moving[:, stop:].baddbmm_(behind, carried[:, start:stop], alpha=-1)
    return chosen.transpose(1, 2)

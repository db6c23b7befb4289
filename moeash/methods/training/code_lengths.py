"""What weights will cost in the file, as a function training can go down.

An entry that many weights of a tensor use is cheap: ``-log2`` of their share, the length an ideal
coder gives it that knows each tensor's statistics. Between two entries the cost is interpolated, so
its slope is what a weight saves by moving over. Statistics are counted again every some steps;
in between they stand still.

The container's adaptive coder knows more (rows and columns that are alike), and its files are
smaller than this sum. Statistics by rows and columns were tried once, on LeNet-300-100, and showed
no clear gain.
"""

import torch
from torch import Tensor

from moeash.methods.training.positions import Places, below_of

UNSEEN = 0.05
"""Weights an entry counts as having beside those it has, so that no cost is infinite."""


def code_lengths(place: Places) -> Tensor:
    """Return the bits each entry costs by the tensor's own counts, ``(n_entries,)`` float32."""
    n_entries = len(place.entries)
    counts = torch.bincount(place.nearest().flatten(), minlength=n_entries).float() + UNSEEN
    return -torch.log2(counts / counts.sum())


def slopes(place: Places, lengths: Tensor) -> Tensor:
    """Return what each weight costs more, in bits, one entry further up; in the tensor's shape."""
    if len(lengths) < 2:
        return torch.zeros_like(place.position)
    return (lengths[1:] - lengths[:-1])[below_of(place.position.detach(), len(lengths))]


def bits(place: Places, lengths: Tensor) -> Tensor:
    """Return what a tensor's weights cost on their entries, in bits, a scalar."""
    return lengths[place.nearest()].sum()

"""Batches cut into pieces, so that what one pass of a network holds fits in memory.

How much a pass holds follows from the layers' outputs for one input, which are counted once. With
pictures of 224 x 224 a batch of 200 would hold gigabytes, and smaller pieces are no slower.
"""

import sys
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from moeash.data.inputs import Batch
from moeash.data.inputs import call as call_network
from moeash.networks.devices import device_of
from moeash.tracing.uses import Use, watch_uses
from moeash.tracing.watching import in_eval_mode

BACKWARD_ELEMENTS = 1 << 25
"""Outputs of all layers that one pass with gradients may hold, 128 MiB in float32; autograd holds a
few times that."""

FORWARD_ELEMENTS = 1 << 27
"""Outputs of all layers that one pass without gradients may make. A few layers' are held at a time:
of a network of ImageNet's size some 400 MB."""


def pieces(network: nn.Module, batches: Iterable[Batch], elements: int) -> Iterator[Batch]:
    """Yield batches, cut so that the layers' outputs of one pass stay within ``elements``.

    A batch is cut into pieces of one length, the last of which may be shorter. They are on the
    device of the batch. A network that takes no single input, as it was made for batches of one
    length, say, gets its batches whole.

    Args:
        network: in any mode; left as it is.
        batches: inputs ``(batch, ...)``.
        elements: BACKWARD_ELEMENTS or FORWARD_ELEMENTS.
    """
    most = 0
    for batch in batches:
        if not len(batch):
            continue
        most = most or _inputs_within(network, batch[:1], elements)
        n_pieces = -(-len(batch) // most)
        length = -(-len(batch) // n_pieces)
        for start in range(0, len(batch), length):
            yield batch[start : start + length]


@torch.no_grad()
def _inputs_within(network: nn.Module, one: Batch, elements: int) -> int:
    """Return for how many inputs the layers' outputs are within ``elements``, at least one.

    Any number where the network does not take one: if something is wrong with it, the pass says so.
    """
    made = 0

    def count(use: Use, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        nonlocal made
        made += outputs.numel()

    try:
        with in_eval_mode(network), watch_uses(network, count):
            call_network(network, one.to(device_of(network)))
    except Exception:
        return sys.maxsize
    return max(1, elements // max(made, 1))

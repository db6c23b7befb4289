"""A network: the torch module together with its float state as the methods see it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from moeash.core.codebook import State


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network.

    Attributes:
        module: in eval mode, on the device it is evaluated on, holding the float weights.
        state: its float state in ``state_dict`` order, with the role of every parameter.
        source: where it came from, for people.
        folded: BatchNorms by module name whose scale is in the layer before them already, so that
            nothing may rescale that layer; see :mod:`moeash.compression.folding`.
        output: names the tensor that counts of what the module returns; None: see
            :func:`moeash.tracing.outputs.chosen`.
    """

    module: nn.Module
    state: State
    source: str
    folded: frozenset[str] = frozenset()
    output: Callable[[Any], Tensor] | None = None

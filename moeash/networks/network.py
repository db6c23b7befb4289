"""A network: the torch module together with its float state as the methods see it."""

from dataclasses import dataclass

from torch import nn

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
    """

    module: nn.Module
    state: State
    source: str
    folded: frozenset[str] = frozenset()

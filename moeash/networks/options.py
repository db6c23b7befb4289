"""Which network a study compresses, and which of its parameters it shares."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from moeash.errors import InputError
from moeash.names import nearest
from moeash.options.tables import Options

NETWORKS = (
    "digits-cnn",
    "lenet300",
    "lenet5",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
)
"""Names of the built-in networks, see :data:`moeash.networks.loading.builtin.BUILTIN`."""

TORCHVISION = "torchvision:"
"""What stands in front of the name of one of torchvision's networks."""


@dataclass(frozen=True)
class NetworkOptions(Options):
    """``[network]``.

    Attributes:
        source: digits-cnn, lenet300, lenet5, resnet20, resnet32, resnet44, resnet56 or resnet110,
            torchvision:NAME, or package.module:factory.
        checkpoint: safetensors, torch or moeash file with the weights.
        weights: name in torchvision's enum of weights, or "random" for an untrained network.
        options: keyword arguments of the factory.
        include: patterns of parameters to share; default: every float of two or more dimensions.
        exclude: patterns of parameters to keep.
        share_all: share float parameters of one dimension too, as the paper does.
    """

    table: ClassVar[str] = "network"

    source: str
    checkpoint: str | None = None
    weights: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None
    share_all: bool = False

    def check(self) -> None:
        """Refuse a name that is neither built in nor a reference, and weights from two places."""
        if self.source not in NETWORKS and ":" not in self.source:
            raise InputError(
                f"network.source: no network is called {self.source!r}; "
                f"{nearest(self.source, NETWORKS)}; or give 'torchvision:NAME' or "
                "'package.module:factory'"
            )
        if self.checkpoint is not None and self.weights is not None:
            raise InputError(
                f"network.weights = {self.weights!r} and network.checkpoint are both given; "
                "give one"
            )

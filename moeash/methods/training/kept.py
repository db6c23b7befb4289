"""Kept tensors while a network is trained: floating parameters change, and nothing else does.

But for the statistics of BatchNorms, where those are gathered (:mod:`.norms`).
"""

from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from moeash.core.codebook import KeptTensor
from moeash.networks.network import Network


class KeptTensors:
    """The kept tensors of one training, as they are decoded, on its device.

    Attributes:
        tensors: by name; floating parameters of the module are leaves with gradients.
    """

    def __init__(
        self,
        stored: Iterable[KeptTensor],
        network: Network,
        device: str,
        gathered: Collection[str] = (),
    ) -> None:
        """Begin.

        Args:
            stored: as they are at first.
            network: they are of.
            device: of the training.
            gathered: names of those that the network's forward passes write to.
        """
        self._gathered = frozenset(gathered)
        self._stored = {tensor.name: tensor for tensor in stored}
        parameters = {name for name, _ in network.module.named_parameters()}
        dtypes = {name: tensor.dtype for name, tensor in network.module.state_dict().items()}
        self.tensors: dict[str, Tensor] = {}
        for name, kept in self._stored.items():
            value = torch.tensor(kept.decoded().reshape(kept.shape), device=device)
            value = value.to(dtypes[name])
            trained = name in parameters and value.is_floating_point()
            self.tensors[name] = value.requires_grad_(trained)

    @property
    def leaves(self) -> list[Tensor]:
        """The kept tensors that are trained."""
        return list(self._trained.values())

    @property
    def _trained(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.tensors.items() if tensor.requires_grad}

    @property
    def _changing(self) -> dict[str, Tensor]:
        return {
            name: tensor
            for name, tensor in self.tensors.items()
            if tensor.requires_grad or name in self._gathered
        }

    def saved(self) -> dict[str, Tensor]:
        """Return what changes, under names of its own in a checkpoint."""
        return {f"kept/{name}": tensor for name, tensor in self._changing.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take what :meth:`saved` returned."""
        with torch.no_grad():
            for name, tensor in self.saved().items():
                tensor.copy_(tensors[name])

    def stored(self) -> dict[str, KeptTensor]:
        """Return all by name, those that have changed in the network's precision."""
        stored = dict(self._stored)
        for name, tensor in self._changing.items():
            values = tensor.detach().cpu()
            # bfloat16 travels as float32; NumPy has none.
            values = values.float() if values.dtype == torch.bfloat16 else values
            old = stored[name]
            stored[name] = KeptTensor(name, old.shape, old.dtype, values.numpy())
        return stored

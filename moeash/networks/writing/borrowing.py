"""Running a network with other weights, in its own memory, and giving it back as it was.

A copy would need twice the memory, and cannot be made of modules that hold locks, generators or
open files.
"""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from moeash.core.codebook import State
from moeash.networks import memory
from moeash.networks.writing.inplace import slot


class Borrowed:
    """A module that holds other weights for a while.

    ``with Borrowed(module) as borrowed`` the module is in eval mode and its tensors may be
    overwritten. Afterwards every parameter and buffer is what it was, bit for bit, and every module
    in the mode it was in, whatever happened in between. Not for two at a time.

    Attributes:
        module: the module.
    """

    def __init__(self, module: nn.Module, state: State | None = None) -> None:
        """Look the module's tensors up; nothing is changed yet.

        Args:
            module: its parameters must stay where they are.
            state: what it holds to begin with; default: what it holds already.
        """
        self.module = module
        self._state = state
        self._tensors = memory.own_tensors(module)
        self._tied = memory.ties(self._tensors)
        self._before: dict[str, Tensor] = {}
        self._modes: dict[nn.Module, bool] = {}

    def __enter__(self) -> Self:
        own = {name: t for name, t in self._tensors.items() if name not in self._tied}
        self._before = {name: tensor.detach().clone() for name, tensor in own.items()}
        self._modes = {part: part.training for part in self.module.modules()}
        self.module.eval()
        for parameter in self._state or ():
            if parameter.values is not None:
                slot(self._tensors[parameter.name]).put(parameter.values)
        return self

    def __exit__(self, *error: object) -> None:
        self.put(self._before)
        self._before = {}
        for part, training in self._modes.items():
            part.training = training

    def put(self, values: Mapping[str, Tensor]) -> None:
        """Overwrite tensors by ``state_dict`` key; a value of another shape is reshaped."""
        with torch.inference_mode():
            for name, value in values.items():
                self._tensors[name].copy_(value.reshape(self._tensors[name].shape))

    def get(self, name: str) -> Tensor:
        """Return a copy of what a tensor holds, by ``state_dict`` key."""
        return self._tensors[name].detach().clone()


class TwoVersions:
    """A borrowed module that is two networks by turns: as it was given, and with some values new.

    Args:
        borrowed: holds the first version.
    """

    def __init__(self, borrowed: Borrowed) -> None:
        self._borrowed = borrowed
        self._first: dict[str, Tensor] = {}
        self._second: dict[str, Tensor] = {}

    def replace(self, values: Mapping[str, Tensor]) -> None:
        """Give the second version other values, by ``state_dict`` key; the first one is held."""
        self.be_first()
        for name, value in values.items():
            if name not in self._first:
                self._first[name] = self._borrowed.get(name)
            self._second[name] = value

    def be_first(self) -> nn.Module:
        """Return the module as the first version."""
        self._borrowed.put(self._first)
        return self._borrowed.module

    def be_second(self) -> nn.Module:
        """Return the module as the second version."""
        self._borrowed.put(self._second)
        return self._borrowed.module

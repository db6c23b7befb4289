"""Where the channels of images lie in memory.

Convolutions on a CPU are faster where the channels of a pixel lie beside each other: networks of
torchvision take up to half the time, most a seventh less. Shapes are the same in either layout, but
a network that asks for the other one (``view`` of a feature map) cannot take it.
"""

from typing import Any

import torch
from torch import Tensor, nn


def channels_last(argument: Any) -> Any:
    """Return an argument of a network laid out anew if it is a batch of images ``(n, c, h, w)``."""
    if isinstance(argument, Tensor) and argument.dim() == 4:
        return argument.contiguous(memory_format=torch.channels_last)
    return argument


def has_convolutions(module: nn.Module) -> bool:
    """Tell whether a layout can make a difference."""
    return any(isinstance(part, nn.Conv2d) for part in module.modules())

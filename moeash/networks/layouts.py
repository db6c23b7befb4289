"""Where the channels of images lie in memory.

Convolutions on a CPU are faster where the channels of a pixel lie beside each other: networks of
torchvision take up to half the time, most a seventh less. Shapes are the same in either layout, but
a network that asks for the other one (``view`` of a feature map) cannot take it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

ROUNDING, ROUNDING_BFLOAT16 = 1e-4, 0.03
"""How far outputs may differ between layouts, relative to the largest: sums are taken in another
order, and deep networks carry that on."""


def channels_last(argument: Any) -> Any:
    """Return an argument of a network laid out anew if it is a batch of images ``(n, c, h, w)``."""
    if isinstance(argument, Tensor) and argument.dim() == 4:
        return argument.contiguous(memory_format=torch.channels_last)
    return argument


def takes_channels_last(
    module: nn.Module,
    outputs: Callable[[bool], Tensor],
    *,
    bfloat16: bool = False,
) -> bool:
    """Tell whether a network gains from channels that lie beside each other, and computes alike.

    Nothing is timed, so every worker of a study decides alike.

    Args:
        module: the network.
        outputs: returns its outputs for a few images, with their channels last or as they are.
        bfloat16: whether it computes in that.
    """
    if not any(isinstance(part, nn.Conv2d) for part in module.modules()):
        return False
    try:
        found, expected = outputs(True), outputs(False)
    except Exception:  # whatever a network raises that asks for the other layout
        return False
    if found.shape != expected.shape:
        return False
    rounding = ROUNDING_BFLOAT16 if bfloat16 else ROUNDING
    return bool((found - expected).abs().max() <= rounding * expected.abs().max())

"""Training images varied: mirrored, and moved by some pixels."""

import torch
from torch import Tensor
from torch.nn import functional as F

from moeash.core.solutions.recipe import Augment
from moeash.data.inputs import Batch
from moeash.errors import InputError

MOVED = 8
"""Images are moved by at most this part of their side: 4 of 32 pixels, as ResNets are trained on
CIFAR (He et al., CVPR 2016, section 4.2)."""


def varied(inputs: Batch, augment: Augment, noise: torch.Generator) -> Batch:
    """Return images varied at random, each on its own.

    What comes in at the edge is 0, which in normalised images is the mean.

    Args:
        inputs: ``(n, c, h, w)`` images.
        augment: how.
        noise: what the draws are taken from, on the host.

    Raises:
        InputError: what is to be varied are no images.
    """
    if augment == "none":
        return inputs
    if not isinstance(inputs, Tensor) or inputs.ndim != 4:
        shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise InputError(
            f"training.augment = {augment!r} varies images (n, c, h, w), and the inputs are "
            f"{shape}; leave augment out"
        )
    mirrored = torch.rand(len(inputs), generator=noise) < 0.5
    images = torch.where(mirrored[:, None, None, None], inputs.flip(3), inputs)
    return _moved(images, noise) if augment == "flips_and_crops" else images


def _moved(images: Tensor, noise: torch.Generator) -> Tensor:
    n, c, h, w = images.shape
    up, side = max(1, h // MOVED), max(1, w // MOVED)
    padded = F.pad(images, (side, side, up, up))
    tops = torch.randint(0, 2 * up + 1, (n, 1), generator=noise) + torch.arange(h)
    lefts = torch.randint(0, 2 * side + 1, (n, 1), generator=noise) + torch.arange(w)
    rows = padded.gather(2, tops[:, None, :, None].expand(n, c, h, padded.shape[3]))
    return rows.gather(3, lefts[:, None, None, :].expand(n, c, h, w))

"""Training images varied: mirrored, moved by some pixels, mixed with another."""

from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn import functional as F

from moeash.core.solutions.recipe import Augmentation
from moeash.data.inputs import Batch
from moeash.errors import InputError

MOVED = 8
"""Images are moved by at most this part of their side: 4 of 32 pixels, as ResNets are trained on
CIFAR (He et al., CVPR 2016, section 4.2)."""

MIXED = 0.5
"""Part of the images that are mixed: between images lies what a network has not learned by heart,
and images as they are remain what it is used for."""


def varied(inputs: Batch, augment: Collection[Augmentation], noise: torch.Generator) -> Batch:
    """Return images varied at random, each on its own.

    What comes in at the edge is 0, which in normalised images is the mean.

    Args:
        inputs: ``(n, c, h, w)`` images.
        augment: how.
        noise: what the draws are taken from, on the host.

    Raises:
        InputError: what is to be varied are no images.
    """
    if not augment:
        return inputs
    if not isinstance(inputs, Tensor) or inputs.ndim != 4:
        shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise InputError(
            f"training.augment = {list(augment)} varies images (n, c, h, w), and the inputs are "
            f"{shape}; leave augment out"
        )
    images = _mirrored(inputs, noise) if "flips" in augment else inputs
    images = _moved(images, noise) if "crops" in augment else images
    return _mixed(images, noise) if "mixing" in augment else images


def _mirrored(images: Tensor, noise: torch.Generator) -> Tensor:
    mirrored = torch.rand(len(images), generator=noise) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def _moved(images: Tensor, noise: torch.Generator) -> Tensor:
    n, c, h, w = images.shape
    up, side = max(1, h // MOVED), max(1, w // MOVED)
    padded = F.pad(images, (side, side, up, up))
    tops = torch.randint(0, 2 * up + 1, (n, 1), generator=noise) + torch.arange(h)
    lefts = torch.randint(0, 2 * side + 1, (n, 1), generator=noise) + torch.arange(w)
    rows = padded.gather(2, tops[:, None, :, None].expand(n, c, h, padded.shape[3]))
    return rows.gather(3, lefts[:, None, None, :].expand(n, c, h, w))


def _mixed(images: Tensor, noise: torch.Generator) -> Tensor:
    """Mix with weights anywhere from 0 to 1 (mixup, Zhang et al., ICLR 2018, with its alpha of 1).

    Deviation: a part of the images stays as it is, and nobody mixes labels: what a mixture is
    asked of is the float network.
    """
    n = len(images)
    weights = torch.rand(n, generator=noise)
    weights[torch.rand(n, generator=noise) >= MIXED] = 1
    weights = weights[:, None, None, None]
    others = images[torch.randperm(n, generator=noise)]
    return weights * images + (1 - weights) * others

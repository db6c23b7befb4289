"""From stored pixels to the float32 images a network was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from moeash.errors import DataError
from moeash.names import nearest

CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

PRESETS: dict[str, tuple[tuple[float, ...], tuple[float, ...], int | None, int | None]] = {
    "none": ((0.0,), (1.0,), None, None),
    "digits": ((0.3053,), (0.3760,), None, None),
    "mnist": ((0.1307,), (0.3081,), None, None),
    "fashionmnist": ((0.2860,), (0.3530,), None, None),
    "cifar": (CIFAR_MEAN, CIFAR_STD, None, None),
    "imagenet": (CIFAR_MEAN, CIFAR_STD, 256, 224),
}
"""Mean and standard deviation per channel in units of full scale, resize and crop in pixels.

``none`` only divides by full scale. ``imagenet`` is torchvision's standard evaluation.
"""


MOST_PIXELS = 89_478_485
"""Pixels of the largest image that is decoded or made, Pillow's own limit."""


def _transforms() -> Any:
    from torchvision.transforms import functional  # takes a second to load

    return functional


@dataclass(frozen=True)
class Normalisation:
    """Resize, crop, then ``(x / scale - mean) / std``.

    Attributes:
        scale: the stored value of full scale, 255 for bytes, 1 for floats.
        mean: one value, or one per channel.
        std: one positive value, or one per channel.
        resize: pixels of the shorter side afterwards, bilinear with antialiasing; ``None`` keeps.
        crop: pixels per side of the central square; ``None`` keeps.
    """

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    crop: int | None = None

    def of_stack(self, pixels: Tensor) -> Tensor:
        """Return ``(b, c, h, w)`` float32 of stored pixels of that shape and any real dtype."""
        x = pixels.to(torch.float32)
        self._check_resized(x.shape[-2], x.shape[-1])
        if self.resize is not None:
            x = _transforms().resize(x, [self.resize], antialias=True)
        return self._finish(x)

    def of_picture(self, picture: Image) -> Tensor:
        """Return ``(c, h, w)`` float32 of a decoded picture.

        The picture is resized as bytes, as the published evaluations of networks do.
        """
        transforms = _transforms()
        self._check_resized(picture.height, picture.width)
        if self.resize is not None:
            picture = transforms.resize(picture, [self.resize])
        return self._finish(transforms.pil_to_tensor(picture).to(torch.float32))

    def _check_resized(self, height: int, width: int) -> None:
        """Refuse what resizing would blow up: a line of pixels, at the length of its short side."""
        if self.resize is not None:
            long = max(height, width) * self.resize // max(min(height, width), 1)
            if long * self.resize > MOST_PIXELS:
                raise DataError(
                    f"an image of {width} x {height} pixels has {long * self.resize:,} when its "
                    f"shorter side is resized to {self.resize}; at most {MOST_PIXELS:,} are taken"
                )

    def _finish(self, x: Tensor) -> Tensor:
        if self.crop is not None:
            x = _transforms().center_crop(x, [self.crop, self.crop])
        channels = x.shape[-3]
        for values in (self.mean, self.std):
            if len(values) not in (1, channels):
                raise DataError(
                    f"images have {channels} channels, but {len(values)} values of mean or std "
                    f"were given; give 1 or {channels}"
                )
        mean = torch.tensor(self.mean).view(-1, 1, 1)
        std = torch.tensor(self.std).view(-1, 1, 1)
        return x.div_(self.scale).sub_(mean).div_(std)


def normalisation(
    preset: str,
    *,
    scale: float = 255.0,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    resize: int | None = None,
    crop: int | None = None,
) -> Normalisation:
    """Return a preset with some of its values replaced.

    Raises:
        DataError: the preset is unknown, ``std`` is not positive, or a size is below 1.
    """
    if preset not in PRESETS:
        raise DataError(f"no normalisation is called {preset!r}; {nearest(preset, PRESETS)}")
    default_mean, default_std, default_resize, default_crop = PRESETS[preset]
    chosen_mean = default_mean if mean is None else _tuple(mean, "mean")
    chosen_std = default_std if std is None else _tuple(std, "std")
    if not all(value > 0 for value in chosen_std):
        raise DataError(f"std must be positive, got {list(chosen_std)}")
    for name, size in (("resize", resize), ("crop", crop)):
        if size is not None and (not isinstance(size, int) or size < 1):
            raise DataError(f"{name} must be a whole number of pixels, at least 1, got {size!r}")
        if size is not None and size**2 > MOST_PIXELS:
            raise DataError(f"{name} = {size:,} makes images of more than {MOST_PIXELS:,} pixels")
    return Normalisation(
        scale,
        chosen_mean,
        chosen_std,
        default_resize if resize is None else resize,
        default_crop if crop is None else crop,
    )


def _tuple(values: float | Sequence[float], name: str) -> tuple[float, ...]:
    listed = [values] if isinstance(values, int | float) else list(values)
    try:
        return tuple(float(value) for value in listed)
    except (TypeError, ValueError):
        raise DataError(f"{name} must be a number or a list of numbers, got {values!r}") from None

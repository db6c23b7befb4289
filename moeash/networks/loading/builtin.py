"""The networks moeash knows by name.

The names inside each network are those of the published checkpoints it is meant to load.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from moeash.errors import InputError


class DigitsCNN(nn.Module):
    """A small network for 8x8 grey digits: 55,066 parameters, plus BatchNorm buffers.

    Input ``(b, 1, 8, 8)``, output ``(b, n_classes)`` logits.
    """

    def __init__(self, *, n_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.fc1 = nn.Linear(32 * 4 * 4, 96)
        self.fc2 = nn.Linear(96, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of ``images``."""
        x = functional.relu(self.bn1(self.conv1(images)))
        x = functional.relu(self.bn2(self.conv2(x)))
        x = functional.max_pool2d(x, 2).flatten(1)
        logits: Tensor = self.fc2(functional.relu(self.fc1(x)))
        return logits


class LeNet300(nn.Module):
    """LeNet-300-100: three fully connected layers on 28x28 images, 266,610 parameters.

    Source:
        LeCun et al., Gradient-based learning applied to document recognition, 1998.
    """

    def __init__(self, *, n_classes: int = 10) -> None:
        super().__init__()
        self.fc1 = nn.Linear(28 * 28, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of ``(b, 1, 28, 28)`` images."""
        x = functional.relu(self.fc1(images.flatten(1)))
        logits: Tensor = self.fc3(functional.relu(self.fc2(x)))
        return logits


class LeNet5(nn.Module):
    """LeNet-5 in Caffe's shape: 431,080 parameters, no activation after the convolutions.

    Source:
        LeCun et al. 1998, as redrawn in Caffe's ``lenet.prototxt`` and used by the pruning
        literature since Han et al., Learning both weights and connections, 2015.
    """

    def __init__(self, *, n_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.fc2 = nn.Linear(500, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of ``(b, 1, 28, 28)`` images."""
        x = functional.max_pool2d(self.conv1(images), 2)
        x = functional.max_pool2d(self.conv2(x), 2)
        logits: Tensor = self.fc2(functional.relu(self.fc1(x.flatten(1))))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a parameter-free shortcut (option A)."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.stride = stride
        self.padding = (n_out - n_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's ``(b, n_out, h / stride, w / stride)`` features."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride != 1 or self.padding:
            # Option A: drop every other pixel, fill the new channels with zeros on both sides.
            x = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(x, (0, 0, 0, 0, self.padding, self.padding))
        return functional.relu(out + x)


class CifarResNet(nn.Module):
    """The ResNet of 32x32 images: ``depth = 6 n + 2`` layers in three stages of n blocks.

    Input ``(b, 3, 32, 32)``, output ``(b, n_classes)`` logits.

    Source:
        He et al., Deep residual learning for image recognition, 2016, section 4.2.
    """

    def __init__(self, *, depth: int, n_classes: int = 10) -> None:
        super().__init__()
        n_blocks = (depth - 2) // 6
        if n_blocks < 1 or depth != 6 * n_blocks + 2:
            raise InputError(f"got depth {depth}, needed 6 n + 2 with n of at least 1, as 20 is")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, n_blocks, stride=1)
        self.layer2 = self._stage(16, 32, n_blocks, stride=2)
        self.layer3 = self._stage(32, 64, n_blocks, stride=2)
        self.linear = nn.Linear(64, n_classes)

    @staticmethod
    def _stage(n_in: int, n_out: int, n_blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(n_in, n_out, stride)
        return nn.Sequential(first, *(BasicBlock(n_out, n_out, 1) for _ in range(n_blocks - 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of ``images``."""
        x = functional.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(torch.mean(x, dim=(2, 3)))
        return logits


BUILTIN: dict[str, Callable[..., nn.Module]] = {
    "digits-cnn": DigitsCNN,
    "lenet300": LeNet300,
    "lenet5": LeNet5,
    **{f"resnet{depth}": partial(CifarResNet, depth=depth) for depth in (20, 32, 44, 56, 110)},
}
"""Built-in networks by name; each factory takes ``n_classes``."""

SHIPPED = {"digits-cnn": "digits-cnn.safetensors"}
"""Built-in networks that come trained: their file in ``moeash/networks/trained``."""

"""Measuring the statistics of BatchNorms again, on calibration images and the network as it is now.

Sharing weights moves what every BatchNorm is given, and its running statistics are still those of
the float network. Measuring them again costs no bytes and no labels, and serves any method alike.
It is the statistics of *these* images that result: the float network moves as well when its own are
measured again, so a study reports that baseline beside the other.

The definition is exact and knows no batches: norms are taken in the order the network calls them;
the mean and the unbiased variance of a norm are those of all positions of all images, given what
the norms before it do with their new statistics. Images that fit in memory at once need a single
pass, in which every norm measures what it is given before it uses it; of more, every norm takes a
pass of its own that ends there. The usual one pass in training mode is neither: later norms see
inputs normalised with the statistics of one batch.

Sums are float32 within one image and channel, around a mean nearby, and float64 over images.

Source: methods.md section 6, which measured the approximation.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from moeash.core.codebook import KeptTensor, SharedWeights
from moeash.data.splits import sample
from moeash.errors import InputError
from moeash.methods.base import Images
from moeash.networks.inplace import WeightWriter
from moeash.networks.network import Network
from moeash.networks.norms import DTYPES, NORM_TYPES, key, users
from moeash.tracing.passes import Enough, in_eval_mode

IMAGES = 1000
"""Calibration images used, at most; they are held in memory."""

ELEMENTS = 1 << 27
"""Elements the largest input of a norm may have in one pass: 512 MiB as float32, and a network
holds a few such tensors at a time."""

LOOK = 2
"""Images of the run that shows which norms are called, and how large their inputs are."""


def calibration_images(splits: Mapping[str, Images], n: int, seed: int) -> Tensor:
    """Return ``n`` images of the calibration split, or all if there are fewer.

    Raises:
        InputError: there is no calibration split.
    """
    split = splits.get("calibration")
    if split is None:
        raise InputError(
            "measuring BatchNorms again takes calibration images; add [data.splits.calibration], "
            "or calibration= from Python (unlabelled images suffice)"
        )
    order = sample(len(split), n, seed)
    return torch.cat([x for x, _ in split.batches(len(order), order=order)])


class Remeasuring:
    """Measures the BatchNorms of one network again, whatever weights it holds.

    Attributes:
        images: on the host, in the order they were given.
        left: why, by module name, BatchNorms keep their statistics.
    """

    def __init__(self, network: Network, images: Tensor, device: str | torch.device) -> None:
        """Run a few images through the network to see which norms it calls.

        Args:
            network: on ``device``.
            images: ``(n, ...)``, at least two.
            device: of the network.

        Raises:
            InputError: there is only one image.
        """
        if len(images) < LOOK:
            raise InputError(f"BatchNorms are not measured on {len(images)} image; give some more")
        self.images = images
        self._module = network.module
        self._device = device
        self._norms: dict[str, _BatchNorm] = {}
        """By name, in the order they are called."""
        self.left: dict[str, str] = {}
        self._largest = 1
        self._look(network)

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know, one line each."""
        n = len(self._norms)
        head = (
            f"the statistics of {n} BatchNorm{'s' if n != 1 else ''} are measured again on "
            f"{len(self.images):,} calibration images"
        )
        return (head, *(f"{name} keeps its own: {why}" for name, why in self.left.items()))

    def apply(self, writer: WeightWriter, shared: SharedWeights) -> SharedWeights:
        """Return shared weights with the statistics they have; the network holds them afterwards.

        Args:
            writer: of the network.
            shared: kept tensors in the precision of the network.
        """
        writer.write(shared)
        new = self.measure()
        tensors = tuple(
            replace(t, values=new[t.name].astype(t.values.dtype))
            if isinstance(t, KeptTensor) and t.name in new
            else t
            for t in shared.tensors
        )
        writer.write_kept(t for t in tensors if isinstance(t, KeptTensor) and t.name in new)
        return replace(shared, tensors=tensors)

    def measure(self) -> dict[str, NDArray[np.float64]]:
        """Measure the network as it is now.

        Its norms have the new statistics afterwards.

        Returns:
            Means and variances by ``state_dict`` key.
        """
        size = max(LOOK, ELEMENTS // self._largest)
        with torch.inference_mode(), in_eval_mode(self._module):
            if len(self.images) <= size:
                return self._in_one_pass()
            return self._norm_by_norm(size)

    def _in_one_pass(self) -> dict[str, NDArray[np.float64]]:
        new: dict[str, NDArray[np.float64]] = {}

        def see(name: str, x: Tensor) -> None:
            sums = _Sums()
            sums.add(x)
            new.update(self._set(name, sums))

        with self._seen_by(see, *self._norms):
            self._module(self.images.to(self._device))
        return new

    def _norm_by_norm(self, size: int) -> dict[str, NDArray[np.float64]]:
        new: dict[str, NDArray[np.float64]] = {}
        for name in self._norms:
            sums = _Sums()

            def see(name: str, x: Tensor, sums: "_Sums" = sums) -> None:
                sums.add(x)
                raise Enough

            with self._seen_by(see, name):
                for images in torch.split(self.images, size):
                    try:
                        self._module(images.to(self._device))
                    except Enough:
                        continue
            new.update(self._set(name, sums))
        return new

    def _set(self, name: str, sums: "_Sums") -> dict[str, NDArray[np.float64]]:
        """Give a norm the statistics of what was added up, and return them."""
        norm = self._norms[name]
        mean, variance = sums.statistics()
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        return {
            key(name, "running_mean"): mean.cpu().numpy(),
            key(name, "running_var"): variance.cpu().numpy(),
        }

    @contextmanager
    def _seen_by(self, see: Callable[[str, Tensor], None], *names: str) -> Iterator[None]:
        """Show a function every input of norms before they compute with it."""

        def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
            return lambda module, args: see(name, args[0])

        handles = [self._norms[name].register_forward_pre_hook(hook(name)) for name in names]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _look(self, network: Network) -> None:
        used = users(self._module)
        state = {p.name: p for p in network.state}
        calls: Counter[str] = Counter()
        positions: dict[str, int] = {}

        def see(name: str, x: Tensor) -> None:
            calls[name] += 1
            positions[name] = x.numel() // x.shape[1]
            self._largest = max(self._largest, -(-x.numel() // LOOK))

        for name, part in self._module.named_modules():
            if isinstance(part, _BatchNorm):
                self._norms[name] = part
        with torch.inference_mode(), in_eval_mode(self._module), self._seen_by(see, *self._norms):
            self._module(self.images[:LOOK].to(self._device))
        for name, norm in self._norms.items():
            own = [state.get(key(name, v)) for v in ("running_mean", "running_var")]
            if type(norm) not in NORM_TYPES:
                self.left[name] = f"what a {type(norm).__name__} computes is not known"
            elif norm.running_mean is None:
                self.left[name] = "it has no running statistics"
            elif any(p is None or p.role != "kept" or used[p.name] > 1 for p in own):
                self.left[name] = "they are another module's as well"
            elif any(p is not None and p.dtype not in DTYPES for p in own):
                self.left[name] = "they are too narrow"
            elif calls[name] != 1:
                self.left[name] = f"it is called {calls[name]} times in one run"
        order = [name for name in calls if name not in self.left]
        self._norms = {name: self._norms[name] for name in order}


class _Sums:
    """Sums over images and positions, by channel."""

    def __init__(self) -> None:
        self._n = 0
        self._near: Tensor | None = None
        self._first: Tensor | None = None
        self._second: Tensor | None = None

    def add(self, x: Tensor) -> None:
        """Add inputs ``(n, channels, ...)``."""
        x = x.reshape(*x.shape[:2], -1)
        if self._near is None:
            # Sums around a value nearby lose nothing to cancellation.
            self._near = x[0].mean(1)
            self._first = torch.zeros_like(self._near, dtype=torch.float64)
            self._second = torch.zeros_like(self._first)
        assert self._first is not None and self._second is not None
        x = x - self._near[:, None]
        self._n += x.shape[0] * x.shape[2]
        self._first += x.sum(2).double().sum(0)
        self._second += x.square_().sum(2).double().sum(0)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return means and unbiased variances ``(channels,)`` in float64."""
        assert self._near is not None and self._first is not None and self._second is not None
        variance = (self._second - self._first.square() / self._n) / (self._n - 1)
        return self._near.double() + self._first / self._n, variance.clamp(min=0)

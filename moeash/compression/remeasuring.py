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

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from moeash.core.codebook import KeptTensor, SharedWeights
from moeash.data.inputs import Batch, joined
from moeash.data.inputs import call as call_network
from moeash.data.splits import sample
from moeash.errors import InputError
from moeash.methods.base import Images
from moeash.networks.network import Network
from moeash.networks.norms import DTYPES, NORM_TYPES, key, users
from moeash.networks.writing.inplace import WeightWriter
from moeash.tracing.trace import NORM, trace
from moeash.tracing.watching import Call, Watcher, in_eval_mode

IMAGES = 1000
"""Calibration images used, at most; they are held in memory."""

ELEMENTS = 1 << 27
"""Elements the largest input of a norm may have in one pass: 512 MiB as float32, and a network
holds a few such tensors at a time."""

PROBE_IMAGES = 2
"""Images of the run that shows which norms are called, and how large their inputs are."""


def calibration_images(splits: Mapping[str, Images], n: int, seed: int) -> Batch:
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
    return joined([x for x, _ in split.batches(len(order), order=order)])


class Remeasuring:
    """Measures the BatchNorms of one network again, whatever weights it holds.

    Attributes:
        images: on the host, in the order they were given.
        left: why, by module name, BatchNorms keep their statistics.
    """

    def __init__(self, network: Network, images: Batch, device: str | torch.device) -> None:
        """Run a few images through the network to see which norms it calls.

        Args:
            network: on ``device``.
            images: ``(n, ...)``, at least two.
            device: of the network.

        Raises:
            InputError: there is only one image.
        """
        if len(images) < PROBE_IMAGES:
            raise InputError(f"BatchNorms are not measured on {len(images)} image; give some more")
        self.images = images
        self._module = network.module
        self._device = device
        self._norms: dict[str, _BatchNorm] = {}
        """The BatchNorms measured again, by name, in the order they are called."""
        self._means: dict[int, str] = {}
        """Names by the id of the running mean."""
        self.left: dict[str, str] = {}
        self._largest = 1
        self._find(network)

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
        size = max(PROBE_IMAGES, ELEMENTS // self._largest)
        with torch.inference_mode(), in_eval_mode(self._module):
            if len(self.images) <= size:
                return self._in_one_pass()
            return self._norm_by_norm(size)

    def _in_one_pass(self) -> dict[str, NDArray[np.float64]]:
        new: dict[str, NDArray[np.float64]] = {}

        def measure(call: Call) -> None:
            name, x = self._norm_of(call)
            if name is not None:
                sums = _Sums()
                sums.add(x)
                new.update(self._set(name, sums))

        with Watcher(before=measure):
            call_network(self._module, self.images.to(self._device))
        return new

    def _norm_by_norm(self, size: int) -> dict[str, NDArray[np.float64]]:
        new: dict[str, NDArray[np.float64]] = {}
        for name in self._norms:
            sums = _Sums()
            watcher = self._up_to(name, sums)
            for start in range(0, len(self.images), size):
                with watcher:
                    images = self.images[start : start + size]
                    call_network(self._module, images.to(self._device))
            new.update(self._set(name, sums))
        return new

    def _up_to(self, norm: str, sums: "_Sums") -> Watcher:
        """Return what adds up the inputs of a norm and ends the pass there."""

        def add(call: Call) -> None:
            name, x = self._norm_of(call)
            if name == norm:
                sums.add(x)
                watcher.end()

        watcher = Watcher(before=add)
        return watcher

    def _norm_of(self, call: Call) -> tuple[str | None, Any]:
        """Return the norm a call is of, if it is measured, and the call's input."""
        if call.function is not F.batch_norm:
            return None, None
        given = call.arguments(NORM)
        return self._means.get(id(given["running_mean"])), given["input"]

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

    def _find(self, network: Network) -> None:
        """See which norms a run calls, and which of them can be measured."""
        used = users(self._module)
        state = {p.name: p for p in network.state}
        calls: Counter[str | None] = Counter()
        run = trace(self._module, self.images[:PROBE_IMAGES].to(self._device))
        for operation in run.operations:
            if operation.function is F.batch_norm:
                calls[run.name_of(operation, "running_mean")] += 1
                size = math.prod(run.shapes[operation.arguments["input"]])
                self._largest = max(self._largest, -(-size // PROBE_IMAGES))
        norms = {n: p for n, p in self._module.named_modules() if isinstance(p, _BatchNorm)}
        for name, norm in norms.items():
            own = [state.get(key(name, v)) for v in ("running_mean", "running_var")]
            n_calls = calls[key(name, "running_mean")]
            if type(norm) not in NORM_TYPES:
                self.left[name] = f"what a {type(norm).__name__} computes is not known"
            elif norm.running_mean is None:
                self.left[name] = "it has no running statistics"
            elif any(p is None or p.role != "kept" or used[p.name] > 1 for p in own):
                self.left[name] = "they are another module's as well"
            elif any(p is not None and p.dtype not in DTYPES for p in own):
                self.left[name] = "they are too narrow"
            elif n_calls != 1:
                self.left[name] = f"it is called {n_calls} times in one run"
        means = {key(name, "running_mean"): name for name in norms if name not in self.left}
        self._norms = {means[mean]: norms[means[mean]] for mean in calls if mean in means}
        self._means = {id(norm.running_mean): name for name, norm in self._norms.items()}


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

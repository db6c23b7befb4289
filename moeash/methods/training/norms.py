"""BatchNorms in a training: with the statistics of each batch, where that is wanted.

As networks are trained at first, a norm then divides by the deviations of the batch and gathers
running statistics on the way, which are stored with the solution and computed with from then on.

Most solutions are stored with two vectors a norm and no statistics (:mod:`moeash.core.kept`). Such
a norm is given those of what it meets in one batch, and a weight and a bias that make the same
function of them; what the file holds at last are two vectors again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from moeash.core.kept import unit_variance
from moeash.networks.network import Network
from moeash.networks.norms import VECTORS, key

COUNTER = "num_batches_tracked"

ARRAYS: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
}
"""Dtypes of norms that may be stored as two vectors."""


@dataclass(frozen=True, eq=False)
class LiveNorm:
    """A BatchNorm that has running statistics to gather.

    Attributes:
        module: the norm.
        keys: first ``state_dict`` keys of its vectors and its counter, by what they are.
    """

    module: _BatchNorm
    keys: Mapping[str, str]

    @property
    def statistics(self) -> Sequence[str]:
        """The keys of what it gathers."""
        return [self.keys[what] for what in (*VECTORS[2:], COUNTER) if what in self.keys]


def live_norms(network: Network) -> tuple[LiveNorm, ...]:
    """Return the BatchNorms of a network with running statistics, but for those that are folded."""
    first = {p.name: p.target or p.name for p in network.state}
    return tuple(
        LiveNorm(
            part,
            {v: first[key(name, v)] for v in (*VECTORS, COUNTER) if key(name, v) in first},
        )
        for name, part in network.module.named_modules()
        if isinstance(part, _BatchNorm)
        and part.running_mean is not None
        and part.num_batches_tracked is not None
        and name not in network.folded
    )


@contextmanager
def in_training_mode(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Hold modules, without their parts, in training mode, and leave each in the mode it was in."""
    modes = {module: module.training for module in modules}
    try:
        for module in modes:
            module.training = True
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def averaging(norms: Sequence[LiveNorm], tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Let norms gather anew, the average over all batches they meet meanwhile.

    Args:
        norms: of the network.
        tensors: it is run with, by first key; the counters of the norms begin at 0.
    """
    momenta = {norm.module: norm.module.momentum for norm in norms}
    try:
        for norm in norms:
            tensors[norm.keys[COUNTER]].zero_()
            norm.module.momentum = None
        yield
    finally:
        for module, momentum in momenta.items():
            module.momentum = momentum


@torch.no_grad()
def unfold(
    norms: Sequence[LiveNorm], tensors: Mapping[str, Tensor], run: Callable[[], Any]
) -> None:
    """Give norms that are two vectors statistics again; the network in eval mode stays as it is.

    Args:
        norms: of the network.
        tensors: it is run with, by first key; those of the norms are written to.
        run: runs it on some inputs, in eval mode.
    """
    folded = [norm for norm in norms if _is_two_vectors(norm, tensors)]
    if not folded:
        return
    met: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {norm.module: [] for norm in folded}

    def look(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        by_channel = arguments[0].transpose(0, 1).flatten(1).double()
        if by_channel.shape[1] > 1:
            met[module].append(torch.var_mean(by_channel, 1))

    hooks = [module.register_forward_pre_hook(look) for module in met]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    for norm in folded:
        found = met[norm.module]
        if found:  # a norm nobody calls needs none; of one called repeatedly the average
            variance, mean = (torch.stack(values).mean(0) for values in zip(*found, strict=True))
            slope, shift, means, variances = (tensors[norm.keys[v]] for v in VECTORS)
            shift.add_(slope * mean.to(shift.dtype))
            slope.mul_((variance + norm.module.eps).sqrt().to(slope.dtype))
            means.copy_(mean)
            variances.copy_(variance)


def _is_two_vectors(norm: LiveNorm, tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether a norm has the constants for statistics that stand for none."""
    if any(v not in norm.keys for v in VECTORS):
        return False
    mean, variance = (tensors[norm.keys[v]] for v in VECTORS[2:])
    if variance.dtype not in ARRAYS:
        return False
    unit = unit_variance(norm.module.eps, ARRAYS[variance.dtype])
    return unit is not None and not mean.any() and bool((variance == float(unit)).all())

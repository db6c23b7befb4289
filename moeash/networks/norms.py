"""The BatchNorms of a network that may be stored as two vectors; see :mod:`moeash.core.kept`."""

from collections import Counter

from torch import nn

from moeash.core.codebook import State
from moeash.core.kept import Norm
from moeash.networks import memory

NORM_TYPES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Exactly these: what a subclass computes from its vectors is not known."""

VECTORS = ("weight", "bias", "running_mean", "running_var")
DTYPES = ("float32", "float64")
"""Narrower ones would round the two vectors more than they rounded the four."""


def find_norms(module: nn.Module, state: State) -> tuple[Norm, ...]:
    """Return the BatchNorms whose four vectors are all kept and nobody else's.

    Left out are those without weights or running statistics, those with a shared vector, and those
    that have a vector in common with another module. A module registered under several names is
    one module. That nothing reads a vector but its module's own ``forward`` cannot be seen here.

    Args:
        module: the network.
        state: its state.
    """
    tied = memory.ties(memory.own_tensors(module))
    kept = {p.name for p in state if p.role == "kept" and p.dtype in DTYPES}
    used = users(module)
    norms = []
    for prefix, part in module.named_modules():
        if type(part) in NORM_TYPES:
            weight, bias, mean, variance = names = [
                tied.get(key(prefix, vector), key(prefix, vector)) for vector in VECTORS
            ]
            if all(name in kept and used[name] == 1 for name in names):
                norms.append(Norm(weight, bias, mean, variance, float(part.eps)))
    return tuple(norms)


def users(module: nn.Module) -> Counter[str]:
    """Count the modules that own a tensor, by its first ``state_dict`` key.

    A module registered under several names is one module.
    """
    tied = memory.ties(memory.own_tensors(module))
    return Counter(
        tied.get(name, name)
        for prefix, part in module.named_modules()
        for name in _own(prefix, part)
    )


def key(prefix: str, name: str) -> str:
    """Return the ``state_dict`` key of a module's own tensor."""
    return f"{prefix}.{name}" if prefix else name


def _own(prefix: str, part: nn.Module) -> list[str]:
    """Return the keys of a module's own tensors, without those of its parts."""
    parameters = part.named_parameters(recurse=False, remove_duplicate=False)
    buffers = part.named_buffers(recurse=False, remove_duplicate=False)
    return [key(prefix, name) for name, _ in [*parameters, *buffers]]

"""Reading a network's state: which parameters are shared, kept or tied, as NumPy values."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, bfloat16, nn

from moeash.core.codebook import FLOAT_NAMES, Parameter, State, float32_bytes
from moeash.errors import InputError, NonFiniteWeightError
from moeash.networks import memory
from moeash.networks.patterns import listed, matching


def read_state(
    module: nn.Module,
    *,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    all: bool = False,
) -> State:
    """Copy a network's state and decide which of its parameters are shared.

    Eligible for sharing is every floating parameter with at least 2 dimensions, with ``all`` at
    least 1; buffers never are. ``include`` narrows the eligible ones to those that match a
    pattern, ``exclude`` then removes those that match one. A pattern matches a tied parameter by
    any of its names.

    Args:
        module: the network; it is not changed and later changes to it do not reach the state.
        include: ``fnmatch`` patterns, e.g. ``["layer*.conv?.weight"]``, or one pattern.
        exclude: ``fnmatch`` patterns, or one.
        all: share 1-D parameters (biases, BatchNorm) too, as the paper mixes them.

    Returns:
        The parameters in ``state_dict`` order. Arrays are read-only, C order; bfloat16 travels as
        float32.

    Raises:
        InputError: a pattern matches nothing, nothing is left to share, or the state cannot be
            stored (see :mod:`moeash.networks.memory`).
        NonFiniteWeightError: a parameter to be shared holds NaN or infinity.
    """
    include = [include] if isinstance(include, str) else include
    exclude = [exclude] if isinstance(exclude, str) else exclude
    tensors = memory.own_tensors(module)
    tied = memory.ties(tensors)
    for name, tensor in tensors.items():
        _check_dtype(name, tensor)
    shared = _choose(module, tensors, tied, include=include, exclude=exclude, all=all)
    state = []
    for name, tensor in tensors.items():
        shape, dtype = tuple(tensor.shape), dtype_name(tensor)
        if name in tied:
            state.append(Parameter(name, shape, dtype, "tied", None, tied[name]))
            continue
        values = _to_numpy(tensor)
        if name in shared:
            bad = values.size - int(np.isfinite(values).sum())
            if bad:
                raise NonFiniteWeightError(name, count=bad, size=values.size)
        state.append(Parameter(name, shape, dtype, "shared" if name in shared else "kept", values))
    return tuple(state)


def dtype_name(tensor: Tensor) -> str:
    """Return ``"float32"`` for ``torch.float32``."""
    return str(tensor.dtype).removeprefix("torch.")


def _check_dtype(name: str, tensor: Tensor) -> None:
    dtype = dtype_name(tensor)
    if dtype in FLOAT_NAMES:
        return
    try:
        known = np.dtype(dtype).isbuiltin == 1  # other packages may have added dtypes to NumPy's
    except TypeError:
        known = False
    if not known:
        raise InputError(
            f"{name!r} has dtype {dtype}, which cannot be stored; convert it to one of "
            f"{', '.join(FLOAT_NAMES)} or an integer type"
        )


def _to_numpy(tensor: Tensor) -> NDArray[np.generic]:
    plain = tensor.detach().cpu()
    if plain.dtype is bfloat16:
        plain = plain.float()
    values = np.array(plain.resolve_conj().resolve_neg().numpy(), copy=True, order="C")
    values.flags.writeable = False
    return values


def _choose(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    tied: Mapping[str, str],
    *,
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
    all: bool,
) -> set[str]:
    """Return the names to share, each the first of its memory."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    names = [name for name in tensors if name in parameters]
    least = 1 if all else 2
    eligible = [
        name
        for name in names
        if dtype_name(tensors[name]) in FLOAT_NAMES
        and tensors[name].dim() >= least
        and tensors[name].numel()
    ]
    chosen = {tied.get(name, name) for name in eligible}
    if include is not None:
        chosen &= {tied.get(name, name) for name in matching("include", include, eligible, names)}
    if exclude is not None:
        chosen -= {tied.get(name, name) for name in matching("exclude", exclude, names, names)}
    if not chosen:
        raise InputError(
            f"{type(module).__name__} has no parameter to share: of its {len(names)} parameters "
            f"{len(eligible)} are floating with at least {least} dimension{'s'[: least > 1]}, and "
            f"include = {listed(include)}, exclude = {listed(exclude)} leave none; "
            + (
                "change the patterns"
                if eligible
                else "share 1-D parameters too with network.share_all = true"
            )
        )
    return chosen


def network_fingerprint(state: State) -> str:
    """Return 32 hex digits that change with any name, shape, dtype, value or tie of a state.

    Which parameters are shared is a matter of the study, not of the network, and does not enter;
    neither does the network's code, which a state does not hold.
    """
    digest = hashlib.blake2b(digest_size=16)
    for parameter in state:
        digest.update(
            repr((parameter.name, parameter.shape, parameter.dtype, parameter.target)).encode()
        )
        if parameter.values is not None:
            little = parameter.values.dtype.newbyteorder("<")
            values = np.ascontiguousarray(parameter.values, dtype=little)
            digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class ParameterCounts:
    """How a state divides, printed before anything is searched.

    Attributes:
        shared_tensors: number of shared parameters.
        shared_weights: number of weights in them.
        kept_tensors: number of kept parameters and buffers.
        kept_elements: number of elements in them.
        tied_tensors: number of names that are the memory of an earlier one.
        original_bytes: bytes of the state with floats as float32, tied memory once.
    """

    shared_tensors: int
    shared_weights: int
    kept_tensors: int
    kept_elements: int
    tied_tensors: int
    original_bytes: int

    def __str__(self) -> str:
        tied = f", {self.tied_tensors} tied" if self.tied_tensors else ""
        return (
            f"{self.shared_weights:,} weights in {self.shared_tensors} tensors shared, "
            f"{self.kept_elements:,} elements in {self.kept_tensors} tensors kept{tied}, "
            f"{self.original_bytes:,} bytes as float32"
        )


def describe(state: State) -> ParameterCounts:
    """Count the shared, kept and tied parameters of a state."""
    sizes: dict[str, list[int]] = {"shared": [], "kept": [], "tied": []}
    original = 0
    for parameter in state:
        size = 0 if parameter.values is None else parameter.values.size
        sizes[parameter.role].append(size)
        if parameter.role != "tied":
            original += float32_bytes(parameter.dtype, size)
    return ParameterCounts(
        shared_tensors=len(sizes["shared"]),
        shared_weights=sum(sizes["shared"]),
        kept_tensors=len(sizes["kept"]),
        kept_elements=sum(sizes["kept"]),
        tied_tensors=len(sizes["tied"]),
        original_bytes=original,
    )

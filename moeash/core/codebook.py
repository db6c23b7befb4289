"""Codebooks, shared weights and the state of a network, as frozen NumPy values.

A network's state is an ordered list of parameters (the order of its ``state_dict``). Each is

* *shared*: its float weights are replaced by entries of a codebook,
* *kept*: stored as it is, and always counted in bytes,
* *tied*: the same memory as an earlier parameter, stored once.

:class:`SharedWeights` is what every method returns and what the codec writes: everything after it
(size, accuracy, export, plots) is common to all methods.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from moeash.errors import InputError

ENTRY_DTYPE = np.float32
"""The precision the file stores entries in, so the network measured is the network decoded."""

COUNT_DTYPE = np.int64

_CHUNK = 1 << 20

FloatName = Literal["float16", "bfloat16", "float32", "float64"]
FLOAT_NAMES: tuple[str, ...] = get_args(FloatName)
"""Dtypes a shared parameter may have in the network. bfloat16 weights travel as float32 arrays."""


def index_dtype(n_entries: int) -> np.dtype[Any]:
    """Return the narrowest unsigned dtype that can index ``n_entries`` entries."""
    if n_entries <= 1 << 8:
        return np.dtype(np.uint8)
    if n_entries <= 1 << 16:
        return np.dtype(np.uint16)
    return np.dtype(np.uint32)


def n_used(usage: Sequence[NDArray[np.int64]]) -> int:
    """Return how many entries some weight uses; ``usage`` as for :func:`entropy`."""
    return sum(int(np.count_nonzero(counts)) for counts in usage)


def entropy(usage: Sequence[NDArray[np.int64]]) -> float:
    """Return the order-0 entropy of shared weights, in bits per weight; 0 without weights.

    An entry near zero is a symbol as any other. Tables of Weight Fixing Networks and of
    Probabilistic Weight Fixing leave it out and show less.

    Args:
        usage: per codebook how many weights use each entry, ``(n_entries,)``.
    """
    counts = np.concatenate([np.zeros(0, dtype=np.int64), *usage])
    used = counts[counts > 0]
    total = int(used.sum())
    return float((used * (np.log2(total) - np.log2(used))).sum() / total) if total else 0.0


@dataclass(frozen=True, eq=False)
class Codebook:
    """The sorted values shared weights may take.

    Attributes:
        entries: ``(n_entries,)`` float32, strictly increasing, finite, read-only, at least one.
    """

    entries: NDArray[np.float32]

    def __post_init__(self) -> None:
        entries = np.array(self.entries, dtype=ENTRY_DTYPE, copy=True, order="C")
        if entries.ndim != 1 or entries.size == 0:
            raise InputError(f"a codebook needs a flat array of entries, got shape {entries.shape}")
        if not np.isfinite(entries).all():
            raise InputError("a codebook entry is NaN or infinite; entries must be finite")
        if not (entries[1:] > entries[:-1]).all():
            raise InputError("codebook entries must be strictly increasing; sort and deduplicate")
        entries.flags.writeable = False
        object.__setattr__(self, "entries", entries)

    def __len__(self) -> int:
        return self.entries.size


@dataclass(frozen=True, eq=False)
class Parameter:
    """One parameter or buffer of a float network, as the methods see it.

    Attributes:
        name: its ``state_dict`` key.
        shape: its shape.
        dtype: the dtype name in the network, e.g. ``"float32"`` or ``"int64"``.
        role: ``"shared"``, ``"kept"`` or ``"tied"``.
        values: the array (C order, ``shape``); float32 for bfloat16; ``None`` when tied.
        target: the earlier name this one is tied to, else ``None``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Literal["shared", "kept", "tied"]
    values: NDArray[Any] | None
    target: str | None = None


State = tuple[Parameter, ...]


@dataclass(frozen=True, eq=False)
class SharedTensor:
    """A shared parameter: one codebook index per weight.

    Attributes:
        name: its ``state_dict`` key.
        shape: its shape; ``()`` for a scalar.
        dtype: its float dtype name in the network (see :data:`FLOAT_NAMES`).
        codebook: position of its codebook in :attr:`SharedWeights.codebooks`.
        indices: ``(n,)`` uint8/uint16/uint32, C order of ``shape``.
        counts: ``(n_entries,)`` int64, how often each entry of the codebook occurs; sums to ``n``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    codebook: int
    indices: NDArray[np.unsignedinteger[Any]]
    counts: NDArray[np.int64]

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.indices.size


@dataclass(frozen=True, eq=False)
class KeptTensor:
    """A parameter stored as it is.

    Attributes:
        name: its ``state_dict`` key.
        shape: its shape; ``()`` for a scalar.
        dtype: its dtype name in the network.
        values: the stored array, ``shape``. For floats float32, float16 or float64 (the precision
            in the file), or integers; decoding converts to ``dtype`` without further loss.
        exponent: stored integers of a float tensor count steps of ``2**exponent``; 0 otherwise.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    values: NDArray[Any]
    exponent: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.values.size

    def decoded(self) -> NDArray[Any]:
        """Return the array in :func:`array_dtype`: the stored one itself where nothing differs."""
        dtype = array_dtype(self.dtype)
        if self.exponent:
            # An integer of 16 bits times a power of two is exact wherever float32 is normal.
            exact = np.ldexp(self.values.astype(np.float64), self.exponent)
            return np.asarray(exact, dtype=dtype)  # NumPy makes scalars of 0-d arrays
        return self.values.astype(dtype, copy=False)


@dataclass(frozen=True, eq=False)
class TiedTensor:
    """A name that shares memory with an earlier tensor of the same state."""

    name: str
    target: str


Tensor = SharedTensor | KeptTensor | TiedTensor


def array_dtype(name: str) -> np.dtype[Any]:
    """Return the NumPy dtype that carries a network dtype: itself, or float32 for bfloat16."""
    return np.dtype(np.float32) if name == "bfloat16" else np.dtype(name)


def float32_bytes(dtype: str, size: int) -> int:
    """Return the bytes of ``size`` elements with floats held as float32, the unit of ``ratio``."""
    return 4 * size if dtype in FLOAT_NAMES else np.dtype(dtype).itemsize * size


@dataclass(frozen=True, eq=False)
class SharedWeights:
    """A network with shared weights: codebooks, and every tensor in ``state_dict`` order.

    Attributes:
        codebooks: one global codebook, or one per group for methods that need it.
        tensors: all tensors of the state, in its order.
    """

    codebooks: tuple[Codebook, ...]
    tensors: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        names: set[str] = set()
        for tensor in self.tensors:
            if tensor.name in names:
                raise InputError(f"the state holds {tensor.name!r} twice")
            if isinstance(tensor, TiedTensor):
                if tensor.target not in names:
                    raise InputError(
                        f"{tensor.name!r} is tied to {tensor.target!r}, which must come before it"
                    )
            elif isinstance(tensor, SharedTensor):
                self._check_shared(tensor)
            names.add(tensor.name)

    def _check_shared(self, tensor: SharedTensor) -> None:
        if not 0 <= tensor.codebook < len(self.codebooks):
            raise InputError(
                f"{tensor.name!r} uses codebook {tensor.codebook} of {len(self.codebooks)}"
            )
        n_entries = len(self.codebooks[tensor.codebook])
        if tensor.counts.shape != (n_entries,):
            raise InputError(
                f"{tensor.name!r} has counts of shape {tensor.counts.shape}, needed ({n_entries},)"
            )
        if int(tensor.counts.sum()) != tensor.indices.size:
            raise InputError(
                f"{tensor.name!r} has counts that sum to {int(tensor.counts.sum())}, "
                f"needed {tensor.indices.size}"
            )

    @cached_property
    def shared(self) -> tuple[SharedTensor, ...]:
        """The shared tensors, in state order."""
        return tuple(t for t in self.tensors if isinstance(t, SharedTensor))

    @cached_property
    def kept(self) -> tuple[KeptTensor, ...]:
        """The kept tensors, in state order."""
        return tuple(t for t in self.tensors if isinstance(t, KeptTensor))

    @property
    def n_shared(self) -> int:
        """Number of shared weights."""
        return sum(t.size for t in self.shared)

    @property
    def n_kept(self) -> int:
        """Number of kept elements."""
        return sum(t.size for t in self.kept)

    def usage(self) -> tuple[NDArray[np.int64], ...]:
        """Return how many weights use each entry, an array for each codebook."""
        counts = tuple(np.zeros(len(codebook), dtype=np.int64) for codebook in self.codebooks)
        for tensor in self.shared:
            counts[tensor.codebook][:] += tensor.counts
        return counts

    @property
    def n_entries(self) -> int:
        """Number of codebook entries over all codebooks, used or not."""
        return sum(len(c) for c in self.codebooks)

    @property
    def n_used_entries(self) -> int:
        """Codebook entries that some weight uses: the paper's second objective."""
        return n_used(self.usage())

    @property
    def entropy(self) -> float:
        """Bits per shared weight, of order 0 over all layers, see the function of this name."""
        return entropy(self.usage())

    @property
    def original_bytes(self) -> int:
        """Bytes of the same state with floats as float32, tied tensors once."""
        return sum(
            float32_bytes(t.dtype, t.size) for t in self.tensors if not isinstance(t, TiedTensor)
        )

    def values(self, tensor: SharedTensor | KeptTensor) -> NDArray[Any]:
        """Return the decoded array of one tensor, in its own shape and :func:`array_dtype`."""
        if isinstance(tensor, KeptTensor):
            return np.array(tensor.decoded()).reshape(tensor.shape)
        dtype = array_dtype(tensor.dtype)
        entries = self.codebooks[tensor.codebook].entries.astype(dtype)
        if tensor.size <= _CHUNK:
            return np.take(entries, tensor.indices).reshape(tensor.shape)
        # NumPy widens indices to look them up: so many at a time, not all.
        values = np.empty(tensor.size, dtype=dtype)
        for begin in range(0, tensor.size, _CHUNK):
            part = slice(begin, begin + _CHUNK)
            values[part] = np.take(entries, tensor.indices[part])
        return values.reshape(tensor.shape)

    def decoded(self) -> dict[str, NDArray[Any]]:
        """Return every tensor by name in state order; tied names share one array."""
        arrays: dict[str, NDArray[Any]] = {}
        for tensor in self.tensors:
            arrays[tensor.name] = (
                arrays[tensor.target] if isinstance(tensor, TiedTensor) else self.values(tensor)
            )
        return arrays

    def fingerprint(self) -> str:
        """Return 32 hex digits that change when any stored value, name or shape changes."""
        digest = hashlib.blake2b(digest_size=16)
        for chunk in self._canonical():
            digest.update(chunk)
        return digest.hexdigest()

    def _canonical(self) -> Iterator[bytes | memoryview]:
        for codebook in self.codebooks:
            yield b"codebook"
            yield codebook.entries.astype("<f4").tobytes()
        for tensor in self.tensors:
            yield f"{type(tensor).__name__} {tensor.name!r}".encode()
            if isinstance(tensor, TiedTensor):
                yield tensor.target.encode()
            elif isinstance(tensor, KeptTensor):
                little = tensor.values.dtype.newbyteorder("<")
                yield f"{tensor.shape} {tensor.dtype} {little.str}".encode()
                yield np.ascontiguousarray(tensor.values, dtype=little).tobytes()
                if tensor.exponent:
                    yield f"times 2**{tensor.exponent}".encode()
            else:
                # One width for all, so that the digest does not depend on the index dtype.
                yield f"{tensor.shape} {tensor.dtype} {tensor.codebook}".encode()
                width = index_dtype(len(self.codebooks[tensor.codebook])).newbyteorder("<")
                yield np.ascontiguousarray(tensor.indices, dtype=width).data.cast("B")


def keep(parameter: Parameter) -> KeptTensor:
    """Return a parameter as it is; bfloat16 travels as float32."""
    if parameter.values is None:
        raise InputError(f"{parameter.name!r} is tied; only its target is stored")
    values = np.asarray(parameter.values, dtype=array_dtype(parameter.dtype))
    return KeptTensor(parameter.name, parameter.shape, parameter.dtype, values)


def keep_all(state: Sequence[Parameter]) -> dict[str, KeptTensor]:
    """Return every kept parameter as it is, by name.

    How the file stores them is decided later, for all methods alike, in
    :mod:`moeash.core.kept`.
    """
    return {p.name: keep(p) for p in state if p.role == "kept"}


def share(
    state: Sequence[Parameter],
    codebooks: Sequence[Codebook],
    assigned: Mapping[str, tuple[int, NDArray[Any], NDArray[np.int64]]],
    kept: Mapping[str, KeptTensor],
) -> SharedWeights:
    """Assemble the shared weights of a state.

    Args:
        state: the network's parameters, in order.
        codebooks: the codebooks ``assigned`` refers to.
        assigned: for every shared parameter its codebook position, ``(n,)`` indices and
            ``(n_entries,)`` counts.
        kept: every kept parameter, from :func:`keep_all` or moved by the method.

    Raises:
        InputError: a shared parameter has no assignment, or an index count differs from its size.
    """
    tensors: list[Tensor] = []
    for parameter in state:
        if parameter.role == "tied":
            assert parameter.target is not None
            tensors.append(TiedTensor(parameter.name, parameter.target))
        elif parameter.role == "kept":
            tensors.append(kept[parameter.name])
        elif parameter.name not in assigned:
            raise InputError(f"shared parameter {parameter.name!r} was given no indices")
        else:
            codebook, indices, counts = assigned[parameter.name]
            tensors.append(
                SharedTensor(
                    parameter.name, parameter.shape, parameter.dtype, codebook, indices, counts
                )
            )
    return SharedWeights(tuple(codebooks), tuple(tensors))

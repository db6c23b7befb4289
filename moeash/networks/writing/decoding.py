"""Shared weights decoded straight into the memory they are for, by threads."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from moeash.core._taking import take
from moeash.core.codebook import KeptTensor, SharedTensor, SharedWeights, array_dtype
from moeash.networks.loading.weights import Fitted, Stored, stored_tensors
from moeash.networks.writing.inplace import count_write, widened
from moeash.runtime.threads import available_cores, spread

CHUNK = 1 << 18
"""Weights that one thread looks up at a time."""


def write_weights(fitted: Fitted, shared: SharedWeights) -> None:
    """Write shared weights into the network that they fit, each memory once.

    Args:
        fitted: what goes where.
        shared: what ``fitted`` was made of.
    """
    first, written = fitted.network.first, set()
    targets: list[Target] = []
    for name, stored in fitted.stored.items():
        memory = first.get(name, name)
        if memory not in written:
            written.add(memory)
            targets.append((fitted.network.tensors[name].detach(), stored))
    _fill(targets, shared)


def tensors_of(
    shared: SharedWeights, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Return every tensor by name, in state order; tied names share one tensor.

    Args:
        shared: the weights.
        device: where the tensors go; default: the CPU.
        dtype: of floating tensors; default: each one's own.
    """
    decoded: dict[int, Tensor] = {}
    stored = stored_tensors(shared)
    targets: list[Target] = []
    for tensor in stored.values():
        if id(tensor) not in decoded:
            decoded[id(tensor)] = _room(tensor, device, dtype)
            targets.append((decoded[id(tensor)], tensor))
    _fill(targets, shared)
    return {name: decoded[id(tensor)] for name, tensor in stored.items()}


def tensor_of(
    shared: SharedWeights,
    stored: Stored,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return one tensor, contiguous.

    Args:
        shared: the weights it is one of.
        stored: the tensor.
        device: where it goes; default: the CPU.
        dtype: of a floating tensor; default: its own.
    """
    target = _room(stored, device, dtype)
    decode_into(target, shared, stored)
    return target


def decode_into(target: Tensor, shared: SharedWeights, stored: Stored) -> None:
    """Write one tensor where it goes, converted to the dtype that is there.

    Args:
        target: its shape, on any device, in any strides.
        shared: the weights it is one of.
        stored: the tensor.
    """
    _fill([(target, stored)], shared)


def _room(stored: Stored, device: torch.device | None, dtype: torch.dtype | None) -> Tensor:
    own: torch.dtype = getattr(torch, stored.dtype)
    wanted = dtype if dtype is not None and own.is_floating_point else own
    return torch.empty(stored.shape, dtype=wanted, device=device)


Target = tuple[Tensor, Stored]
"""Where a tensor goes, detached."""

Job = Callable[[], object]


def _fill(targets: Sequence[Target], shared: SharedWeights) -> None:
    """Write tensors where they go, small ones here and large ones by threads."""
    books: dict[tuple[object, ...], Tensor] = {}
    jobs: list[Job] = []
    with torch.inference_mode():  # which tensors made in it may only be written to in
        for target, stored in targets:
            if isinstance(stored, KeptTensor):
                target.copy_(torch.from_numpy(shared.values(stored)))
            else:
                jobs += _jobs(target, _entries(shared, stored, target.dtype, books), stored)
    _run(jobs)


def _entries(
    shared: SharedWeights,
    stored: SharedTensor,
    dtype: torch.dtype,
    made: dict[tuple[object, ...], Tensor],
) -> Tensor:
    """Return a codebook's entries as a tensor has them, in a dtype of which bits can be moved.

    Args:
        shared: the weights.
        stored: what is to be looked up.
        dtype: of where it goes.
        made: entries that were made before, which tensors of one dtype share.
    """
    key = stored.codebook, stored.dtype, dtype
    if key not in made:
        carried = shared.codebooks[stored.codebook].entries.astype(array_dtype(stored.dtype))
        entries = torch.tensor(carried)
        made[key] = entries.to(dtype) if dtype.itemsize in _BITS else entries
    return made[key]


def _run(jobs: Sequence[Job]) -> None:
    """Run jobs that do not depend on each other, by threads where there is something to share."""
    for _ in spread(lambda job: job(), jobs, available_cores()):
        pass


def _jobs(target: Tensor, entries: Tensor, stored: SharedTensor) -> list[Job]:
    """Write a small tensor, and return what is left to do for a large one."""
    if target.device.type != "cpu":
        indices = widened(stored.indices, target.device)
        values = torch.index_select(entries.to(target.device), 0, indices)
        target.copy_(values.view(target.shape))
        return []
    if not target.is_contiguous() or entries.dtype is not target.dtype:  # strides; floats of a byte
        values = torch.empty(stored.shape, dtype=entries.dtype)
        _run(_lookups(entries, stored, values))
        target.copy_(values)
        return []
    count_write(target)
    jobs = _lookups(entries, stored, target)
    if len(jobs) > 1:
        return jobs
    _run(jobs)
    return []


def _lookups(entries: Tensor, stored: SharedTensor, out: Tensor) -> list[Job]:
    """Return jobs that set ``out``, contiguous and on the CPU, to the entries of all indices."""
    signed = _BITS[entries.dtype.itemsize]
    by_index = entries.view(signed).numpy().view(np.dtype(f"u{entries.dtype.itemsize}"))
    flat = out.view(-1).view(signed).numpy().view(by_index.dtype)

    def lookup(begin: int) -> Job:
        part = slice(begin, begin + CHUNK)
        return lambda: take(by_index, stored.indices[part], flat[part])

    return [lookup(begin) for begin in range(0, stored.size, CHUNK)]


_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers of so many bytes, as which NumPy sees values of every dtype."""

"""Shared weights decoded straight into the memory they are for, tensor by tensor."""

import torch
from torch import Tensor

from moeash.core.codebook import KeptTensor, SharedTensor, SharedWeights, array_dtype
from moeash.networks.loading.weights import Fitted, Stored, stored_tensors
from moeash.networks.writing.inplace import widened

CHUNK = 1 << 15
"""Indices widened at a time: they stay in the processor's cache, where one thread gathers as fast
as memory takes the weights. With several threads it took up to twice the time."""


def write_weights(fitted: Fitted, shared: SharedWeights) -> None:
    """Write shared weights into the network that they fit, each memory once.

    Args:
        fitted: what goes where.
        shared: what ``fitted`` was made of.
    """
    first, written = fitted.network.first, set()
    for name, stored in fitted.stored.items():
        memory = first.get(name, name)
        if memory not in written:
            written.add(memory)
            decode_into(fitted.network.tensors[name].detach(), shared, stored)


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
    for tensor in stored.values():
        if id(tensor) not in decoded:
            decoded[id(tensor)] = tensor_of(shared, tensor, device, dtype)
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
    own: torch.dtype = getattr(torch, stored.dtype)
    wanted = dtype if dtype is not None and own.is_floating_point else own
    target = torch.empty(stored.shape, dtype=wanted, device=device)
    decode_into(target, shared, stored)
    return target


def decode_into(target: Tensor, shared: SharedWeights, stored: Stored) -> None:
    """Write one tensor where it goes, converted to the dtype that is there.

    Args:
        target: its shape, on any device, in any strides.
        shared: the weights it is one of.
        stored: the tensor.
    """
    with torch.inference_mode():  # which tensors made in it may only be written to in
        if isinstance(stored, KeptTensor):
            target.copy_(torch.tensor(shared.values(stored)))
            return
        carried = array_dtype(stored.dtype)
        entries = torch.tensor(shared.codebooks[stored.codebook].entries.astype(carried))
        entries = entries.to(target.dtype).to(target.device)
        if target.is_contiguous() and target.device.type == "cpu":
            _gather(entries, stored, target.view(-1))
        else:
            values = torch.empty(stored.size, dtype=target.dtype, device=target.device)
            _gather(entries, stored, values)
            target.copy_(values.view(target.shape))


def _gather(entries: Tensor, stored: SharedTensor, out: Tensor) -> None:
    """Set ``out`` to the entries of all indices."""
    chunk = CHUNK if out.device.type == "cpu" else max(1, out.numel())
    for begin in range(0, out.numel(), chunk):
        part = slice(begin, begin + chunk)
        indices = widened(stored.indices[part], out.device)
        torch.index_select(entries, 0, indices, out=out[part])

"""Which tensors of a module are the same memory, and which overlap in a way nobody can store."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from moeash.errors import InputError


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the module's own tensors by ``state_dict`` key, in its order, not detached.

    Raises:
        InputError: the state holds something that is not a tensor with memory of its own: extra
            state, a value computed by a hook, a lazy, sparse or meta tensor.
    """
    own: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    own |= dict(module.named_buffers(remove_duplicate=False))
    tensors: dict[str, Tensor] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"the state of {type(module).__name__} holds {name!r}, a {type(value).__name__}; "
                f"only tensors can be stored"
            )
        if name not in own or value is not own[name]:
            raise InputError(
                f"state_dict() of {type(module).__name__} computes {name!r} instead of returning "
                f"the module's own tensor, so weights cannot be written back"
            )
        if nn.parameter.is_lazy(value):
            raise InputError(f"{name!r} is not initialised; run one forward pass first")
        if value.layout != torch.strided or value.is_meta:
            raise InputError(
                f"{name!r} is a {'meta' if value.is_meta else value.layout} tensor; "
                f"make it dense and give it values first"
            )
        tensors[name] = value
    return tensors


def ties(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return, for every name whose memory an earlier name also is, that earlier name.

    Raises:
        InputError: two tensors share part of their memory, or the same memory in another shape
            or order; or one tensor holds one memory cell twice.
    """
    first: dict[tuple[object, ...], str] = {}
    tied: dict[str, str] = {}
    for name, tensor in tensors.items():
        if tensor.numel() == 0:
            continue
        key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if key in first:
            tied[name] = first[key]
        else:
            first[key] = name
            if _folds(tensor):
                raise InputError(
                    f"{name!r} is an expanded view that repeats its own memory; "
                    f"replace it by a copy (.clone()) first"
                )
    _refuse_overlap({name: tensors[name] for name in first.values()})
    return tied


def _folds(tensor: Tensor) -> bool:
    """Tell whether two positions of one tensor may be the same memory."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False


def _refuse_overlap(tensors: Mapping[str, Tensor]) -> None:
    spans = sorted(
        (str(t.device), t.data_ptr(), t.data_ptr() + _extent_bytes(t), name)
        for name, t in tensors.items()
    )
    # Spans sorted by start: only those that begin before the furthest end so far can overlap.
    open_spans: list[tuple[str, int, int, str]] = []
    for span in spans:
        open_spans = [o for o in open_spans if o[0] == span[0] and o[2] > span[1]]
        for other in open_spans:
            if _share_cells(tensors[other[3]], tensors[span[3]]):
                raise InputError(
                    f"{span[3]!r} and {other[3]!r} share part of their memory but are not the same "
                    f"tensor; replace one by a copy (.clone()) or exclude the view from the state"
                )
        open_spans.append(span)


def _extent_bytes(tensor: Tensor) -> int:
    steps = zip(tensor.stride(), tensor.shape, strict=True)
    return tensor.element_size() * (1 + sum(stride * (size - 1) for stride, size in steps))


class _Cells:
    """The addresses of a tensor as NumPy sees them; the memory itself is never touched."""

    def __init__(self, tensor: Tensor) -> None:
        size = tensor.element_size()
        self.__array_interface__ = {
            "version": 3,
            "data": (tensor.data_ptr(), True),
            "typestr": f"|V{size}",
            "shape": tuple(tensor.shape),
            "strides": tuple(stride * size for stride in tensor.stride()),
        }


def _share_cells(a: Tensor, b: Tensor) -> bool:
    # Columns of one fused matrix have overlapping spans and not one cell in common, so spans do
    # not decide. NumPy solves the question exactly from shapes and strides.
    return np.shares_memory(np.asarray(_Cells(a)), np.asarray(_Cells(b)))

"""Which part of a network's output counts: a tensor of scores, or of single values."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from moeash.errors import InputError
from moeash.networks.sameness import distance
from moeash.tracing.watching import tensors_in

OutputOf = Callable[[Any], Tensor]
"""Takes what the network returned and returns the tensor that counts."""

NAME_IT = "name one from Python, e.g. output=lambda returned: returned[0]"


def chosen(returned: Any, output: OutputOf | None = None) -> Tensor:
    """Return the tensor that counts of what a network returned.

    Args:
        returned: by the network.
        output: names it; default: the tensor itself, what is called ``logits``, or the only
            floating tensor there is.

    Raises:
        InputError: none or several could be meant, or ``output`` does not return one.
    """
    if output is not None:
        try:
            result = output(returned)
        except Exception as error:
            raise InputError(
                f"output= failed on what the network returned, {_outline(returned)}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not _counts(result):
            raise InputError(
                f"output= returned {_outline(result)} where a floating tensor was needed; the "
                f"network returned {_outline(returned)}"
            )
        return result
    if isinstance(returned, Tensor) and _counts(returned):
        return returned
    logits = (
        returned.get("logits")
        if isinstance(returned, Mapping)
        else getattr(returned, "logits", None)
    )
    if isinstance(logits, Tensor) and _counts(logits):
        return logits
    floats = _floats(returned)
    if len(floats) == 1:
        return floats[0]
    raise InputError(
        f"the network returned {_outline(returned)}, in which {len(floats)} floating tensors were "
        f"found and one is needed; {NAME_IT}"
    )


def scores(returned: Any, output: OutputOf | None = None) -> Tensor:
    """Return the tensor that counts as ``(any, classes)``, or single values as ``(any, 1)``.

    The last axis are the classes of one distribution: ``(n, classes)`` is one an input,
    ``(n, t, classes)`` are t an input. ``(n,)`` and a last axis of length 1 are single values.

    Args:
        returned: by the network.
        output: as for :func:`chosen`.

    Raises:
        InputError: as :func:`chosen`; which axis are the classes is not known; or no gradient leads
            back to the network.
    """
    tensor = chosen(returned, output)
    if tensor.ndim > 3 and output is None:
        raise InputError(
            f"the network returned {_outline(tensor)}; calibration takes (n, classes), "
            "(n, t, classes) or single values (n,); put the classes last from Python, e.g. "
            "output=lambda y: y.flatten(2).transpose(1, 2)"
        )
    if not tensor.requires_grad:
        raise InputError("the network's outputs have no gradient; it detaches them somewhere")
    return in_rows(tensor)


def in_rows(tensor: Tensor) -> Tensor:
    """Return outputs as ``(any, classes)``, the last axis being the classes, or as ``(any, 1)``."""
    return tensor.reshape(-1, 1) if tensor.ndim < 2 else tensor.flatten(0, -2)


def compared(returned: Any, output: OutputOf | None = None) -> list[Tensor]:
    """Return the tensors that two versions of a network are compared by: all that are floating.

    Args:
        returned: by the network.
        output: names the one that counts instead.
    """
    return _floats(returned) if output is None else [chosen(returned, output)]


def furthest(expected: list[Tensor], others: list[Tensor]) -> float:
    """Return how far tensors are from expected ones, relative to the largest of each."""
    if [t.shape for t in expected] != [t.shape for t in others]:
        return float("inf")
    return max((distance(a, b) for a, b in zip(expected, others, strict=True)), default=0.0)


def _floats(returned: Any) -> list[Tensor]:
    return [tensor for tensor in tensors_in(returned) if _counts(tensor)]


def _counts(value: Any) -> bool:
    dense = isinstance(value, Tensor) and value.layout is torch.strided
    return dense and value.is_floating_point()


def _outline(value: Any) -> str:
    """Describe a value for a message."""
    if isinstance(value, Tensor):
        kind = "" if value.layout is torch.strided else "sparse "
        return f"a {kind}{str(value.dtype).removeprefix('torch.')} tensor {tuple(value.shape)}"
    name = type(value).__name__
    if isinstance(value, Mapping):
        return f"{name} with {', '.join(map(repr, list(value)[:8])) or 'nothing'}"
    if isinstance(value, tuple | list):
        return f"{name} of {len(value)}: {', '.join(type(v).__name__ for v in value[:8])}"
    return name

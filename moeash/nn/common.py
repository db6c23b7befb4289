"""What the layers of one small network have in common: tensors that stay shared, and a cache."""

import threading
import warnings
import weakref
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

Move = Callable[[Tensor], Tensor]
"""What ``module.to(...)``, ``half()`` and the like do to each tensor."""


class _Moved(NamedTuple):
    """What a tensor was moved to, and how often each had been written to by then."""

    source: weakref.ref[Tensor]
    target: weakref.ref[Tensor]
    versions: tuple[int, int]

    def is_alive(self) -> bool:
        """Tell whether both tensors are still there."""
        return self.source() is not None and self.target() is not None


class Common:
    """The common part of a network's layers; a copy of the network gets one of its own.

    Args:
        resident_bytes: most bytes of decoded weights that layers keep from one forward to the next.
    """

    def __init__(self, resident_bytes: int) -> None:
        self.resident_bytes = resident_bytes
        self.held_bytes = 0
        self._moved: dict[tuple[int, str], _Moved] = {}
        self._has_warned = False
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["Common"], tuple[int]]:
        return type(self), (self.resident_bytes,)  # nothing held goes along with a copy

    def move(self, tensor: Tensor, move: Move) -> Tensor:
        """Move a tensor of a layer; one that several layers share is one tensor afterwards too.

        Args:
            tensor: indices or a codebook.
            move: applied to it; the dtype of indices is kept whatever it does.
        """
        moved = move(tensor)
        if moved.dtype != tensor.dtype and not tensor.is_floating_point():
            moved = tensor.to(moved.device)  # module.type(torch.half) means the weights
        if moved is tensor:
            return tensor
        key = id(tensor), f"{moved.device} {moved.dtype}"
        before = self._moved.get(key)
        if before is not None and before.source() is tensor:
            target = before.target()
            if target is not None and before.versions == (version(tensor), version(target)):
                return target
        self._moved = {key: record for key, record in self._moved.items() if record.is_alive()}
        self._moved[key] = _Moved(
            weakref.ref(tensor), weakref.ref(moved), (version(tensor), version(moved))
        )
        return moved

    def reserve(self, n_bytes: int) -> bool:
        """Tell whether so many bytes may be held, and count them if so."""
        with self._lock:
            fits = self.held_bytes + n_bytes <= self.resident_bytes
            self.held_bytes += n_bytes if fits else 0
        return fits

    def release(self, n_bytes: int) -> None:
        """Count so many bytes as no longer held."""
        with self._lock:
            self.held_bytes -= n_bytes

    def warn_of_training(self) -> None:
        """Say once that the weights of a network in training get no gradient."""
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                "this network is in training mode with gradients on, but its weights are indices "
                "and get none: call eval(), or load the file with moeash.load to train it",
                stacklevel=5,
            )


def version(tensor: Tensor) -> int:
    """Return how often a tensor was written to, as far as torch counts it."""
    return 0 if tensor.is_inference() else tensor._version

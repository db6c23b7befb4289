"""Calibration inputs given from Python: tensors, datasets, loaders; labels are never looked at."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from moeash.errors import DataError


class SupportsItems(Protocol):
    """A map-style dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


Given = Tensor | Iterable[Any] | SupportsItems
"""``(n, ...)`` inputs, or batches of them, or a dataset; a label behind an input is ignored."""


class Unlabelled:
    """Inputs of a network in memory, in the order they were given.

    Args:
        given: a tensor ``(n, ...)``; a ``torch.utils.data.Dataset``, one input an item; or an
            iterable of batches ``(b, ...)``, such as a ``DataLoader``. Items and batches may be
            tuples or lists that begin with the input, as ``(input, label)``.
        at_most: inputs taken, the first ones; a loader is not asked for more.

    Raises:
        DataError: there are no inputs, they are no tensors, differ in shape, or hold NaN or
            infinity.
    """

    def __init__(self, given: Given, *, at_most: int) -> None:
        self._inputs = _gathered(given, at_most)
        if self._inputs.is_floating_point() and not bool(torch.isfinite(self._inputs).all()):
            raise DataError("calibration inputs hold NaN or infinity")

    def __len__(self) -> int:
        return self._inputs.shape[0]

    def batches(
        self, batch_size: int, order: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and, where a :class:`~moeash.data.splits.Split` has labels, -1.

        Args:
            batch_size: inputs per batch.
            order: positions in the order to visit them; default: all.
        """
        positions = torch.arange(len(self)) if order is None else torch.from_numpy(order)
        for start in range(0, len(positions), batch_size):
            chosen = positions[start : start + batch_size]
            yield self._inputs[chosen], torch.full((len(chosen),), -1)

    def fingerprint(self) -> str:
        """Return 32 hex digits that change with the inputs."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((tuple(self._inputs.shape), str(self._inputs.dtype))).encode())
        digest.update(self._inputs.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _gathered(given: Given, at_most: int) -> Tensor:
    if isinstance(given, Tensor):
        pieces = [given[:at_most]]
    elif isinstance(given, Dataset) and not isinstance(given, IterableDataset):
        n = min(at_most, len(given))  # type: ignore[arg-type]
        pieces = [_input_of(given[i]).unsqueeze(0) for i in range(n)]
    elif isinstance(given, Iterable):
        pieces, n = [], 0
        for batch in given:
            pieces.append(_input_of(batch)[: at_most - n])
            n += pieces[-1].shape[0]
            if n >= at_most:
                break
    else:
        raise DataError(
            f"calibration is {type(given).__name__}; give a tensor, a dataset or batches"
        )
    shapes = sorted({tuple(piece.shape[1:]) for piece in pieces})
    if len(shapes) > 1:
        raise DataError(f"calibration inputs differ in shape: {shapes[0]} and {shapes[1]}")
    if not sum(piece.shape[0] for piece in pieces if piece.ndim):
        raise DataError("calibration has no inputs")
    return torch.cat([piece.detach().cpu() for piece in pieces])


def _input_of(item: Any) -> Tensor:
    """Return the input of ``input`` or ``(input, label, ...)``."""
    first = item[0] if isinstance(item, tuple | list) and len(item) else item
    if not isinstance(first, Tensor):
        raise DataError(
            f"calibration gave {type(first).__name__} where a tensor was needed; "
            "give inputs as the network takes them"
        )
    return first

"""Inputs of a network, many at once: one tensor, or all that a call of it takes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs of a network that takes more than one tensor, or takes it by name.

    Tensors have one row an input; those without dimensions and whatever else there is are the same
    for all inputs.

    Attributes:
        args: positional arguments.
        kwargs: arguments by name.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def named(self) -> Iterator[tuple[str, Any]]:
        """Yield the arguments with their names, positional ones by place, counted from 0."""
        yield from ((str(place), value) for place, value in enumerate(self.args))
        yield from self.kwargs.items()

    def rows(self) -> list[Tensor]:
        """Return the tensors that have a row an input."""
        return [v for _, v in self.named() if isinstance(v, Tensor) and v.ndim]

    def numel(self) -> int:
        """Return the elements of all those tensors."""
        return sum(tensor.numel() for tensor in self.rows())

    def to(self, device: str | torch.device) -> "Inputs":
        """Return them on a device."""
        return self._with(lambda tensor: tensor.to(device))

    def clone(self) -> "Inputs":
        """Return a copy."""
        return self._with(torch.clone)

    def __len__(self) -> int:
        return self.rows()[0].shape[0]

    def __getitem__(self, chosen: slice | Tensor) -> "Inputs":
        return self._with(lambda tensor: tensor[chosen] if tensor.ndim else tensor)

    def _with(self, function: Any) -> "Inputs":
        def changed(value: Any) -> Any:
            return function(value) if isinstance(value, Tensor) else value

        return Inputs(
            tuple(map(changed, self.args)), {k: changed(v) for k, v in self.kwargs.items()}
        )


Batch = Tensor | Inputs
"""Inputs ``(n, ...)``. Both kinds have a length, are cut by slices and moved to devices alike."""


def call(network: nn.Module, batch: Batch) -> Any:
    """Return what a network makes of a batch."""
    if isinstance(batch, Inputs):
        return network(*batch.args, **batch.kwargs)
    return network(batch)


def joined(pieces: Sequence[Batch]) -> Batch:
    """Return pieces of one kind, one behind the other."""
    first = pieces[0]
    if isinstance(first, Tensor):
        return torch.cat([piece for piece in pieces if isinstance(piece, Tensor)])
    several = [piece for piece in pieces if isinstance(piece, Inputs)]

    def together(values: list[Any]) -> Any:
        has_rows = isinstance(values[0], Tensor) and values[0].ndim
        return torch.cat(values) if has_rows else values[0]

    return Inputs(
        tuple(together([piece.args[i] for piece in several]) for i in range(len(first.args))),
        {name: together([piece.kwargs[name] for piece in several]) for name in first.kwargs},
    )


def described(batch: Batch) -> str:
    """Return the dtypes and shapes of a batch for a message."""
    if isinstance(batch, Tensor):
        return f"{_short(batch)}"
    return ", ".join(
        f"{name}: {_short(value) if isinstance(value, Tensor) else repr(value)}"
        for name, value in batch.named()
    )


def _short(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"

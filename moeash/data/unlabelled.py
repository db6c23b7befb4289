"""Calibration inputs given from Python: tensors, datasets, loaders; labels are never looked at."""

import hashlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, default_collate

from moeash.data.inputs import Batch, Inputs, joined
from moeash.errors import DataError


class SupportsItems(Protocol):
    """A map-style dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


Given = Tensor | Mapping[str, Any] | Iterable[Any] | SupportsItems
"""``(n, ...)`` inputs, by name where a network takes several; or batches of them, or a dataset."""


class Unlabelled:
    """Inputs of a network in memory, in the order they were given.

    Args:
        given: a tensor ``(n, ...)``; a mapping of such by name; a ``torch.utils.data.Dataset``, one
            input an item; or an iterable of batches, such as a ``DataLoader``. Items and batches
            are tensors; mappings, by name of the network's arguments; or tuples or lists: as many
            arguments as the network needs, and a label behind them. ``(arguments, label)`` with a
            tuple or mapping of arguments is always understood.
        at_most: inputs taken, the first ones; a loader is not asked for more.
        network: whose arguments they are; default: one that takes a single tensor.

    Attributes:
        takes: the network's arguments, for messages.

    Raises:
        DataError: there are no inputs, they are no tensors, differ in shape, hold NaN or infinity,
            or what is an argument and what a label cannot be told.
    """

    def __init__(self, given: Given, *, at_most: int, network: nn.Module | None = None) -> None:
        takes = _Takes(network)
        self.takes = takes.text
        self._inputs = _gathered(given, at_most, takes)
        _refuse_not_finite(self._inputs)

    def __len__(self) -> int:
        return len(self._inputs)

    def batches(
        self, batch_size: int, order: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[Batch, Tensor]]:
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
        if isinstance(self._inputs, Tensor):
            _digest(self._inputs, digest)
        else:
            for name, value in self._inputs.named():
                digest.update(repr(name).encode())
                if isinstance(value, Tensor):
                    _digest(value, digest)
                else:
                    digest.update(repr(value).encode())
        return digest.hexdigest()


class _Takes:
    """How many arguments a network takes by position: what tells an argument from a label."""

    def __init__(self, network: nn.Module | None) -> None:
        self.needed, self.most, self.text = 1, 1.0, "forward(x)"
        if network is None:
            return
        # Wrappers take anything and hand it on.
        while isinstance(inner := getattr(network, "_orig_mod", None), nn.Module) or (
            isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel)
            and isinstance(inner := network.module, nn.Module)
        ):
            network = inner
        try:
            signature = inspect.signature(network.forward)
        except (TypeError, ValueError):
            return
        kinds = inspect.Parameter
        parameters = signature.parameters.values()
        places = [
            p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
        ]
        many = any(p.kind is kinds.VAR_POSITIONAL for p in parameters)
        self.needed = max(1, sum(p.default is kinds.empty for p in places))
        self.most = float("inf") if many else max(1, len(places))
        self.text = f"{type(network).__name__}.forward({', '.join(map(_outlined, parameters))})"

    def arguments(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return those of a tuple's items that are arguments.

        Raises:
            DataError: that cannot be told.
        """
        if len(items) <= self.needed:
            return items
        if self.most == self.needed:
            return items[: self.needed]
        raise DataError(
            f"calibration gives {len(items)} items at a time, and {self.text} takes {self.needed} "
            f"to {'any number' if self.most == float('inf') else int(self.most)}, so whether the "
            "rest are arguments or labels cannot be told; give mappings by name of argument, or "
            "(arguments, label) with a tuple of arguments"
        )


def _outlined(parameter: inspect.Parameter) -> str:
    text = str(parameter.replace(annotation=inspect.Parameter.empty))
    return text if len(text) < 40 else f"{parameter.name}=..."


def _gathered(given: Given, at_most: int, takes: _Takes) -> Batch:
    if isinstance(given, Tensor | Mapping):
        pieces = [_batch_of(given, takes)[:at_most]]
    elif isinstance(given, Dataset) and not isinstance(given, IterableDataset):
        n = min(at_most, len(given))  # type: ignore[arg-type]
        items: Any = given
        pieces = [_batch_of(items[i], takes, single=True) for i in range(n)]
    elif isinstance(given, tuple) and given and all(isinstance(part, Tensor) for part in given):
        raise DataError(
            f"calibration is a tuple of {len(given)} tensors, which may be batches or arguments; "
            "give list(batches), or [(first, second)] for one batch of several arguments"
        )
    elif isinstance(given, Iterable) and not isinstance(given, str | bytes | np.ndarray):
        pieces, n = [], 0
        for batch in given:
            pieces.append(_batch_of(batch, takes)[: at_most - n])
            n += len(pieces[-1])
            if n >= at_most:
                break
    else:
        raise DataError(
            f"calibration is {type(given).__name__}; give a tensor, a mapping of tensors by name, "
            "a dataset or batches"
        )
    if not sum(map(len, pieces)):
        raise DataError("calibration has no inputs")
    for piece in pieces[1:]:
        _refuse_other(pieces[0], piece)
    return joined(pieces)


def _batch_of(item: Any, takes: _Takes, *, single: bool = False) -> Batch:
    """Return the inputs of a batch, or of a single item of a dataset.

    Args:
        item: as it was given.
        takes: the network's arguments.
        single: it has no axis of inputs.
    """
    if isinstance(item, tuple | list) and item:
        nested = len(item) <= 2 and isinstance(item[0], tuple | list | Mapping)
        args: tuple[Any, ...] = (item[0],) if nested else takes.arguments(tuple(item))
        if nested and not isinstance(item[0], Mapping):
            args = tuple(item[0])
    else:
        args = (item,)
    kwargs: dict[str, Any] = {}
    if len(args) == 1 and isinstance(args[0], Mapping):
        kwargs, args = dict(args[0]), args[1:]
    inputs = Inputs(
        tuple(_value(value, single) for value in args),
        {name: _value(value, single) for name, value in kwargs.items()},
    )
    rows = inputs.rows()
    if not rows:
        given = ", ".join(type(value).__name__ for _, value in inputs.named()) or "nothing"
        raise DataError(
            f"calibration gave {given} where a tensor with a row an input was needed; give inputs "
            "as the network takes them"
        )
    if len({tensor.shape[0] for tensor in rows}) > 1:
        named = [(name, v) for name, v in inputs.named() if isinstance(v, Tensor) and v.ndim]
        raise DataError(
            "calibration gave arguments of different numbers of inputs: "
            f"{', '.join(f'{name}: {tuple(v.shape)}' for name, v in named)}; expand what is the "
            "same for all inputs to (n, ...)"
        )
    if not kwargs and len(args) == 1:
        return rows[0]
    return inputs


def _value(value: Any, single: bool) -> Any:
    """Return one argument: a tensor on the host, or a plain value."""
    if single and isinstance(value, Tensor | np.ndarray | int | float):
        value = default_collate([value])
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if not isinstance(value, bool | int | float | str | None):
        raise DataError(
            f"calibration gave {type(value).__name__} where a tensor was needed; give inputs as "
            "the network takes them, e.g. torch.as_tensor(...) of arrays"
        )
    return value


def _refuse_other(first: Batch, other: Batch) -> None:
    """Refuse two batches of different kinds of inputs."""
    both = [
        dict(piece.named()) if isinstance(piece, Inputs) else {"0": piece}
        for piece in (first, other)
    ]
    if both[0].keys() != both[1].keys():
        raise DataError(
            f"calibration inputs differ in their arguments: {list(both[0])} and {list(both[1])}"
        )
    for name, value in both[0].items():
        second = both[1][name]
        if isinstance(value, Tensor) and isinstance(second, Tensor):
            a, b = ((tuple(t.shape[1:]), t.dtype) for t in (value, second))
            if a[0] != b[0] or value.ndim != second.ndim:
                raise DataError(
                    f"calibration inputs differ in shape: {a[0]} and {b[0]}; pad or crop them "
                    "to one"
                )
            if a[1] != b[1]:
                raise DataError(f"calibration inputs differ in dtype: {a[1]} and {b[1]}")
            if value.ndim or torch.equal(value, second):
                continue
        elif type(value) is type(second) and value == second:
            continue
        raise DataError(
            f"argument {name!r} of calibration is not the same in all batches: {value!r} and "
            f"{second!r}; give a tensor with a row an input"
        )


def _refuse_not_finite(inputs: Batch) -> None:
    if isinstance(inputs, Tensor):
        if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
            raise DataError("calibration inputs hold NaN or infinity")
        return
    for name, value in inputs.named():
        # Infinity is what masks are made of.
        if isinstance(value, Tensor) and value.is_floating_point() and bool(value.isnan().any()):
            raise DataError(f"argument {name!r} of calibration holds NaN")


def _digest(tensor: Tensor, digest: "hashlib.blake2b") -> None:
    digest.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
    digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)

"""One run of a network as data: which function read which tensors, and what it made.

A tensor is a number: that of the Python object, never used for another one. Nothing of the run is
held, so a trace is as small as a list of the calls.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from moeash.data.inputs import Batch
from moeash.data.inputs import call as call_network
from moeash.networks import memory
from moeash.tracing.uses import CONV, LINEAR
from moeash.tracing.watching import Call, Watcher, in_eval_mode, tensors_in

FORM_ONLY = frozenset({"size", "dim", "numel", "is_floating_point", "is_complex", "__len__"})
"""Functions that look at a tensor's form and not at its values."""

NORM = ("input", "running_mean", "running_var", "weight", "bias")

ARGUMENTS: Mapping[Any, tuple[str, ...]] = {
    F.linear: LINEAR,
    F.conv1d: CONV,
    F.conv2d: CONV,
    F.conv3d: CONV,
    F.batch_norm: NORM,
}
"""Functions whose arguments a trace knows by name."""


@dataclass(frozen=True)
class Operation:
    """One call.

    Attributes:
        function: the function of torch.
        name: its name.
        reads: the tensors it was given, in order; a tensor given twice stands twice.
        first: the first argument, where that is a tensor.
        makes: the tensors it returned; one that it was given is among them after a function in
            place.
        arguments: of the functions in :data:`ARGUMENTS`, by name: the tensors.
    """

    function: Any
    name: str
    reads: tuple[int, ...]
    first: int | None
    makes: tuple[int, ...]
    arguments: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Trace:
    """One run of a network.

    Attributes:
        operations: in the order they were called, without those that look at forms only.
        names: tensors of the network: their ``state_dict`` keys, of tied ones the first.
        shapes: of all tensors.
        returned: the tensors the network returned.
        outputs: the same, held.
    """

    operations: tuple[Operation, ...]
    names: Mapping[int, str]
    shapes: Mapping[int, tuple[int, ...]]
    returned: tuple[int, ...]
    outputs: tuple[Tensor, ...]

    @cached_property
    def reads(self) -> Counter[int]:
        """How often each tensor is read; being returned is one more time."""
        counts = Counter(tensor for operation in self.operations for tensor in operation.reads)
        counts.update(self.returned)
        return counts

    @cached_property
    def reads_of(self) -> Counter[str]:
        """How often each tensor of the network is read, by name."""
        counts: Counter[str] = Counter()
        for tensor, name in self.names.items():
            counts[name] += self.reads[tensor]
        return counts

    def name_of(self, operation: Operation, argument: str) -> str | None:
        """Return the ``state_dict`` key of an argument; None when it is none of the network's."""
        return self.names.get(operation.arguments.get(argument, -1))


@torch.no_grad()
def trace(network: nn.Module, batch: Batch) -> Trace:
    """Run a network in eval mode and return what it did.

    Args:
        network: left as it is.
        batch: its input. What a network does may depend on it; one run shows one way.
    """
    numbers: Any = WeakTensorKeyDictionary()
    shapes: dict[int, tuple[int, ...]] = {}
    names: dict[int, str] = {}
    operations: list[Operation] = []
    own = memory.own_tensors(network)
    tied = memory.ties(own)
    keys = {id(tensor): tied.get(name, name) for name, tensor in own.items()}

    def number(tensor: Tensor) -> int:
        found: int | None = numbers.get(tensor)
        if found is None:
            numbers[tensor] = found = len(shapes)
            shapes[found] = tuple(tensor.shape)
            if id(tensor) in keys:
                names[found] = keys[id(tensor)]
        return found

    def note(call: Call) -> None:
        result = call.result
        if call.name in FORM_ONLY or (call.name == "__get__" and not isinstance(result, Tensor)):
            return
        given = call.arguments(ARGUMENTS.get(call.function, ()))
        operations.append(
            Operation(
                call.function,
                call.name,
                tuple(map(number, tensors_in([*call.args, call.kwargs]))),
                number(call.args[0]) if call.args and isinstance(call.args[0], Tensor) else None,
                tuple(map(number, tensors_in(result))),
                {key: number(value) for key, value in given.items() if isinstance(value, Tensor)},
            )
        )

    with in_eval_mode(network), Watcher(after=note):
        result = call_network(network, batch)
    outputs = tuple(tensors_in(result))
    return Trace(tuple(operations), names, shapes, tuple(map(number, outputs)), outputs)

"""A network as an ONNX graph whose tensors are still those of its state.

torch's exporter folds constants: a transposed weight or a BatchNorm folded into a convolution would
be a new tensor, that no indices lead to. So the graph is exported as it is, its tensors are taken
out and stand as inputs while the graph is made simpler, and what the inputs are is entered last.
"""

import inspect
import io
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from moeash.data.inputs import Batch, Inputs, joined
from moeash.errors import ExportError
from moeash.exports.formats.base import Runnable
from moeash.exports.formats.onnx.requirements import needed
from moeash.exports.formats.tensors import bits

OPSET = 21
"""Version of ONNX's default domain: the first with 4-bit integers."""

BATCH = "batch"
"""Name of the axis of inputs in the graph."""

EXAMPLES = 2
"""Inputs that the network is traced with: of one, exporters take the axis for no axis."""


@dataclass(frozen=True)
class Traced:
    """A network as a graph.

    Attributes:
        model: the ``onnx.ModelProto``, without the tensors of the network's state. What only torch
            needs to know of it, such as lines of source files, is left out.
        held: values that nodes refer to and that are to be entered, with the names they have in the
            module: mostly the same, but not where an input of the network goes by that name.
    """

    model: Any
    held: Mapping[str, str]


def trace(network: Runnable, tensors: Mapping[str, Tensor]) -> Traced:
    """Return a network as a graph.

    Args:
        network: to trace; calls its module once.
        tensors: decoded, by their names in the module.

    Raises:
        InputError: a package is missing.
        ExportError: torch cannot export the network, or exports other tensors.
    """
    for name in ("onnx", "onnxscript"):
        needed(name)
    args, kwargs = arguments(example(network))
    said = io.StringIO()  # torch prints the innards of what it cannot export
    with warnings.catch_warnings(), redirect_stdout(said), redirect_stderr(said):
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                network.module,
                args,
                kwargs=kwargs,
                dynamo=True,
                optimize=False,
                opset_version=OPSET,
                dynamic_shapes=_dynamic(network.module, args, kwargs),
                verbose=False,
            )
        except Exception as exc:  # the exporter raises whatever the network's own code does
            raise ExportError(
                f"torch cannot export {type(network.module).__name__} as ONNX: {_reason(exc)}"
            ) from exc
        assert program is not None
        graph = program.model.graph
        found = {name: _found(name, v, tensors) for name, v in graph.initializers.items()}
        names = {name: own for name, own in found.items() if own is not None}
        held = {name: graph.initializers[name] for name in names}
        for name, value in held.items():
            del graph.initializers[name]
            value.const_value = None
            graph.inputs.append(value)
        program.optimize()
        for value in held.values():
            graph.inputs.remove(value)
        model = program.model_proto
    _strip(model)
    return Traced(model, names)


def example(network: Runnable) -> Batch:
    """Return the inputs that a network is traced with."""
    first = next(network.batches())[:EXAMPLES]
    return first if len(first) == EXAMPLES else joined([first] * EXAMPLES)


def arguments(batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a batch as positional arguments and arguments by name."""
    return (batch.args, batch.kwargs) if isinstance(batch, Inputs) else ((batch,), {})


def leaves(values: Any) -> list[Tensor]:
    """Return the tensors in nested values, in the order of the graph's inputs and outputs."""
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def _dynamic(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return for every argument that its first axis may have any length."""
    bound = inspect.signature(module.forward).bind(*args, **kwargs)

    def axes(value: Any) -> Any:
        return {0: BATCH} if isinstance(value, Tensor) and value.ndim else None

    return {name: pytree.tree_map(axes, value) for name, value in bound.arguments.items()}


def _found(name: str, value: Any, tensors: Mapping[str, Tensor]) -> str | None:
    """Return which tensor of the state an initializer is, bit for bit; None of the graph's own.

    Raises:
        ExportError: it is called like a tensor and holds something else.
    """
    shape, content = tuple(value.shape), value.const_value.tobytes()
    if name in tensors and shape == tuple(tensors[name].shape) and content == bits(tensors[name]):
        return name
    for own, tensor in tensors.items():
        if tensor.ndim and shape == tuple(tensor.shape) and content == bits(tensor):
            return own
    if name in tensors:
        raise ExportError(f"torch exported another {name!r} than was decoded")
    return None


def _strip(model: Any) -> None:
    """Remove notes for debugging: they are larger than a small network, and name folders."""
    graph = model.graph
    parts = (*graph.node, *graph.input, *graph.output, *graph.initializer, *model.functions)
    for part in (graph, *parts):
        del part.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
    del graph.value_info[:]


def _reason(exc: BaseException) -> str:
    """Return the first lines of the innermost cause, where the exporter says what happened."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return f"{type(exc).__name__}: {' '.join(lines[:3])[:400]}" if lines else type(exc).__name__

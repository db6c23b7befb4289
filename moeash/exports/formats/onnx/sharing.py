"""The state of a network in an ONNX graph: one codebook, and indices into it for every weight."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moeash.core.codebook import KeptTensor, SharedTensor, SharedWeights
from moeash.exports.formats.onnx.requirements import needed
from moeash.exports.formats.onnx.tracing import Traced
from moeash.exports.formats.tensors import bits
from moeash.networks.loading.weights import stored_tensors
from moeash.networks.writing.decoding import tensor_of

CODEBOOK, INDICES, POSITIONS, ENTRIES = "codebook", "indices", "positions", "entries"
"""What the values are called that weights are made of."""


def enter(traced: Traced, weights: SharedWeights, names: Mapping[str, str]) -> dict[str, str]:
    """Give a graph the tensors that its nodes refer to.

    Shared ones are indices of the narrowest of 4, 8, 16 or 32 bits, widened by ``Cast`` and looked
    up by ``Gather``. Kept ones are initializers as the network has them. Names that are tied lead
    to one tensor.

    Args:
        traced: the graph; changed.
        weights: the network.
        names: in the module, by those in ``weights``.

    Returns:
        The values in the graph of what was entered, by names in ``weights``; the network computes
        without the rest.
    """
    graph, held = traced.model.graph, traced.held
    tensors = stored_tensors(weights)
    first = {names[name]: tensor.name for name, tensor in tensors.items()}
    used = {name for node in _all_nodes(graph) for name in node.input}
    wanted = {first[own] for value, own in held.items() if value in used}
    entering = _Entering(graph, weights, held)
    entered = {
        name: entering.add(names[name], tensor)
        for name, tensor in tensors.items()
        if name in wanted
    }
    for node in _all_nodes(graph):
        for place, name in enumerate(node.input):
            if name in held:
                node.input[place] = entered[first[held[name]]]
    entering.finish()
    return entered


class _Entering:
    """Collects the initializers and nodes that a graph needs for its weights."""

    def __init__(self, graph: Any, weights: SharedWeights, held: Mapping[str, str]) -> None:
        self._onnx = needed("onnx")
        self._graph, self._weights = graph, weights
        self._nodes: list[Any] = []
        self._books: dict[int, str] = {}
        self._taken = {name for node in _all_nodes(graph) for name in (*node.input, *node.output)}
        self._taken |= {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
        self._taken -= held.keys()

    def add(self, name: str, tensor: SharedTensor | KeptTensor) -> str:
        """Give the graph one tensor; return the value, called as in the module if it can be."""
        name = self._new(name)
        if not isinstance(tensor, SharedTensor):
            values = tensor_of(self._weights, tensor)
            self._initialize(name, tensor.dtype, tensor.shape, bits(values))
            return name
        if tensor.codebook not in self._books:
            several = len(self._weights.codebooks) > 1
            book = self._new(f"{CODEBOOK}.{tensor.codebook}" if several else CODEBOOK)
            entries = torch.tensor(self._weights.codebooks[tensor.codebook].entries)
            self._initialize(book, "float32", tuple(entries.shape), bits(entries))
            self._books[tensor.codebook] = book
        book = self._books[tensor.codebook]
        indices, positions = self._new(f"{name}.{INDICES}"), self._new(f"{name}.{POSITIONS}")
        kind, raw = packed_indices(tensor, len(self._weights.codebooks[tensor.codebook]))
        self._initialize(indices, kind, tensor.shape, raw)
        looked_up = name if tensor.dtype == "float32" else self._new(f"{name}.{ENTRIES}")
        self._node("Cast", [indices], positions, to=self._kind("int32"))
        self._node("Gather", [book, positions], looked_up)
        if looked_up != name:
            self._node("Cast", [looked_up], name, to=self._kind(tensor.dtype))
        return name

    def finish(self) -> None:
        """Put the nodes in front of those that use what they make."""
        nodes = [*self._nodes, *self._graph.node]
        del self._graph.node[:]
        self._graph.node.extend(nodes)

    def _initialize(
        self, name: str, dtype: str, shape: tuple[int, ...], raw: bytes | memoryview
    ) -> None:
        kind = self._kind(dtype)
        self._graph.initializer.append(
            self._onnx.TensorProto(name=name, data_type=kind, dims=shape, raw_data=bytes(raw))
        )

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._nodes.append(self._onnx.helper.make_node(operator, inputs, [output], **attributes))

    def _kind(self, dtype: str) -> int:
        """Return ONNX's number of a dtype."""
        name = {"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper())
        return int(self._onnx.TensorProto.DataType.Value(name))

    def _new(self, name: str) -> str:
        """Return a name that no value of the graph has."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def packed_indices(tensor: SharedTensor, n_entries: int) -> tuple[str, bytes]:
    """Return the dtype of a tensor's indices in a graph, and their bytes.

    Args:
        tensor: the tensor.
        n_entries: of its codebook.
    """
    if n_entries <= 1 << 4:
        even = np.zeros(tensor.size + tensor.size % 2, np.uint8)
        even[: tensor.size] = tensor.indices
        return "uint4", (even[::2] | even[1::2] << 4).tobytes()  # the first in the lower half
    if n_entries <= 1 << 8:
        return "uint8", tensor.indices.astype(np.uint8).tobytes()
    if n_entries <= 1 << 16:
        return "uint16", tensor.indices.astype("<u2").tobytes()
    return "int32", tensor.indices.astype("<i4").tobytes()


class Entered:
    """The tensors that were entered into a graph, as a file has them.

    Args:
        model: the ``onnx.ModelProto`` that was read, with its data.
    """

    def __init__(self, model: Any) -> None:
        to_array = needed("onnx").numpy_helper.to_array
        self._arrays = {i.name: np.array(to_array(i)) for i in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        """Return a tensor by its value in the graph.

        Args:
            name: as :func:`enter` returned it.
            dtype: the network has it in.

        Raises:
            KeyError: the graph has none of that name.
            IndexError: an index is above all entries.
        """
        if name in self._arrays:
            array = self._arrays[name]
            if array.dtype.name == "bfloat16":  # of a package that torch does not know
                return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
            return torch.from_numpy(array)
        maker = self._makers[name]
        if maker.op_type == "Cast":
            return self.tensor(maker.input[0], torch.float32).to(dtype)
        book, positions = maker.input
        indices = self._arrays[self._makers[positions].input[0]]
        return torch.from_numpy(np.asarray(self._arrays[book][indices.astype(np.int64)]))


def _all_nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of the graphs in its branches and loops."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _all_nodes(inner)

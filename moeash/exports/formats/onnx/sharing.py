"""The state of a network in an ONNX graph: one codebook, and indices into it for every weight."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeash.core.codebook import SharedTensor, SharedWeights
from moeash.exports.formats.onnx.requirements import needed
from moeash.exports.formats.tensors import bits, stored, tensor_of

CODEBOOK, INDICES, POSITIONS, ENTRIES = "codebook", "indices", "positions", "entries"


@dataclass(frozen=True)
class Names:
    """Values that a shared tensor is made of in the graph.

    Attributes:
        indices: the initializer.
        positions: the same, widened.
        entries: looked up, in the precision of the codebook.
        weight: in the dtype of the network; what nodes refer to.
    """

    indices: str
    positions: str
    entries: str
    weight: str


def names_of(weight: str, dtype: str) -> Names:
    """Return the values that a shared tensor is made of.

    Args:
        weight: its name in the module.
        dtype: its dtype in the network; float32 weights need no conversion.
    """
    entries = weight if dtype == "float32" else f"{weight}.{ENTRIES}"
    return Names(f"{weight}.{INDICES}", f"{weight}.{POSITIONS}", entries, weight)


def codebook_name(weights: SharedWeights, place: int) -> str:
    """Return the initializer of a codebook: ``codebook``, numbered where there are several."""
    return CODEBOOK if len(weights.codebooks) == 1 else f"{CODEBOOK}.{place}"


def enter(model: Any, weights: SharedWeights, own_names: dict[str, str]) -> None:
    """Give a graph the tensors that its nodes refer to.

    Shared ones are indices of the narrowest of 4, 8, 16 or 32 bits, widened by ``Cast`` and looked
    up by ``Gather``. Kept ones are initializers as the network has them. Names that are tied lead
    to one tensor.

    Args:
        model: from :func:`moeash.exports.formats.onnx.tracing.trace`; changed.
        weights: the network.
        own_names: names in the module by those in ``weights``.
    """
    onnx = needed("onnx")
    graph = model.graph
    tensors = stored(weights)
    first = {own_names[name]: own_names[tensor.name] for name, tensor in tensors.items()}
    for node in _all_nodes(graph):
        for place, name in enumerate(node.input):
            node.input[place] = first.get(name, name)
    used = {name for node in _all_nodes(graph) for name in node.input}
    used |= {output.name for output in graph.output}
    made: list[Any] = []
    books: set[int] = set()
    for tensor in {id(tensor): tensor for tensor in tensors.values()}.values():
        weight = own_names[tensor.name]
        if weight not in used:
            continue
        if not isinstance(tensor, SharedTensor):
            graph.initializer.append(_kept(onnx, weight, tensor_of(weights, tensor), tensor.dtype))
            continue
        names = names_of(weight, tensor.dtype)
        n_entries = len(weights.codebooks[tensor.codebook])
        graph.initializer.append(_indices(onnx, names.indices, tensor, n_entries))
        book = codebook_name(weights, tensor.codebook)
        helper, types = onnx.helper, onnx.TensorProto
        made.append(helper.make_node("Cast", [names.indices], [names.positions], to=types.INT32))
        made.append(helper.make_node("Gather", [book, names.positions], [names.entries]))
        if names.entries != names.weight:
            to = types.DataType.Value(_type_name(tensor.dtype))
            made.append(helper.make_node("Cast", [names.entries], [names.weight], to=to))
        books.add(tensor.codebook)
    for place in sorted(books):
        entries = weights.codebooks[place].entries
        graph.initializer.append(
            onnx.numpy_helper.from_array(entries, codebook_name(weights, place))
        )
    nodes = [*made, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def index_values(initializer: Any) -> NDArray[np.int64]:
    """Return the indices in an initializer."""
    array = needed("onnx").numpy_helper.to_array(initializer)
    return np.asarray(array).astype(np.int64).reshape(-1)


def _all_nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of the graphs in its branches and loops."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _all_nodes(inner)


def _indices(onnx: Any, name: str, tensor: SharedTensor, n_entries: int) -> Any:
    types = onnx.TensorProto
    if n_entries <= 16:
        even = np.zeros(tensor.size + tensor.size % 2, np.uint8)
        even[: tensor.size] = tensor.indices
        raw, kind = (even[::2] | even[1::2] << 4), types.UINT4  # the first in the lower half
    elif n_entries <= 1 << 8:
        raw, kind = tensor.indices.astype(np.uint8), types.UINT8
    elif n_entries <= 1 << 16:
        raw, kind = tensor.indices.astype("<u2"), types.UINT16
    else:
        raw, kind = tensor.indices.astype("<i4"), types.INT32
    return types(name=name, data_type=kind, dims=tensor.shape, raw_data=raw.tobytes())


def _kept(onnx: Any, name: str, tensor: Any, dtype: str) -> Any:
    types = onnx.TensorProto
    kind = types.DataType.Value(_type_name(dtype))
    return types(name=name, data_type=kind, dims=tuple(tensor.shape), raw_data=bytes(bits(tensor)))


def _type_name(dtype: str) -> str:
    """Return what ONNX calls a dtype."""
    return {"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper())

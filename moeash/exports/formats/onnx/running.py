"""An ONNX file runs, and computes what the network computes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moeash.core.codebook import SharedWeights
from moeash.data.inputs import call
from moeash.errors import ExportError
from moeash.exports.formats.base import Runnable
from moeash.exports.formats.onnx.requirements import needed
from moeash.exports.formats.onnx.sharing import Entered
from moeash.exports.formats.onnx.tracing import arguments, leaves
from moeash.exports.formats.tensors import same
from moeash.networks.loading.weights import stored_tensors
from moeash.networks.sameness import distance
from moeash.networks.writing.decoding import tensor_of

TOLERANCE = 1e-5
"""How far outputs in float32 may be apart, relative to the largest of them."""

NARROW = 8
"""The same for narrower floats, in units of their precision."""


def check_model(path: Path) -> None:
    """Have the ``onnx`` package judge a file.

    Raises:
        ExportError: it refuses it.
    """
    onnx = needed("onnx")
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise ExportError(f"onnx refuses the file written: {_first_line(exc)}") from exc


def check_state(model: Any, weights: SharedWeights, entered: Mapping[str, str]) -> None:
    """Compare the tensors in a graph with the decoded ones, bit for bit.

    Args:
        model: as it was read back, with its data.
        weights: the network.
        entered: values in the graph, by names in ``weights``.

    Raises:
        ExportError: a tensor differs.
    """
    found = Entered(model)
    tensors = stored_tensors(weights)
    for name, value in entered.items():
        expected = tensor_of(weights, tensors[name])
        try:
            there = same(found.tensor(value, expected.dtype), expected)
        except (KeyError, IndexError, ValueError, RuntimeError):
            there = False
        if not there:
            raise ExportError(f"the ONNX file written holds another {name!r}")


def check_outputs(path: Path, network: Runnable) -> None:
    """Run a file in onnxruntime and compare it with the network in torch.

    Args:
        path: the file.
        network: the network; every one of its batches is run in both, the first one also alone.

    Raises:
        ExportError: onnxruntime cannot run it, or outputs are further apart than rounding explains.
    """
    session = _session(path)
    first = next(network.batches())[:1]
    with torch.inference_mode():
        for batch in (first, *network.batches()):
            expected = leaves(call(network.module, batch))
            outputs = _run(session, leaves(arguments(batch)))
            if [t.shape for t in outputs] != [t.shape for t in expected]:
                raise ExportError(
                    f"the ONNX file returns shapes {[tuple(t.shape) for t in outputs]} for "
                    f"{len(batch)} inputs, the network {[tuple(t.shape) for t in expected]}"
                )
            for one, other in zip(expected, outputs, strict=True):
                _compare(one, other)


def _session(path: Path) -> Any:
    onnxruntime = needed("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime has an exception for every status, without a root
        raise ExportError(f"onnxruntime cannot load the file written: {_first_line(exc)}") from exc


def _run(session: Any, tensors: list[Tensor]) -> list[Tensor]:
    names = [value.name for value in session.get_inputs()]
    if len(names) != len(tensors):
        raise ExportError(
            f"the ONNX file takes {len(names)} tensors, the network was given {len(tensors)}"
        )
    try:
        given = {name: t.numpy() for name, t in zip(names, tensors, strict=True)}
        return [torch.from_numpy(np.array(value)) for value in session.run(None, given)]
    except Exception as exc:  # likewise
        raise ExportError(f"onnxruntime cannot run the file written: {_first_line(exc)}") from exc


def _compare(expected: Tensor, outputs: Tensor) -> None:
    if not expected.is_floating_point():
        return  # a class of two that are equal is decided by rounding
    precision = torch.finfo(expected.dtype).eps
    allowed = max(TOLERANCE, NARROW * precision)
    apart = distance(expected.double(), outputs.double())
    if not apart <= allowed:
        raise ExportError(
            f"onnxruntime's outputs are {apart:.2g} of the largest away from torch's, more than "
            f"{allowed:.2g}; the exporter has translated an operator wrongly"
        )


def _first_line(exc: Exception) -> str:
    lines = str(exc).strip().splitlines()
    return lines[0][:300] if lines else type(exc).__name__

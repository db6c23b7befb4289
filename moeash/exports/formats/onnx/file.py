"""Format ``onnx``: files that onnxruntime and others run as they are."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moeash import __version__
from moeash.errors import ExportError, InputError
from moeash.exports.formats.base import Runnable, Source
from moeash.exports.formats.names import FormatName
from moeash.exports.formats.onnx.requirements import needed
from moeash.exports.formats.onnx.running import check_model, check_outputs, check_state
from moeash.exports.formats.onnx.sharing import enter
from moeash.exports.formats.onnx.tracing import OPSET, trace
from moeash.files import replacing
from moeash.networks.writing.decoding import tensors_of

EXTERNAL_ABOVE = 1_500_000_000
"""Bytes of tensors above which they get a file of their own: protobuf ends at 2 GiB."""

EXTERNAL_TENSOR = 1024
"""Bytes from which a tensor is worth a place in that file."""

DATA_SUFFIX = ".data"
"""Behind the name of the file whose tensors it has."""


@dataclass(frozen=True)
class OnnxFile:
    """``.onnx`` files: opset 21, any number of inputs at a time.

    Attributes:
        external_above: bytes of tensors above which they stand in a file beside, ``NAME.data``,
            which has to stay there.
    """

    external_above: int = EXTERNAL_ABOVE
    name: FormatName = "onnx"

    @contextmanager
    def placing(self, source: Source, to: Path) -> Iterator[tuple[Path, ...]]:
        """As :meth:`Format.placing`."""
        if source.network is None:
            raise InputError("format onnx holds the computation too, so it needs the network")
        for package in ("onnx", "onnxscript", "onnxruntime"):
            needed(package)
        model, entered = _model_of(source, source.network)
        data = to.with_name(to.name + DATA_SUFFIX)
        external = sum(len(t.raw_data) for t in model.graph.initializer) > self.external_above
        with ExitStack() as stack:
            # What is entered last gets its name first: the data, before the file that needs it.
            temporary = stack.enter_context(replacing(to))
            beside = stack.enter_context(replacing(data)) if external else None
            _save(model, temporary, beside)
            del model
            _check(source, source.network, temporary, entered)
            if beside is not None:
                _refer(temporary, data.name)
            yield (to,) if beside is None else (to, data)


def _model_of(source: Source, network: Runnable) -> tuple[Any, dict[str, str]]:
    """Return the ``onnx.ModelProto`` of a network, and its values by names of tensors."""
    tensors = tensors_of(source.weights)
    traced = trace(network, {network.names[name]: t for name, t in tensors.items()})
    entered = enter(traced, source.weights, network.names)
    model = traced.model
    model.producer_name, model.producer_version = "moeash", __version__
    model.graph.name = type(network.module).__name__
    model.doc_string = f"opset {OPSET}; weights are indices into a codebook"
    for key, value in source.metadata.items():
        model.metadata_props.add(key=key, value=value)
    return model, entered


def _check(source: Source, network: Runnable, path: Path, entered: Mapping[str, str]) -> None:
    check_model(path)
    model = needed("onnx").load(str(path))
    check_state(model, source.weights, entered)
    if {p.key: p.value for p in model.metadata_props} != dict(source.metadata):
        raise ExportError("the ONNX file written holds other metadata")
    check_outputs(path, network)


def _save(model: Any, path: Path, data: Path | None) -> None:
    onnx = needed("onnx")
    if data is None:
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=True,
        location=data.name,
        size_threshold=EXTERNAL_TENSOR,
    )


def _refer(path: Path, data: str) -> None:
    """Have a file look for its tensors in a file of another name."""
    onnx = needed("onnx")
    model = onnx.load(str(path), load_external_data=False)
    for initializer in model.graph.initializer:
        for entry in initializer.external_data:
            if entry.key == "location":
                entry.value = data
    path.write_bytes(model.SerializeToString(deterministic=True))

"""Format ``safetensors``: decoded tensors, readable by everything that reads checkpoints.

Written tensor by tensor, so that the memory of one suffices; the library, which needs them all at
once and refuses tied ones, reads the file back. Tied tensors are written under each of their names.
bfloat16 tensors stay bfloat16.

Source:
    The format: https://github.com/huggingface/safetensors, "Format".
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from moeash.core.codebook import KeptTensor, SharedTensor
from moeash.errors import ExportError
from moeash.exports.formats.base import SingleFile, Source
from moeash.exports.formats.names import FormatName
from moeash.exports.formats.tensors import bits, same, stored, tensor_of

METADATA = "__metadata__"
"""The name under which safetensors keeps notes."""

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    **{f"int{width}": f"I{width}" for width in (8, 16, 32, 64)},
    **{f"uint{width}": f"U{width}" for width in (8, 16, 32, 64)},
    "bool": "BOOL",
    "complex64": "C64",
}
"""What safetensors calls dtypes."""

_READ_ARRAYS = "use moeash.read, which gives the arrays by name"


class SafetensorsFile(SingleFile):
    """``.safetensors`` files."""

    name: ClassVar[FormatName] = "safetensors"

    def write(self, source: Source, path: Path, to: Path) -> None:
        """As :meth:`SingleFile.write`."""
        tensors = stored(source.weights)
        header = _header(tensors, {"format": "pt", **source.metadata})
        with path.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for name in _order(tensors):
                file.write(bits(tensor_of(source.weights, tensors[name])))

    def check(self, source: Source, path: Path) -> None:
        """As :meth:`SingleFile.check`."""
        with _reading(path) as file:
            expected = stored(source.weights)
            if set(file.keys()) != expected.keys():
                raise ExportError("the safetensors file written holds other names than decoded")
            if not source.metadata.items() <= file.metadata().items():
                raise ExportError("the safetensors file written holds other metadata")
            for name, tensor in expected.items():
                if not same(file.get_tensor(name), tensor_of(source.weights, tensor)):
                    raise ExportError(f"the safetensors file written holds another {name!r}")


def _header(tensors: dict[str, SharedTensor | KeptTensor], metadata: dict[str, str]) -> bytes:
    if METADATA in tensors:
        raise ExportError(
            f"safetensors keeps the name {METADATA!r} for itself, but a tensor has it; "
            f"{_READ_ARRAYS}"
        )
    header: dict[str, Any] = {METADATA: metadata}
    end = 0
    for name in _order(tensors):
        tensor = tensors[name]
        if tensor.dtype not in DTYPES:
            raise ExportError(
                f"safetensors cannot hold these tensors: {name!r} is {tensor.dtype}, for which it "
                f"has no name; {_READ_ARRAYS}"
            )
        begin, end = end, end + tensor.size * _width(tensor.dtype)
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)  # the tensors begin where any of them may


def _order(tensors: dict[str, SharedTensor | KeptTensor]) -> list[str]:
    """Return names, those of wide elements first: then all stand where readers may map them."""
    return sorted(tensors, key=lambda name: -_width(tensors[name].dtype))


def _width(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as exc:
        raise ExportError(f"the safetensors file written cannot be read: {exc}") from exc

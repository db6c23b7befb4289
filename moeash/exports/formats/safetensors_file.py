"""Format ``safetensors``: decoded tensors, readable by everything that reads checkpoints.

Written tensor by tensor, so that the memory of one suffices; the library, which needs them all at
once and refuses tied ones, reads the file back. Tied tensors are written under each of their names.
bfloat16 tensors stay bfloat16.

Source:
    The format: https://github.com/huggingface/safetensors, "Format".
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from moeash.errors import ExportError
from moeash.exports.formats.base import SingleFile, Source
from moeash.exports.formats.names import FormatName
from moeash.exports.formats.tensors import bits, same
from moeash.networks.loading.weights import stored_tensors
from moeash.networks.streaming.header import plan_file
from moeash.networks.writing.decoding import tensor_of


class SafetensorsFile(SingleFile):
    """``.safetensors`` files."""

    name: ClassVar[FormatName] = "safetensors"

    def write(self, source: Source, path: Path, to: Path) -> None:
        """As :meth:`SingleFile.write`."""
        tensors = stored_tensors(source.weights)
        told = [(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
        head, placed = plan_file(path, told, {"format": "pt", **source.metadata})
        with path.open("wb") as file:
            file.write(head)
            for place in placed:
                file.write(bits(tensor_of(source.weights, tensors[place.name])))

    def check(self, source: Source, path: Path) -> None:
        """As :meth:`SingleFile.check`."""
        with _reading(path) as file:
            expected = stored_tensors(source.weights)
            if set(file.keys()) != expected.keys():
                raise ExportError("the safetensors file written holds other names than decoded")
            if not source.metadata.items() <= file.metadata().items():
                raise ExportError("the safetensors file written holds other metadata")
            for name, tensor in expected.items():
                if not same(file.get_tensor(name), tensor_of(source.weights, tensor)):
                    raise ExportError(f"the safetensors file written holds another {name!r}")


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as exc:
        raise ExportError(f"the safetensors file written cannot be read: {exc}") from exc

"""The header of a safetensors file: where each tensor lies.

A safetensors file is the length of a JSON text in 8 bytes, the text, and the tensors' bytes one
after another without a hole, little-endian. Reading it here, not through the library, keeps the
file out of memory: the library maps it, and what a map has touched counts as memory.

Source:
    safetensors, "Format" in its README.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moeash.core.codebook import FLOAT_NAMES
from moeash.errors import CheckpointError, ExportError
from moeash.files import head_of

NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}
"""Dtypes as a state has them, by their names in safetensors."""

CODES = {name: code for code, name in NAMES.items()}

WIDTHS = {"bool": 1, "bfloat16": 2, "complex64": 8}
"""Bytes of an element where the digits in the dtype's name do not say."""

METADATA = "__metadata__"
"""The name under which safetensors keeps notes."""

MAX_HEADER_BYTES = 100_000_000
"""As the library has it."""

ALIGNMENT = 8


def width_of(dtype: str) -> int:
    """Return the bytes of one element."""
    return WIDTHS.get(dtype) or int("".join(filter(str.isdigit, dtype))) // 8


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        name: its name.
        dtype: as a state has it, e.g. ``"bfloat16"``.
        shape: its shape.
        path: the file.
        offset: of its first byte in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def width(self) -> int:
        """Bytes of one element."""
        return width_of(self.dtype)

    @property
    def size_bytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.width

    @property
    def is_float(self) -> bool:
        """Whether it may be shared, as far as its dtype goes."""
        return self.dtype in FLOAT_NAMES


def read_header(path: Path) -> tuple[list[StoredTensor], dict[str, str]]:
    """Return the tensors of a safetensors file in the order of their bytes, and its notes.

    Raises:
        CheckpointError: it cannot be read, breaks a rule of the format, or holds a dtype that a
            ``.moeash`` file has no place for.
    """
    head_of(path, CheckpointError, "checkpoint ")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise _damaged(path, f"its header claims {length} bytes of {size}")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as exc:
        raise _damaged(path, f"its header is no JSON ({exc})") from exc
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no JSON object")
    notes = header.pop(METADATA, {})
    if not _are_texts(notes):
        raise _damaged(path, f"its {METADATA} are no texts")
    tensors = sorted(
        (_tensor(path, name, told, 8 + length) for name, told in header.items()),
        key=lambda tensor: (tensor.offset, tensor.size_bytes),
    )
    end = 8 + length
    for tensor in tensors:
        if tensor.offset != end:
            raise _damaged(path, f"{tensor.name!r} begins at byte {tensor.offset}, not at {end}")
        end += tensor.size_bytes
    if end != size:
        raise _damaged(path, f"it has {size} bytes, but its tensors end at {end}")
    return tensors, notes


def _tensor(path: Path, name: str, told: Any, begin: int) -> StoredTensor:
    try:
        code, shape, (first, last) = told["dtype"], told["shape"], told["data_offsets"]
    except (TypeError, KeyError, ValueError) as exc:
        raise _damaged(path, f"what it says about {name!r} is incomplete") from exc
    numbers = [*shape, first, last] if isinstance(shape, list) else [-1]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise _damaged(path, f"shape or offsets of {name!r} are no numbers")
    if code not in NAMES:
        raise CheckpointError(
            f"{name!r} in {str(path)!r} has dtype {code}, which a .moeash file cannot hold; "
            f"convert it to one of {', '.join(NAMES)}"
        )
    tensor = StoredTensor(name, NAMES[code], tuple(shape), path, begin + first)
    if last - first != tensor.size_bytes:
        raise _damaged(
            path, f"{name!r} has {last - first} bytes, but its shape takes {tensor.size_bytes}"
        )
    return tensor


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{str(path)!r} is not a readable safetensors file: {why}")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _are_texts(notes: object) -> bool:
    return isinstance(notes, dict) and all(isinstance(value, str) for value in notes.values())


def plan_file(
    path: Path, tensors: Sequence[tuple[str, str, tuple[int, ...]]], notes: Mapping[str, str]
) -> tuple[bytes, list[StoredTensor]]:
    """Return the header of a file to be written, and where its tensors will lie.

    Wide dtypes come first, so that every element is aligned; otherwise the order is kept.

    Args:
        path: of the file.
        tensors: name, dtype and shape of each.
        notes: texts to store along.

    Raises:
        ExportError: safetensors cannot hold a name or a dtype.
    """
    instead = "use moeash.read, which gives the arrays by name"
    for name, dtype, _ in tensors:
        if name == METADATA:
            raise ExportError(
                f"safetensors keeps the name {METADATA!r} for itself, but a tensor has it; "
                f"{instead}"
            )
        if dtype not in CODES:
            raise ExportError(
                f"safetensors cannot hold these tensors: {name!r} has dtype {dtype}; {instead}"
            )
    offset = 0
    placed = []
    header: dict[str, Any] = {METADATA: dict(notes)} if notes else {}
    for name, dtype, shape in sorted(tensors, key=lambda tensor: -width_of(tensor[1])):
        tensor = StoredTensor(name, dtype, shape, path, offset)
        end = offset + tensor.size_bytes
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        placed.append(tensor)
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    begin = 8 + len(text)
    if len(text) > MAX_HEADER_BYTES:
        raise ExportError(f"safetensors headers have at most {MAX_HEADER_BYTES} bytes")
    return len(text).to_bytes(8, "little") + text, [
        StoredTensor(t.name, t.dtype, t.shape, path, begin + t.offset) for t in placed
    ]

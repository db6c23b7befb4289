"""What an uploaded file must be, found out without torch and without unpacking anything.

This spares people from learning late that a file is of no use. It is no border: a study reads
checkpoints without running what is in them, whatever was looked at here, see
:mod:`moeash.networks.loading.checkpoints`.
"""

import json
import math
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moeash.codec.streaming.reading import FileSlices, check_whole
from moeash.errors import CheckpointError, ContainerError, InputError, SpecError
from moeash.files import LFS_POINTER, is_lfs_pointer, lfs_text
from moeash.networks.loading.matching import PASSED_BY
from moeash.study.spec.reading import plain_of_text

MOST_HEADER = 8 << 20
"""Bytes of a safetensors header, of a torch file's directory, and of its pickle."""

BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits of an element, by the names of dtypes in safetensors."""

_END, _END_64, _PLACE_64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_HARMLESS = {
    "collections OrderedDict",
    "_codecs encode",
    "builtins bytearray",
    "builtins complex",
    "builtins set",
    *(" ".join(name.rsplit(".", 1)) for name in PASSED_BY),
}
_NEVER = {"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID"}
"""What torch never writes into a state_dict, and its reader of weights does not know."""


def check_content(path: Path, suffix: str) -> None:
    """Refuse a file that is not what the end of its name says.

    Args:
        path: of the file.
        suffix: what its name will end with, one of :data:`CHECKS`.

    Raises:
        InputError: it is something else; says what.
    """
    with path.open("rb") as file:
        if is_lfs_pointer(file.read(len(LFS_POINTER))):
            raise InputError(lfs_text("the file"))
    CHECKS[suffix](path)


def _check_safetensors(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        if size < 10 or n_header > min(size - 8, MOST_HEADER):
            raise _no_safetensors(f"its header would have {n_header:,} bytes")
        text = file.read(n_header)
    try:
        header = json.loads(text)
        if not text.startswith(b"{"):
            raise ValueError("its header is no JSON object")
        _check_tensors(header, size - 8 - n_header)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _no_safetensors(str(error)[:200]) from error


def _check_tensors(header: dict[str, Any], n_bytes: int) -> None:
    header.pop("__metadata__", None)
    if not header:
        raise ValueError("it holds no tensors")
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, next_ = entry["data_offsets"]
        shape = entry["shape"]
        if not all(type(n) is int and 0 <= n < 1 << 48 for n in (begin, next_, *shape)):
            raise ValueError(f"tensor {name[:60]!r} has sizes that are none")
        if math.prod(shape) * BITS[entry["dtype"]] != 8 * (next_ - begin) or begin != end:
            raise ValueError(f"tensor {name[:60]!r} does not lie where it should")
        end = next_
    if end != n_bytes:
        raise ValueError(f"it has {n_bytes:,} bytes of tensors, and tells of {end:,}")


def _check_torch(path: Path) -> None:
    size = path.stat().st_size
    if _directory_bytes(path, size) > MOST_HEADER:
        raise _no_torch("it holds more files than a checkpoint has")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
            if len(pickles) != 1 or any(e.compress_type != zipfile.ZIP_STORED for e in entries):
                raise _no_torch("it is another kind of zip archive")
            if pickles[0].file_size > min(size, MOST_HEADER):
                raise _no_torch("its pickle is larger than that of a checkpoint")
            _check_pickle(archive.read(pickles[0]))
    except CheckpointError:
        raise
    except Exception as error:
        # A damaged archive surfaces as almost any type: BadZipFile, EOFError, NotImplementedError.
        raise _no_torch(f"{type(error).__name__}: {str(error)[:200]}") from error


def _check_pickle(content: bytes) -> None:
    for operation, argument, _ in pickletools.genops(content):
        name = str(argument)
        is_torch = name.startswith(("torch ", "torch."))
        if operation.name in _NEVER or (
            operation.name == "GLOBAL" and name not in _HARMLESS and not is_torch
        ):
            shown = name.replace(" ", ".")[:100] if argument else operation.name
            raise CheckpointError(
                f"the file holds Python objects besides tensors ({shown}), which could run code; "
                "save the state_dict() alone, best as safetensors"
            )


def _directory_bytes(path: Path, size: int) -> int:
    """Return how large the list of an archive's files is, which reading it takes into memory."""
    with path.open("rb") as file:
        file.seek(max(0, size - (1 << 16) - 22))
        tail = file.read()
        at = tail.rfind(_END)
        if at < 0 or len(tail) < at + 22:
            raise _no_torch("it is no zip archive")
        small = int.from_bytes(tail[at + 12 : at + 16], "little")
        if at >= 20 and tail[at - 20 : at - 16] == _PLACE_64:
            file.seek(int.from_bytes(tail[at - 12 : at - 4], "little"))
            record = file.read(56)
            if record.startswith(_END_64):
                return max(int.from_bytes(record[40:48], "little"), small % 0xFFFFFFFF)
    return small


def _check_moeash(path: Path) -> None:
    try:
        with path.open("rb", buffering=0) as file:
            check_whole(FileSlices(file.fileno(), 0, path.stat().st_size))
    except ContainerError as error:
        raise CheckpointError(f"the file is not what moeash exports: {error}") from error


def _check_toml(path: Path) -> None:
    with path.open("rb") as file:
        content = file.read((1 << 18) + 1)
    try:
        plain_of_text(content.decode("utf-8-sig"), where="the file")
    except UnicodeDecodeError as error:
        raise SpecError("the file is not UTF-8 text") from error


CHECKS: dict[str, Callable[[Path], None]] = {
    ".safetensors": _check_safetensors,
    ".pt": _check_torch,
    ".pth": _check_torch,
    ".moeash": _check_moeash,
    ".toml": _check_toml,
}
"""What may be uploaded, by the end of its name."""


def _no_safetensors(why: str) -> CheckpointError:
    return CheckpointError(f"the file is not safetensors: {why}")


def _no_torch(why: str) -> CheckpointError:
    return CheckpointError(
        f"the file is not what torch.save writes: {why}; save the state_dict() with torch.save, "
        "or better as safetensors"
    )

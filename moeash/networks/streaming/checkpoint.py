"""A checkpoint in one or several safetensors files, read a run of elements at a time."""

import json
import os
from contextlib import ExitStack
from pathlib import Path, PurePath
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from moeash.errors import CheckpointError
from moeash.files import as_path, head_of, is_folder, unreadable
from moeash.names import nearest
from moeash.networks.streaming.header import StoredTensor, read_header

INDEX_SUFFIX = ".safetensors.index.json"
FILE_SUFFIX = ".safetensors"
MAX_INDEX_BYTES = 1 << 27


class Checkpoint:
    """An open checkpoint.

    Attributes:
        tensors: all of them, shard by shard in the order of the index, each in the order of its
            file.
        notes: texts that the files store along.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a safetensors file, the index of a sharded checkpoint, or a folder with either.

        Raises:
            CheckpointError: it is none of these, or damaged.
        """
        files, wanted = _files(as_path(path))
        self.tensors: list[StoredTensor] = []
        self.notes: dict[str, str] = {}
        for file in files:
            tensors, notes = read_header(file)
            self.tensors += tensors
            self.notes |= notes
        _check_names(self.tensors, wanted, os.fspath(path))
        self._open = ExitStack()
        self._descriptors: dict[Path, int] = {}
        try:
            for file in files:
                opened = self._open.enter_context(file.open("rb", buffering=0))
                self._descriptors[file] = opened.fileno()
        except OSError as exc:
            self._open.close()
            raise CheckpointError(unreadable(file, exc, "checkpoint ")) from exc

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    def read(self, tensor: StoredTensor, begin: int, end: int) -> NDArray[Any]:
        """Return some elements of a tensor as they lie in the file; bfloat16 as uint16 patterns.

        Raises:
            CheckpointError: the file became shorter, or cannot be read any more.
        """
        dtype = np.dtype("uint16" if tensor.dtype == "bfloat16" else tensor.dtype).newbyteorder("<")
        out = np.empty(end - begin, dtype=dtype)
        view = out.view(np.uint8).data
        at = tensor.offset + begin * dtype.itemsize
        try:
            while len(view):
                got = os.preadv(self._descriptors[tensor.path], [view], at)
                if not got:
                    raise CheckpointError(f"{str(tensor.path)!r} became shorter while it was read")
                view, at = view[got:], at + got
        except OSError as exc:
            raise CheckpointError(f"cannot read {str(tensor.path)!r}: {exc.strerror}") from exc
        return out

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()


def _files(path: Path) -> tuple[list[Path], dict[str, str] | None]:
    """Return the files of a checkpoint, and the index' file name of every tensor if it has one."""
    if is_folder(path):
        path = _in_folder(path)
    if not path.name.endswith(INDEX_SUFFIX):
        return [path], None
    wanted = _index(path)
    return [path.parent / name for name in dict.fromkeys(wanted.values())], wanted


def _in_folder(folder: Path) -> Path:
    for suffix in (INDEX_SUFFIX, FILE_SUFFIX):
        found = sorted(entry for entry in folder.iterdir() if entry.name.endswith(suffix))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(entry.name for entry in found[:4])
            raise CheckpointError(
                f"folder {str(folder)!r} holds {len(found)} files *{suffix} ({names}); name one, "
                "or the index that says how they belong together"
            )
    raise CheckpointError(f"folder {str(folder)!r} holds no *{INDEX_SUFFIX} and no *{FILE_SUFFIX}")


def _index(path: Path) -> dict[str, str]:
    head_of(path, CheckpointError, "index ")
    with path.open("rb") as file:  # of a device nobody knows the size beforehand
        content = file.read(MAX_INDEX_BYTES + 1)
    if len(content) > MAX_INDEX_BYTES:
        raise CheckpointError(f"{str(path)!r} is no index of a checkpoint: it is too large")
    try:
        wanted = json.loads(content)["weight_map"]
        names = set(wanted.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise CheckpointError(
            f"{str(path)!r} is no index of a checkpoint: needed a JSON object with a weight_map "
            "of file names by tensor name"
        ) from exc
    for name in names:
        # An index is somebody else's file: it may not point at files elsewhere.
        if not isinstance(name, str) or PurePath(name).name != name or "\0" in name:
            raise CheckpointError(
                f"{str(path)!r} names the file {name!r}; shards lie in the folder of their index"
            )
    if not wanted:
        raise CheckpointError(f"{str(path)!r} names no tensors")
    return dict(wanted)


def _check_names(tensors: list[StoredTensor], wanted: dict[str, str] | None, path: str) -> None:
    """Refuse a name twice, and files that hold other tensors than their index says."""
    held: dict[str, str] = {}
    for tensor in tensors:
        if tensor.name in held:
            raise CheckpointError(
                f"{path!r} has {tensor.name!r} in {held[tensor.name]} and in {tensor.path.name}"
            )
        held[tensor.name] = tensor.path.name
    if not held:
        raise CheckpointError(f"{path!r} holds no tensors")
    for name, file in (wanted or {}).items():
        if held.get(name) != file:
            raise CheckpointError(
                f"{path!r} says that {file} holds {name!r}, but it does not; "
                f"{nearest(name, [n for n, f in held.items() if f == file])}"
            )
    extra = [name for name in held if wanted is not None and name not in wanted]
    if extra:
        raise CheckpointError(
            f"{path!r} does not name {len(extra)} tensors its files hold, such as {extra[0]!r}"
        )

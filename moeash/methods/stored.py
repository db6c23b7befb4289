"""Prepared values in a file, so that another process need not prepare again.

A prepared value is a tree of moeash's own dataclasses, tuples, lists, dicts, tensors, arrays and
plain values. The file is a safetensors file: the tensors and arrays, and in its metadata the tree
as JSON, the version of moeash and a digest of everything. Nothing is pickled: reading a file runs
none of its content. Values come back bit for bit. Tensors keep the order of axes they had in
memory, and on the host begin at multiples of 64 bytes, as torch's own do: both decide how sums are
rounded. Memory that two names share is stored once, and shared again.
"""

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from moeash import __version__
from moeash.core.statistics import BinStatistics
from moeash.data.inputs import Inputs
from moeash.errors import PreparedFileError
from moeash.files import replacing
from moeash.methods.feedback.assignment.columns import Factor, RowFactor
from moeash.methods.feedback.method import FeedbackPrepared
from moeash.methods.feedback.preparing import PreparedLayers
from moeash.methods.fixing.method import FixingPrepared
from moeash.methods.gpfq.method import GpfqPrepared
from moeash.methods.uniform.method import UniformPrepared
from moeash.networks.pickling import aligned

CLASSES: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        BinStatistics,
        Factor,
        FeedbackPrepared,
        FixingPrepared,
        GpfqPrepared,
        Inputs,
        PreparedLayers,
        RowFactor,
        UniformPrepared,
    )
}
"""The dataclasses a prepared value may consist of."""

UNREADABLE = (SafetensorError, ValueError, TypeError, KeyError, IndexError, RuntimeError)
"""What reading a file raises whose content makes no sense."""


def save(prepared: Any, path: str | Path) -> None:
    """Write a prepared value to a file; an existing file is replaced once the new one is complete.

    Args:
        prepared: from a method's ``prepare``.
        path: where to.

    Raises:
        TypeError: it holds what no prepared value may hold.
        ExportError: the file cannot be written.
    """
    writing = _Writing()
    tree = json.dumps(writing.plain(prepared))
    metadata = {
        "moeash": __version__,
        "tree": tree,
        "digest": digest_of(tree, writing.tensors),
    }
    with replacing(path) as temporary:
        save_file(writing.tensors, temporary, metadata)


def load(path: str | Path, device: str | torch.device = "cpu") -> Any:
    """Read a prepared value from a file.

    Args:
        path: written by :func:`save`.
        device: of the network; tensors that were not on the host go there.

    Raises:
        PreparedFileError: the file cannot be read, is damaged, or is of another version of moeash.
    """
    advice = "delete it, and it will be prepared again"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            written = metadata.get("moeash")
            if written != __version__:
                raise PreparedFileError(
                    f"{str(path)!r} was written by moeash {written or 'unknown'}, this is moeash "
                    f"{__version__}; {advice}"
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if metadata["digest"] != digest_of(metadata["tree"], tensors):
            raise PreparedFileError(f"{str(path)!r} is damaged: its content changed; {advice}")
        return _Reading(tensors, device).value(json.loads(metadata["tree"]))
    except OSError as error:
        raise PreparedFileError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except UNREADABLE as error:
        raise PreparedFileError(f"{str(path)!r} is damaged: {error}; {advice}") from error


def digest_of(tree: str, tensors: Mapping[str, Tensor]) -> str:
    """Return 32 hex digits that change with anything in a file.

    Args:
        tree: the plain values as JSON.
        tensors: by key.
    """
    digest = hashlib.blake2b(tree.encode(), digest_size=16)
    for key in sorted(tensors):
        tensor = tensors[key]
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class _Writing:
    """Turns a tree into plain values and a table of tensors.

    Attributes:
        tensors: on the host, contiguous, by the keys the plain values have.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._keys: dict[tuple[Any, ...], str] = {}
        self._storages: set[int] = set()

    def plain(self, value: Any) -> Any:
        """Return a value as JSON can hold it."""
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Tensor):
            return {"tensor": self._tensor(value), "host": value.device.type == "cpu"}
        if isinstance(value, np.ndarray):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                return {"array": self._tensor(torch.from_numpy(value))}
        if isinstance(value, tuple | list):
            return {type(value).__name__: [self.plain(item) for item in value]}
        if isinstance(value, dict):
            return {"dict": [[self.plain(k), self.plain(v)] for k, v in value.items()]}
        name = type(value).__name__
        if CLASSES.get(name) is not type(value):
            raise TypeError(f"a prepared value cannot hold a {name}; see moeash.methods.stored")
        fields = {f.name: self.plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": name, "fields": fields}

    def _tensor(self, tensor: Tensor) -> list[Any]:
        """Return the key of a tensor's memory, and its axes from the slowest to the fastest."""
        strides = tensor.stride()
        axes = sorted(range(tensor.ndim), key=lambda axis: -strides[axis])
        ordered = tensor.detach().permute(axes)
        memory = (ordered.device, ordered.data_ptr())
        place = (*memory, tuple(ordered.shape), ordered.stride(), ordered.dtype)
        if place not in self._keys:
            key = str(len(self._keys))
            self._keys[place] = key
            # A view of memory that is in the file already, but another view: safetensors wants it
            # to have its own.
            host = ordered.cpu().contiguous()
            storage = host.untyped_storage().data_ptr()
            self.tensors[key] = host.clone() if storage in self._storages else host
            self._storages.add(storage)
        return [self._keys[place], axes]


class _Reading:
    """Turns plain values and a table of tensors back into a tree."""

    def __init__(self, tensors: Mapping[str, Tensor], device: str | torch.device) -> None:
        self._tensors = tensors
        self._device = device
        self._made: dict[Any, Tensor] = {}

    def value(self, plain: Any) -> Any:
        """Return the value that plain values stand for."""
        if not isinstance(plain, dict):
            if isinstance(plain, list):
                raise ValueError("a list without a kind")
            return plain
        kind = next(iter(plain), "nothing")
        content = plain[kind]
        if kind == "tensor":
            return self._tensor(*content, host=plain["host"])
        if kind == "array":
            return self._tensor(*content, host=True).numpy()
        if kind in ("tuple", "list"):
            items = [self.value(item) for item in content]
            return tuple(items) if kind == "tuple" else items
        if kind == "dict":
            return {self.value(key): self.value(value) for key, value in content}
        if kind == "class":
            fields = {name: self.value(value) for name, value in plain["fields"].items()}
            return CLASSES[content](**fields)
        raise ValueError(f"nothing is a {kind!r}")

    def _tensor(self, key: str, axes: list[int], *, host: bool) -> Tensor:
        known = (key, tuple(axes), host)
        if known not in self._made:
            places = [axes.index(axis) for axis in range(len(axes))]
            tensor = self._tensors[key]
            there = aligned(tensor) if host else tensor.to(self._device)
            self._made[known] = there.permute(places)
        return self._made[known]

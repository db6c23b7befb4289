"""Reading checkpoints without running what is inside them, and fitting them into a network.

Only tensors are read: safetensors, torch files through ``weights_only``, or the network that a
``.moeash`` file decodes to. A pickle that holds code is refused before any of it runs.
"""

import pickle
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from moeash.codec.container import MAGIC, read_arrays
from moeash.errors import CheckpointError, ContainerError
from moeash.files import head_of
from moeash.networks.loading.fitting import Own, check_fit, outline_of
from moeash.networks.loading.matching import PASSED_BY, Matching, foreign, match

MOST_GROUPS = 8
"""Things left aside that a message names."""

MOST_RATIO = 16
"""Times its own size that a torch file may unpack to: torch itself does not pack."""

MOST_DENSE_BYTES = 1 << 28
"""Bytes that a sparse tensor may take in full, if that is more."""


def load_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a file, on the CPU, names as they are in it.

    Args:
        path: a safetensors, torch or moeash file; tensors in nested dicts get the keys, joined by
            dots, for a name.

    Raises:
        CheckpointError: the file is missing, not a checkpoint, holds objects other than tensors
            and plain values (nothing of them is executed), or holds no tensors.
    """
    path = Path(path)
    head = head_of(path, CheckpointError, "checkpoint ")
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return _load_safetensors(path)
    if head.startswith((b"PK", b"\x80")):
        return _flat(_load_torch(path), path)
    if head.startswith(MAGIC):
        return _load_moeash(path)
    raise CheckpointError(
        f"{str(path)!r} is neither a safetensors, nor a torch, nor a moeash file "
        f"({len(head)} bytes looked at)"
    )


def _load_moeash(path: Path) -> dict[str, Tensor]:
    try:
        return {name: torch.tensor(array) for name, array in read_arrays(path).items()}
    except ContainerError as exc:
        raise CheckpointError(f"{str(path)!r}: {exc}") from exc


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, MemoryError) as exc:
        raise CheckpointError(f"{str(path)!r} is not a readable safetensors file: {exc}") from exc
    if not tensors:
        raise CheckpointError(f"{str(path)!r} holds no tensors")
    return tensors


class _Unread:
    """Stands for a value of somebody's that is passed by: nothing of its own code is imported."""

    def __new__(cls, *args: object, **kwargs: object) -> "_Unread":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def _load_torch(path: Path) -> Any:
    known: list[Callable[..., Any] | tuple[Callable[..., Any], str]]
    known = [(_Unread, name) for name in PASSED_BY]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(known):
            _check_packing(path)
            warnings.simplefilter("ignore", UserWarning)  # about odd pickles, refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as exc:
        raise CheckpointError(
            f"{str(path)!r} holds Python objects besides tensors and was not opened, since opening "
            f"it could run code; save the state_dict() alone, best as safetensors "
            f"(torch: {_first_sentence(exc)})"
        ) from exc
    except Exception as exc:
        # A damaged archive surfaces as almost any type: RuntimeError, EOFError, KeyError, ...
        raise CheckpointError(
            f"{str(path)!r} is not a readable torch file: {type(exc).__name__}: "
            f"{_first_sentence(exc)}"
        ) from exc


def _check_packing(path: Path) -> None:
    """Refuse an archive that would unpack to much more than it is.

    Raises:
        CheckpointError: it would.
    """
    if not zipfile.is_zipfile(path):
        return
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        total = sum(info.file_size for info in archive.infolist())
    if total > MOST_RATIO * size:
        raise CheckpointError(
            f"{str(path)!r} of {size:,} bytes would unpack to {total:,}, which no checkpoint does; "
            "save it again with torch.save"
        )


def _first_sentence(exc: Exception) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    useful = [line for line in lines if "GLOBAL" in line or "Unsupported" in line] or lines
    return useful[0][:200] if useful else type(exc).__name__


def _flat(loaded: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors in nested dicts and lists, under keys joined by dots."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()  # one dict may be in several places, and in itself
    todo = [("", loaded)]
    while todo:
        prefix, value = todo.pop()
        if isinstance(value, Tensor):
            if prefix[:-1] in tensors:
                raise CheckpointError(f"{str(path)!r} holds two tensors called {prefix[:-1]!r}")
            tensors[prefix[:-1]] = _plain(value, prefix[:-1], path)
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            items = list(value.items() if isinstance(value, Mapping) else enumerate(value))
            todo += [(f"{prefix}{key}.", item) for key, item in reversed(items)]
    if not isinstance(loaded, Mapping) or not tensors:
        found = [str(key) for key in loaded][:8] if isinstance(loaded, Mapping) else None
        raise CheckpointError(
            f"{str(path)!r} holds no tensors by name; found {found or type(loaded).__name__}, "
            f"needed a state_dict, or one in a dict"
        )
    return tensors


def _plain(tensor: Tensor, name: str, path: Path) -> Tensor:
    """Return a tensor with a value in every place, where it is one.

    Raises:
        CheckpointError: it has no values or no shape, or is sparse and much larger than its file.
    """
    if tensor.is_nested or tensor.is_meta:
        what = "one of uneven parts" if tensor.is_nested else "one without values (device meta)"
        raise CheckpointError(
            f"{name!r} in {str(path)!r} is no plain tensor but {what}; save it as one, or leave it "
            "out"
        )
    if tensor.layout == torch.strided:
        return tensor
    takes, limit = tensor.numel() * tensor.element_size(), MOST_RATIO * path.stat().st_size
    if takes > max(limit, MOST_DENSE_BYTES):
        raise CheckpointError(
            f"{name!r} in {str(path)!r} is sparse and takes {takes:,} bytes in full, at most "
            f"{max(limit, MOST_DENSE_BYTES):,} are taken; save it as a plain tensor, or leave it "
            "out"
        )
    return tensor.to_dense()


def fit(module: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy a checkpoint into a network.

    Of nested dicts, and of networks in one wrapper, the one that fits best is taken, see
    :mod:`moeash.networks.loading.matching`; a warning names what was left aside. Integers and
    single values beside the network's children, such as counters and metrics, are left aside too.
    Tied parameters need one of their names. ``num_batches_tracked`` may be missing, as it is in
    files older than torch 0.4.1; it does not take part in evaluation.

    Args:
        module: the network, written in place; untouched when an error is raised.
        tensors: from :func:`load_checkpoint`.
        path: where they came from, for the message.

    Raises:
        CheckpointError: names are missing or left over, or a shape or kind of dtype differs.
    """
    network = Own.of(module)
    own = network.tensors
    found = _matching(tensors, network)
    renamed = {name: tensors[full] for full, name in found.names.items()}
    extra = [
        name
        for name in foreign([name for name in renamed if name not in own], list(own))
        if renamed[name].numel() == 1 or not renamed[name].is_floating_point()
    ]
    aside = [*found.aside, *(found.prefix + name for name in extra)]
    source = repr(str(path)) + (f" (under {found.prefix!r})" if found.prefix else "")
    beside = f"left aside: {_grouped(aside)}" if aside else ""
    try:
        _write(network, {n: t for n, t in renamed.items() if n not in extra}, source)
    except CheckpointError as exc:
        raise CheckpointError("; ".join(filter(None, (str(exc), beside)))) from exc
    if beside:
        warnings.warn(f"{source} was loaded, {beside}", stacklevel=2)


def names_in(network: Own, given: Mapping[str, Any]) -> dict[str, str]:
    """Return what a network, wrapped or not, calls each of some tensors.

    Args:
        network: its own tensors.
        given: tensors, or anything with their shapes, by name.

    Returns:
        The name in the network of every given one; those that nothing explains keep theirs.

    Raises:
        CheckpointError: the network fits in several places.
    """
    names = _matching(given, network).names
    return {name: names.get(name, name) for name in given}


def _matching(given: Mapping[str, Any], network: Own) -> Matching:
    tied = {*network.first, *network.first.values()}  # one name of each memory suffices
    own = {name: tuple(tensor.shape) for name, tensor in network.tensors.items()}
    return match(
        {name: tuple(value.shape) for name, value in given.items()},
        own,
        optional={name for name in own if name in tied or name.endswith("num_batches_tracked")},
    )


def _grouped(names: Sequence[str]) -> str:
    """Return names for people, those under one key of a dict as one."""
    groups = Counter(name.split(".")[0] for name in names)
    listed = [f"{key} ({n} tensors)" if n > 1 else key for key, n in groups.items()]
    more = f" and {len(listed) - MOST_GROUPS} more" if len(listed) > MOST_GROUPS else ""
    return ", ".join(listed[:MOST_GROUPS]) + more


def write_tensors(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy ``tensors`` into the module's own memory, all of them or none.

    Args:
        module: the network.
        tensors: by ``state_dict`` key; floats are converted to the dtype in the module.
        source: what they are, for messages.

    Raises:
        CheckpointError: a mismatch; the module is unchanged.
    """
    _write(Own.of(module), tensors, source)


def _write(network: Own, tensors: Mapping[str, Tensor], source: str) -> None:
    outlines = {name: outline_of(tensor) for name, tensor in tensors.items()}
    check_fit(network, outlines, source, lambda one, other: _same(tensors[one], tensors[other]))
    with torch.inference_mode():  # which tensors made in it may only be written to in
        for name, tensor in tensors.items():
            network.tensors[name].copy_(tensor)


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()))

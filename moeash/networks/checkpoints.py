"""Reading checkpoints without running what is inside them, and fitting them into a network.

Only tensors are read: safetensors, or torch files through ``weights_only``. A pickle that holds
code is refused before any of it runs.
"""

import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from moeash.errors import CheckpointError
from moeash.networks import memory

NESTS = ("state_dict", "model_state_dict", "model", "net", "network", "params", "module")
"""Keys under which training scripts put the tensors, in the order they are looked for."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""What DataParallel, torch.compile and trainers put in front of names."""

SHOWN = 3
"""Names per kind of mismatch in a message."""


def load_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors or torch file, on the CPU, names as they are in the file.

    Args:
        path: the file; a torch file may nest its tensors under one of :data:`NESTS`.

    Raises:
        CheckpointError: the file is missing, not a checkpoint, holds objects other than tensors
            and plain values (nothing of them is executed), or holds no tensors.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as exc:
        raise CheckpointError(f"cannot read checkpoint {str(path)!r}: {exc.strerror}") from exc
    if path.suffix == ".safetensors" or head[8:] == b"{":
        return _load_safetensors(path)
    if head.startswith((b"PK", b"\x80")):
        return _tensors(_load_torch(path), path)
    raise CheckpointError(
        f"{str(path)!r} is neither a safetensors nor a torch file ({len(head)} bytes looked at)"
    )


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as exc:
        raise CheckpointError(f"{str(path)!r} is not a readable safetensors file: {exc}") from exc
    if not tensors:
        raise CheckpointError(f"{str(path)!r} holds no tensors")
    return tensors


def _load_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about odd pickles, refused below
            return torch.load(path, map_location="cpu", weights_only=True)
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


def _first_sentence(exc: Exception) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    useful = [line for line in lines if "GLOBAL" in line or "Unsupported" in line] or lines
    return useful[0][:200] if useful else type(exc).__name__


def _tensors(loaded: Any, path: Path) -> dict[str, Tensor]:
    """Find the mapping of names to tensors; plain values beside them (epoch) are passed by."""
    seen = []
    while isinstance(loaded, Mapping):
        tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
        if tensors:
            return tensors
        seen += [str(key) for key in loaded]
        loaded = next((loaded[k] for k in NESTS if isinstance(loaded.get(k), Mapping)), None)
    raise CheckpointError(
        f"{str(path)!r} holds no tensors by name; found {seen[:8] or type(loaded).__name__}, "
        f"needed a state_dict, or one under {', '.join(map(repr, NESTS))}"
    )


def fit(module: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy a checkpoint into a network.

    Prefixes in :data:`PREFIXES` that all names carry are stripped when that makes more names fit.
    Tied parameters need one of their names. ``num_batches_tracked`` may be missing, as it is in
    files older than torch 0.4.1; it does not take part in evaluation.

    Args:
        module: the network, written in place; untouched when an error is raised.
        tensors: from :func:`load_checkpoint`.
        path: where they came from, for the message.

    Raises:
        CheckpointError: names are missing or left over, or a shape or kind of dtype differs.
    """
    write_tensors(module, strip_prefixes(tensors, list(module.state_dict())), repr(str(path)))


def strip_prefixes(tensors: Mapping[str, Tensor], expected: Sequence[str]) -> dict[str, Tensor]:
    """Return ``tensors`` under ``expected`` names as far as :data:`PREFIXES` explain them."""
    best = current = dict(tensors)
    wanted = set(expected)
    while True:
        prefix = next(
            (p for p in PREFIXES if current and all(n.startswith(p) for n in current)), ""
        )
        if not prefix:
            return best
        current = {name.removeprefix(prefix): tensor for name, tensor in current.items()}
        if len(wanted & current.keys()) > len(wanted & best.keys()):
            best = current


def write_tensors(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy ``tensors`` into the module's own memory, all of them or none.

    Args:
        module: the network.
        tensors: by ``state_dict`` key; floats are converted to the dtype in the module.
        source: what they are, for messages.

    Raises:
        CheckpointError: a mismatch; the module is unchanged.
    """
    own = memory.own_tensors(module)
    first = memory.ties(own)
    present = {first.get(name, name) for name in tensors if name in own}
    problems = [
        _counted(
            "missing",
            [
                name
                for name in own
                if first.get(name, name) not in present and not name.endswith("num_batches_tracked")
            ],
        ),
        _counted("unexpected", [name for name in tensors if name not in own]),
        _counted(
            "of another shape",
            [
                f"{name} {tuple(tensor.shape)} for {tuple(own[name].shape)}"
                for name, tensor in tensors.items()
                if name in own and tensor.shape != own[name].shape
            ],
        ),
        _counted(
            "of another kind",
            [
                f"{name} {tensor.dtype} for {own[name].dtype}"
                for name, tensor in tensors.items()
                if name in own and tensor.is_floating_point() != own[name].is_floating_point()
            ],
        ),
        _counted("different though tied in the network", _torn(tensors, first)),
    ]
    found = [problem for problem in problems if problem]
    if found:
        raise CheckpointError(f"{source} does not fit {type(module).__name__}: {'; '.join(found)}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def _torn(tensors: Mapping[str, Tensor], first: Mapping[str, str]) -> list[str]:
    """Return names that are one memory in the network but hold different values."""
    by_memory: dict[str, str] = {}
    torn = []
    for name, tensor in tensors.items():
        other = by_memory.setdefault(first.get(name, name), name)
        if other != name and not _same(tensors[other], tensor):
            torn.append(f"{name} and {other}")
    return torn


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()))


def _counted(kind: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{more}"
